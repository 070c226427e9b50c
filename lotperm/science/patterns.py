"""N:M sparsity: at most n of every m consecutive weights kept, as sparse tensor cores need (2:4).

The weights are consecutive along the input axis (axis 1 of linear and conv weights), from the first
input on. So moving output units moves whole rows and keeps the pattern. Moving input units keeps it
only if groups of m stay together: every hidden unit is an output of one layer and an input of the
next, so in general a permuted mask must be brought back (`nearest_pattern`), at a cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lotperm.errors import ParameterError
from lotperm.science.state_dicts import read_mask, weights_by_name
from lotperm.science.symmetry import PermutationSpec, permute


class Pattern(NamedTuple):
    """At most `kept` of every `of` consecutive weights.

    Attributes
    ----------
    kept, of : int
        n and m, 1 ≤ n ≤ m.
    """

    kept: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern such as ``2:4``.

        Raises
        ------
        ParameterError
            If the text isn't such a pattern.
        """
        n, colon, m = text.partition(":")
        if not (colon and n.isdecimal() and m.isdecimal() and 1 <= int(n) <= int(m)):
            raise ParameterError(f"pattern is {text!r}; expected n:m with 1 <= n <= m, as 2:4.")
        return cls(int(n), int(m))


class PatternCost(NamedTuple):
    """What a mask loses when it is brought to a pattern.

    Attributes
    ----------
    removed : int
        Number of weights kept before and no longer.
    kept : int
        Number of weights kept before.
    magnitude : float
        Fraction of the kept weights' summed magnitudes that is lost.
    """

    removed: int
    kept: int
    magnitude: float


def breaks_pattern(mask: Mapping[str, Any] | nn.Module, pattern: Pattern) -> dict[str, int]:
    """Count the groups of m consecutive weights in which a mask keeps more than n.

    Parameters
    ----------
    mask : Mapping[str, Any] | nn.Module
        In any form that `lotperm.science.state_dicts.read_mask` reads; tensors of one axis have no
        rows and are left out.
    pattern : Pattern

    Returns
    -------
    dict[str, int]
        Name of each tensor that breaks the pattern -> number of such groups. If the number of
        inputs isn't a multiple of m, the last group of a row is smaller.
    """
    found = {}
    for name, kept in read_mask(mask).items():
        if kept.dim() > 1:
            groups = _groups(kept.float(), pattern.of, 0.0).sum(-1)
            if count := int((groups > pattern.kept).sum()):
                found[name] = count
    return found


def nearest_pattern(
    weights: Mapping[str, Any] | nn.Module, mask: Mapping[str, Any] | nn.Module, pattern: Pattern
) -> dict[str, Tensor]:
    r"""Return the mask with a pattern that is nearest to a given mask, by magnitudes of weights.

    In every group it keeps the n largest of the kept weights, the earlier among equals: of all
    masks :math:`m' \le m` with the pattern, it minimizes :math:`\|w \odot (m - m')\|`, in the
    1-norm and in the 2-norm.

    Parameters
    ----------
    weights : Mapping[str, Any] | nn.Module
        A module or its state dict.
    mask : Mapping[str, Any] | nn.Module
        Which weights are kept so far; masks of one axis stay as they are.
    pattern : Pattern

    Returns
    -------
    Mask
        Only weights that were kept before are kept, so it may be sparser than n of m.

    Raises
    ------
    ParameterError
        If a weight is missing, or its shape isn't that of its mask.
    """
    before = read_mask(mask)
    values, found = weights_by_name(weights, before), {}
    for name, kept in before.items():
        if values[name].shape != kept.shape:
            raise ParameterError(
                f"the mask of {name} has shape {tuple(kept.shape)}; the weights have "
                f"{tuple(values[name].shape)}."
            )
        if kept.dim() < 2:
            found[name] = kept
            continue
        magnitude = values[name].detach().abs().to(kept.device)
        # Below every magnitude, even 0, so that no pruned weight comes back.
        magnitude = magnitude.masked_fill(~kept, -1.0)
        groups = _groups(magnitude, pattern.of, -1.0)
        order = groups.sort(dim=-1, descending=True, stable=True).indices
        largest = torch.zeros_like(groups, dtype=torch.bool)
        largest.scatter_(-1, order[..., : pattern.kept], True)
        rows = largest.flatten(-2)[..., : kept.shape[1]]
        found[name] = rows.movedim(-1, 1) & kept
    return found


def pattern_cost(
    weights: Mapping[str, Any] | nn.Module,
    before: Mapping[str, Any] | nn.Module,
    after: Mapping[str, Any] | nn.Module,
) -> PatternCost:
    """Measure what one mask keeps and another doesn't, in weights and in magnitude."""
    masks = read_mask(before), read_mask(after)
    values = weights_by_name(weights, masks[0])
    removed = total = 0
    lost = magnitude = 0.0
    for name, kept in masks[0].items():
        size = values[name].detach().abs().double().to(kept.device)
        gone = kept & ~masks[1][name].to(kept.device)
        removed, total = removed + int(gone.sum()), total + int(kept.sum())
        lost += float(size[gone].sum())
        magnitude += float(size[kept].sum())
    return PatternCost(removed, total, lost / magnitude if magnitude else 0.0)


def pattern_breakers(
    spec: PermutationSpec, permutation: Mapping[str, Tensor], pattern: Pattern
) -> list[str]:
    """Name the tensors whose pattern a permutation may break by splitting groups of inputs.

    Parameters
    ----------
    spec : PermutationSpec
        The permutation symmetries of the network.
    permutation : Mapping[str, Tensor]
        Group of units -> permutation, as in `lotperm.science.symmetry.permuting.permute`.
    pattern : Pattern

    Returns
    -------
    list of str
        Weights of two or more axes. If the list is empty, every mask with the pattern keeps it.
    """
    found = []
    for name, shape in spec.shapes.items():
        if len(shape) < 2 or not math.prod(shape):
            continue
        # Every weight gets the number of its group of inputs, and moves.
        numbers = (torch.arange(shape[1]) // pattern.of).view(1, -1, *[1] * (len(shape) - 2))
        moved = permute({name: numbers.expand(shape).contiguous()}, spec, permutation)[name]
        groups = _groups(moved.double(), pattern.of, math.nan)
        # A group is still together if its largest and smallest numbers are equal. A smaller last
        # group must not mix with others either, so padding counts as any number.
        low = groups.nan_to_num(math.inf).amin(-1)
        high = groups.nan_to_num(-math.inf).amax(-1)
        if not torch.equal(low, high):
            found.append(name)
    return found


def _groups(tensor: Tensor, size: int, fill: float) -> Tensor:
    """Cut the input axis into groups: (out, in, *kernel) -> (out, *kernel, groups, size)."""
    rows = tensor.movedim(1, -1)
    rows = F.pad(rows, (0, -rows.shape[-1] % size), value=fill)
    return rows.unflatten(-1, (-1, size))
