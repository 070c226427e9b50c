"""Load data sets as tensors, and tell what is known about them without loading.

`lotperm.data.catalog` lists them; `lotperm.data.sources.fetch` gets those that aren't here yet.
MNIST-1D is generated on first use. Image folders, such as ImageNet, stay files that are read as
they are used (`lotperm.data.images`); two small ones are made on first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lotperm.config.experiment import DataConfig
from lotperm.data import catalog
from lotperm.data.catalog import FOLDERS, IMAGENET, IMAGENET_STATISTICS, spec_of
from lotperm.data.dataset import Dataset, Info, Split, subset
from lotperm.data.folders import check_image_folder, find_folder, is_present, list_folder
from lotperm.data.images import ImageFiles
from lotperm.data.stored import content_hash, dataset_path, load_stored
from lotperm.errors import ParameterError


def load(
    name: str,
    *,
    home: Path | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    image_size: int | None = None,
    resize_size: int | None = None,
) -> Dataset:
    """Load a data set that was fetched before or is made on first use.

    Parameters
    ----------
    name : str
        As in `lotperm.data.catalog`: mnist1d (made), fashion_mnist, cifar10, cifar100 or svhn; or
        an image folder: ``imagefolder`` (the one that the environment variable LOTPERM_IMAGEFOLDER
        names, else the one that was fetched), picture_crops (made), cifar10_png (from cifar10).
    home : Path | None, optional
        The folder of all results (default: `lotperm.store.files.home`); data are in its subfolder
        ``data``.
    train_size, test_size : int | None, optional
        Number of examples to use, the first ones in a fixed order in which the classes take turns,
        so that a smaller subset is part of a larger one; None: all.
    image_size, resize_size : int | None, optional
        For image folders, as in `ImageFiles`; None: 224, and 256/224 times the image size.

    Raises
    ------
    StorageError
        If the data set isn't there; the message names the command that fetches it.
    IntegrityError
        If its file is corrupt; it is then moved aside. For a folder, see `list_folder`.
    """
    if name in FOLDERS:
        return _load_folder(name, home, train_size, test_size, image_size, resize_size)
    raw = load_stored(name, home)
    train, test = (Split(raw[f"{s}.inputs"], raw[f"{s}.targets"]) for s in ("train", "test"))
    return Dataset(
        name,
        # The statistics are those of the whole training set, whatever the subset.
        subset(train, train_size, f"train_size of {name}"),
        subset(test, test_size, f"test_size of {name}"),
        spec_of(name).classes,
        raw["mean"],
        raw["std"],
    )


def _load_folder(
    name: str,
    home: Path | None,
    train_size: int | None,
    test_size: int | None,
    image_size: int | None,
    resize_size: int | None,
) -> Dataset:
    """Load an image folder as lists of files, which are read as they are used."""
    folder, size = list_folder(find_folder(name, home)), image_size or 224
    # This ratio is usual for ImageNet.
    other = resize_size or round(size * 256 / 224)
    train, test = (
        Split(ImageFiles(folder.folders[part], names, size, other), targets)
        for part, (names, targets) in (("train", folder.train), ("val", folder.val))
    )
    # The folder's own statistics would need every image decoded first.
    mean, std = (torch.tensor(values) for values in IMAGENET_STATISTICS)
    return Dataset(
        name,
        subset(train, train_size, f"train_size of {name}"),
        subset(test, test_size, f"test_size of {name}"),
        len(folder.classes),
        mean,
        std,
        folder.content,
    )


def load_configured(config: DataConfig) -> Dataset:
    """Load the data set of an experiment; raise what `load` raises."""
    return load(
        config.name,
        train_size=config.train_size,
        test_size=config.test_size,
        image_size=config.image_size,
        resize_size=config.resize_size,
    )


def verify(name: str, *, home: Path | None = None) -> str:
    """Check a stored data set: the checksum of its file and the pinned hash of its content.

    In an image folder, every image is decoded. This raises what `load` raises.

    Returns
    -------
    str
        The sha256 of the content; for an image folder, that of its listing.
    """
    if name in FOLDERS:
        return check_image_folder(find_folder(name, home)).content
    return content_hash(load_stored(name, home))


def available(*, home: Path | None = None) -> list[dict[str, Any]]:
    """List the data sets for `lotperm data list`, one row each, with sizes in memory in bytes.

    Nothing is known about image folders before they are listed: their sizes are None, and they take
    0 bytes of memory.
    """
    stored = [
        {
            "name": name,
            "present": dataset_path(name, home).exists(),
            "sources": list(spec.sources) or ["generated"],
            "n_train": spec.n_train,
            "n_test": spec.n_test,
            "shape": spec.shape,
            "bytes": (spec.n_train + spec.n_test) * spec.example_bytes,
        }
        for name, spec in catalog.SPECS.items()
    ]
    folders = [
        {
            "name": name,
            "present": is_present(name, home),
            "sources": ["PATH" if spec.own else "generated"],
            "n_train": None,
            "n_test": None,
            "shape": (3, None, None),
            "bytes": 0,
        }
        for name, spec in FOLDERS.items()
    ]
    return stored + folders


def info(config: DataConfig) -> Info:
    """Return the shape and sizes of a data set without loading it, to build a network or plan.

    An image folder is assumed to be ImageNet.

    Raises
    ------
    ParameterError
        If a subset is larger than the data set.
    """
    if config.name in FOLDERS:
        # Plans are made before there is a folder to look into.
        side = config.image_size or IMAGENET.shape[1]
        train, test = config.train_size or IMAGENET.n_train, config.test_size or IMAGENET.n_test
        return Info((3, side, side), IMAGENET.classes, train, test, 0)
    spec = spec_of(config.name)
    sizes = []
    for what, size, all_of_it in (
        ("train_size", config.train_size, spec.n_train),
        ("test_size", config.test_size, spec.n_test),
    ):
        if size is not None and not 0 < size <= all_of_it:
            raise ParameterError(f"{what} of {config.name} is {size}; expected 1 to {all_of_it}.")
        sizes.append(size or all_of_it)
    return Info(spec.shape, spec.classes, sizes[0], sizes[1], sum(sizes) * spec.example_bytes)


def identity(config: DataConfig, dataset: Dataset | None) -> dict[str, Any]:
    """Return what identifies a data set in the keys of results, as plain JSON data.

    For an image folder this includes its content, wherever it is, and the size of its images; these
    are None if it isn't here.
    """
    found: dict[str, Any] = {
        "name": config.name,
        "train_size": config.train_size,
        "test_size": config.test_size,
    }
    if config.name in FOLDERS:
        # The listing's hash, not the path, as the folder may be elsewhere on another machine.
        found["content"] = dataset.content if dataset else None
        # Only for image folders, since one more name would change the keys of all other data sets.
        found["image_size"] = found["resize_size"] = None
        if dataset is not None and isinstance(dataset.train.inputs, ImageFiles):
            found["image_size"] = dataset.train.inputs.image_size
            found["resize_size"] = dataset.train.inputs.resize_size
    return found
