"""Images in folders, read from disk as they are used.

The files are ``<root>/{train,val}/<class>/*.{jpg,jpeg,png,webp,bmp,tif,tiff}``.

ImageNet's pixels don't fit into memory, so a network sees them as a stream:
`lotperm.data.folders.list_folder` only looks at names, `ImageFiles` takes the place of other data
sets' tensors, and `stream` decodes batch after batch, in worker processes if asked. The
augmentation of an image in an epoch depends only on the member's seed, the epoch and the number of
the example. So a batch depends neither on the number of workers nor on where a run was interrupted.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from lotperm.config.seeds import derive_seed
from lotperm.errors import IntegrityError, LotpermError, ParameterError, StorageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Ranges of a random crop's fraction of the image's area, and of its width divided by its height.

They are torchvision's defaults.
"""

# What Pillow raises for files that are damaged, truncated, or aren't images.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error)


def _rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB, keeping the higher 8 of 16 bits, as Pillow does for colour images.

    Pillow's `convert` would clip 16-bit grey to white.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ValueError(f"its pixels are {values.dtype} of more than 16 bits")
        image = Image.fromarray((values.astype(np.int64) >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating point numbers, whose range isn't known")
    return image.convert("RGB")


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """The images of a split as files, for `Split.inputs` if the pixels don't fit into memory.

    Attributes
    ----------
    folder : Path
        Folder of the split.
    names : np.ndarray[Any, Any]
        (N,) bytes, each ``<class>/<file>`` as `os.fsencode` gives it. One array instead of N
        objects, so that worker processes share its memory.
    image_size : int
        Height and width of the resulting images, in pixels.
    resize_size : int
        Length of the short side to which an image is resized before its centre is cut out, for
        evaluation and matching.
    """

    folder: Path
    names: np.ndarray[Any, Any]
    image_size: int = 224
    resize_size: int = 256

    def __post_init__(self) -> None:
        # This takes a second: once here, not in each worker, and not at all if there are no files.
        import torchvision.transforms.v2  # noqa: F401

        if not 1 <= self.image_size <= self.resize_size:
            raise ParameterError(
                f"image_size is {self.image_size} and resize_size {self.resize_size}; "
                "expected 1 <= image_size <= resize_size."
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of all images: (N, 3, image_size, image_size)."""
        return (len(self), 3, self.image_size, self.image_size)

    def __getitem__(self, rows: slice | Tensor) -> ImageFiles:
        """Return some of the files, by a slice or int64 (n,)."""
        return replace(self, names=self.names[rows if isinstance(rows, slice) else rows.numpy()])

    def path(self, row: int) -> Path:
        """Return the path of an image."""
        return self.folder / os.fsdecode(self.names[row])

    def class_name(self, row: int) -> str:
        """Return the name of an image's folder."""
        return self.path(row).parent.name

    def open(self, row: int) -> Image.Image:
        """Decode one image, as RGB.

        Raises
        ------
        IntegrityError
            If the file is damaged, truncated, or not a JPEG, PNG, WebP, BMP or TIFF, or if its
            pixels don't have 8 or 16 bits per channel; the message names the file.
        StorageError
            If the file is no longer there or can't be read.
        """
        path = self.path(row)
        try:
            # The formats are named, since whatever its suffix, a file may have any of the many
            # formats that Pillow reads.
            with Image.open(path, formats=_FORMATS) as image:
                # This decodes the image while the file is open; some of ImageNet's files are grey
                # or CMYK.
                return _rgb(image)
        except (FileNotFoundError, PermissionError) as error:
            raise StorageError(f"cannot read {path}: {error.strerror}.") from error
        except (*_DAMAGE, Image.DecompressionBombError) as error:
            # Some of Pillow's messages repeat the path.
            why = str(error).replace(repr(str(path)), "it")
            raise IntegrityError(
                f"{path} is not a whole JPEG or PNG image, nor another known kind: {why}. Replace "
                "or remove it."
            ) from error

    def read(self, rows: Tensor | None = None) -> Tensor:
        """Read images as evaluation and matching see them: resized, then cropped to the centre.

        Parameters
        ----------
        rows : Tensor | None, optional
            int64 (...); None: all, in order.

        Returns
        -------
        Tensor
            uint8 (..., 3, image_size, image_size).
        """
        rows = torch.arange(len(self)) if rows is None else rows
        images = [self._centre(self.open(row)) for row in rows.flatten().tolist()]
        return torch.stack(images).view(*rows.shape, *self.shape[1:])

    def read_augmented(self, rows: Tensor, seeds: Sequence[int], epoch: int) -> Tensor:
        """Read images as training sees them: randomly cropped, resized, and flipped half the time.

        Parameters
        ----------
        rows : Tensor
            int64 (B, M).
        seeds : Sequence[int]
            The augmentation seeds of the M members.
        epoch : int
            Selects an image's random stream, together with seed and row.

        Returns
        -------
        Tensor
            uint8 (B, M, 3, image_size, image_size).
        """
        images = [
            # Named streams, which neither the number of workers nor an interruption can change.
            self._random(self.open(row), derive_seed("augmentation", seed, epoch, row))
            for each in rows.tolist()
            for row, seed in zip(each, seeds, strict=True)
        ]
        return torch.stack(images).view(*rows.shape, *self.shape[1:])

    def _centre(self, image: Image.Image) -> Tensor:
        from torchvision.transforms.v2 import functional

        # Images that already have the right size keep their exact pixels.
        if image.size != (self.image_size, self.image_size) or self.resize_size != self.image_size:
            image = functional.resize(image, [self.resize_size])
            image = functional.center_crop(image, [self.image_size, self.image_size])
        return functional.pil_to_tensor(image)

    def _random(self, image: Image.Image, seed: int) -> Tensor:
        from torchvision.transforms.v2 import functional

        generator = torch.Generator().manual_seed(seed)
        box = draw_crop(image.height, image.width, generator)
        size = [self.image_size, self.image_size]
        image = functional.resized_crop(image, *box, size)
        # After the crop, since the order of draws is part of an image's random stream.
        if torch.rand(1, generator=generator).item() < 0.5:
            image = functional.horizontal_flip(image)
        return functional.pil_to_tensor(image)


def draw_crop(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Draw a random part of an image: top, left, height, width in pixels.

    This follows the rule and the order of draws of `torchvision.transforms.v2.RandomResizedCrop`,
    which itself draws from a global generator, whose state depends on what was read before.
    """
    # In PyTorch's arithmetic, as in torchvision, so that the same draws give the same crop.
    area, (low, high) = height * width, torch.log(torch.tensor(RATIO)).tolist()
    for _ in range(10):
        target = area * torch.empty(1).uniform_(*SCALE, generator=generator).item()
        ratio = torch.exp(torch.empty(1).uniform_(low, high, generator=generator)).item()
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        # A crop that doesn't fit is redrawn, at most ten times, as other ratios may fit.
        if 0 < w <= width and 0 < h <= height:
            top = torch.randint(0, height - h + 1, (1,), generator=generator).item()
            left = torch.randint(0, width - w + 1, (1,), generator=generator).item()
            return int(top), int(left), h, w
    # In a very wide or tall image, take the largest central part with an allowed ratio.
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w


class _Reading(TorchDataset[Tensor | LotpermError]):
    """A data set of whole batches, for a `DataLoader` that does no batching itself."""

    def __init__(
        self, images: ImageFiles, rows: Sequence[Tensor], seeds: Sequence[int] | None, epoch: int
    ) -> None:
        self.images, self.rows, self.seeds, self.epoch = images, rows, seeds, epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Tensor | LotpermError:
        # Errors are returned as values: raised in a worker, an error would arrive with the worker's
        # traceback as its message.
        try:
            if self.seeds is None:
                return self.images.read(self.rows[number])
            return self.images.read_augmented(self.rows[number], self.seeds, self.epoch)
        except LotpermError as error:
            return error


def stream(
    images: ImageFiles,
    rows: Sequence[Tensor],
    *,
    seeds: Sequence[int] | None = None,
    epoch: int = 0,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[Tensor]:
    """Read one batch after another, some of them ahead of time.

    Parameters
    ----------
    images : ImageFiles
        The files.
    rows : Sequence[Tensor]
        The rows of every batch: int64 (B, M), or (B,) without seeds.
    seeds : Sequence[int] | None, optional
        Augmentation seeds of the M members; None: images as evaluation sees them.
    epoch : int, optional
        The epoch, for the augmentation.
    workers : int, optional
        Number of processes that decode, each two batches ahead; 0: this process decodes each batch
        on request.
    pin : bool, optional
        Put batches into page-locked memory, from which they can be copied to a GPU while it
        computes.

    Yields
    ------
    Tensor
        uint8, the shape of the rows followed by (3, image_size, image_size).

    Raises
    ------
    IntegrityError, StorageError
        For a file that can't be read, with its path.
    """
    loader: DataLoader[Tensor | LotpermError] = DataLoader(
        # An item is a batch, so the loader must neither batch nor shuffle, but keep their order.
        _Reading(images, rows, seeds, epoch),
        batch_size=None,
        # More workers than batches would have nothing to do.
        num_workers=min(workers, len(rows)),
        pin_memory=pin,
        # Its own generator; otherwise every loader would advance PyTorch's global one.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, LotpermError):
            raise batch
        yield batch
