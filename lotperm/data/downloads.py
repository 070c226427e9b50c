"""Downloads of the original files of data sets."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Download = Callable[[Path], Path]
"""Puts files into an empty folder; returns where to look for them."""

DEBIAN_DATASETS = Path("/usr/share/datasets")
"""The folder in which Debian's packages of data sets install their files."""


def torchvision(kind: str) -> Download:
    """Download the files that a class of `torchvision.datasets` names, checked by their md5."""

    def download(folder: Path) -> Path:
        # The files alone, not the classes' own loading: they are decoded and checked here.
        from torchvision import datasets
        from torchvision.datasets.utils import download_url

        for url, file, md5 in _files(getattr(datasets, kind)):
            download_url(url, str(folder), file, md5)
        return folder

    return download


def _files(kind: Any) -> list[tuple[str, str, str]]:
    """List address, name and md5 of the files of a torchvision class."""
    # The classes name their files in three ways: MNIST's relatives, SVHN, CIFAR.
    if hasattr(kind, "resources"):
        return [(kind.mirrors[0] + file, file, md5) for file, md5 in kind.resources]
    if hasattr(kind, "split_list"):
        return [tuple(kind.split_list[split]) for split in ("train", "test")]
    return [(kind.url, kind.filename, kind.tgz_md5)]


def command(*words: str) -> Download:
    """Run a program that puts its download into the current folder."""

    def download(folder: Path) -> Path:
        subprocess.run(list(words), cwd=folder, check=True, capture_output=True, timeout=3600)
        return folder

    return download


def debian(package: str, installed: str) -> Download:
    """Take the files of a Debian package where they are installed, else download the package."""
    get = command("apt-get", "download", package)

    def download(folder: Path) -> Path:
        # An installed package needs no network.
        place = DEBIAN_DATASETS / installed
        return place if place.is_dir() else get(folder)

    return download
