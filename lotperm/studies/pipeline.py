"""One experiment from end to end: the stages and questions of this package behind one object."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.engine.runtime import Runtime
from lotperm.science.barrier import REPAIRS, Repair
from lotperm.science.matching import Matching
from lotperm.science.sparsity import Mask
from lotperm.store.stages import Store
from lotperm.store.tasks import Task
from lotperm.studies import stages
from lotperm.studies.arms import study as arms
from lotperm.studies.connectivity import study as lines
from lotperm.studies.diversity.study import diversity_table
from lotperm.studies.early.study import early_table
from lotperm.studies.lines import STATISTICS
from lotperm.studies.results import Results
from lotperm.studies.workbench import Workbench


class Pipeline(Workbench):
    """The stages of one experiment in one store; parameters as for `Workbench`.

    Every method computes what the store doesn't have yet, and loads the rest.
    """

    # These methods are for readers and notebooks. The functions behind them take any workbench.
    def dense(self) -> stages.DensePair:
        """Train A and B of every replicate; see `lotperm.studies.stages.dense`."""
        return stages.dense(self)

    def imp_rounds(self, sparsity: float, rewind_epoch: int) -> list[Task]:
        """List the rounds of pruning; see `lotperm.studies.stages.imp_rounds`."""
        return stages.imp_rounds(self, sparsity, rewind_epoch)

    def masks(self, sparsity: float, rewind_epoch: int) -> list[Mask]:
        """Load the ticket of every replicate: A's mask at a sparsity, whatever its source."""
        return stages.ticket_masks(self, sparsity, rewind_epoch)

    def match(self) -> list[Matching]:
        """Align A to B in every replicate, at the end of dense training."""
        return stages.matchings(self)

    def sparse(self, sparsity: float, rewind_epoch: int) -> Task:
        """Train the three arms; see `lotperm.studies.arms.study.sparse`."""
        return arms.sparse(self, sparsity, rewind_epoch)

    def tasks(self) -> list[Task]:
        """List the tasks behind `run`; nothing is computed by asking."""
        return arms.tasks(self)

    def run(self) -> Results:
        """Compute or load every stage of the method and gather the results."""
        return arms.run(self)

    def early_matching(
        self, sparsity: float, rewind_epoch: int, epochs: Sequence[int]
    ) -> pd.DataFrame:
        """Match A to B before B's training has ended; see `early_table`."""
        return early_table(self, sparsity, rewind_epoch, epochs)

    def diversity(self, sparsity: float, rewind_epoch: int) -> pd.DataFrame:
        """Compare the members of every method and their ensembles; see `diversity_table`."""
        return diversity_table(self, sparsity, rewind_epoch)

    def connectivity(
        self,
        alphas: Sequence[float],
        repairs: Sequence[Repair] = REPAIRS,
        *,
        replicates: int | None = None,
        round_number: int = 0,
        statistics: int = STATISTICS,
    ) -> pd.DataFrame:
        """Evaluate the lines from A and from π(A) to B.

        See `lotperm.studies.connectivity.study.connectivity` for the parameters.
        """
        task = lines.connectivity(
            self,
            alphas,
            repairs,
            replicates=replicates,
            round_number=round_number,
            statistics=statistics,
        )
        return lines.connectivity_table(task)


def run(
    experiment: Experiment, store: Store | None = None, runtime: Runtime | None = None
) -> Results:
    """Run an experiment, loading what the store already has (idempotent and resumable).

    Parameters
    ----------
    experiment : Experiment
        What to compute.
    store : Store, optional
        Where stages are kept; ``$LOTPERM_HOME``, else ``.lotperm`` here, if None.
    runtime : Runtime, optional
        Device, compilation, progress bars.

    Returns
    -------
    Results
    """
    return Pipeline(experiment, store, runtime).run()
