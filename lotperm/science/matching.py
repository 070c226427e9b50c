"""Match the units of network A to those of network B, by activations or by weights.

Both ways end in one linear assignment per permutation group, or one of blocks and of the units
inside each pair of them (`lotperm.science.blocks`), and return a `Matching`, a permutation
together with the evidence for it. A permutation moves A onto B: ``permute(weights_a, spec,
matching)`` is close to B.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from lotperm.errors import ParameterError, unknown_name
from lotperm.parallel import distributed
from lotperm.science.assignment import assign, mean_matched
from lotperm.science.blocks import assign_blocks, families
from lotperm.science.correlation import CorrelationAccumulator, correlate
from lotperm.science.inputs import Batch
from lotperm.science.state_dicts import is_parameter
from lotperm.science.symmetry import PermutationSpec, permute
from lotperm.types import Float

Points = Literal["last", "penultimate", "authors"]
"""Names of choices of the activation at which each group of units is observed."""

# How often the residual streams of the paper's ResNet20 can be observed: after the stem and its
# three blocks, and after the three blocks of either later stage.
_RESNET20 = [4, 3, 3]


class Matching(dict[str, Tensor]):
    """A `Permutation` (group -> int64 `(n,)`) with the evidence for it.

    Attributes
    ----------
    scores : dict
        Group -> how alike the matched units are, in [-1, 1]: mean Pearson correlation of the
        pairs, or, when matched by weights, mean cosine of their weights. Dead units count as 0.
    identity_scores : dict
        The same for the pairs as they are without permuting.
    correlations : dict or None
        Group -> float64 `(n_b, n_a)`, unit of B by unit of A, where they were asked for.
    """

    def __init__(
        self,
        permutation: Mapping[str, Tensor],
        scores: dict[str, float],
        identity_scores: dict[str, float],
        correlations: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__(permutation)
        self.scores = scores
        self.identity_scores = identity_scores
        self.correlations = correlations


def match_activations(
    a: Mapping[str, Any] | nn.Module,
    b: Mapping[str, Any] | nn.Module,
    batches: Iterable[Batch],
    spec: PermutationSpec,
    *,
    points: Points | Mapping[str, str] = "last",
    keep_correlations: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Matching:
    """Match the units of A to those of B whose activations correlate most, all groups in one pass.

    Li et al. 2016; Ainsworth et al. 2023, section 3.1. For each group the permutation maximizes
    the sum of the Pearson correlations of the matched pairs. One pass over the unpermuted networks
    is enough, since permuting a layer's units together with the next layer's inputs leaves all
    later activations as they were.

    Parameters
    ----------
    a, b : Mapping[str, Any] | nn.Module
        The networks, as state dicts or modules of the architecture that `spec` was traced from;
        checkpoints and prefixed names are read too (`lotperm.science.state_dicts.read_weights`).
        They run in eval mode; a batch norm right behind a convolution is folded into it.
    batches : Iterable[Batch]
        Normalized inputs `(B, ...)`, or tuples that begin with them, as a `DataLoader` gives; of
        a network that was traced with several inputs, tuples that begin with these, or dicts that
        hold them. A single tensor or dict is one batch. Order and batch size don't matter (beyond
        rounding), unless the network itself mixes the examples of a batch, as a batch norm without
        running statistics does.
    spec : PermutationSpec
        The permutation symmetries of the architecture.
    points : Points | Mapping[str, str], optional
        Where each group is observed. ``"last"``: at its last candidate, `spec.points[group][-1]`.
        ``"penultimate"``: one before, where there are two. ``"authors"``: as the paper's code
        does, which is defined for ResNet20 alone: the residual streams of stages 1 and 2 after
        their last block, that of stage 3 after its last but one. Or group -> graph node for some
        groups, the others at their last.
    keep_correlations : bool, optional
        Also return the correlation matrices.
    device : torch.device | str | None, optional
        Where the networks run; without it, where the weights of A and B are.
    dtype : torch.dtype, optional
        Of weights and activations. bfloat16 is faster on some machines but moves a few near ties.

    Returns
    -------
    Matching
        Of every group that an activation shows: not of one that only computes on parameters.

    Raises
    ------
    ParameterError
        Unknown group or point, points "authors" for a network other than ResNet20, no data, or
        activations that are not finite.
    """
    chosen = _points(spec, points)
    moments = correlate(a, b, batches, spec, chosen, device=device, dtype=dtype)
    return distributed.once(lambda: _assign_all(spec, moments, chosen, keep_correlations))


def _assign_all(
    spec: PermutationSpec,
    moments: Mapping[str, CorrelationAccumulator],
    chosen: Mapping[str, str],
    keep_correlations: bool,
) -> Matching:
    """Solve the assignment of every group."""
    matrices = {}
    for group, accumulator in moments.items():
        try:
            matrices[group] = accumulator.correlation()
        except ParameterError as error:
            raise ParameterError(
                f"permutation group {group!r} at {chosen[group]!r}: {error}"
            ) from None
    permutation: dict[str, Tensor] = {}
    for family in families(spec.sizes, spec.inside):
        known = {group: matrices[group] for group in family if group in matrices}
        if known:
            permutation |= assign_family(spec, family, known)
    scores, identity = (
        {group: mean_matched(matrix, p[group]) for group, matrix in matrices.items()}
        for p in (permutation, spec.identity())
    )
    for found in (scores, identity):
        _score_blocks(spec, [group for group in permutation if group not in found], found)
    return Matching(permutation, scores, identity, matrices if keep_correlations else None)


def assign_family(
    spec: PermutationSpec, family: Sequence[str], known: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Assign groups whose units belong to each other; of most families there is but one."""
    if len(family) == 1:
        return {group: assign(matrix) for group, matrix in known.items()}
    zeros = {
        group: torch.zeros(spec.sizes[group], spec.sizes[group], dtype=torch.float64)
        for group in family
    }
    return assign_blocks({**zeros, **known}, spec.inside)


def _score_blocks(spec: PermutationSpec, blocks: Iterable[str], scores: dict[str, float]) -> None:
    """Give groups of mere blocks, which have no weights or activations, the score of their units."""
    for group in blocks:
        inside = [
            scores[child]
            for child, above in spec.inside.items()
            if child in scores and any(parent.group == group for parent in above)
        ]
        scores[group] = sum(inside) / len(inside) if inside else 0.0


def _points(spec: PermutationSpec, points: str | Mapping[str, str]) -> dict[str, str]:
    """Choose the graph node at which each group is observed."""
    # Of a group that no activation shows nothing is known, so it stays as it is.
    last = {group: nodes[-1] for group, nodes in spec.points.items() if nodes}
    if not isinstance(points, str):
        return {**last, **points}
    if points == "last":
        return last
    if points == "penultimate":
        return {group: nodes[-2:][0] for group, nodes in spec.points.items() if nodes}
    if points == "authors":
        return last | _authors_point(spec)
    raise unknown_name("choice of points", points, get_args(Points))


def _authors_point(spec: PermutationSpec) -> dict[str, str]:
    """Return where the paper's code observes the last residual stream of ResNet20."""
    streams = {group: nodes for group, nodes in spec.points.items() if len(nodes) > 1}
    if (found := [len(nodes) for nodes in streams.values()]) != _RESNET20:
        seen = f"at {', '.join(map(str, found))} places" if found else "at one place each"
        raise ParameterError(
            "points 'authors' is defined for ResNet20 alone, whose three residual streams can be "
            f"observed at 4, 3 and 3 places; those of this network {seen}. Use 'last', "
            "'penultimate' or a mapping of groups to nodes."
        )
    group, nodes = list(streams.items())[-1]
    return {group: nodes[-2]}


def match_weights(
    weights_a: Mapping[str, Any] | nn.Module,
    weights_b: Mapping[str, Any] | nn.Module,
    spec: PermutationSpec,
    *,
    seed: int = 0,
    max_sweeps: int = 100,
    init: Mapping[str, Tensor] | None = None,
) -> Matching:
    """Match the units of A to those of B by their weights, by coordinate descent.

    Git Re-Basin's weight matching (Ainsworth et al. 2023, section 3.2, algorithm 1). It maximizes
    the inner product of B's parameters with A's permuted ones, one group at a time with all others
    held, in a random order of groups each sweep, until a sweep improves nothing. The result is a
    local optimum and depends on the seed. It needs no data. Running statistics of batch norms take
    no part, since they are no parameters.

    Where B is A with its units permuted, or nearly so, the descent may still end elsewhere. So units
    are also matched by statistics of their weights that no permutation of other units changes; if
    that alone gains half of what the descent did, a second descent starts from there.

    Parameters
    ----------
    weights_a, weights_b : Mapping[str, Any] | nn.Module
        As `a` and `b` of `match_activations`.
    spec : PermutationSpec
        The permutation symmetries of the architecture.
    seed : int, optional
        Of the order of groups.
    max_sweeps : int, optional
        The descent ends after this many sweeps in any case.
    init : Mapping[str, Tensor] | None, optional
        Where the descent starts, such as what `match_activations` found; groups that it doesn't
        name start as they are. The only start then, and no sweep makes it worse.

    Returns
    -------
    Matching
        Its scores are the mean cosine between the weights of matched units, incoming and outgoing
        together, with all other groups matched too.

    Raises
    ------
    ParameterError
        If A and B don't have the same parameters.
    """
    a, b = matched_parameters(weights_a, weights_b, spec)
    names = {group: [name for name, _ in spec.unit_weights(b, group)] for group in spec.sizes}
    for group, found in names.items():
        if not found and any(group in role.positions for r in spec.roles.values() for role in r):
            raise ParameterError(
                f"the weights of A and B lack all that group {group!r} permutes; give full state "
                "dicts."
            )
    search = _Descent(spec, a, b, names, max_sweeps)
    if init is not None:
        permutation = search.run({**spec.identity(), **init}, seed)
    else:
        permutation = search.run(spec.identity(), seed)
        by_values = {
            group: p
            for family in families(spec.sizes, spec.inside)
            for group, p in assign_family(
                spec,
                family,
                {g: _similarity(spec, *_alike(spec, a, b, g), g) for g in family},
            ).items()
        }
        starts = (spec.identity(), permutation, by_values)
        before, reached, tried = (search.objective(start) for start in starts)
        if tried - before > 0.5 * (reached - before):
            other = search.run(by_values, seed)
            permutation = other if search.objective(other) > reached else permutation
    moved = permute(a, spec, permutation)
    return Matching(permutation, cosines(spec, moved, b), cosines(spec, a, b))


def matched_parameters(
    weights_a: Mapping[str, Any] | nn.Module,
    weights_b: Mapping[str, Any] | nn.Module,
    spec: PermutationSpec,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the parameters of A and of B by the same names in the same order.

    Raises
    ------
    ParameterError
        If they don't have the same parameters.
    """
    a = _parameters(spec.read(weights_a, "weights of A"))
    b = _parameters(spec.read(weights_b, "weights of B"))
    for what, given in (("A", a), ("B", b)):
        bad = [name for name, tensor in given.items() if not tensor.isfinite().all()]
        if bad:
            raise ParameterError(
                f"the weights of {what} are not finite, in {', '.join(bad[:3])}; match others."
            )
    if odd := sorted(a.keys() ^ b.keys()):
        raise ParameterError(
            f"A and B aren't of one architecture: {', '.join(odd[:4])} is in one of them alone."
        )
    return {name: a[name] for name in b}, b


def weight_agreement(
    weights_a: Mapping[str, Any] | nn.Module,
    weights_b: Mapping[str, Any] | nn.Module,
    spec: PermutationSpec,
    permutation: Mapping[str, Tensor],
) -> float:
    """Measure what weight matching maximizes, as a share of the most that there could be.

    Returns
    -------
    float
        ``<B, π(A)> / sum(|A_t| |B_t|)`` over the parameter tensors t that units touch, in
        [-1, 1]; 1 if B is π(A).

    Raises
    ------
    ParameterError
        As `match_weights`, and as `permute` for the permutation.
    """
    a, b = matched_parameters(weights_a, weights_b, spec)
    a = {name: tensor for name, tensor in a.items() if spec.roles.get(name)}
    moved = permute(a, spec, permutation)
    most = sum(a[name].double().norm().item() * b[name].double().norm().item() for name in a)
    return sum(_inner(moved[name], b[name]) for name in a) / most if most else 0.0


class _Descent:
    """Coordinate descent over the families of groups, from any start."""

    def __init__(
        self,
        spec: PermutationSpec,
        a: Mapping[str, Tensor],
        b: Mapping[str, Tensor],
        names: Mapping[str, Sequence[str]],
        sweeps: int,
    ) -> None:
        self.spec, self.a, self.b, self.sweeps = spec, a, b, sweeps
        self.families = families(spec.sizes, spec.inside)
        # Tensors of each family; of those that it permutes in two ways, the name comes twice.
        self.names = [[n for group in family for n in names[group]] for family in self.families]
        # Families whose assignments depend on each other: they share a tensor, or one permutes
        # two of its axes.
        self.beside = [
            {
                j
                for j, theirs in enumerate(self.names)
                if set(own) & set(theirs) and (i != j or len(set(own)) < len(own))
            }
            for i, own in enumerate(self.names)
        ]

    def objective(self, permutation: Mapping[str, Tensor]) -> float:
        """Return the inner product of B's parameters with A's permuted ones."""
        moved = permute(self.a, self.spec, permutation)
        return sum(_inner(moved[name], tensor) for name, tensor in self.b.items())

    def run(self, start: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
        """Improve a permutation family by family, until a sweep improves nothing."""
        spec, b, generator = self.spec, self.b, np.random.default_rng(seed)
        moved, permutation = permute(self.a, spec, start), dict(start)
        # An assignment that was optimal stays so until a family beside it moves.
        stale = set(range(len(self.families)))
        for _ in range(self.sweeps):
            for index in map(int, generator.permutation(len(self.families))):
                if index not in stale:
                    continue
                stale.discard(index)
                family = self.families[index]
                similar = {
                    g: _similarity(spec, spec.unit_weights(moved, g), spec.unit_weights(b, g), g)
                    for g in family
                }
                step = assign_family(spec, family, similar)
                trial = permute({name: moved[name] for name in self.names[index]}, spec, step)
                # Measured, not read off the assignment: where a group sits on two axes of one
                # tensor, the assignment is only the linear part of the gain.
                gain = sum(
                    _inner(new, b[name]) - _inner(moved[name], b[name])
                    for name, new in trial.items()
                )
                size = sum((new.norm() * b[name].norm()).item() for name, new in trial.items())
                if gain > 1e-12 * size:
                    moved |= trial
                    permutation |= {group: permutation[group][step[group]] for group in family}
                    stale |= self.beside[index]
            if not stale:
                break
        return permutation


def _inner(x: Tensor, y: Tensor) -> float:
    """Return the inner product of two tensors, in float64."""
    return float(torch.dot(x.double().flatten(), y.double().flatten()))


def _alike(
    spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], group: str
) -> tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]]]:
    """Describe each unit of A and of B by statistics of its weights, tensor by tensor.

    No permutation of other units changes them. They are standardized, so that the largest inner
    product is the smallest distance.
    """
    of_a, of_b = [], []
    pairs = zip(spec.unit_weights(a, group), spec.unit_weights(b, group), strict=True)
    for (name, x), (_, y) in pairs:
        both = torch.cat([_statistics(x), _statistics(y)])
        # Equal statistics of all units differ by rounding alone, which must not be blown up.
        scale = both.std(0).clamp_min(1e-9 * both.abs().amax().item() + 1e-30)
        rows = (both - both.mean(0)) / scale
        of_a.append((name, rows[: len(x)]))
        of_b.append((name, rows[len(x) :]))
    return of_a, of_b


def _statistics(values: Tensor) -> Tensor:
    """Return six statistics of each row, which don't depend on the order of its values."""
    squares = values.square()
    sums = (v.sum(1) for v in (values, values.abs(), squares, squares * values))
    return torch.stack([*sums, values.amax(1), values.amin(1)], 1).double()


def _parameters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of a state dict, in float32 or float64 on the CPU.

    The running statistics of norms, which a state dict holds too, are left out.
    """
    return {
        name: tensor.detach().cpu().to(torch.promote_types(tensor.dtype, torch.float32))
        for name, tensor in weights.items()
        if is_parameter(name, tensor)
    }


def _similarity(
    spec: PermutationSpec,
    a: Iterable[tuple[str, Tensor]],
    b: Iterable[tuple[str, Tensor]],
    group: str,
) -> Float[Tensor, "n n"]:
    """Return the inner products of the weights of each unit of B (row) and of A (column).

    In float32, which takes half the time: a step that it proposes is measured in float64.
    """
    n = spec.sizes[group]
    products = (y.float() @ x.float().T for (_, x), (_, y) in zip(a, b, strict=True))
    return sum(products, torch.zeros(n, n))


def cosines(
    spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return each group's mean cosine between A and B as they are; all-zero weights give 0."""
    scores: dict[str, float] = {}
    for group in spec.sizes:
        x, y = ([values for _, values in spec.unit_weights(w, group)] for w in (a, b))
        if x:
            cosines = torch.nn.functional.cosine_similarity(torch.cat(x, 1), torch.cat(y, 1), dim=1)
            scores[group] = cosines.mean().item()
    _score_blocks(spec, [group for group in spec.sizes if group not in scores], scores)
    return scores
