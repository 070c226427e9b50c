"""Downloads of the original files of data sets."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Download = Callable[[Path], Path]
"""Puts files into an empty folder, and returns where to look for them."""

DEBIAN_DATASETS = Path("/usr/share/datasets")
"""The folder in which Debian's packages of data sets install their files."""


def torchvision(kind: str) -> Download:
    """Make a `Download` of the files that a torchvision data set names, checked by their md5."""

    def download(folder: Path) -> Path:
        # Only the files, which aren't loaded by the classes, but decoded and checked here.
        from torchvision import datasets
        from torchvision.datasets.utils import download_url

        for url, file, md5 in _files(getattr(datasets, kind)):
            download_url(url, str(folder), file, md5)
        return folder

    return download


def _files(kind: Any) -> list[tuple[str, str, str]]:
    """List the address, name and md5 of each file of a torchvision class."""
    # The classes name their files in three ways: those like MNIST, SVHN, and CIFAR.
    if hasattr(kind, "resources"):
        return [(kind.mirrors[0] + file, file, md5) for file, md5 in kind.resources]
    if hasattr(kind, "split_list"):
        return [tuple(kind.split_list[split]) for split in ("train", "test")]
    return [(kind.url, kind.filename, kind.tgz_md5)]


def command(*words: str) -> Download:
    """Make a `Download` by a program that puts files into the current folder."""

    def download(folder: Path) -> Path:
        subprocess.run(list(words), cwd=folder, check=True, capture_output=True, timeout=3600)
        return folder

    return download


def debian(package: str, installed: str) -> Download:
    """Make a `Download` of a Debian package, which uses its installed files if there are any."""
    get = command("apt-get", "download", package)

    def download(folder: Path) -> Path:
        # An installed package needs no network.
        place = DEBIAN_DATASETS / installed
        return place if place.is_dir() else get(folder)

    return download
