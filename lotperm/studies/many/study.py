"""A mask for many: ensembles of 1 to n members, made in several ways, and what they cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.config.fields import require
from lotperm.engine.counts import network
from lotperm.engine.models import Weights
from lotperm.errors import ParameterError, shown
from lotperm.science.diversity import disagreement, ensemble_accuracy
from lotperm.science.evaluation import probabilities
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Source, Task, Work
from lotperm.store.workspace import Workspace
from lotperm.studies.many.methods import METHODS, own, shared, shared_arms, signed, works
from lotperm.studies.stages import dense, halves, kept_epochs, ticket, ticket_masks
from lotperm.studies.study import Options, Study, cells, option
from lotperm.studies.workbench import Workbench

SUBSETS = 100
"""Largest number of choices of members over which the accuracy of smaller ensembles is averaged."""


def ensembles(bench: Workbench, sparsity: float, rewind_epoch: int) -> Task:
    """Measure ensembles of 1 to all members of every method; a single ticket for those that share.

    Returns
    -------
    Task
        Its results have "rows": method, members, accuracy (of the mean of the predicted
        probabilities, a fraction; averaged over choices of this many members) and disagreement
        (`lotperm.science.diversity.disagreement` of all members, a fraction).
    """
    count, names = len(bench.experiment.seeds), [arm.name for arm in shared_arms(rewind_epoch)]

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        finals = inputs.replicates("shared", "final")
        members: dict[str, Sequence[Weights]] = {
            "dense": halves(inputs.replicates("dense", "final"))[1],
            "own tickets": inputs.replicates("own", "final"),
            "own, as pruned": inputs.replicates("imp", "final"),
            "signs": inputs.replicates("signed", "final"),
            **{name: finals[n * count : (n + 1) * count] for n, name in enumerate(names)},
        }
        rows = [
            {"method": name, **row} for name in METHODS for row in _by_size(bench, members[name])
        ]
        return StageResult({"rows": rows}, {}, bench.meta())

    return bench.task(
        "many_ensembles",
        inputs={
            "dense": Source(dense(bench).stage, ("final",)),
            "imp": Source(ticket(bench, sparsity, rewind_epoch), ("final",)),
            "own": Source(own(bench, sparsity, rewind_epoch), ("final",)),
            "shared": Source(shared(bench, sparsity, rewind_epoch), ("final",)),
            "signed": Source(signed(bench, sparsity), ("final",)),
        },
        settings={"methods": list(METHODS), "subsets": SUBSETS},
        label=f"ensembles, sparsity {sparsity:g}, k = {rewind_epoch}",
        work=Work(forward_images=len(METHODS) * count * bench.info.test),
        compute=compute,
    )


def _by_size(bench: Workbench, members: Sequence[Weights]) -> list[dict[str, Any]]:
    """Return the accuracy of ensembles of every size, and how much the members disagree."""
    test = bench.data.test
    targets = test.targets.cpu().numpy()
    inputs = list(bench.batches(test).inputs())
    probs = np.stack([probabilities(bench.network(weights), inputs) for weights in members])
    apart = disagreement(probs)
    return [
        {
            "members": size,
            "accuracy": float(
                np.mean(
                    [
                        ensemble_accuracy(probs[list(chosen)], targets)
                        for chosen in chosen_of(len(members), size)
                    ]
                )
            ),
            "disagreement": apart,
        }
        for size in range(1, len(members) + 1)
    ]


def chosen_of(members: int, size: int) -> list[tuple[int, ...]]:
    """List choices of `size` members: all choices, or `SUBSETS` random ones if there are more."""
    if math.comb(members, size) <= SUBSETS:
        return list(combinations(range(members), size))
    draw = np.random.default_rng(size)
    return [tuple(draw.choice(members, size, replace=False).tolist()) for _ in range(SUBSETS)]


def many_table(bench: Workbench, sparsity: float, rewind_epoch: int) -> pd.DataFrame:
    """Compute or load one cell of one ticket.

    Returns
    -------
    DataFrame
        One row for each method and number of members: columns sparsity, rewind_epoch, ticket (the
        seed of the A that it comes from), method, members, accuracy and disagreement (fractions),
        flops (of all training, the ticket's included), dense_trainings (the same in trainings of
        one dense network), weights (number of prunable weights that all members keep).
    """
    experiment = bench.experiment
    table = pd.DataFrame(ensembles(bench, sparsity, rewind_epoch).results["rows"])
    net = network(experiment.model, experiment.data, experiment.pruning.prunable)
    found = works(bench, sparsity, rewind_epoch)
    kept = sum(int(m.sum()) for m in ticket_masks(bench, sparsity, rewind_epoch)[0].values())

    def flops(work: Work) -> float:
        return net.flops(work.train_images, work.forward_images)

    each = table["method"].map({name: flops(work) for name, (_, work) in found.items()})
    once = table["method"].map({name: flops(work) for name, (work, _) in found.items()})
    table["flops"] = once + table["members"] * each
    table["dense_trainings"] = table["flops"] / flops(found["dense"][1])
    sparse = table["method"] != "dense"
    table["weights"] = table["members"] * np.where(sparse, kept, net.prunable)
    return table.assign(sparsity=sparsity, rewind_epoch=rewind_epoch, ticket=experiment.seeds[0])


def _size(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 2:
        raise ParameterError(f"{name} is {shown(value)}; expected a whole number, 2 or more.")
    return value


@dataclass(frozen=True)
class ManyOptions(Options):
    """Options of a mask for many."""

    ensemble_size: int = option(6, _size, "initializations that share a ticket, at the most")

    def completed(self, experiment: Experiment) -> ManyOptions:
        """Check that the seeds make whole groups, each with a ticket of its own."""
        seeds = len(experiment.seeds)
        require(experiment.pruning.mask == "imp", "mask", experiment.pruning.mask, "imp")
        if 0 not in kept_epochs(experiment):
            raise ParameterError("members with signs start from epoch 0: add 0 to keep.")
        if seeds < 2:
            raise ParameterError("many compares members with each other: give two seeds or more.")
        size = min(self.ensemble_size, seeds)
        if seeds % size:
            raise ParameterError(
                f"{seeds} seeds don't make groups of {size} members; give a multiple of {size} "
                "seeds, or another ensemble_size."
            )
        return dataclasses.replace(self, ensemble_size=size)


class Many(Study[ManyOptions]):
    """Carry one ticket to many initializations."""

    name = "many"
    words: ClassVar[dict[str, str]] = {"many": "members", "many_ensembles": "ensembles"}
    Options = ManyOptions
    columns = ("sparsity", "rewind_epoch", "ticket", "method", "members")

    def groups(self, bench: Workbench, options: ManyOptions) -> list[Workbench]:
        """Divide the seeds into groups of members, each with a ticket of its own."""
        seeds, size = bench.experiment.seeds, options.completed(bench.experiment).ensemble_size
        return [
            bench.like(dataclasses.replace(bench.experiment, seeds=seeds[i : i + size]))
            for i in range(0, len(seeds), size)
        ]

    def tasks(self, bench: Workbench, options: ManyOptions) -> list[Task]:
        """List the ensembles of every group, sparsity and rewind epoch."""
        return [
            ensembles(group, *cell)
            for group in self.groups(bench, options)
            for cell in cells(bench.experiment)
        ]

    def table(self, bench: Workbench, options: ManyOptions) -> pd.DataFrame:
        """Return the rows of all groups and cells, as `many_table`."""
        parts = [
            many_table(group, *cell)
            for group in self.groups(bench, options)
            for cell in cells(bench.experiment)
        ]
        return pd.concat(parts, ignore_index=True)


STUDY = Many()
