"""Batches of a split, in order and normalized, for evaluation and matching."""

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
        ``(..., C, *spatial)``, uint8 in 0..255 or float, on the data set's device; if they are
        files, all are read at once.
    dataset : Dataset
        The data set of the inputs.
    dtype : torch.dtype, optional
        Dtype of the result.

    Returns
    -------
    Tensor
        ``(..., C, *spatial)`` of `dtype`, computed in float32.
    """
    if isinstance(inputs, ImageFiles):
        inputs = inputs.read().to(dataset.mean.device)
    shape = (-1, *[1] * (len(dataset.input_shape) - 1))
    # One multiplication and one addition per value: division by 255, mean and deviation are folded
    # into two constants for each channel.
    scale = 1 / dataset.std
    shift = -dataset.mean * scale
    if inputs.dtype == torch.uint8:
        scale = scale / 255
    return torch.addcmul(shift.view(shape), inputs.float(), scale.view(shape)).to(dtype)


_BATCH_VALUES = 2**23
"""Largest number of values in a batch of images from files: 55 of ImageNet's images, not 500."""


@dataclass(frozen=True)
class Batches:
    """The examples of a split in batches: normalized, not augmented, in order.

    It can be iterated over any number of times.

    Attributes
    ----------
    dataset : Dataset
        The data set.
    split : Split
        One of its splits, or a part of one.
    size : int
        Number of examples per batch; fewer if images come from files and are large.
    workers : int
        Number of processes that read files; ignored for data in memory.

    Yields
    ------
    (Tensor, Tensor)
        float32 ``(B, C, *spatial)`` and int64 (B,), on the data set's device.
    """

    dataset: Dataset
    split: Split
    size: int = 500
    workers: int = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in raw_batches(self.split, self.size, self.workers):
            yield normalize(inputs.to(self.dataset.mean.device), self.dataset), targets

    def inputs(self) -> Inputs:
        """Return the inputs without the targets."""
        return Inputs(self)


@dataclass(frozen=True)
class Inputs:
    """The inputs of batches without their targets.

    Attributes
    ----------
    batches : Batches
        The batches.

    Yields
    ------
    Tensor
        float32 ``(B, C, *spatial)``, on the data set's device.
    """

    batches: Batches

    def __iter__(self) -> Iterator[Tensor]:
        return (inputs for inputs, _ in self.batches)

    def parts(self, cut: Callable[[int], Sequence[slice]]) -> Iterator[list[Tensor]]:
        """Yield parts of every batch, without reading anything else.

        Parameters
        ----------
        cut : Callable[[int], Sequence[slice]]
            Maps the length of a batch to its parts.

        Yields
        ------
        list[Tensor]
            One tensor for each part, float32 ``(n, C, *spatial)``; batches without parts are
            skipped.
        """
        dataset, split = self.batches.dataset, self.batches.split
        batches = [
            [rows[part] for part in cut(len(rows))] for rows in _rows(split, self.batches.size)
        ]
        batches = [parts for parts in batches if parts]
        # The parts of a batch are read together, and split again afterwards.
        rows = [torch.cat(parts) for parts in batches]
        found: Iterable[Tensor]
        if isinstance(split.inputs, ImageFiles):
            found = stream(split.inputs, rows, workers=self.batches.workers)
        else:
            # A generator, so that only one batch at a time is in memory.
            found = (split.inputs[some.to(split.inputs.device)] for some in rows)
        for parts, inputs in zip(batches, found, strict=True):
            normal = normalize(inputs.to(dataset.mean.device), dataset)
            yield list(normal.split([len(part) for part in parts]))


def _rows(split: Split, size: int) -> tuple[Tensor, ...]:
    """Return the rows of every batch."""
    if isinstance(split.inputs, ImageFiles):
        # A size suited to small images would need gigabytes of activations at 224 pixels a side.
        size = max(1, min(size, _BATCH_VALUES // math.prod(split.inputs.shape[1:])))
    return torch.arange(len(split)).split(size)


def raw_batches(
    split: Split, size: int, workers: int = 0, *, pin: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the examples of a split in batches, not normalized.

    Parameters
    ----------
    split : Split
        The split.
    size : int
        Number of examples per batch; fewer if images come from files and are large.
    workers : int, optional
    pin : bool, optional
        As in `lotperm.data.images.stream`; ignored for data in memory.

    Yields
    ------
    (Tensor, Tensor)
        Inputs ``(B, C, *spatial)``, uint8 for images, and targets int64 (B,).
    """
    if isinstance(split.inputs, ImageFiles):
        rows = _rows(split, size)
        targets = split.targets.split([len(some) for some in rows])
        yield from zip(stream(split.inputs, rows, workers=workers, pin=pin), targets, strict=True)
    else:
        # These are views, so nothing is copied.
        yield from zip(split.inputs.split(size), split.targets.split(size), strict=True)
