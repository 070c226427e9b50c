"""The batches of an epoch, for networks that are trained together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.augment import augment, draw_augmentation
from lotperm.data.batches import normalize
from lotperm.data.dataset import Dataset
from lotperm.data.images import ImageFiles, stream
from lotperm.engine.schedule import draw_order
from lotperm.errors import ParameterError
from lotperm.parallel import distributed

_BLOCK_VALUES = {"cpu": 2**20, "cuda": 2**23}
"""Number of input values that are prepared at a time: 4 and 32 MiB in float32. On a CPU they fit
into its caches.
"""


class Feed:
    """Batches of training examples for M members, each with its own order and augmentation.

    Parameters
    ----------
    data : Dataset
        The data set, whose training split is used, on the device or as files.
    recipe : Recipe
        The training recipe, whose batch size and augmentation are used.
    seeds : Sequence[Seeds]
        Random streams of the M members.
    device : torch.device
        Device of the batches' inputs.
    dtype : torch.dtype
        Dtype of the batches' inputs.
    readers : int
        Number of processes that read files.

    Attributes
    ----------
    steps : int
        Number of batches in an epoch; the last partial one is dropped.

    Raises
    ------
    ParameterError
        If a batch is larger than the training set, or the augmentation doesn't suit the inputs.
    """

    def __init__(
        self,
        data: Dataset,
        recipe: Recipe,
        seeds: Sequence[Seeds],
        *,
        device: torch.device,
        dtype: torch.dtype,
        readers: int,
    ) -> None:
        size = len(data.train)
        # The last partial batch is dropped, so otherwise there would be no batch at all.
        if recipe.batch_size > size:
            raise ParameterError(
                f"batch_size is {recipe.batch_size}, but the training set has {size} examples."
            )
        # Images from files differ in size and are resized; those in memory are padded and cropped.
        kinds = ("none", "flip_resized_crop") if data.streamed else ("none", "crop", "flip_crop")
        if recipe.augment not in kinds:
            raise ParameterError(
                f"augment is {recipe.augment!r}; expected {' or '.join(kinds)} on {data.name}."
            )
        self.data, self.seeds = data, seeds
        self.batch_size, self.kind = recipe.batch_size, recipe.augment
        self.device, self.dtype, self.readers = device, dtype, readers
        self.steps = size // recipe.batch_size

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, from step `first` on.

        Inputs are ``(B, M, C, *spatial)`` and targets (M, B), where B is this rank's share of a
        batch. Random draws belong to examples, so they don't depend on the number of ranks.
        """
        share = distributed.share(self.batch_size)
        # The order of the whole epoch is drawn and then cut, so that resumed runs and runs on
        # several ranks take the same examples at the same step as any other run.
        rows = self._rows(epoch)[first:, share]
        if isinstance(self.data.train.inputs, ImageFiles):
            return self._read(self.data.train.inputs, rows, epoch)
        return self._gather(self.data.train.inputs, rows, epoch)

    def example_batch(self) -> tuple[Tensor, Tensor]:
        """Return a batch of zeros, in the shapes and types of `batches`."""
        count, size = len(self.seeds), self.batch_size
        inputs = torch.zeros(
            (size, count, *self.data.input_shape), dtype=self.dtype, device=self.device
        )
        return inputs, self.data.train.targets.new_zeros(count, size)

    def _rows(self, epoch: int) -> Tensor:
        """Draw the examples of every step of an epoch: int64 (steps, B, M), on the CPU."""
        # (N, M), so that a batch's rows are contiguous and what is gathered by them is
        # (B, M, C, ...), the layout that suits convolutions.
        size = len(self.data.train)
        order = torch.stack([draw_order(size, s.order, epoch) for s in self.seeds], 1)
        return order[: self.steps * self.batch_size].unflatten(0, (self.steps, self.batch_size))

    def _gather(
        self, examples: Tensor, rows: Tensor, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of examples in memory that the numbers in `rows` (S, B, M) select."""
        batch, rows = rows.shape[1], rows.to(self.device)
        # Drawn for all examples of the epoch and looked up by example, whatever the order.
        draws = self._draws(epoch)
        # Examples are gathered for several steps at once, in fewer, larger operations.
        step = batch * len(self.seeds) * examples[0].numel()
        block = max(1, _BLOCK_VALUES[self.device.type] // step)
        for start in range(0, len(rows), block):
            some = rows[start : start + block]
            flat = some.flatten(0, 1)
            inputs = examples[flat]
            # Before normalizing, since the padding is black: 0 as a pixel.
            if draws:
                inputs = augment(inputs, *(kind.gather(0, flat) for kind in draws))
            inputs = normalize(inputs, self.data, self.dtype)
            targets = self.data.train.targets[some].transpose(1, 2).contiguous()
            yield from zip(inputs.split(batch), targets, strict=True)

    def _draws(self, epoch: int) -> list[Tensor]:
        """Draw crop corners and flips of all examples for all members, (N, M), on the device."""
        if self.kind == "none":
            return []
        size = len(self.data.train)
        each = [draw_augmentation(size, s.augment, epoch, self.kind) for s in self.seeds]
        return [torch.stack(kind, 1).to(self.device) for kind in zip(*each, strict=True)]

    def _read(self, files: ImageFiles, rows: Tensor, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an image folder that the numbers in `rows` (S, B, M) select.

        Each member gets its own augmented picture of every example.
        """
        # Without seeds, files are read as evaluation sees them.
        seeds = [s.augment for s in self.seeds] if self.kind != "none" else None
        # Only page-locked memory can be copied to a GPU while the CPU goes on.
        pin = self.device.type == "cuda"
        steps = list(rows)
        images = stream(files, steps, seeds=seeds, epoch=epoch, workers=self.readers, pin=pin)
        for some, pixels in zip(steps, images, strict=True):
            targets = self.data.train.targets[some.to(self.device)].T.contiguous()
            # Copied as bytes, a quarter of the size of floats, and without waiting, so that the
            # next batch can be read meanwhile.
            inputs = pixels.to(self.device, non_blocking=pin)
            yield normalize(inputs, self.data, self.dtype), targets
