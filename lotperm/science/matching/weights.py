"""Matching by weights: find the order of A's units in which its weights are most like B's.

`match_weights` moves one group of units at a time; `lotperm.science.frank_wolfe` moves all of them
at once. `weight_agreement` measures what both maximize.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lotperm.errors import ParameterError
from lotperm.science.blocks import families
from lotperm.science.matching.result import Matching, assign_family, score_blocks
from lotperm.science.pairs import Products, has_no_choice
from lotperm.science.state_dicts import is_parameter
from lotperm.science.symmetry import PermutationSpec, permute
from lotperm.types import Float


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
    fixed, in a new random order each sweep, until a sweep improves nothing. The result is a local
    optimum and depends on the seed. It needs no data. Running statistics of batch norms are
    ignored, since they aren't parameters.

    Even if B is A with its units permuted, or nearly so, the descent may end elsewhere. So units
    are also matched by statistics of their weights that no permutation of other units changes; if
    that alone gains more than half of what the descent did, a second descent starts from there.

    Parameters
    ----------
    weights_a, weights_b : Mapping[str, Any] | nn.Module
        As `a` and `b` of `lotperm.science.matching.activations.match_activations`.
    spec : PermutationSpec
        The permutation symmetries of the architecture.
    seed : int, optional
        Seed of the random order of groups.
    max_sweeps : int, optional
        The largest number of sweeps.
    init : Mapping[str, Tensor] | None, optional
        Where the descent starts, such as what `match_activations` found; groups that it doesn't
        name start as they are. There is then no other start, and no sweep makes it worse.

    Returns
    -------
    Matching
        Its scores are the mean cosines between the weights of matched units, incoming and outgoing
        together, with all other groups matched as well.

    Raises
    ------
    ParameterError
        If A and B don't have the same parameters.
    """
    a, b = matched_parameters(weights_a, weights_b, spec)
    names = {group: [name for name, _ in spec.unit_weights(b, group)] for group in spec.sizes}
    given = spec.read(weights_a, "weights of A")
    if complexes := [n for n in spec.roles if n in given and given[n].is_complex()]:
        raise ParameterError(
            f"{complexes[0]} is complex, and such weights can't be compared; match by activations."
        )
    for group, found in names.items():
        own = {n for n, rs in spec.roles.items() if any(group in r.positions for r in rs)}
        # Where nothing is missing, all of them are buffers of whole numbers, which aren't compared.
        if not found and not given.keys() >= own:
            raise ParameterError(
                f"the weights of A and B lack all tensors that group {group!r} permutes; give full "
                "state dicts."
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
    """Return the parameters of A and of B, under the same names and in the same order.

    Raises
    ------
    ParameterError
        If they don't have the same parameters.
    """
    a = _parameters(spec.read(weights_a, "weights of A"))
    b = _parameters(spec.read(weights_b, "weights of B"))
    for what, given in (("A", a), ("B", b)):
        # Tensors without units may be infinite, as an attention mask is.
        bad = [
            name
            for name, tensor in given.items()
            if (tensor.isnan().any() if name not in spec.roles else not tensor.isfinite().all())
        ]
        if bad:
            raise ParameterError(
                f"the weights of {what} are not finite, in {', '.join(bad[:3])}; give finite ones."
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
    """Compute the objective of weight matching, as a fraction of its upper bound.

    Returns
    -------
    float
        ``<B, π(A)> / sum(|A_t| |B_t|)`` over the parameter tensors t that units touch, in
        [-1, 1]; 1 if B is π(A).

    Raises
    ------
    ParameterError
        As in `match_weights`, and as in `permute` for the permutation.
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
        # The tensors of each family; if it permutes one along two axes, the name occurs twice.
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
        # An optimal assignment stays optimal until a family in `beside` moves.
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

    No permutation of other units changes these statistics. They are standardized, so that the
    largest inner product belongs to the smallest distance.
    """
    of_a, of_b = [], []
    pairs = zip(spec.unit_weights(a, group), spec.unit_weights(b, group), strict=True)
    for (name, x), (_, y) in pairs:
        both = torch.cat([_statistics(x), _statistics(y)])
        # If a statistic is equal for all units, only rounding differs, which mustn't be amplified.
        scale = both.std(0).clamp_min(1e-9 * both.abs().amax().item() + 1e-30)
        rows = (both - both.mean(0)) / scale
        of_a.append((name, rows[: len(x)]))
        of_b.append((name, rows[len(x) :]))
    return of_a, of_b


def _statistics(values: Tensor) -> Tensor:
    """Return six statistics of each row that don't depend on the order of its values."""
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
) -> Float[Tensor, "n n"] | Products:
    """Return the inner products of the weights of each unit of B (row) and of A (column).

    They are computed in float32, which takes half the time; the gain of the step that they
    propose is then measured in float64.
    """
    n = spec.sizes[group]
    if has_no_choice(group, spec.sizes, spec.inside):
        of_b, of_a = (torch.cat([values.float() for _, values in of], 1) for of in (b, a))
        return Products(of_b, of_a)
    products = (y.float() @ x.float().T for (_, x), (_, y) in zip(a, b, strict=True))
    return sum(products, torch.zeros(n, n))


def cosines(
    spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return each group's mean cosine between units of A and B in place; zero weights give 0."""
    scores: dict[str, float] = {}
    for group in spec.sizes:
        x, y = ([values for _, values in spec.unit_weights(w, group)] for w in (a, b))
        if x:
            cosines = torch.nn.functional.cosine_similarity(torch.cat(x, 1), torch.cat(y, 1), dim=1)
            scores[group] = cosines.mean().item()
    score_blocks(spec, [group for group in spec.sizes if group not in scores], scores)
    return scores
