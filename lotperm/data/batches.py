"""Batches of a split, normalized."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lotperm.data.dataset import Dataset, Split
from lotperm.data.images import ImageFiles, stream


def normalize(
    inputs: Tensor | ImageFiles, dataset: Dataset, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standardize inputs by the mean and the standard deviation of the data set's channels.

    Parameters
    ----------
    inputs : Tensor | ImageFiles
        (..., C, *spatial), uint8 in 0..255 or float, on the data set's device; files are all read
        at once.
    dataset : Dataset
        Whose.

    Returns
    -------
    Tensor
        (..., C, *spatial) of `dtype`, computed in float32.
    """
    if isinstance(inputs, ImageFiles):
        inputs = inputs.read().to(dataset.mean.device)
    shape = (-1, *[1] * (len(dataset.input_shape) - 1))
    scale = 1 / dataset.std
    shift = -dataset.mean * scale
    if inputs.dtype == torch.uint8:
        scale = scale / 255
    return torch.addcmul(shift.view(shape), inputs.float(), scale.view(shape)).to(dtype)


_BATCH_VALUES = 2**23

"""How many values a batch of images may have that was asked for by number: 55 of ImageNet's,
not 500.
"""


@dataclass(frozen=True)
class Batches:
    """The examples of a split, batch by batch, as often as one likes: normalized, not augmented,
    in order.

    Attributes
    ----------
    dataset, split : Dataset
        Whose; `split` may be a part of one.
    size : int
        Examples a batch, fewer where images are large.
    workers : int
        Processes that read files; ignored for what is in memory.

    Yields
    ------
    (Tensor, Tensor)
        float32 (B, C, *spatial) and int64 (B,), on the data set's device.
    """

    dataset: Dataset
    split: Split
    size: int = 500
    workers: int = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in raw_batches(self.split, self.size, self.workers):
            yield normalize(inputs.to(self.dataset.mean.device), self.dataset), targets

    def inputs(self) -> Inputs:
        """The inputs alone."""
        return Inputs(self)


@dataclass(frozen=True)
class Inputs:
    """The inputs of batches without their targets, as often as one likes.

    Yields
    ------
    Tensor
        float32 (B, C, *spatial), on the data set's device.
    """

    batches: Batches

    def __iter__(self) -> Iterator[Tensor]:
        return (inputs for inputs, _ in self.batches)

    def parts(self, cut: Callable[[int], Sequence[slice]]) -> Iterator[list[Tensor]]:
        """Of every batch those rows that `cut` names when it is given the batch's length; only
        they are read.
        """
        dataset, split = self.batches.dataset, self.batches.split
        batches = [
            [rows[part] for part in cut(len(rows))] for rows in _rows(split, self.batches.size)
        ]
        batches = [parts for parts in batches if parts]
        rows = [torch.cat(parts) for parts in batches]
        found: Iterable[Tensor]
        if isinstance(split.inputs, ImageFiles):
            found = stream(split.inputs, rows, workers=self.batches.workers)
        else:
            found = (split.inputs[some.to(split.inputs.device)] for some in rows)
        for parts, inputs in zip(batches, found, strict=True):
            normal = normalize(inputs.to(dataset.mean.device), dataset)
            yield list(normal.split([len(part) for part in parts]))


def _rows(split: Split, size: int) -> tuple[Tensor, ...]:
    """The rows of every batch."""
    if isinstance(split.inputs, ImageFiles):
        size = max(1, min(size, _BATCH_VALUES // math.prod(split.inputs.shape[1:])))
    return torch.arange(len(split)).split(size)


def raw_batches(
    split: Split, size: int, workers: int = 0, *, pin: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """The examples of a split as they are stored: inputs (B, C, *spatial), uint8 of images, and
    targets (B,).
    """
    if isinstance(split.inputs, ImageFiles):
        rows = _rows(split, size)
        targets = split.targets.split([len(some) for some in rows])
        yield from zip(stream(split.inputs, rows, workers=workers, pin=pin), targets, strict=True)
    else:
        yield from zip(split.inputs.split(size), split.targets.split(size), strict=True)
