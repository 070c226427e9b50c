"""Where groups of units act: on parameters and buffers, in outputs of operations, or nowhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lotperm.types import Num


@dataclass(frozen=True)
class Role:
    """Where groups act on one tensor.

    Attributes
    ----------
    axes : tuple of int
        The axes, in ascending order, treated as one.
    rows : slice
        The rows of axis 0 concerned; several blocks of a grouped convolution share a tensor.
    positions : dict
        Group -> int64 Tensor of shape (n, k): the k places of each unit along the axes.
    """

    axes: tuple[int, ...]
    rows: slice
    positions: dict[str, Tensor]

    def apply(self, tensor: Tensor, moves: Mapping[str, Tensor]) -> Tensor:
        """Reorder the units of the groups in `moves`, whose permutations are on the CPU."""
        here = [group for group in self.positions if group in moves]
        if not here:
            return tensor
        part = tensor[self.rows]
        index = torch.arange(math.prod(part.shape[d] for d in self.axes))
        for group in here:
            index[self.positions[group]] = self.positions[group][moves[group]]
        index = index.to(tensor.device)
        first, last = self.axes[0], self.axes[-1]
        if last - first + 1 > len(self.axes) or self.rows != slice(None):
            return self.unflatten(self.flatten(tensor).index_select(0, index), tensor)
        # In the usual case, adjacent axes of all rows, no axes need to be moved.
        return part.flatten(first, last).index_select(first, index).reshape(part.shape)

    def flatten(self, tensor: Tensor) -> Num[Tensor, "n ..."]:
        """Return the values of these rows, with the axes merged into one in front of the others."""
        part = tensor[self.rows]
        front = tuple(range(len(self.axes)))
        return part.movedim(self.axes, front).flatten(0, len(self.axes) - 1)

    def unflatten(self, flat: Tensor, like: Tensor) -> Tensor:
        """Undo `flatten`: return values as a tensor shaped like `like`, with its other rows."""
        part = like[self.rows]
        others = [size for d, size in enumerate(part.shape) if d not in self.axes]
        front = tuple(range(len(self.axes)))
        whole = flat.reshape([*(part.shape[d] for d in self.axes), *others])
        whole = whole.movedim(front, self.axes).contiguous()
        if self.rows == slice(None):
            return whole
        before, after = like[: self.rows.start], like[self.rows.stop :]
        return torch.cat([before, whole, after])

    def values_of_units(self, tensor: Tensor, group: str) -> Num[Tensor, "n _"]:
        """Return the values that belong to each unit of a group, one row per unit."""
        flat = self.flatten(tensor)
        return flat[self.positions[group].to(flat.device)].flatten(1)


class Channels(NamedTuple):
    """Where the units of a group lie in the output of a graph node.

    Attributes
    ----------
    dims : tuple of int
        The dimensions, treated as one, without that of the samples.
    places : Tensor, int64, shape (n,) or (n, k)
        The place of each unit along them, or its k places.
    averaged : tuple of int
        Dimensions along which other units lie, whose order differs between networks.
    """

    dims: tuple[int, ...]
    places: Tensor
    averaged: tuple[int, ...] = ()

    def select(self, output: Tensor) -> Tensor:
        """Return the activations of the group, shape ``(B, n, *spatial)``."""
        count = len(self.dims)
        if self.averaged:
            output = output.mean(self.averaged, keepdim=True)
        values = output.movedim(self.dims, tuple(range(1, count + 1))).flatten(1, count)
        if values.is_complex():  # both parts, as if at two positions
            values = torch.view_as_real(values)
        # Units mostly lie in order; then nothing is copied.
        if torch.equal(self.places, torch.arange(values.shape[1])):
            return values
        chosen = values.index_select(1, self.places.flatten().to(values.device))
        return chosen.unflatten(1, self.places.shape) if self.places.dim() > 1 else chosen


@dataclass(frozen=True)
class Fixed:
    """Units of a layer that can't move, and why.

    Attributes
    ----------
    layer : str
        The layer that produces them.
    units : tuple of int
        Their indices along the layer's output axis.
    total : int
        How many units the layer has there.
    operation : str
        The ATen operation that fixed them; ``"output"`` if they are an output of the network.
        Empty if no operation did: no other unit is used in the same way.
    reason : str
        What the operation does to them.
    module : str
        Path of the module in which that happens, if known.
    file, line : str, int or None
        Where it happens in the source, if known.
    """

    layer: str
    units: tuple[int, ...]
    total: int
    operation: str
    reason: str
    module: str = ""
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        what = f"{self.layer}: {len(self.units)} of {self.total} units fixed"
        by = f" by {self.operation}, which {self.reason}" if self.operation else f": {self.reason}"
        where = f", in module {self.module!r}" if self.module else ""
        where += f", {self.file}:{self.line}" if self.file else ""
        return what + by + where
