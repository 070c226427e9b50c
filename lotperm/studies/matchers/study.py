"""A bench of matchings: the accuracy that each gives a mask, its barrier, and its objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pandas as pd

from lotperm.data.dataset import first
from lotperm.errors import ParameterError
from lotperm.science.barrier import Repair, barrier_height, loss_barrier
from lotperm.science.matching import weight_agreement
from lotperm.science.symmetry import Permutation, permute
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Source, Task, Work, unpack
from lotperm.store.workspace import Workspace
from lotperm.studies.arms.arms import ARMS, FOUND, Arm
from lotperm.studies.arms.permutations import (
    check_source,
    correlations,
    matched_correlation,
    permutations,
)
from lotperm.studies.arms.training import train_arms
from lotperm.studies.lines import STATISTICS
from lotperm.studies.stages import dense, halves, match, ticket
from lotperm.studies.study import Options, Study, cells, of_all_cells, option
from lotperm.studies.workbench import Workbench, final_accuracies

ALPHAS = (0.0, 0.5, 1.0)
"""Positions on the line at which a barrier is measured: the ends and the middle."""

NONE = "none"
"""Name in tables of the permutation that moves nothing, which LTH and naive have."""


def _parse_names(name: str, value: Any) -> tuple[str, ...]:
    """Read the names of permutations; a single one may be given without a list."""
    given = [value] if isinstance(value, str) else list(value)
    if not given or not all(isinstance(one, str) for one in given) or len(set(given)) < len(given):
        raise ParameterError(f"{name} is {given}; expected names of permutations, none twice.")
    return tuple(given)


@dataclass(frozen=True)
class MatchersOptions(Options):
    """Options of the bench."""

    matchers: tuple[str, ...] = option(
        (
            "random",
            "weights",
            "weights-best-10",
            "weights-refined",
            "weights-joint",
            "weights-kept",
            "weights-many",
        ),
        _parse_names,
        "permutations that compete with the experiment's own, by name",
    )


def arms(bench: Workbench, options: MatchersOptions) -> list[Arm]:
    """List LTH, naive, the paper's permuted arm, and a permuted arm for each further matching."""
    for name in options.matchers:
        check_source(bench, name)
    permuted = ARMS["permuted"]
    others = [dataclasses.replace(permuted, name=n, permutation=n) for n in options.matchers]
    return [ARMS["lth"], ARMS["naive"], permuted, *others]


def trained(bench: Workbench, sparsity: float, rewind_epoch: int, options: MatchersOptions) -> Task:
    """Train the arms of all matchings at once."""
    return train_arms(
        bench, "matchers", arms(bench, options), sparsity, rewind_epoch, words="matchings"
    )


def barriers(
    bench: Workbench, sparsity: float, rewind_epoch: int, options: MatchersOptions
) -> Task:
    """Measure the barrier between every π(A) and B, both dense, and the agreement of the weights.

    Returns
    -------
    Task
        Its results have "rows": seed, permutation, barrier and train_barrier (nats, on the test
        split and on training examples), agreement (`weight_agreement`).
    """
    experiment = bench.experiment
    names = sorted(options.matchers)
    masks = ticket(bench, sparsity, rewind_epoch)

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        network = bench.build().to(bench.runtime.device)
        # Between networks with batch norm, the statistics are computed anew: otherwise the barrier
        # would measure them more than anything else.
        repair: Repair = (
            "bn" if any("running_mean" in name for name in network.state_dict()) else "none"
        )
        seen = first(bench.data.train, STATISTICS)
        data = {"test": list(bench.batches(bench.data.test)), "train": list(bench.batches(seen))}
        examples = [batch for batch, _ in data["train"]]
        pairs = list(zip(*halves(inputs.replicates("dense", "final")), strict=True))
        rows = []
        for name, found in _every(bench, inputs, names):
            for seed, (a, b), permutation in zip(experiment.seeds, pairs, found, strict=True):
                line = loss_barrier(
                    network,
                    permute(a, bench.spec, permutation),
                    b,
                    data,
                    ALPHAS,
                    repair=repair,
                    statistics=examples,
                )
                heights = barrier_height(line).set_index("split")["loss_barrier"]
                rows.append(
                    {
                        "seed": seed,
                        "permutation": name,
                        "barrier": float(heights["test"]),
                        "train_barrier": float(heights["train"]),
                        "agreement": weight_agreement(a, b, bench.spec, permutation),
                    }
                )
        return StageResult({"rows": rows}, {}, bench.meta())

    lines = (len(names) + 2) * len(experiment.seeds) * len(ALPHAS)
    return bench.task(
        "matcher_barriers",
        inputs={
            "dense": Source(dense(bench).stage, ("final",)),
            "match": Source(match(bench), ("permutation",)),
            "permutations": Source(permutations(bench, names, masks), tuple(names)),
        },
        settings={"names": names, "alphas": list(ALPHAS), "statistics": STATISTICS},
        label="barriers of all matchings",
        work=Work(forward_images=lines * (bench.info.test + 2 * STATISTICS)),
        compute=compute,
    )


def _every(
    bench: Workbench, inputs: Inputs, names: list[str]
) -> Iterator[tuple[str, list[Permutation]]]:
    """Yield all permutations by name: none, the experiment's own, then the others."""
    yield NONE, [bench.spec.identity() for _ in bench.experiment.seeds]
    yield FOUND, inputs.replicates("match", "permutation")
    for name in names:
        yield name, inputs.replicates("permutations", name)


def matchers_table(
    bench: Workbench, sparsity: float, rewind_epoch: int, options: MatchersOptions
) -> pd.DataFrame:
    """Compute or load one cell.

    Returns
    -------
    DataFrame
        One row for each arm and seed: columns sparsity, rewind_epoch, seed, arm, permutation,
        accuracy (a fraction), correlation (mean of the units that are joined), barrier and
        train_barrier (nats), agreement. LTH has only the accuracy.
    """
    stage = trained(bench, sparsity, rewind_epoch, options)
    accuracies = final_accuracies(stage)
    seeds = bench.experiment.seeds
    rows = [
        {
            "sparsity": sparsity,
            "rewind_epoch": rewind_epoch,
            "seed": seed,
            "arm": arm.name,
            "permutation": arm.permutation if arm.permutes else NONE,
            "accuracy": accuracies[n * len(seeds) + i],
        }
        for n, arm in enumerate(arms(bench, options))
        for i, seed in enumerate(seeds)
    ]
    measured = barriers(bench, sparsity, rewind_epoch, options)
    matrices = unpack(correlations(bench).load("b"))
    alike = [
        {"seed": seed, "permutation": name, "correlation": matched_correlation(matrix, permutation)}
        for name, found in _every(bench, Inputs(measured.inputs), sorted(options.matchers))
        for seed, matrix, permutation in zip(seeds, matrices, found, strict=True)
    ]
    evidence = pd.DataFrame(measured.results["rows"]).merge(
        pd.DataFrame(alike), on=["seed", "permutation"], validate="one_to_one"
    )
    table = pd.DataFrame(rows).merge(evidence, on=["seed", "permutation"], how="left")
    # LTH is A itself: nothing is joined to B.
    about_b = ["correlation", "barrier", "train_barrier", "agreement"]
    table.loc[table["arm"] == "lth", about_b] = float("nan")
    return table


class Matchers(Study[MatchersOptions]):
    """Let matchings compete on what the permuted mask gives."""

    name = "matchers"
    words: ClassVar[dict[str, str]] = {
        "matchers": "matchings",
        "matcher_barriers": "barriers of matchings",
        "permutations": "other permutations",
        "correlations": "correlations",
    }
    Options = MatchersOptions
    columns = ("sparsity", "rewind_epoch", "seed", "arm")

    def tasks(self, bench: Workbench, options: MatchersOptions) -> list[Task]:
        """List a training and its barriers for each sparsity and rewind epoch."""
        of_cells = [
            make(bench, *cell, options)
            for cell in cells(bench.experiment)
            for make in (trained, barriers)
        ]
        return [*of_cells, correlations(bench)]

    def table(self, bench: Workbench, options: MatchersOptions) -> pd.DataFrame:
        """Return the rows of all cells, as `matchers_table`."""
        return of_all_cells(bench.experiment, partial(matchers_table, bench, options=options))

    def of_page(self, bench: Workbench, options: MatchersOptions) -> MatchersOptions:
        """Return the options, the names of permutations checked."""
        arms(bench, options)
        return options.completed(bench.experiment)


STUDY = Matchers()
