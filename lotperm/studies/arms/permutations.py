"""Other permutations from A to B than the paper's, by name, and how alike they make units.

===================  ============================================================================
``activations-64``   the paper's, from the first 64 training examples
``weights``          by weights instead (Git Re-Basin), without any data
``epoch-3``          from A at the end to B as it was after 3 epochs
``other-seed``       from A to the next replicate's B: for another network than it is used on
``first-ticket``     from the first replicate's A to every B
===================  ============================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from lotperm.engine.models import Weights
from lotperm.errors import ParameterError, shown
from lotperm.science.assignment import mean_matched
from lotperm.science.matching import match_activations, match_weights
from lotperm.science.symmetry import Permutation
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Source, Task, epoch_file, pack
from lotperm.store.workspace import Workspace
from lotperm.studies.stages import dense, halves, kept_epochs
from lotperm.studies.subject import plain
from lotperm.studies.workbench import Workbench

_NAMED = re.compile(r"(activations|epoch)-(\d+)|weights|other-seed|first-ticket")


def _parsed(name: str) -> tuple[str, int]:
    """Split a name into its kind and its number, 0 if it has none."""
    found = _NAMED.fullmatch(name)
    if found is None:
        raise ParameterError(
            f"permutation is {shown(name)}; expected activations-N, weights, epoch-T, other-seed "
            "or first-ticket."
        )
    return found[1] or name, int(found[2] or 0)


def check_source(bench: Workbench, name: str) -> None:
    """Refuse the name of a permutation that an experiment doesn't have.

    Raises
    ------
    ParameterError
        If there is no such permutation; if the epoch isn't kept, the examples are too few or more
        than there are, or the only replicate has no other seed.
    """
    kind, number = _parsed(name)
    kept = kept_epochs(bench.experiment)
    if kind == "epoch" and number not in kept:
        raise ParameterError(
            f"permutation {name}: epoch {number} isn't kept; kept are {', '.join(map(str, kept))}."
        )
    if kind == "activations" and not 2 <= number <= bench.info.train:
        raise ParameterError(
            f"permutation {name}: expected 2 to {bench.info.train:,} examples, the training split."
        )
    if kind == "other-seed" and len(bench.experiment.seeds) < 2:
        raise ParameterError("permutation other-seed: there is one seed; expected two or more.")


def permutations(bench: Workbench, names: Sequence[str]) -> Task:
    """Find permutations from every A to its B, a file for each name; raises as `check_source`."""
    experiment = bench.experiment
    for name in names:
        check_source(bench, name)
    # In one order, so that the same names are the same stage.
    names = sorted(set(names))
    epochs = [number for kind, number in map(_parsed, names) if kind == "epoch"]

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        ends_a, ends_b = halves(inputs.replicates("dense", "final"))

        def find(name: str) -> list[Permutation]:
            kind, number = _parsed(name)
            froms, tos = ends_a, ends_b
            if kind == "epoch":
                tos = halves(inputs.replicates("dense", epoch_file(number)))[1]
            elif kind == "other-seed":
                tos = [*ends_b[1:], ends_b[0]]
            elif kind == "first-ticket":
                froms = ends_a[:1] * len(ends_b)
            pairs = list(zip(froms, tos, strict=True))
            if kind == "weights":
                return [match_weights(a, b, bench.spec) for a, b in pairs]
            if kind != "activations":
                return [bench.match_pair(a, b) for a, b in pairs]
            examples = _first_examples(bench, number)
            return [
                match_activations(
                    a,
                    b,
                    [examples],
                    bench.spec,
                    points=experiment.matching.points,
                    device=bench.runtime.device,
                )
                for a, b in pairs
            ]

        return StageResult({"names": names}, {n: pack(find(n)) for n in names}, bench.meta())

    return bench.task(
        "permutations",
        inputs={"dense": Source(dense(bench).stage, ("final", *map(epoch_file, epochs)))},
        settings={"matching": plain(experiment.matching), "names": names},
        label="other permutations from A to B",
        work=bench.work(0, experiment.dense, matches=len(names) * len(experiment.seeds)),
        compute=compute,
    )


def _first_examples(bench: Workbench, number: int) -> Tensor:
    """Return the first training inputs: those that matching begins with."""
    found = torch.cat(list(islice(bench.match_batches(number), 1)))
    if len(found) < number:
        raise ParameterError(
            f"permutation activations-{number}: matching sees {len(found)} examples; set "
            "match_samples to more."
        )
    return found


def correlations(bench: Workbench) -> Task:
    """Correlate all units of A with all units of B, and of A itself, at the end of dense training.

    Returns
    -------
    Task
        Its files "b" and "a" have for each group (replicates, n, n), float64: rows are units of B,
        or of A; columns are units of A.
    """
    experiment = bench.experiment

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        a, b = halves(inputs.replicates("dense", "final"))

        def matrices(one: Weights, other: Weights) -> dict[str, Tensor]:
            found = match_activations(
                one,
                other,
                bench.match_batches(),
                bench.spec,
                points=experiment.matching.points,
                keep_correlations=True,
                device=bench.runtime.device,
            )
            return found.correlations or {}

        files = {
            name: pack(matrices(x, y) for x, y in zip(a, others, strict=True))
            for name, others in (("b", b), ("a", a))
        }
        return StageResult({}, files, bench.meta())

    return bench.task(
        "correlations",
        inputs={"dense": Source(dense(bench).stage, ("final",))},
        settings=plain(experiment.matching),
        label="correlation of the units of A and B",
        work=bench.work(0, experiment.dense, matches=2 * len(experiment.seeds)),
        compute=compute,
    )


def matched_correlation(matrices: Mapping[str, Tensor], permutation: Permutation) -> float:
    """Return the correlation of the units that a permutation matches, a mean over groups."""
    found = [mean_matched(matrix, permutation[group]) for group, matrix in matrices.items()]
    # One number for a network: groups of all layers count alike, whatever their size.
    return sum(found) / len(found)
