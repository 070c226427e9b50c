"""Weight matching with all groups at once, by the Frank–Wolfe algorithm.

`lotperm.science.matching.weights.match_weights` moves one group at a time and ends in whichever
local optimum its order of groups leads to. Here permutations are relaxed to doubly stochastic
matrices, all groups take each step together, and the start, the barycenter of all permutations,
depends on no seed (Frank and Wolfe 1956; Crisostomi et al. 2024, C²M³).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lotperm.errors import ParameterError
from lotperm.science.blocks import families
from lotperm.science.matching.result import Matching, assign_family
from lotperm.science.matching.weights import cosines, matched_parameters
from lotperm.science.pairs import has_no_choice
from lotperm.science.symmetry import Permutation, PermutationSpec, Role, permute
from lotperm.types import Float64

Relaxed = dict[str, Float64[Tensor, "n n"]]
"""Group -> doubly stochastic matrix, unit of B (row) by unit of A (column)."""


def match_weights_jointly(
    weights_a: Mapping[str, Any] | nn.Module,
    weights_b: Mapping[str, Any] | nn.Module,
    spec: PermutationSpec,
    *,
    max_steps: int = 200,
    tolerance: float = 1e-5,
) -> Matching:
    """Match the units of A to those of B by their weights, all groups in each step.

    This maximizes the same objective as `match_weights`, the inner product of B's parameters with
    A's permuted ones, over doubly stochastic matrices in place of permutations. Each step solves
    one linear assignment per group, all at the same point, and moves towards the solutions to where
    the objective is largest: along such a line it is a polynomial, so that point is known exactly.
    At the end, every matrix, now at a stationary point of the relaxed problem, is rounded to the
    nearest permutation. The result depends on no seed.

    Parameters
    ----------
    weights_a, weights_b : Mapping[str, Any] | nn.Module
        As in `match_weights`.
    spec : PermutationSpec
        The permutation symmetries of the architecture.
    max_steps : int, optional
        The largest number of steps.
    tolerance : float, optional
        The ascent ends earlier once no direction promises more than this fraction of the
        objective's scale: the product of the norms of A's and B's tensor, summed over tensors.

    Returns
    -------
    Matching
        With the same kind of scores as those of `match_weights`.

    Raises
    ------
    ParameterError
        If A and B don't have the same parameters.
    """
    a, b = matched_parameters(weights_a, weights_b, spec)
    own = {name: tensor.double() for name, tensor in a.items() if spec.roles.get(name)}
    other = {name: b[name].double() for name in own}
    for group, n in spec.sizes.items():
        if has_no_choice(group, spec.sizes, spec.inside):
            raise ParameterError(
                f"group {group!r} has {n:,} units, too many to be matched jointly; use "
                "match_weights or match_activations."
            )
    # A tensor is multiplied by one matrix for each axis that moves.
    degree = max((len(spec.roles[name]) for name in own), default=1)
    # The norms don't change when units move, so the objective can't exceed this.
    scale = sum((own[name].norm() * other[name].norm()).item() for name in own)
    relaxed = {
        # The mean of all permutations, and also of only those that keep blocks together.
        group: torch.full((n, n), 1 / n, dtype=torch.float64)
        for group, n in spec.sizes.items()
    }
    for _ in range(max_steps):
        gradient = _gradient(spec, own, other, relaxed)
        towards = {
            group: nn.functional.one_hot(p, len(p)).double() - relaxed[group]
            for group, p in _nearest(spec, gradient).items()
        }
        promised = sum((gradient[group] * towards[group]).sum().item() for group in towards)
        if promised <= tolerance * scale:
            break
        step = _best_step(spec, own, other, relaxed, towards, degree)
        if step == 0:
            break
        relaxed = {group: matrix + step * towards[group] for group, matrix in relaxed.items()}
    permutation = _nearest(spec, relaxed)
    moved = permute(a, spec, permutation)
    return Matching(permutation, cosines(spec, moved, b), cosines(spec, a, b))


def _nearest(spec: PermutationSpec, matrices: Relaxed) -> Permutation:
    """Return the permutations that have the largest inner products with the given matrices."""
    return {
        group: p
        for family in families(spec.sizes, spec.inside)
        for group, p in assign_family(spec, family, {g: matrices[g] for g in family}).items()
    }


def _mixed(role: Role, tensor: Tensor, relaxed: Relaxed) -> Tensor:
    """Apply doubly stochastic matrices to a tensor as `Role.apply` does permutations."""
    flat = role.flatten(tensor)
    for group, places in role.positions.items():
        mixed = torch.tensordot(relaxed[group], flat[places], dims=1)
        flat = flat.index_put((places,), mixed)
    return role.unflatten(flat, tensor)


def _objective(
    spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], relaxed: Relaxed
) -> Tensor:
    """Return the inner product of B's parameters with A's, mixed by matrices, as a scalar."""
    total = torch.zeros((), dtype=torch.float64)
    for name, moved in a.items():
        for role in spec.roles[name]:
            moved = _mixed(role, moved, relaxed)
        total = total + (moved * b[name]).sum()
    return total


def _gradient(
    spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], relaxed: Relaxed
) -> Relaxed:
    """Return the derivative of the objective with respect to every matrix."""
    leaves = {group: matrix.requires_grad_() for group, matrix in relaxed.items()}
    with torch.enable_grad():
        slopes = torch.autograd.grad(
            _objective(spec, a, b, leaves), list(leaves.values()), materialize_grads=True
        )
    for matrix in leaves.values():
        matrix.requires_grad_(False)
    return dict(zip(leaves, slopes, strict=True))


def _best_step(
    spec: PermutationSpec,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    relaxed: Relaxed,
    towards: Relaxed,
    degree: int,
) -> float:
    """Return the step size within [0, 1] at which the objective is largest."""
    at = np.linspace(0, 1, degree + 1)
    values = [
        _objective(spec, a, b, {g: relaxed[g] + t * towards[g] for g in relaxed}).item() for t in at
    ]
    # The objective is a polynomial of known degree in the step, so these points determine it.
    line = np.polynomial.Polynomial.fit(at, values, degree, domain=[0, 1], window=[0, 1])
    turns = [float(t.real) for t in line.deriv().roots() if abs(t.imag) < 1e-9]
    steps = [0.0, 1.0, *(t for t in turns if 0 < t < 1)]
    return max(steps, key=lambda t: float(line(t)))
