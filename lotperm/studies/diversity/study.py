"""Diversity and ensembles (the paper's Table 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.engine.models import Weights
from lotperm.errors import ParameterError
from lotperm.science.diversity import (
    disagreement,
    ensemble_accuracy,
    js_divergence,
    kl_divergence,
)
from lotperm.science.evaluation import probabilities
from lotperm.science.statistics import interval
from lotperm.science.symmetry import permute
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Plain, Source, Task, epoch_file
from lotperm.store.workspace import Workspace
from lotperm.studies.arms.study import sparse
from lotperm.studies.relearning.study import relearning
from lotperm.studies.stages import dense, halves, ticket
from lotperm.studies.study import Options, Study, cells, of_all_cells
from lotperm.studies.subject import plain
from lotperm.studies.workbench import Workbench

# LTH's members share weights and mask, and differ only in the order of the examples. The others
# start from different B and follow B's stream, as the arms do.
STREAMS = ("ensemble_a", "sparse_b", "sparse_b")
"""Random streams of the members of LTH, permuted and naive."""


def diversity(bench: Workbench, sparsity: float, rewind_epoch: int) -> Task:
    """Train one member for each seed by every method, and compare their predictions.

    **dense**: the networks B. **imp**: each seed's own A with its own mask. The other methods use
    a single mask, that of the first seed's A: **lth** trains this A from its rewind point with
    several orders of the examples, **naive** and **permuted** train every seed's B, the latter
    with the mask permuted to that B.

    Raises
    ------
    ParameterError
        With fewer than two seeds.
    """
    experiment, start_file = bench.experiment, epoch_file(rewind_epoch)
    # Checked when the task is made: a plan refuses it too, before anything is trained.
    _check_seeds(experiment)
    count, recipe = len(experiment.seeds), experiment.sparse_recipe(rewind_epoch)
    label = f"diversity, sparsity {sparsity:g}, k = {rewind_epoch}"

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        final_a, final_b = halves(inputs.replicates("dense", "final"))
        start_a, start_b = halves(inputs.replicates("dense", start_file))
        # As in the paper's Table 1, one mask serves all but IMP: that of the first seed's A. Every
        # B gets it by a permutation of its own.
        mask = inputs.replicates("imp", "mask")[0]
        moved = [permute(mask, bench.spec, bench.match_pair(final_a[0], b)) for b in final_b]
        trained = bench.train(
            workspace,
            [start_a[0]] * count + start_b * 2,
            recipe,
            STREAMS,
            label,
            masks=[mask] * count + moved + [mask] * count,
        )
        groups = {
            "dense": final_b,
            # LTH is the first arm, so these are each seed's own A under its own mask.
            "imp": inputs.replicates("arms", "final")[:count],
            "lth": trained.weights[:count],
            "permuted": trained.weights[count : 2 * count],
            "naive": trained.weights[2 * count :],
        }
        rows = [
            {"method": method, **_compared(bench, members)} for method, members in groups.items()
        ]
        return bench.result(trained, results={"rows": rows})

    return bench.task(
        "diversity",
        inputs={
            "dense": Source(dense(bench).stage, ("final", start_file)),
            "imp": Source(ticket(bench, sparsity, rewind_epoch), ("mask",)),
            "arms": Source(sparse(bench, sparsity, rewind_epoch), ("final",)),
        },
        settings={
            "recipe": plain(recipe),
            # The permutations are found in this stage, so how they are found is part of its key.
            "matching": plain(experiment.matching),
            "rewind_epoch": rewind_epoch,
        },
        label=label,
        # Every method's members predict the test split once more.
        work=bench.work(3 * count, recipe, evaluations=3, matches=count),
        compute=compute,
    )


def _check_seeds(experiment: Experiment) -> None:
    if len(experiment.seeds) < 2:
        raise ParameterError("diversity compares networks with each other: give two seeds or more.")


def _compared(bench: Workbench, members: Sequence[Weights]) -> Plain:
    """Compare the predictions of networks on the test split."""
    test = bench.data.test
    targets = test.targets.cpu().numpy()
    # Members × examples × classes.
    probs = np.stack(
        [probabilities(bench.network(weights), bench.batches(test).inputs()) for weights in members]
    )
    accuracy = (probs.argmax(2) == targets).mean(1)
    mean, half_width = interval(accuracy)
    return {
        "mean": mean,
        "half_width": half_width,
        # The paper prints a spread beside its means; the interval is ours.
        "spread": float(accuracy.std(ddof=1)),
        "ensemble_accuracy": ensemble_accuracy(probs, targets),
        "disagreement": disagreement(probs),
        "kl": kl_divergence(probs),
        "js": js_divergence(probs),
        "members": len(members),
    }


def diversity_table(bench: Workbench, sparsity: float, rewind_epoch: int) -> pd.DataFrame:
    """Compute or load the diversity of one cell.

    Returns
    -------
    DataFrame
        One row per method: method, mean and half_width of the members' test accuracy (95 %),
        spread (their standard deviation), ensemble_accuracy (of the mean probabilities),
        disagreement (fractions), kl and js (nats), members.
    """
    return pd.DataFrame(diversity(bench, sparsity, rewind_epoch).results["rows"])


@dataclass(frozen=True)
class DiversityOptions(Options):
    """Diversity has no options of its own."""

    def completed(self, experiment: Experiment) -> DiversityOptions:
        """Refuse an experiment of a single seed."""
        _check_seeds(experiment)
        return self


class Diversity(Study[DiversityOptions]):
    """Compare the members that each method makes, and their ensembles."""

    name = "diversity"
    words: ClassVar[dict[str, str]] = {"diversity": "diversity"}
    Options = DiversityOptions
    columns = ("sparsity", "rewind_epoch", "method", "members")

    def tasks(self, bench: Workbench, options: DiversityOptions) -> list[Task]:
        """List one stage for each sparsity and rewind epoch."""
        return [diversity(bench, *cell) for cell in cells(bench.experiment)]

    def table(self, bench: Workbench, options: DiversityOptions) -> pd.DataFrame:
        """Return `diversity_table` of all cells, with the cell's names."""
        return of_all_cells(bench.experiment, partial(diversity_table, bench))

    def chapter(self, benches: Sequence[Workbench], options: DiversityOptions) -> list[Task]:
        """List the members of only the first cell, and how near its solutions are to A's."""
        # Members are costly: a page shows one cell, as the paper's Table 1 does.
        return [
            task
            for bench in benches
            for task in (
                diversity(bench, *cells(bench.experiment)[0]),
                relearning(bench, *cells(bench.experiment)[0]),
            )
        ]


STUDY = Diversity()
