"""The arms of a transformer: heads, units inside heads, MLP units and residual stream permuted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pandas as pd
from torch import Tensor

from lotperm.config.experiment import Experiment
from lotperm.config.fields import require
from lotperm.science.assignment import mean_matched
from lotperm.science.symmetry import Permutation
from lotperm.store.tasks import Task, unpack
from lotperm.studies.arms.arms import ARMS, FOUND, Arm
from lotperm.studies.arms.permutations import correlations, permutations
from lotperm.studies.arms.training import train_arms
from lotperm.studies.causal.study import oracle
from lotperm.studies.stages import dense, match
from lotperm.studies.study import Options, Study, cells, of_all_cells
from lotperm.studies.workbench import Workbench, final_accuracies

NONE = "none"
"""Name of the permutation that moves nothing, in tables."""

# The group of queries and keys is named after its first layer, and matched where it appears last:
# at the keys.
KINDS = {
    "stream": "patches",
    "keys": "attention.query",
    "values": "attention.value",
    "mlp": "mlp.0",
}
"""Column of the table -> how the names of the groups that it covers end."""

COPY = oracle(0.0)
"""The copy of A whose permutation is known."""

WEIGHTS = dataclasses.replace(ARMS["permuted"], name="weights", permutation="weights")
"""The permuted arm, its permutation found by weights."""

ATTENTION_ARMS: list[Arm] = [
    ARMS["lth"],
    COPY,
    ARMS["permuted"],
    WEIGHTS,
    ARMS["naive"],
    ARMS["random"],
]
"""The arms, as a stage trains them."""


@dataclass(frozen=True)
class AttentionOptions(Options):
    """The question has no options of its own."""

    def completed(self, experiment: Experiment) -> AttentionOptions:
        """Check that the network attends."""
        name = experiment.model.name
        require(name == "vit_tiny", "model", name, "vit_tiny: the question is about attention")
        return self


def trained(bench: Workbench, sparsity: float, rewind_epoch: int) -> Task:
    """Train all arms of a cell at once."""
    return train_arms(bench, "attention", ATTENTION_ARMS, sparsity, rewind_epoch)


def alike(matrices: dict[str, Tensor], permutation: Permutation) -> dict[str, float]:
    """Return the correlation of the units that a permutation joins, by kind of unit.

    Parameters
    ----------
    matrices : dict
        Group -> (n, n), unit of B by unit of A.
    permutation : Permutation
        From A to B.

    Returns
    -------
    dict
        A mean over groups for each of `KINDS`; and their mean, "correlation", in which every group
        counts alike.
    """
    found = {group: mean_matched(matrix, permutation[group]) for group, matrix in matrices.items()}
    rows = {"correlation": sum(found.values()) / len(found)}
    for kind, end in KINDS.items():
        of = [value for group, value in found.items() if group.endswith(end)]
        rows[kind] = sum(of) / len(of)
    return rows


def attention_table(bench: Workbench, sparsity: float, rewind_epoch: int) -> pd.DataFrame:
    """Compute or load one cell.

    Returns
    -------
    DataFrame
        One row for each arm and seed: columns sparsity, rewind_epoch, seed, arm, permutation,
        accuracy (a fraction), dense (accuracy of the dense A), correlation (mean correlation of the
        units of A and B that the mask joins, at the end of dense training) and the same by kind of
        unit (`KINDS`). LTH, the copy and the random mask have no correlation.
    """
    stage = trained(bench, sparsity, rewind_epoch)
    accuracies = final_accuracies(stage)
    whole = final_accuracies(dense(bench).stage)
    seeds = bench.experiment.seeds
    matrices = unpack(correlations(bench).load("b"))
    moved = {
        NONE: [bench.spec.identity() for _ in seeds],
        FOUND: unpack(match(bench).load("permutation")),
        "weights": unpack(permutations(bench, ["weights"]).load("weights")),
    }
    rows = []
    for n, arm in enumerate(ATTENTION_ARMS):
        name = arm.permutation if arm.permutes else NONE
        about_b = arm.weights == "b" and arm.mask != "scattered"
        for i, seed in enumerate(seeds):
            rows.append(
                {
                    "sparsity": sparsity,
                    "rewind_epoch": rewind_epoch,
                    "seed": seed,
                    "arm": arm.name,
                    "permutation": name,
                    "accuracy": accuracies[n * len(seeds) + i],
                    # Dense networks are ordered as arms are: every A, then every B.
                    "dense": whole[i],
                    **(alike(matrices[i], moved[name][i]) if about_b else {}),
                }
            )
    return pd.DataFrame(rows)


class Attention(Study[AttentionOptions]):
    """Permute the tickets of a transformer."""

    name = "attention"
    words: ClassVar[dict[str, str]] = {
        "attention": "arms of a transformer",
        "permutations": "other permutations",
        "correlations": "correlations",
    }
    Options = AttentionOptions
    columns = ("sparsity", "rewind_epoch", "seed", "arm")

    def tasks(self, bench: Workbench, options: AttentionOptions) -> list[Task]:
        """List one training for each sparsity and rewind epoch, and the correlations."""
        return [*(trained(bench, *cell) for cell in cells(bench.experiment)), correlations(bench)]

    def table(self, bench: Workbench, options: AttentionOptions) -> pd.DataFrame:
        """Return the rows of all cells, as `attention_table`."""
        return of_all_cells(bench.experiment, partial(attention_table, bench))


STUDY = Attention()
