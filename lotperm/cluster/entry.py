"""One item of a campaign: a question, asked of one or more experiments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lotperm.config.experiment import Experiment
from lotperm.data.datasets import load_configured
from lotperm.engine.runtime import Runtime
from lotperm.errors import StorageError
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain
from lotperm.studies.registry import studies, study
from lotperm.studies.study import Options, Study
from lotperm.studies.subject import Datasets
from lotperm.studies.workbench import Workbench


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One item of a campaign.

    Attributes
    ----------
    name : str
        Lower case letters, digits, ``_`` and ``-``.
    kind : str
        Name of the question (`lotperm.studies.registry.studies`).
    experiments : tuple of Experiment
        One for each width and, where the question divides the seeds, each group of them; those of
        one width follow one another.
    options : Options
        The question's options, completed for the experiments.
    compile : bool
        Compile the training step.
    members : int or None
        Largest number of networks trained at once.
    """

    name: str
    kind: str
    experiments: tuple[Experiment, ...]
    options: Options
    compile: bool = False
    members: int | None = None

    @property
    def study(self) -> Study[Any]:
        """The question that is asked."""
        return study(self.kind)

    @property
    def asks(self) -> tuple[str, tuple[Experiment, ...], Options]:
        """What is computed: two entries for which this is equal would compute the same."""
        # Without compile and members, which change how it is computed and not what.
        return self.kind, self.experiments, self.options

    def lacking(self, datasets: Datasets) -> str | None:
        """Load the data sets that aren't in `datasets` yet.

        Returns
        -------
        str or None
            Why that failed, if it did.
        """
        try:
            for e in self.experiments:
                if e.data not in datasets:
                    # Loaded rather than looked for: the data are shared with the workbenches, which
                    # need them next.
                    datasets[e.data] = load_configured(e.data)
        except StorageError as error:
            return str(error)
        return None

    def benches(
        self, store: Store, runtime: Runtime | None = None, datasets: Datasets | None = None
    ) -> list[Workbench]:
        """Make a workbench for each experiment.

        Parameters
        ----------
        store : Store
            Where stages are kept.
        runtime : Runtime, optional
            How to compute; the entry's own ``compile`` and ``members`` fill what it leaves open.
        datasets : dict, optional
            Shared, so that each data set is loaded once, when it is first needed.
        """
        runtime = runtime or Runtime()
        runtime = dataclasses.replace(
            runtime,
            # Compiling pays off for long runs only, so an entry may ask for it by itself.
            compile=runtime.compile or self.compile,
            members=runtime.members or self.members,
        )
        datasets = {} if datasets is None else datasets
        return [Workbench(e, store, runtime, datasets) for e in self.experiments]

    def own_tasks(self, bench: Workbench) -> list[Task]:
        """List the tasks of one workbench that the entry asks for, without those before them."""
        return self.study.tasks(bench, self.options)

    def tasks(
        self, store: Store, runtime: Runtime | None = None, datasets: Datasets | None = None
    ) -> list[Task]:
        """List all tasks of the entry in an order in which they can be computed."""
        benches = self.benches(store, runtime, datasets)
        return chain(task for bench in benches for task in self.own_tasks(bench))


ENTRY_KEYS = ("name", "kind", "figure", "widths", "keep", "compile", "members")
"""Keys of an entry in a campaign file, besides the question's options and flat parameters."""


def options_of_kinds() -> Mapping[str, tuple[str, ...]]:
    """Return the names of every question's options."""
    return {name: known.Options.names() for name, known in studies().items()}
