"""Image folders: what is in them, and whether it can be read."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lotperm.config.canonical import canonical_json
from lotperm.data.images import SUFFIXES, ImageFiles
from lotperm.errors import IntegrityError, LotpermError, StorageError


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder as it was listed.

    Attributes
    ----------
    root : Path
        Its absolute path, links followed.
    train, val : tuple[np.ndarray[Any, Any], Tensor]
        (N,) bytes ``<class>/<file>``, and int64 (N,) targets. In a fixed order in which the
        classes take turns, so that the first n are a balanced subset, and a part of any larger
        one.
    classes : tuple[str, ...]
        Their names, sorted; a target is a position here.
    content : str
        sha256 over every file's split, name and size, and so over the classes; not over where the
        folder lies.
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
        If a class has no image or is missing in one split, if there is a file that is no image by
        its name, is empty, or a link that leaves the folder.
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
                raise IntegrityError(
                    f"{file.path} is no image file; expected {', '.join(SUFFIXES)}."
                )
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
        bad = [
            error
            for error in pool.map(damage, range(len(images)), chunksize=64)
            if error is not None
        ]
    if bad:
        more = f" {len(bad) - 1} more can't be read either." if len(bad) > 1 else ""
        raise IntegrityError(f"{bad[0]}{more}")
