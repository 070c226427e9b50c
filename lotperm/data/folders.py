"""Find, list and check image folders."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lotperm.config.canonical import canonical_json
from lotperm.data.catalog import FOLDERS
from lotperm.data.dataset import class_by_class
from lotperm.data.images import SUFFIXES, ImageFiles
from lotperm.data.stored import data_folder, load_stored
from lotperm.errors import IntegrityError, LotpermError, StorageError

FOLDER_VARIABLE = "LOTPERM_IMAGEFOLDER"
"""The environment variable that names the user's own image folder."""

_log = logging.getLogger(__name__)

# Names that the folders of the splits may have; the first that exists is taken.
_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}

# Files that file managers and data sets leave among images; hidden files are skipped as well.
_LITTER = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "labels.txt",
    "classes.txt",
    "readme",
    "readme.md",
    "readme.txt",
    "license",
    "license.txt",
}
_NOTES = (".txt", ".csv", ".json", ".md", ".xml", ".yaml", ".yml")


@dataclass(frozen=True, eq=False)
class Folder:
    """The listing of an image folder.

    Attributes
    ----------
    root : Path
        Its absolute path, with links resolved.
    train, val : tuple[np.ndarray[Any, Any], Tensor]
        (N,) bytes ``<class>/<file>``, including folders within the class, and int64 (N,) targets,
        in a fixed order in which the classes take turns. So the first n are a balanced subset, and
        part of any larger one.
    classes : tuple[str, ...]
        The names of the classes, sorted; a target is an index into them.
    content : str
        The sha256 of the split, class, name and size of every file; it doesn't depend on where the
        folder is.
    folders : dict
        Split, ``"train"`` or ``"val"`` -> the folder of its classes.
    """

    root: Path
    train: tuple[np.ndarray[Any, Any], Tensor]
    val: tuple[np.ndarray[Any, Any], Tensor]
    classes: tuple[str, ...]
    content: str
    folders: dict[str, Path]


def list_folder(root: Path) -> Folder:
    """List the images of a folder and check its structure, without opening any image.

    Folders within a class belong to it. Hidden files, litter of file managers (``Thumbs.db``), and
    labels and notes (``.txt``, ``.csv``) among classes or images are skipped. Links are followed as
    long as they stay within the folder. The split ``val`` may also be called ``valid``,
    ``validation`` or ``test``, and ``train`` may be called ``training``.

    Raises
    ------
    StorageError
        If the folder or one of its splits isn't there or can't be read.
    IntegrityError
        If a class has no image or is missing in one split, or if a file doesn't have the suffix of
        an image, is empty, or is a link that leaves the folder.
    """
    try:
        # Links in the root's own path are resolved here, so that the targets of links within it can
        # be compared with it.
        root = root.resolve(strict=True)
        folders = {split: _split_folder(root, split) for split in _SPLITS}
        splits = {split: _list_split(root, folder) for split, folder in folders.items()}
    except OSError as error:
        raise StorageError(
            f"cannot list {error.filename or root}: {error.strerror or error}. "
            f"Expected {root}/train/<class>/*.jpg and {root}/val/<class>/*.jpg."
        ) from error
    classes = {split: sorted(found) for split, found in splits.items()}
    odd = sorted(set(classes["train"]) ^ set(classes["val"]))
    if odd:
        where = "train" if odd[0] in splits["train"] else "val"
        raise IntegrityError(
            f"{root}: train has {len(classes['train'])} classes and val {len(classes['val'])}, "
            f"expected the same ones: {odd[0]!r} is only in {where}."
        )
    digest = hashlib.sha256()
    listed = []
    for split in ("train", "val"):
        names, targets = [], []
        for target, name in enumerate(classes[split]):
            for file, size in splits[split][name]:
                # Names and sizes instead of contents, as ImageNet's files take long to read. As
                # JSON, so that different listings never give the same bytes.
                digest.update(canonical_json([split, name, file, size]).encode())
                # Names of files needn't be valid UTF-8.
                names.append(os.fsencode(f"{name}/{file}"))
                targets.append(target)
        array, labels = np.array(names, dtype=np.bytes_), torch.tensor(targets)
        # After the hash, which depends on the sorted listing.
        order = class_by_class(labels)
        listed.append((array[order.numpy()], labels[order]))
    return Folder(root, listed[0], listed[1], tuple(classes["train"]), digest.hexdigest(), folders)


def _split_folder(root: Path, split: str) -> Path:
    """Return the folder of a split, by the first of its possible names that exists."""
    names = _SPLITS[split]
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def _list_split(root: Path, folder: Path) -> dict[str, list[tuple[str, int]]]:
    """List the files of each class with their sizes in bytes, sorted by name."""
    found: dict[str, list[tuple[str, int]]] = {}
    for entry in _entries(folder, root):
        if entry.is_file() and entry.name.lower().endswith(_NOTES):
            continue
        if not entry.is_dir():
            raise IntegrityError(f"{entry.path} is not a folder; expected one for each class.")
        files = list(_images(Path(entry.path), root))
        if not files:
            raise IntegrityError(f"{entry.path} holds no image. Add some or remove it.")
        found[entry.name] = files
    if not found:
        raise IntegrityError(f"{folder} holds no class folder.")
    return found


def _images(folder: Path, root: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[str, int]]:
    """Yield the images of a class and of folders within it, with their sizes in bytes."""
    above = (*above, folder.resolve())
    for file in _entries(folder, root):
        if file.is_dir():
            if Path(file.path).resolve() in above:
                raise IntegrityError(f"{file.path} is a link to a folder that it lies in.")
            inner = _images(Path(file.path), root, above)
            yield from ((f"{file.name}/{name}", size) for name, size in inner)
        elif file.is_file() and file.name.lower().endswith(SUFFIXES):
            size = file.stat().st_size
            if size == 0:
                raise IntegrityError(f"{file.path} is empty. Replace or remove it.")
            yield file.name, size
        elif not file.name.lower().endswith(_NOTES):
            raise IntegrityError(
                f"{file.path} isn't an image file; expected {', '.join(SUFFIXES)}."
            )


def _entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    """List a folder by name, without hidden files and litter; reject links that leave the root."""
    with os.scandir(folder) as entries:
        # File systems list directories in their own order, but ranks and machines must agree.
        found = sorted(
            (e for e in entries if e.name[0] != "." and e.name.lower() not in _LITTER),
            key=lambda e: e.name,
        )
    for entry in found:
        # A downloaded folder must not make this program read files elsewhere on the machine.
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            raise IntegrityError(
                f"{entry.path} is a link that leaves {root}. Put what it points to in its place."
            )
    return found


def check_image_folder(path: Path) -> Folder:
    """List a folder and decode every image in it; see `list_folder` and `check_images`."""
    folder = list_folder(path)
    for split, (names, _) in (("train", folder.train), ("val", folder.val)):
        check_images(ImageFiles(folder.folders[split], names))
    return folder


def check_images(images: ImageFiles) -> None:
    """Decode every image once.

    Raises
    ------
    IntegrityError
        If some images can't be decoded; the message says how many, and names the first.
    """

    # Errors are collected so that the message can count them.
    def damage(row: int) -> LotpermError | None:
        try:
            images.open(row)
        except LotpermError as error:
            return error
        return None

    # Threads are enough, since decoding releases Python's lock.
    with ThreadPoolExecutor() as pool:
        bad = [
            error
            for error in pool.map(damage, range(len(images)), chunksize=64)
            if error is not None
        ]
    if bad:
        more = f" {len(bad) - 1} more can't be read either." if len(bad) > 1 else ""
        raise IntegrityError(f"{bad[0]}{more}")


def folder_pointer(home: Path | None) -> Path:
    """Return the file that says where the user's own image folder is, once it has been fetched."""
    return data_folder(home) / "imagefolder.json"


def is_present(name: str, home: Path | None) -> bool:
    """Return whether an image folder is known or has been written."""
    if FOLDERS[name].own:
        return bool(os.environ.get(FOLDER_VARIABLE)) or folder_pointer(home).exists()
    return (data_folder(home) / name).exists()


def find_folder(name: str, home: Path | None) -> Path:
    """Return the path of an image folder, writing a small one first if it isn't there.

    Parameters
    ----------
    name : str
        Name in `lotperm.data.catalog.FOLDERS`.
    home : Path | None
        As in `lotperm.data.datasets.load`.

    Raises
    ------
    StorageError
        If no folder is known, or it can't be written.
    IntegrityError
        If the file that points to it is damaged.
    """
    if FOLDERS[name].own:
        return _own_folder(home)
    path = data_folder(home) / name
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(path.with_name(f".{name}.lock")):
                # Checked again under the lock, as another process may have written it meanwhile.
                if not path.exists():
                    _write_folder(name, path, home)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}.") from error
    return path


def _own_folder(home: Path | None) -> Path:
    """Return the folder that the environment variable names, else the one that was fetched."""
    own, pointer = os.environ.get(FOLDER_VARIABLE), folder_pointer(home)
    if own:
        return Path(own)
    try:
        return Path(json.loads(pointer.read_text())["path"])
    except FileNotFoundError:
        raise StorageError(
            "no image folder is known. Name one, with train/<class>/*.jpg and val/<class>/*.jpg in "
            f"it, in {FOLDER_VARIABLE}, or check it once and keep its place: "
            "lotperm data fetch imagefolder --source PATH"
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise IntegrityError(
            f"{pointer} is damaged ({error}). Write it anew: "
            "lotperm data fetch imagefolder --source PATH"
        ) from error


def _write_folder(name: str, path: Path, home: Path | None) -> None:
    """Write a small image folder next to its final path, then rename it."""
    spec, work = FOLDERS[name], path.with_name(f".make-{name}")
    # Left by a process that was killed.
    shutil.rmtree(work, ignore_errors=True)
    _log.info("writing the images of %s to %s", name, path)
    if spec.write is not None:
        spec.write(work)
    elif spec.copy_of is not None:
        raw = load_stored(spec.copy_of, home)
        for split, of in (("train", "train"), ("val", "test")):
            write_png(work / split, raw[f"{of}.inputs"], raw[f"{of}.targets"])
    # Until now its name began with a dot, so a half-written folder is never taken for a whole one.
    os.replace(work, path)


def write_png(folder: Path, pixels: Tensor, targets: Tensor) -> None:
    """Write images as PNG files, ``<folder>/<target>/<number>.png``.

    Parameters
    ----------
    folder : Path
        Folder of the split.
    pixels : Tensor of uint8, shape (N, 3, H, W)
        The images.
    targets : Tensor of int64, shape (N,)
        Their classes.
    """
    for target in targets.unique().tolist():
        (folder / str(target)).mkdir(parents=True, exist_ok=True)
    for number, (image, target) in enumerate(zip(pixels, targets.tolist(), strict=True)):
        file = folder / str(target) / f"{number:05}.png"
        # PNG is lossless at every level, and the lowest is fast.
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, compress_level=1)
