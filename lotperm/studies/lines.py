"""Lines between networks, evaluated on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lotperm.config.experiment import DataConfig
from lotperm.data.dataset import first
from lotperm.data.datasets import info
from lotperm.engine.models import Weights
from lotperm.science.barrier import Repair, loss_barrier
from lotperm.science.evaluation import Evaluation, evaluate
from lotperm.science.repair import reset_batch_norm
from lotperm.store.tasks import Plain, Work
from lotperm.studies.workbench import Workbench

REPAIR_WORDS = {"none": "nothing repaired", "bn": "batch norm reset", "repair": "REPAIR"}
"""Repair of interpolated networks -> its words."""

STATISTICS = 2_000
"""Training examples from which the repairs take their statistics."""

FEWER_STATISTICS = 1_000
"""Their number where many lines are compared."""


class Lines:
    """Evaluates the networks on the line between two others, position by position.

    Parameters
    ----------
    bench : Workbench
        The experiment's workbench.
    statistics : int
        Training examples for the repairs.
    """

    def __init__(self, bench: Workbench, statistics: int = STATISTICS) -> None:
        # A single network takes the weights of one position after the other.
        self._network = bench.build().to(bench.runtime.device)
        batches = bench.batches(bench.data.test)
        # The test split is gone through for every network on every line, so its batches are made
        # once, unless they come from files and may not fit into memory.
        self._test = batches if bench.data.streamed else list(batches)
        self._examples = list(bench.batches(first(bench.data.train, statistics)).inputs())

    def between(
        self, a: Weights, b: Weights, alphas: Sequence[float], repairs: Sequence[Repair]
    ) -> list[Plain]:
        """Evaluate the line from a to b with every repair.

        Returns
        -------
        list of dict
            Rows of `lotperm.science.barrier.loss_barrier`: alpha, repair, split, loss, accuracy.
        """
        rows: list[Plain] = []
        for repair in repairs:
            curve = loss_barrier(
                self._network,
                a,
                b,
                {"test": self._test},
                alphas,
                repair=repair,
                statistics=self._examples,
            )
            rows += [{str(k): v for k, v in row.items()} for row in curve.to_dict("records")]
        return rows

    def at(self, weights: Mapping[str, Tensor]) -> Evaluation:
        """Evaluate one network after its batch norms are reset, if it has any."""
        self._network.load_state_dict(weights)
        reset_batch_norm(self._network, self._examples)
        return evaluate(self._network, self._test)


def line_work(
    data: DataConfig,
    lines: int,
    alphas: Sequence[float],
    repairs: Sequence[Repair],
    statistics: int = STATISTICS,
) -> Work:
    """Count the work of evaluating lines."""
    repaired = sum(repair != "none" for repair in repairs)
    # Repairing a network takes statistics from training examples, which go through it as well.
    images = len(repairs) * info(data).test + repaired * statistics
    return Work(forward_images=lines * len(alphas) * images)
