"""The causal test: a known permutation, a permutation spoiled by degrees, and others than π."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pandas as pd
from torch import Tensor

from lotperm.config.experiment import Experiment
from lotperm.config.parameters import PARAMETERS
from lotperm.errors import ParameterError
from lotperm.store.tasks import Inputs, Task, unpack
from lotperm.studies.arms.arms import ARMS, ORACLE, Arm, Parts
from lotperm.studies.arms.permutations import (
    check_source,
    correlations,
    matched_correlation,
)
from lotperm.studies.arms.training import parts_of, train_arms
from lotperm.studies.study import Options, Study, cells, of_all_cells, option
from lotperm.studies.workbench import Workbench, final_accuracies

LTH, PERMUTED, NAIVE = ARMS["lth"], ARMS["permuted"], ARMS["naive"]

IDENTITY = "identity"
"""Stands in tables for the permutation of an arm whose mask is as found."""

COPY_NAIVE = Arm("copy, naive", weights="shuffled a", mask="as found", stream="sparse_a")
"""The shuffled copy of A under the mask as found."""


@dataclass(frozen=True)
class CausalOptions(Options):
    """Options of the causal test."""

    shares: tuple[float, ...] = option(
        (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        # Read as sparsities are: numbers, one or several.
        PARAMETERS["sparsity"].parse,
        "shares of π's units that are scrambled, from 0 to 1",
    )
    samples: tuple[int, ...] = option(
        (16, 64, 256, 1024),
        PARAMETERS["rewind_epoch"].parse,
        "numbers of examples that π is found from, besides all",
    )

    def completed(self, experiment: Experiment) -> CausalOptions:
        """Return the options in ascending order, their values checked."""
        for name, values in (("shares", self.shares), ("samples", self.samples)):
            if len(set(values)) != len(values):
                raise ParameterError(f"{name} is {list(values)}; expected no number twice.")
        if not {0.0, 1.0} <= set(self.shares) or not all(0 <= s <= 1 for s in self.shares):
            raise ParameterError(
                f"shares is {list(self.shares)}; expected numbers from 0 to 1, both ends included."
            )
        return dataclasses.replace(
            self, shares=tuple(sorted(self.shares)), samples=tuple(sorted(self.samples))
        )


def oracle(share: float) -> Arm:
    """Return the arm of the shuffled copy: its π is known, and scrambled by a share."""
    return Arm(
        f"copy, {share:.0%} scrambled",
        weights="shuffled a",
        mask="permuted",
        # A's own stream: with the right mask, every step is LTH's.
        stream="sparse_a",
        permutation=ORACLE,
        scrambled=share,
    )


def dose(share: float) -> Arm:
    """Return the permuted arm, with a share of the π that was found scrambled."""
    if share == 0:
        return PERMUTED
    return dataclasses.replace(PERMUTED, name=f"B, {share:.0%} scrambled", scrambled=share)


def sources(bench: Workbench, options: CausalOptions, rewind_epoch: int) -> list[Arm]:
    """List the permuted arms with other permutations than the paper's."""
    # Epoch 0 is B's initialization; at the rewind epoch B is what the arm starts from.
    epochs = sorted({0, rewind_epoch})
    # On an untrained B even all examples say little, so their number isn't varied there.
    enough = [n for n in options.samples if n < bench.info.train] if rewind_epoch else []
    names = [
        *(f"activations-{n}" for n in enough),
        "weights",
        *(f"epoch-{t}" for t in epochs),
        "other-seed",
    ]
    for name in names:
        check_source(bench, name)
    return [dataclasses.replace(PERMUTED, name=name, permutation=name) for name in names]


def all_arms(bench: Workbench, options: CausalOptions, rewind_epoch: int) -> dict[str, list[Arm]]:
    """List the arms of every part of the test; "reference" has those that all share."""
    return {
        "reference": [LTH, PERMUTED, NAIVE],
        "oracle": [COPY_NAIVE, *map(oracle, options.shares)],
        # Without a share, the arm is the paper's.
        "dose": [dose(share) for share in options.shares if share],
        "sources": sources(bench, options, rewind_epoch),
    }


def causal(bench: Workbench, sparsity: float, rewind_epoch: int, options: CausalOptions) -> Task:
    """Train all arms of a cell at once."""
    arms = all_arms(bench, options, rewind_epoch)
    every = [arm for part in arms.values() for arm in part]
    return train_arms(bench, "causal", every, sparsity, rewind_epoch, words="causal test")


def causal_table(
    bench: Workbench, sparsity: float, rewind_epoch: int, options: CausalOptions
) -> pd.DataFrame:
    """Compute or load one cell.

    Returns
    -------
    DataFrame
        One row per arm and seed: columns sparsity, rewind_epoch, seed, test ("reference",
        "oracle", "dose" or "sources"), arm, share (scrambled), permutation (its name, or
        `IDENTITY`), correlation (mean correlation of the units that the mask joins, at the end of
        dense training; 1 for A under its own mask), accuracy (a fraction).
    """
    stage = causal(bench, sparsity, rewind_epoch, options)
    accuracies = final_accuracies(stage)
    replicates = parts_of(bench, Inputs(stage.inputs), rewind_epoch)
    alike = correlations(bench)
    to_b, to_a = unpack(alike.load("b")), unpack(alike.load("a"))
    rows = []
    parts = all_arms(bench, options, rewind_epoch)
    named = [(test, arm) for test, arms in parts.items() for arm in arms]
    for n, (test, arm) in enumerate(named):
        for i, seed in enumerate(bench.experiment.seeds):
            rows.append(
                {
                    "sparsity": sparsity,
                    "rewind_epoch": rewind_epoch,
                    "seed": seed,
                    "test": test,
                    "arm": arm.name,
                    "share": arm.scrambled,
                    "permutation": arm.permutation if arm.permutes else IDENTITY,
                    "correlation": _alike(arm, replicates[i], to_b[i], to_a[i]),
                    "accuracy": accuracies[n * len(replicates) + i],
                }
            )
    return pd.DataFrame(rows)


def _alike(arm: Arm, parts: Parts, to_b: dict[str, Tensor], to_a: dict[str, Tensor]) -> float:
    """Return the correlation of the units of A and of the arm's network that the mask joins."""
    permutation = parts.permutation(arm) if arm.permutes else parts.spec.identity()
    if arm.weights == "shuffled a":
        # Unit i of the copy is unit σ[i] of A.
        to_a = {group: matrix[parts.oracle[group]] for group, matrix in to_a.items()}
    return matched_correlation(to_b if arm.weights == "b" else to_a, permutation)


class Causal(Study[CausalOptions]):
    """Train arms whose permutation is known for certain, or spoiled by degrees."""

    name = "causal"
    words: ClassVar[dict[str, str]] = {
        "causal": "causal test",
        "permutations": "other permutations",
        "correlations": "correlations",
    }
    Options = CausalOptions
    columns = ("sparsity", "rewind_epoch", "seed", "test", "arm")

    def tasks(self, bench: Workbench, options: CausalOptions) -> list[Task]:
        """List one training for each sparsity and rewind epoch, and the correlations."""
        trained = [causal(bench, *cell, options) for cell in cells(bench.experiment)]
        return [*trained, correlations(bench)]

    def table(self, bench: Workbench, options: CausalOptions) -> pd.DataFrame:
        """Return the rows of all cells, as `causal_table`."""
        return of_all_cells(bench.experiment, partial(causal_table, bench, options=options))


STUDY = Causal()
