"""Units that belong to others, and large groups whose order the others determine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Groups of more units than this aren't compared pair by pair if others determine their order.
MANY = 4096


class Inside(NamedTuple):
    """Which units of another group the units of a group belong to.

    Attributes
    ----------
    group : str
        The other group.
    unit : Tensor, int64, shape (n,)
        For each unit of the group, the unit of the other that it belongs to.
    """

    group: str
    unit: Tensor


Blocks = Mapping[str, Sequence[Inside]]


class Products:
    """Similarities of many units, as inner products that are computed on request.

    Parameters
    ----------
    b, a : Tensor, shape (n, F)
        One row for each unit of B and of A.
    """

    def __init__(self, b: Tensor, a: Tensor) -> None:
        self._b, self._a = b, a

    @classmethod
    def unknown(cls, n: int) -> Products:
        """Make the similarities of n units of which nothing is known."""
        return cls(*(torch.empty(n, 0, dtype=torch.float64) for _ in range(2)))

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self._b)

    def any(self) -> bool:
        """Return whether anything is known."""
        return self._b.numel() > 0

    def __getitem__(self, pairs: Any) -> Any:
        """Return the similarities of units of B and of A, pair by pair."""
        rows, columns = pairs
        return (self._b[rows] * self._a[columns]).sum(-1)


Similarities = Tensor | Products
"""Similarities of a group's units: (n, n), unit of B (row) by unit of A."""


def has_no_choice(group: str, sizes: Mapping[str, int], inside: Blocks) -> bool:
    """Return whether a group is large and its order is determined by what its units belong to."""
    return sizes[group] > MANY and is_determined(inside.get(group, ()), sizes)


def is_determined(above: Sequence[Inside], sizes: Mapping[str, int]) -> bool:
    """Return whether no two units of a group belong to the same units of several others."""
    if len(above) < 2:
        return False
    codes = code([a.unit for a in above], [sizes[a.group] for a in above])
    return len(codes.unique()) == len(codes)


def code(units: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Encode several numbers as one, with the given sizes as the bases of its digits."""
    found = torch.zeros_like(units[0])
    for unit, size in zip(units, sizes, strict=True):
        found = found * size + unit
    return found
