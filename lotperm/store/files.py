"""Files that are complete or absent, and whose bytes are checked before they are used."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lotperm.config.canonical import SCHEMA, sha256_json
from lotperm.errors import IntegrityError, StorageError, shown

_log = logging.getLogger(__name__)

JSON = Any
"""None, bool, int, finite float, str, and lists and string-keyed dicts of these."""

MALFORMED = (
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    # From JSON that is nested too deeply.
    RecursionError,
    safetensors.SafetensorError,
)
"""Errors raised when malformed bytes are parsed, or when the outcome is taken apart."""

MAX_HEADER_BYTES = 100_000_000
"""The longest header that is read; nothing of a longer one is read or allocated."""

PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin")
# Takes the place of a file's own sha256 while that is computed.
_BLANK = b"0" * 64


def home() -> Path:
    """Return the folder of all results: ``$LOTPERM_HOME``, else ``.lotperm`` in this folder."""
    return Path(os.environ.get("LOTPERM_HOME") or ".lotperm")


@contextlib.contextmanager
def storage_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a `StorageError`: "cannot `action` `path`: …"."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot {action} {path}: {error.strerror or error}. "
            "Nothing that was finished is lost: make room or "
            "choose a writable folder (LOTPERM_HOME), then run again."
        ) from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a file in place, and wait until it is on the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        view = memoryview(data)
        # A system call may write less than it was given, for example just before a disk is full.
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk; otherwise a rename can be lost."""
    # A folder can be synced through a descriptor that only reads.
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds its old content or all of the new one, at every instant.

    Missing parent folders are made.

    Raises
    ------
    StorageError
        If the disk is full or read-only; the old content is then untouched.
    """
    if not path.name:
        raise StorageError(f"cannot write {path}: Is a directory. Give the name of a file.")
    # A unique name, since two processes may write the same file at once; in the same folder, since
    # a rename is atomic only within a file system.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with storage_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(temporary, data)
            os.replace(temporary, path)
        except BaseException:
            # Also on Ctrl-C. If even the clean-up fails, the first error is the one to report.
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        # A power cut could undo the rename otherwise.
        sync_folder(path.parent)


def move_aside(path: Path, reason: str) -> Path:
    """Rename a bad file or folder, so that it can be looked at, and log a warning.

    Parameters
    ----------
    path : Path
        The bad file or folder.
    reason : str
        What is wrong, and what happens now, for the log.

    Returns
    -------
    Path
        The new, unique name, ``*.corrupt``.
    """
    # Unique, so that earlier finds aren't overwritten; nothing reads `*.corrupt`.
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.corrupt")
    with storage_errors("move aside", path):
        os.rename(path, aside)
    _log.warning("%s (moved aside to %s)", reason, aside.name)
    return aside


def read_bytes(path: Path) -> bytes:
    """Read all bytes of a safetensors file once; refuse pickles and absurd headers before that.

    Raises
    ------
    IntegrityError
        If it can't be a safetensors file.
    StorageError
        If it can't be read.
    """
    try:
        with open(path, "rb") as file:
            # The header's length, 8 bytes, and its first letter.
            start, size = file.read(9), os.fstat(file.fileno()).st_size
            length = int.from_bytes(start[:8], "little")
            if start[8:] == b"{" and length <= min(size - 8, MAX_HEADER_BYTES):
                return start + file.read()
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror or error}. Check the path."
        ) from error
    # Pickles begin with the opcode PROTO; those of PyTorch are in a zip archive.
    if path.suffix in PICKLES or start[:1] == b"\x80" or start[:2] == b"PK":
        raise IntegrityError(
            f"{path} looks like a pickle, which can run code when it is loaded: it was not opened. "
            f"Convert it: lotperm convert {path} {path.with_suffix('.safetensors').name}"
        )
    raise IntegrityError(
        f"{path} is corrupt or not a safetensors file: "
        f"its header claims {length} bytes, the file has {size} and "
        f"at most {MAX_HEADER_BYTES} are allowed. Fetch or compute it again."
    )


def encode_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Serialize tensors as safetensors with a checksum of the file in its metadata.

    Parameters
    ----------
    tensors : Mapping[str, Tensor]
        Name -> tensor, on any device, with any strides.
    metadata : Mapping[str, str]
        Text notes.

    Returns
    -------
    bytes
        Equal for equal input. The checksum is the sha256 of the file with 64 zeros in its place.
    """
    # The library refuses views, and tensors that share memory.
    copies = {
        n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()
    }
    plain = safetensors.torch.save(copies)
    end = 8 + int.from_bytes(plain[:8], "little")
    # The library writes metadata in random order; a rerun must give the same bytes.
    notes = {"sha256": _BLANK.decode(), "lotperm": str(SCHEMA), **dict(sorted(metadata.items()))}
    header = json.dumps(
        {"__metadata__": notes, **json.loads(plain[8:end])}, separators=(",", ":")
    ).encode()
    # The format wants the data to begin at a multiple of 8.
    header += b" " * (-len(header) % 8)
    blank = b"".join((len(header).to_bytes(8, "little"), header, memoryview(plain)[end:]))
    # The first run of zeros is the right one, as it begins the notes, which begin the header.
    return blank.replace(_BLANK, hashlib.sha256(blank).hexdigest().encode(), 1)


def _no_name_twice(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    """Refuse a header that has a name twice: readers differ in which of the two they take."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name occurs twice in the header")
    return dict(pairs)


def decode_tensors(
    data: bytes, path: Path, *, checked: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors in the bytes of a safetensors file and verify its checksum.

    Parameters
    ----------
    data : bytes
        All bytes of the file.
    path : Path
        The file that they come from, for the error.
    checked : bool
        True: a checksum must be there. If there is one, it must match in any case.

    Returns
    -------
    tensors : dict[str, Tensor]
        On the CPU, in alphabetical order.
    metadata : dict[str, str]
        Without the checksum.

    Raises
    ------
    IntegrityError
        If the bytes are corrupt.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        # Parsed here as well as by the library, to refuse a name that occurs twice.
        metadata = json.loads(data[8:end], object_pairs_hook=_no_name_twice).get("__metadata__", {})
        # Two marks, so that no single flipped bit turns a checked file into one without a
        # checksum.
        if checked or "sha256" in metadata or "lotperm" in metadata:
            claimed = metadata["sha256"]
            # The checksum covers the file with zeros in the place of the checksum itself.
            digest = hashlib.sha256(data[:end].replace(claimed.encode(), _BLANK, 1))
            digest.update(memoryview(data)[end:])
            if digest.hexdigest() != claimed:
                raise IntegrityError(
                    f"{path} is corrupt: sha256 {digest.hexdigest()}, expected {claimed}."
                )
        # From memory, not from the path: these bytes are the ones that were verified.
        loaded = safetensors.torch.load(data)
    except MALFORMED as error:
        raise IntegrityError(f"{path} is corrupt or not a safetensors file: {error!r}.") from error
    # safetensors returns them in an order that varies from process to process.
    tensors = {name: loaded[name] for name in sorted(loaded)}
    return tensors, {
        name: text for name, text in metadata.items() if name not in ("sha256", "lotperm")
    }


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors atomically, as safetensors with a checksum in the metadata.

    Parameters
    ----------
    path : Path
        The file to write, usually ``*.safetensors``.
    tensors : Mapping[str, Tensor]
        Name -> tensor, on any device, with any strides; bool, integers, float16/32/64, bfloat16.
    metadata : Mapping[str, str] | None, optional
        Text notes; the names ``sha256`` and ``lotperm`` are reserved.

    Raises
    ------
    StorageError
        If the disk is full or read-only; an older file at `path` is then untouched.
    """
    write_atomic(path, encode_tensors(tensors, metadata or {}))


def load_tensors(path: Path, *, checked: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file into CPU tensors.

    Parameters
    ----------
    path : Path
        The file.
    checked : bool, optional
        True: a checksum must be there. If there is one, it must match in any case.

    Returns
    -------
    tensors : dict[str, Tensor]
        In alphabetical order.
    metadata : dict[str, str]
        The text notes.

    Raises
    ------
    IntegrityError
        If the file is corrupt, is a pickle, or has an absurd header.
    StorageError
        If it can't be read.
    """
    return decode_tensors(read_bytes(path), path, checked=checked)


def seal(content: Mapping[str, JSON]) -> bytes:
    """Serialize content as JSON together with the sha256 of its canonical form.

    Parameters
    ----------
    content : Mapping[str, JSON]
        Without the key ``sha256``.

    Returns
    -------
    bytes
        Equal for equal content.

    Raises
    ------
    ParameterError
        If it holds NaN, an infinity or anything that isn't plain JSON data.
    """
    # Over the canonical form, so that the checksum doesn't depend on how the file is laid out.
    sealed = {"sha256": sha256_json(dict(content)), **content}
    return (json.dumps(sealed, sort_keys=True, indent=1) + "\n").encode()


def unseal(data: bytes, path: Path) -> dict[str, JSON]:
    """Verify bytes that `seal` made, and return their content.

    Parameters
    ----------
    data : bytes
        All bytes of the file.
    path : Path
        The file that they come from, for the error.

    Returns
    -------
    dict[str, JSON]
        The content, without the checksum.

    Raises
    ------
    IntegrityError
        If they aren't what `seal` wrote, to the last byte.
    """
    try:
        content = json.loads(data)
        claimed = content.pop("sha256")
        require_equal(path, sha256_json(content), claimed)
        # Byte for byte, so that not even a space can differ.
        require_equal(
            path, hashlib.sha256(data).hexdigest(), hashlib.sha256(seal(content)).hexdigest()
        )
    except MALFORMED as error:
        raise IntegrityError(
            f"{path} is corrupt, or was written without a checksum: {shown(error)}."
        ) from error
    return dict(content)


def require_equal(path: Path, got: str, expected: str) -> None:
    """Raise an `IntegrityError` about a file if a checksum or a key isn't what was expected."""
    if got != expected:
        raise IntegrityError(f"{path} is corrupt: sha256 or key {got}, expected {expected}.")
