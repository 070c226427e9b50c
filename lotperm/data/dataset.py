"""A data set in memory: its splits, sizes and statistics."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lotperm.data.images import ImageFiles
from lotperm.errors import ParameterError


@dataclass(frozen=True)
class Split:
    """Images or signals with their classes.

    Attributes
    ----------
    inputs : Tensor | ImageFiles
        ``(N, C, *spatial)`` uint8, or float32 for mnist1d; for an image folder, the files.
    targets : Tensor
        (N,) int64.
    """

    inputs: Tensor | ImageFiles
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str) -> Split:
        """Move the split to another device; files stay where they are."""
        inputs = self.inputs if isinstance(self.inputs, ImageFiles) else self.inputs.to(device)
        return Split(inputs, self.targets.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, or the files of an image folder.

    It is in its original order unless a subset was requested or it is an image folder.

    Attributes
    ----------
    name : str
        See `lotperm.data.catalog`.
    train, test : Split
        Its splits; for an image folder, `test` is the folder ``val``.
    classes : int
        Number of classes.
    mean, std : Tensor
        (C,) float32, per channel of the whole training set, with pixels in [0, 1]; ImageNet's for
        image folders.
    content : str | None
        The sha256 of an image folder's listing; None where the name identifies the data.
    """

    name: str
    train: Split
    test: Split
    classes: int
    mean: Tensor
    std: Tensor
    content: str | None = None

    @property
    def streamed(self) -> bool:
        """Whether the inputs are read from files as they are used."""
        return isinstance(self.train.inputs, ImageFiles)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an example: ``(C, *spatial)``."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device | str) -> Dataset:
        """Move the data set to another device; files stay where they are."""
        train, test = self.train.to(device), self.test.to(device)
        return replace(
            self, train=train, test=test, mean=self.mean.to(device), std=self.std.to(device)
        )


@dataclass(frozen=True)
class Info:
    """The sizes of a data set, known without loading it.

    Attributes
    ----------
    shape : tuple[int, ...]
        ``(C, *spatial)`` of one example.
    classes : int
        Number of classes.
    train, test : int
        Number of examples in each split.
    bytes : int
        Size of both splits in memory; 0 if they are read from files.
    """

    shape: tuple[int, ...]
    classes: int
    train: int
    test: int
    bytes: int


def first(split: Split, count: int | None) -> Split:
    """Take the first `count` examples of a split, or all; in an image folder they are balanced."""
    return Split(split.inputs[:count], split.targets[:count])


def subset(split: Split, size: int | None, what: str) -> Split:
    """Take the first examples in the order of `class_by_class`, or all in original order.

    Parameters
    ----------
    split : Split
        The whole split.
    size : int | None
        Number of examples; None: all.
    what : str
        Name of the parameter that gave the size, for the error message.

    Raises
    ------
    ParameterError
        If the split has fewer examples.
    """
    if size is None or size == len(split):
        return split
    if not 0 < size < len(split):
        raise ParameterError(f"{what} is {size}; expected 1 to {len(split)}.")
    # Image folders are already listed in such an order.
    if isinstance(split.inputs, ImageFiles):
        return first(split, size)
    # Stored data sets are in their original order, which needn't be balanced at any length.
    chosen = class_by_class(split.targets)[:size]
    return Split(split.inputs[chosen], split.targets[chosen])


def class_by_class(targets: Tensor) -> Tensor:
    """Return a fixed order of examples in which the classes take turns: int64 (N,)."""
    # The seed is fixed since results depend on subsets, and a smaller subset must be part of a
    # larger one.
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    # Both sorts are stable, so that equal values keep their order on every machine.
    by_class = order[torch.sort(targets[order], stable=True).indices]
    counts = torch.bincount(targets)
    starts = counts.cumsum(0) - counts
    # An example's index within its class: all first examples come first, then all second ones.
    turn = torch.arange(len(targets)) - starts.repeat_interleave(counts)
    return by_class[torch.sort(turn, stable=True).indices]
