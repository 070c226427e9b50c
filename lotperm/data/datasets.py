"""Data sets as tensors: fetched from several sources, proved to be the same pixels, augmented on
the device.

A data set is one checked safetensors file of uint8 tensors under ``$LOTPERM_DATA``, else ``data``
in `lotperm.store.files.home`. Whatever source it came from, the sha256 over its decoded pixels and
labels must be the one pinned here. MNIST-1D is generated on first use. Image folders, ImageNet for
one, stay files and are read while they are used (`lotperm.data.images`); two small ones are made
on first use.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

import filelock
import torch
from torch import Tensor

from lotperm.config.experiment import DataConfig
from lotperm.config.parameters import IMAGE_FOLDERS
from lotperm.data import catalog
from lotperm.data.catalog import (
    FOLDER_VARIABLE,
    IMAGENET_STATISTICS,
    check_content,
    content_hash,
    data_folder,
    dataset_path,
    spec_of,
)
from lotperm.data.dataset import Dataset, Info, Split, subset
from lotperm.data.decode import Raw
from lotperm.data.folders import Folder, check_images, list_folder
from lotperm.data.generated import generate_mnist1d
from lotperm.data.images import ImageFiles
from lotperm.data.pictures import write_picture_crops
from lotperm.errors import IntegrityError, ParameterError, StorageError
from lotperm.store import files

_log = logging.getLogger(__name__)


def load(
    name: str,
    *,
    home: Path | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    image_size: int | None = None,
    resize_size: int | None = None,
) -> Dataset:
    """Load a data set that was fetched before; MNIST-1D and the small image folders are made if
    they aren't there.

    Parameters
    ----------
    name : str
        mnist1d, fashion_mnist, cifar10, cifar100 or svhn; or an image folder: ``imagefolder`` (the
        one that the variable LOTPERM_IMAGEFOLDER names, else the one that was fetched),
        picture_crops, cifar10_png.
    home : Path | None, optional
        The folder of all results (default: `lotperm.store.files.home`); data are in its folder
        ``data``.
    train_size, test_size : int | None, optional
        Use only so many: the first ones of a fixed order in which the classes take turns, so that
        a smaller subset is part of a larger one.
    image_size, resize_size : int | None, optional
        Of an image folder, see `ImageFiles`; None: 224, and 256/224 of the image size.

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
            subset(
                Split(ImageFiles(folder.root / split, names, size, other), targets),
                wanted,
                f"{what} of {name}",
            )
            for split, (names, targets), wanted, what in (
                ("train", folder.train, train_size, "train_size"),
                ("val", folder.val, test_size, "test_size"),
            )
        )
        mean, std = (torch.tensor(values) for values in IMAGENET_STATISTICS)
        return Dataset(name, train, test, len(folder.classes), mean, std, folder.content)
    spec, path = spec_of(name), dataset_path(name, home)
    raw = _load_raw(name, path)
    return Dataset(
        name,
        subset(
            Split(raw["train.inputs"], raw["train.targets"]), train_size, f"train_size of {name}"
        ),
        subset(Split(raw["test.inputs"], raw["test.targets"]), test_size, f"test_size of {name}"),
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
    """Check a stored data set (checksum of the file, pinned hash of the content); return the
    content's sha256.

    Of an image folder every image is decoded, and the sha256 is that of its listing. Raises what
    `load` raises.
    """
    if name in IMAGE_FOLDERS:
        return check_image_folder(_folder(name, home)).content
    return content_hash(_load_raw(name, dataset_path(name, home)))


def available(*, home: Path | None = None) -> list[dict[str, Any]]:
    """What `lotperm data list` shows: a row per data set with its size in memory in bytes.

    Of image folders nothing is known before they are listed: their sizes are None, and 0 bytes are
    in memory.
    """
    rows: list[dict[str, Any]] = []
    for name, spec in catalog.SPECS.items():
        item = math.prod(spec.shape) * spec.dtype.itemsize + 8
        rows.append(
            {
                "name": name,
                "present": dataset_path(name, home).exists(),
                "sources": list(spec.sources),
                "n_train": spec.n_train,
                "n_test": spec.n_test,
                "shape": spec.shape,
                "bytes": (spec.n_train + spec.n_test) * item,
            }
        )
    for name in IMAGE_FOLDERS:
        own = name == "imagefolder"
        present = bool(os.environ.get(FOLDER_VARIABLE)) if own else False
        rows.append(
            {
                "name": name,
                "present": present
                or (folder_pointer(home) if own else data_folder(home) / name).exists(),
                "sources": ["PATH" if own else "generated"],
                "n_train": None,
                "n_test": None,
                "shape": (3, None, None),
                "bytes": 0,
            }
        )
    return rows


def info(config: DataConfig) -> Info:
    """Shape and sizes of a data set, which needn't be here: to build a network for it, and to
    plan.

    An image folder that isn't here is taken to be ImageNet's.

    Raises
    ------
    ParameterError
        If a subset is larger than the data set.
    """
    if config.name in IMAGE_FOLDERS:
        side = config.image_size or 224
        return Info(
            (3, side, side), 1000, config.train_size or 1_281_167, config.test_size or 50_000, 0
        )
    spec = spec_of(config.name)
    sizes = []
    for what, size, all_of_it in (
        ("train_size", config.train_size, spec.n_train),
        ("test_size", config.test_size, spec.n_test),
    ):
        if size is not None and not 0 < size <= all_of_it:
            raise ParameterError(f"{what} of {config.name} is {size}; expected 1 to {all_of_it}.")
        sizes.append(size or all_of_it)
    item = math.prod(spec.shape) * spec.dtype.itemsize + 8
    return Info(spec.shape, spec.classes, sizes[0], sizes[1], sum(sizes) * item)


def identity(config: DataConfig, dataset: Dataset | None) -> dict[str, Any]:
    """What a result depends on of its data, as plain JSON data, to make keys of.

    Of an image folder that is its content, wherever it lies, and the sizes of the images; None,
    where it isn't here.
    """
    found: dict[str, Any] = {
        "name": config.name,
        "train_size": config.train_size,
        "test_size": config.test_size,
    }
    if config.name in IMAGE_FOLDERS:
        found["content"] = dataset.content if dataset else None
        found["image_size"] = found["resize_size"] = None
        if dataset is not None and isinstance(dataset.train.inputs, ImageFiles):
            found["image_size"] = dataset.train.inputs.image_size
            found["resize_size"] = dataset.train.inputs.resize_size
    return found


def _load_raw(name: str, path: Path) -> Raw:
    if not path.exists():
        if name == "mnist1d":
            return generate_mnist1d(path)
        sources = " or ".join(f"--source {s}" for s in (*spec_of(name).sources, "PATH"))
        raise StorageError(
            f"data set {name} is not at {path}. Get it: lotperm data fetch {name} {sources}"
        )
    try:
        raw, notes = files.load_tensors(path, checked=True)
        check_content(name, raw, str(path), notes.get("content"))
    except IntegrityError as error:
        files.move_aside(path, str(error))
        if name == "mnist1d":
            return generate_mnist1d(path)
        raise IntegrityError(
            f"{error} It was moved aside. Get it again: lotperm data fetch {name}"
        ) from error
    return raw


def folder_pointer(home: Path | None) -> Path:
    """The file that says where the image folder lies that was fetched."""
    return data_folder(home) / "imagefolder.json"


def _folder(name: str, home: Path | None) -> Path:
    """Where the files of an image folder are; the small ones are written if they aren't there."""
    if name == "imagefolder":
        own, pointer = os.environ.get(FOLDER_VARIABLE), folder_pointer(home)
        if own:
            return Path(own)
        try:
            return Path(json.loads(pointer.read_text())["path"])
        except FileNotFoundError:
            raise StorageError(
                f"no image folder is known. Name one, with train/<class>/*.jpg and val/<class>/*.jpg in it, in "
                f"{FOLDER_VARIABLE}, or check it once and keep its place: lotperm data fetch imagefolder --source PATH"
            ) from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise IntegrityError(
                f"{pointer} is damaged ({error}). Again: lotperm data fetch imagefolder --source PATH"
            ) from error
    path = data_folder(home) / name
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


def check_image_folder(path: Path) -> Folder:
    """List a folder and decode every image in it."""
    folder = list_folder(path)
    for split, (names, _) in (("train", folder.train), ("val", folder.val)):
        check_images(ImageFiles(folder.root / split, names))
    return folder


def _write_cifar10(root: Path, home: Path | None) -> None:
    """Write CIFAR-10, which must have been fetched, as 60,000 PNG files."""
    from PIL import Image

    dataset = load("cifar10", home=home)
    for split, part in (("train", dataset.train), ("val", dataset.test)):
        assert isinstance(part.inputs, Tensor)
        for target in range(dataset.classes):
            (root / split / str(target)).mkdir(parents=True, exist_ok=True)
        for number, (pixels, target) in enumerate(
            zip(part.inputs, part.targets.tolist(), strict=True)
        ):
            image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            image.save(root / split / str(target) / f"{number:05}.png", compress_level=1)
