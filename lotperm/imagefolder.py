"""Images in folders, read from disk while they are used: ``<root>/{train,val}/<class>/*.{jpg,jpeg,png}``.

ImageNet's pixels don't fit into memory, so a network sees them as a stream: `list_folder` looks at the names only,
`ImageFiles` stands where other data sets have a tensor, and `stream` decodes batch after batch, in worker processes if
asked. What an image looks like in an epoch is drawn from the member's seed, the epoch and the number of the example,
and from nothing else. So a batch doesn't depend on how many workers there are, nor on where a run was interrupted.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from lotperm.config import canonical_json, derive_seed
from lotperm.errors import IntegrityError, LotpermError, ParameterError, StorageError

SUFFIXES = (".jpg", ".jpeg", ".png")
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Share of an image's area, and width over height, that a random crop is drawn from (torchvision's defaults)."""

# What Pillow raises for files that are damaged, cut short, or aren't images.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """The images of a split, as files: what `Split.inputs` is where the pixels don't fit into memory.

    Attributes
    ----------
    folder : of the split
    names : (N,) bytes, each ``<class>/<file>`` in UTF-8. One array, not N objects: worker processes share its memory
    image_size : height and width of the images that come out, in pixels
    resize_size : the short side to which an image is resized before its centre is cut out, for evaluation and matching
    """

    folder: Path
    names: np.ndarray[Any, Any]
    image_size: int = 224
    resize_size: int = 256

    def __post_init__(self) -> None:
        import torchvision.transforms.v2  # noqa: F401  a second, once: not in each worker, nor where there are no files

        if not 1 <= self.image_size <= self.resize_size:
            raise ParameterError(
                f"image_size is {self.image_size} and resize_size {self.resize_size}; "
                "expected 1 <= image_size <= resize_size."
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 3, image_size, image_size)."""
        return (len(self), 3, self.image_size, self.image_size)

    def __getitem__(self, rows: slice | Tensor) -> ImageFiles:
        """Some of the files, as slice or int64 (n,)."""
        return replace(self, names=self.names[rows if isinstance(rows, slice) else rows.numpy()])

    def path(self, row: int) -> Path:
        """Where an image lies."""
        return self.folder / os.fsdecode(self.names[row])

    def class_name(self, row: int) -> str:
        """The folder that an image lies in."""
        return self.path(row).parent.name

    def open(self, row: int) -> Image.Image:
        """Decode one image, as RGB.

        Raises
        ------
        IntegrityError
            If the file is damaged, cut short, or is no JPEG or PNG, with its path.
        StorageError
            If it isn't there any more or can't be read.
        """
        path = self.path(row)
        try:
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                return image.convert("RGB")
        except (FileNotFoundError, PermissionError) as error:
            raise StorageError(f"cannot read {path}: {error.strerror}.") from error
        except (*_DAMAGE, Image.DecompressionBombError) as error:
            why = str(error).replace(repr(str(path)), "it")
            raise IntegrityError(
                f"{path} is not a whole JPEG or PNG image: {why}. Replace it or take it out."
            ) from error

    def read(self, rows: Tensor | None = None) -> Tensor:
        """Images as evaluation and matching see them: resized, and the centre cut out.

        Parameters
        ----------
        rows : int64 (...); None: all, in order

        Returns
        -------
        Tensor
            uint8 (..., 3, image_size, image_size).
        """
        rows = torch.arange(len(self)) if rows is None else rows
        images = [self._centre(self.open(row)) for row in rows.flatten().tolist()]
        return torch.stack(images).view(*rows.shape, *self.shape[1:])

    def read_augmented(self, rows: Tensor, seeds: Sequence[int], epoch: int) -> Tensor:
        """Images as training sees them: a random crop, resized, and a flip for every second one.

        Parameters
        ----------
        rows : int64 (B, M)
        seeds : M, the members' augment seeds
        epoch : with a seed and the row it names the random stream of an image

        Returns
        -------
        Tensor
            uint8 (B, M, 3, image_size, image_size).
        """
        images = [
            self._random(self.open(row), derive_seed("augmentation", seed, epoch, row))
            for each in rows.tolist()
            for row, seed in zip(each, seeds, strict=True)
        ]
        return torch.stack(images).view(*rows.shape, *self.shape[1:])

    def _centre(self, image: Image.Image) -> Tensor:
        from torchvision.transforms.v2 import functional

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
        if torch.rand(1, generator=generator).item() < 0.5:
            image = functional.horizontal_flip(image)
        return functional.pil_to_tensor(image)


def draw_crop(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """A random part of an image: top, left, height, width in pixels.

    `torchvision.transforms.v2.RandomResizedCrop`'s rule and order of draws, but from a generator of one's own: theirs
    is the process's, whose state depends on what was read before.
    """
    area, (low, high) = height * width, torch.log(torch.tensor(RATIO)).tolist()
    for _ in range(10):
        target = area * torch.empty(1).uniform_(*SCALE, generator=generator).item()
        ratio = torch.exp(torch.empty(1).uniform_(low, high, generator=generator)).item()
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = torch.randint(0, height - h + 1, (1,), generator=generator).item()
            left = torch.randint(0, width - w + 1, (1,), generator=generator).item()
            return int(top), int(left), h, w
    # A very long or high image: the largest part of its middle with a ratio that is allowed.
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w


# --- the stream -------------------------------------------------------------------------------------


class _Reading(TorchDataset[Tensor | LotpermError]):
    """Whole batches by number, for a `DataLoader` that doesn't batch."""

    def __init__(
        self, images: ImageFiles, rows: Sequence[Tensor], seeds: Sequence[int] | None, epoch: int
    ) -> None:
        self.images, self.rows, self.seeds, self.epoch = images, rows, seeds, epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Tensor | LotpermError:
        # An error travels as a value: raised in a worker it would come out with the worker's traceback as its message.
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
    """Read batch after batch, some of them ahead of time.

    Parameters
    ----------
    images : the files
    rows : the rows of every batch: int64 (B, M), or (B,) without seeds
    seeds : M augment seeds; None: images as evaluation sees them
    epoch : for the augmentation
    workers : processes that decode, two batches ahead each; 0: this one does, when a batch is asked for
    pin : put batches into page-locked memory, from where they are copied to a GPU while it computes

    Yields
    ------
    Tensor
        uint8, of the rows' shape and (3, image_size, image_size).

    Raises
    ------
    IntegrityError, StorageError
        For a file that can't be read, with its path.
    """
    loader: DataLoader[Tensor | LotpermError] = DataLoader(
        _Reading(images, rows, seeds, epoch), batch_size=None, num_workers=min(workers, len(rows)), pin_memory=pin,
        generator=torch.Generator(),  # else PyTorch's own would be advanced by every loader
    )  # fmt: skip
    for batch in loader:
        if isinstance(batch, LotpermError):
            raise batch
        yield batch


# --- the folder -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder as it was listed.

    Attributes
    ----------
    root : its absolute path, links followed
    train, val : (N,) bytes ``<class>/<file>``, and int64 (N,) targets. In a fixed order in which the classes take
        turns, so that the first n are a balanced subset, and a part of any larger one
    classes : their names, sorted; a target is a position here
    content : sha256 over every file's split, name and size, and so over the classes; not over where the folder lies
    """

    root: Path
    train: tuple[np.ndarray[Any, Any], Tensor]
    val: tuple[np.ndarray[Any, Any], Tensor]
    classes: tuple[str, ...]
    content: str


def list_folder(root: Path) -> Folder:
    """List the images of a folder and check its form; no image is opened (see `check_images`).

    Hidden files are passed over. Links are followed as long as they stay within the folder.

    Raises
    ------
    StorageError
        If the folder or one of its splits isn't there or can't be read.
    IntegrityError
        If a class has no image or is missing in one split, if there is a file that is no image by its name, is empty,
        or a link that leaves the folder.
    """
    try:
        root = root.resolve(strict=True)
        splits = {split: _list_split(root, split) for split in ("train", "val")}
    except OSError as error:
        raise StorageError(
            f"cannot list {error.filename or root}: {error.strerror or error}. Expected {root}/train/<class>/*.jpg and "
            f"{root}/val/<class>/*.jpg."
        ) from error
    classes = {split: sorted(found) for split, found in splits.items()}
    odd = sorted(set(classes["train"]) ^ set(classes["val"]))
    if odd:
        where = "train" if odd[0] in splits["train"] else "val"
        raise IntegrityError(
            f"{root}: train has {len(classes['train'])} classes and val {len(classes['val'])}, expected the same ones: "
            f"{odd[0]!r} is only in {where}."
        )
    digest = hashlib.sha256()
    listed = []
    for split in ("train", "val"):
        names, targets = [], []
        for target, name in enumerate(classes[split]):
            for file, size in splits[split][name]:
                digest.update(canonical_json([split, name, file, size]).encode())
                names.append(os.fsencode(f"{name}/{file}"))
                targets.append(target)
        array, labels = np.array(names, dtype=np.bytes_), torch.tensor(targets)
        order = taking_turns(labels)
        listed.append((array[order.numpy()], labels[order]))
    return Folder(root, listed[0], listed[1], tuple(classes["train"]), digest.hexdigest())


def _list_split(root: Path, split: str) -> dict[str, list[tuple[str, int]]]:
    """Class -> its files with their sizes in bytes, sorted by name."""
    found: dict[str, list[tuple[str, int]]] = {}
    for entry in _entries(root / split, root):
        if not entry.is_dir():
            raise IntegrityError(f"{entry.path} is not a folder; expected one for each class.")
        files = []
        for file in _entries(Path(entry.path), root):
            if not file.is_file() or not file.name.lower().endswith(SUFFIXES):
                raise IntegrityError(f"{file.path} is no image file; expected {', '.join(SUFFIXES)}.")
            size = file.stat().st_size
            if size == 0:
                raise IntegrityError(f"{file.path} is empty. Replace it or take it out.")
            files.append((file.name, size))
        if not files:
            raise IntegrityError(f"{entry.path} holds no image. Fill it or take it out.")
        found[entry.name] = files
    if not found:
        raise IntegrityError(f"{root / split} holds no class folder.")
    return found


def _entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in found:
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            raise IntegrityError(
                f"{entry.path} is a link that leaves {root}. Put what it points to in its place."
            )
    return found


def taking_turns(targets: Tensor) -> Tensor:
    """A fixed order of examples in which the classes take turns: int64 (N,)."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    by_class = order[torch.sort(targets[order], stable=True).indices]
    counts = torch.bincount(targets)
    starts = counts.cumsum(0) - counts
    turn = torch.arange(len(targets)) - starts.repeat_interleave(counts)
    return by_class[torch.sort(turn, stable=True).indices]


def check_images(images: ImageFiles) -> None:
    """Decode every image once.

    Raises
    ------
    IntegrityError
        If some can't be: how many, and the first of them.
    """

    def damage(row: int) -> LotpermError | None:
        try:
            images.open(row)
        except LotpermError as error:
            return error
        return None

    with ThreadPoolExecutor() as pool:  # decoding lets go of Python's lock
        bad = [error for error in pool.map(damage, range(len(images)), chunksize=64) if error is not None]
    if bad:
        more = f" {len(bad) - 1} more can't be read either." if len(bad) > 1 else ""
        raise IntegrityError(f"{bad[0]}{more}")


# --- a small folder that is always there --------------------------------------------------------------

_TILE, _CROP, _CROPS = 64, 48, 6


def write_picture_crops(root: Path) -> None:
    """Write a small image folder whose images are crops of three real pictures that Matplotlib brings along.

    They are its sample data: a photograph (a portrait of Grace Hopper by the US Navy, in the public domain), an
    elevation map (of Jacksboro fault), and a slice of a magnetic resonance scan of a head. A class is a region of one
    of them: six of the photograph, two of the map, one of the scan. Each region is a grid of tiles of 64 pixels; like
    the fields of a chessboard they are by turns for training and for validation, with 6 random crops of 48 pixels
    each. So no pixel is in both splits.

    Parameters
    ----------
    root : the folder to make, with ``train`` and ``val``

    Raises
    ------
    StorageError
        If Matplotlib's sample data aren't installed.
    """
    for picture, pixels in _pictures().items():
        rows, columns = pixels.shape[0] // _TILE, pixels.shape[1] // _TILE
        high, wide = {"photograph": (3, 2), "elevation": (1, 2), "head": (1, 1)}[picture]
        for y, x in np.ndindex(rows, columns):
            split = "train" if (x + y) % 2 == 0 else "val"
            folder = root / split / f"{picture}-{y * high // rows}{x * wide // columns}"
            folder.mkdir(parents=True, exist_ok=True)
            generator = torch.Generator().manual_seed(derive_seed("picture_crops", picture, int(y), int(x)))
            corners = torch.randint(_TILE - _CROP + 1, (_CROPS, 2), generator=generator).tolist()
            for number, (dy, dx) in enumerate(corners):
                top, left = y * _TILE + dy, x * _TILE + dx
                crop = Image.fromarray(pixels[top : top + _CROP, left : left + _CROP])
                crop.save(folder / f"tile-{y}-{x}-{number:02}.png")


def _pictures() -> dict[str, np.ndarray[Any, Any]]:
    """Name -> uint8 (H, W, 3)."""
    import matplotlib

    def grey(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        share = (values - values.min()) / (float(values.max()) - float(values.min()))
        return np.repeat((255 * share).round().astype(np.uint8)[..., None], 3, axis=2)

    folder = Path(matplotlib.get_data_path()) / "sample_data"
    try:
        with Image.open(folder / "grace_hopper.jpg") as image:
            photograph = np.asarray(image.convert("RGB"))
        with np.load(folder / "jacksboro_fault_dem.npz") as file:
            elevation = grey(file["elevation"].astype(np.float64))
        with gzip.open(folder / "s1045.ima.gz") as scan:
            head = grey(np.frombuffer(scan.read(), np.uint16).reshape(256, 256).astype(np.float64))
    except (OSError, ValueError, LookupError) as error:
        raise StorageError(
            f"picture_crops are cut from Matplotlib's sample data, which can't be read ({error}). Install Matplotlib "
            "with them, or name an image folder of yours in LOTPERM_IMAGEFOLDER and use dataset=imagefolder."
        ) from error
    return {"photograph": photograph, "elevation": elevation, "head": head}
