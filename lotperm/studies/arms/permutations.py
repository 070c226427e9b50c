"""Other permutations from A to B than the paper's, by name, and how alike they make units.

===================  ============================================================================
``activations-64``   the paper's, from the first 64 training examples
``pre-activations``  the paper's, observed before the nonlinearities instead of after them
``gradients``        by the gradients of the loss with respect to the units' outputs
``attributions``     by activations times these gradients
``weights``          by weights instead (Git Re-Basin), without any data
``epoch-3``          from A at the end to B as it was after 3 epochs
``other-seed``       from A to the next replicate's B, not to the network that it is used on
``first-ticket``     from the first replicate's A to every B
``random``           uniformly random: the control of every matching
``weights-best-10``  by weights, the best of 10 orders of the groups
``weights-refined``  by weights, descent from the experiment's own permutation
``weights-joint``    by weights, all groups at once (Frank–Wolfe)
``weights-kept``     by weights, counting only those that A's mask keeps
``weights-many``     by weights, all replicates' A and B brought into one common order
===================  ============================================================================

With ``first-ticket-`` before it, as in ``first-ticket-epoch-3``, any of them takes the first
replicate's A to every B.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lotperm.config.seeds import derive_seed
from lotperm.engine.models import Weights
from lotperm.errors import ParameterError, unknown_name
from lotperm.science.assignment import mean_matched
from lotperm.science.frank_wolfe import match_weights_jointly
from lotperm.science.matching import (
    Signal,
    match_activations,
    match_gradients,
    match_weights,
    weight_agreement,
)
from lotperm.science.merging import match_many
from lotperm.science.preactivations import before_nonlinearities
from lotperm.science.sparsity import Mask, apply_mask
from lotperm.science.symmetry import Permutation, PermutationSpec, compose, invert
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Source, Task, epoch_file, pack
from lotperm.store.workspace import Workspace
from lotperm.studies.stages import dense, halves, kept_epochs
from lotperm.studies.subject import plain
from lotperm.studies.workbench import Workbench

FIRST_TICKET = "first-ticket"
"""The permutations that take the first replicate's A to every B, found in the experiment's way."""

SHARED = f"{FIRST_TICKET}-"
"""What the names of all others that take the first replicate's A to every B begin with."""

_NUMBERED = ("activations", "epoch", "weights-best")
"""Kinds whose names end in a number."""


def _parsed(name: str) -> tuple[str, int]:
    """Split a name, without `SHARED`, into its kind and its number, 0 if it has none."""
    bare = name.removeprefix(SHARED)
    found = re.fullmatch(rf"({'|'.join(_NUMBERED)})-(\d+)", bare)
    kind = found[1] if found else bare
    # The name of a numbered kind isn't whole without its number.
    if kind not in _WAYS or (found is None and kind in _NUMBERED):
        known = [f"{kind}-N" if kind in _NUMBERED else kind for kind in _WAYS]
        raise unknown_name("permutation", name, known)
    return kind, int(found[2]) if found else 0


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
    if kind == "weights-best" and number < 1:
        raise ParameterError(f"permutation {name}: expected 1 or more orders of the groups.")
    if kind == "other-seed" and len(bench.experiment.seeds) < 2:
        raise ParameterError("permutation other-seed: there is one seed; expected two or more.")


def needs_mask(names: Iterable[str]) -> bool:
    """Return True if one of the permutations depends on A's mask."""
    return any(_parsed(name)[0] == "weights-kept" for name in names)


def permutations(bench: Workbench, names: Sequence[str], masks: Task | None = None) -> Task:
    """Find permutations from every A to its B, a file for each name.

    Parameters
    ----------
    bench : Workbench
        The experiment's workbench.
    names : sequence of str
        Names that this module's docstring lists; others are refused by `check_source`.
    masks : Task, optional
        The stage of A's masks, for the names that `needs_mask` knows.
    """
    experiment = bench.experiment
    for name in names:
        check_source(bench, name)
    # In one order, so that the same names are the same stage.
    names = sorted(set(names))
    epochs = [number for kind, number in map(_parsed, names) if kind == "epoch"]
    sources = {"dense": Source(dense(bench).stage, ("final", *map(epoch_file, epochs)))}
    if masks is not None and needs_mask(names):
        sources["imp"] = Source(masks, ("mask",))

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        own = _Ends(bench, inputs, *halves(inputs.replicates("dense", "final")))
        shared = dataclasses.replace(own, a=own.a[:1] * len(own.b), shared=True)
        files = {}
        for name in names:
            kind, number = _parsed(name)
            files[name] = pack(_WAYS[kind](shared if name.startswith(SHARED) else own, number))
        return StageResult({"names": names}, files, bench.meta())

    return bench.task(
        "permutations",
        inputs=sources,
        settings={"matching": plain(experiment.matching), "names": names},
        label="other permutations from A to B",
        work=bench.work(0, experiment.dense, matches=len(names) * len(experiment.seeds)),
        compute=compute,
    )


@dataclass(frozen=True)
class _Ends:
    """The dense networks at the end of training, and what finding permutations also needs."""

    bench: Workbench
    inputs: Inputs
    a: list[Weights]
    b: list[Weights]
    shared: bool = False
    """Whether `a` has the first replicate's A for every replicate."""

    @property
    def masks(self) -> list[Mask]:
        """A's mask in every replicate."""
        found: list[Mask] = self.inputs.replicates("imp", "mask")
        return found[:1] * len(found) if self.shared else found

    @property
    def pairs(self) -> Iterator[tuple[Weights, Weights]]:
        """A and B of every replicate."""
        return zip(self.a, self.b, strict=True)

    def matched(self, a: Sequence[Weights], b: Sequence[Weights]) -> list[Permutation]:
        """Match networks in the experiment's own way."""
        return [self.bench.match_pair(x, y) for x, y in zip(a, b, strict=True)]

    def observed(
        self, match: Callable[..., Permutation], examples: Iterable[Any], spec: PermutationSpec
    ) -> list[Permutation]:
        """Match units by what is observed at the experiment's points."""
        points, device = self.bench.experiment.matching.points, self.bench.runtime.device
        return [match(a, b, examples, spec, points=points, device=device) for a, b in self.pairs]


def _activations(ends: _Ends, number: int) -> list[Permutation]:
    return ends.observed(match_activations, [_first_examples(ends.bench, number)], ends.bench.spec)


def _pre_activations(ends: _Ends, _: int) -> list[Permutation]:
    spec = before_nonlinearities(ends.bench.spec)
    return ends.observed(match_activations, ends.bench.match_batches(), spec)


def _by_gradients(signal: Signal, ends: _Ends, _: int) -> list[Permutation]:
    match = partial(match_gradients, signal=signal)
    return ends.observed(match, ends.bench.match_examples(), ends.bench.spec)


def _epoch(ends: _Ends, number: int) -> list[Permutation]:
    return ends.matched(ends.a, halves(ends.inputs.replicates("dense", epoch_file(number)))[1])


def _other_seed(ends: _Ends, _: int) -> list[Permutation]:
    return ends.matched(ends.a, [*ends.b[1:], ends.b[0]])


def _first_ticket(ends: _Ends, _: int) -> list[Permutation]:
    return ends.matched(ends.a[:1] * len(ends.b), ends.b)


def _random(ends: _Ends, _: int) -> list[Permutation]:
    seeds = [derive_seed("random permutation", s) for s in ends.bench.experiment.seeds]
    return [ends.bench.spec.random(torch.Generator().manual_seed(seed)) for seed in seeds]


def _weights(ends: _Ends, _: int) -> list[Permutation]:
    return [match_weights(a, b, ends.bench.spec) for a, b in ends.pairs]


def _weights_best(ends: _Ends, number: int) -> list[Permutation]:
    spec = ends.bench.spec

    def best(a: Weights, b: Weights) -> Permutation:
        found = [match_weights(a, b, spec, seed=seed) for seed in range(number)]
        return max(found, key=lambda p: weight_agreement(a, b, spec, p))

    return [best(a, b) for a, b in ends.pairs]


def _weights_refined(ends: _Ends, _: int) -> list[Permutation]:
    spec = ends.bench.spec
    starts = [ends.bench.match_pair(a, b) for a, b in ends.pairs]
    return [
        match_weights(a, b, spec, init=start)
        for (a, b), start in zip(ends.pairs, starts, strict=True)
    ]


def _weights_joint(ends: _Ends, _: int) -> list[Permutation]:
    return [match_weights_jointly(a, b, ends.bench.spec) for a, b in ends.pairs]


def _weights_kept(ends: _Ends, _: int) -> list[Permutation]:
    # What the mask removes from A is 0, so it adds nothing to the inner product with B's weights.
    kept = [apply_mask(a, mask) for a, mask in zip(ends.a, ends.masks, strict=True)]
    return [match_weights(a, b, ends.bench.spec) for a, b in zip(kept, ends.b, strict=True)]


def _weights_many(ends: _Ends, _: int) -> list[Permutation]:
    orders = match_many([*ends.a, *ends.b], ends.bench.spec)
    count = len(ends.a)
    return [
        compose(invert(to_b), to_a)
        for to_a, to_b in zip(orders[:count], orders[count:], strict=True)
    ]


_WAYS: dict[str, Callable[[_Ends, int], list[Permutation]]] = {
    "activations": _activations,
    "pre-activations": _pre_activations,
    "gradients": partial(_by_gradients, "gradients"),
    "attributions": partial(_by_gradients, "attributions"),
    "weights": _weights,
    "epoch": _epoch,
    "other-seed": _other_seed,
    "first-ticket": _first_ticket,
    "random": _random,
    "weights-best": _weights_best,
    "weights-refined": _weights_refined,
    "weights-joint": _weights_joint,
    "weights-kept": _weights_kept,
    "weights-many": _weights_many,
}
"""Kind of a permutation -> how it is found, from the ends and its number."""


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
    # One number for a network: groups of all layers count equally, whatever their size.
    return sum(found) / len(found)
