"""How near the sparse solutions are to pruned A and to dense A (Evci et al. 2022)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd

from lotperm.data.datasets import info
from lotperm.engine.models import Weights
from lotperm.science.barrier import Repair, error_barriers
from lotperm.science.diversity import disagreement, js_divergence
from lotperm.science.evaluation import probabilities
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Plain, Task
from lotperm.store.workspace import Workspace
from lotperm.studies.lines import FEWER_STATISTICS, Lines, line_work
from lotperm.studies.solutions import has_imp, solutions, sources
from lotperm.studies.study import Options, Study, cells, of_all_cells
from lotperm.studies.workbench import Workbench

NETWORKS = ("imp", "lth", "permuted", "naive", "dense_b")
"""Networks that are compared with the references."""

REFERENCES = ("imp", "dense_a")
"""Pruned A and dense A, the solutions that a ticket is said to learn again."""

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Positions on the lines."""

REPAIRS: tuple[Repair, ...] = ("none", "repair")
"""Lines are evaluated as they are, and after REPAIR."""


def relearning(bench: Workbench, sparsity: float, rewind_epoch: int) -> Task:
    """Compare the solutions of every replicate with its own A, pruned and dense.

    If the mask isn't IMP's there is no pruned network, and dense A is the only reference.
    Disagreement and Jensen–Shannon divergence compare predictions on the test split, so the order
    of units doesn't matter. Barriers are on the line between weights; networks that start from B
    are brought into A's order first.
    """
    references = REFERENCES if has_imp(bench) else ("dense_a",)
    networks = NETWORKS if has_imp(bench) else NETWORKS[1:]
    pairs = [(n, r) for n in networks for r in references if n != r]
    seeds = bench.experiment.seeds

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        lines, rows = Lines(bench, FEWER_STATISTICS), []
        test = bench.batches(bench.data.test)

        def predictions(weights: Weights) -> np.ndarray:
            return probabilities(bench.network(weights), test.inputs())

        for seed, weights in zip(seeds, solutions(bench, inputs), strict=True):
            # Each network is compared several times, so its predictions are kept.
            said = {name: predictions(weights[name]) for name in {*networks, *references}}
            for name, reference in pairs:
                both = np.stack([said[name], said[reference]])
                curve = pd.DataFrame(
                    lines.between(weights[reference], weights[name], ALPHAS, REPAIRS)
                )
                barriers = error_barriers(curve).set_index("repair")["barrier"]
                rows.append(
                    {
                        "seed": seed,
                        "network": name,
                        "reference": reference,
                        "disagreement": disagreement(both),
                        "js": js_divergence(both),
                        **{f"barrier_{repair}": float(barriers[repair]) for repair in REPAIRS},
                    }
                )
        return StageResult({"rows": rows}, {}, bench.meta())

    settings: Plain = {
        "pairs": [list(pair) for pair in pairs],
        "alphas": list(ALPHAS),
        "repairs": list(REPAIRS),
        "statistics": FEWER_STATISTICS,
    }
    data = bench.experiment.data
    work = line_work(data, len(seeds) * len(pairs), ALPHAS, REPAIRS, FEWER_STATISTICS)
    predicted = len(seeds) * len({*networks, *references}) * info(data).test
    work = dataclasses.replace(work, forward_images=work.forward_images + predicted)
    return bench.task(
        "relearning",
        inputs=sources(bench, sparsity, rewind_epoch),
        settings=settings,
        label=f"solutions beside A's, sparsity {sparsity:g}, k = {rewind_epoch}",
        work=work,
        compute=compute,
    )


def relearning_table(bench: Workbench, sparsity: float, rewind_epoch: int) -> pd.DataFrame:
    """Compute or load how near the solutions of one cell are to A's.

    Returns
    -------
    DataFrame
        One row for each seed, network and reference: disagreement (fraction), js (nats),
        barrier_none and barrier_repair: error barriers, fractions.
    """
    return pd.DataFrame(relearning(bench, sparsity, rewind_epoch).results["rows"])


@dataclass(frozen=True)
class RelearningOptions(Options):
    """The question has no options of its own."""


class Relearning(Study[RelearningOptions]):
    """Compare sparse solutions with the pruned and the dense A."""

    name = "relearning"
    words: ClassVar[dict[str, str]] = {"relearning": "relearning"}
    Options = RelearningOptions
    columns = ("sparsity", "rewind_epoch", "seed", "network", "reference")

    def tasks(self, bench: Workbench, options: RelearningOptions) -> list[Task]:
        """List one stage for each sparsity and rewind epoch."""
        return [relearning(bench, *cell) for cell in cells(bench.experiment)]

    def table(self, bench: Workbench, options: RelearningOptions) -> pd.DataFrame:
        """Return `relearning_table` of all cells, with the cell's names."""
        return of_all_cells(bench.experiment, partial(relearning_table, bench))


STUDY = Relearning()
