"""The folder of a finished stage: complete or absent, and verified whenever it is read.

It holds tensor files and ``stage.json``: name and configuration of the stage, its small results,
sha256 and size of every other file, and a sha256 of itself. A folder that was carried here from
another machine may lack some tensor files; then ``left-out.json`` lists their names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lotperm.errors import IntegrityError, ParameterError, StorageError
from lotperm.store.files import (
    JSON,
    MALFORMED,
    encode_tensors,
    require_equal,
    seal,
    storage_errors,
    sync_folder,
    unseal,
    write_synced,
)

STAGE_JSON = "stage.json"
LEFT_OUT = "left-out.json"
TENSOR_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors")


def write_folder(
    path: Path, content: Mapping[str, JSON], tensors: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write the folder of a stage beside its place, and move it there by one rename.

    Parameters
    ----------
    path : Path
        The folder; the caller holds the stage's lock, and nothing is there.
    content : Mapping[str, JSON]
        Content of ``stage.json``, except for the list of files.
    tensors : Mapping[str, Mapping[str, Tensor]]
        File name without suffix -> name -> tensor.

    Raises
    ------
    ParameterError
        If a file's name isn't plain, or the content isn't plain JSON.
    StorageError
        If the disk is full or read-only; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with storage_errors("write", path):
            # The caller holds the lock, so a folder of that name was left by a killed process.
            shutil.rmtree(temporary, ignore_errors=True)
            # In the same folder, since a rename is atomic only within a file system. The dot keeps
            # it out of every listing.
            temporary.mkdir()
            files = {}
            for name, group in sorted(tensors.items()):
                file = f"{name}.safetensors"
                if not TENSOR_FILE.fullmatch(file):
                    raise ParameterError(
                        f"file name {name!r} of {content['stage']!r} must be "
                        "letters, digits, '_.-'."
                    )
                # The hash is of the bytes in memory, not of what could be read back: a disk that
                # spoils them is noticed when they are verified.
                data = encode_tensors(group, {})
                write_synced(temporary / file, data)
                files[file] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            # Last, as it names the hashes of the others.
            write_synced(temporary / STAGE_JSON, seal({**content, "files": files}))
            # Contents, then names, then the rename: a power cut leaves no folder that is half full.
            sync_folder(temporary)
            os.rename(temporary, path)
            sync_folder(path.parent)
    # On Ctrl-C as on a full disk, nothing unfinished is left behind to fill the disk.
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_folder(path: Path, key: str) -> tuple[dict[str, JSON], tuple[str, ...]] | None:
    """Verify every byte of a stage's folder, and return what its ``stage.json`` says.

    Parameters
    ----------
    path : Path
        The folder.
    key : str
        The key that the stage must have.

    Returns
    -------
    content : dict[str, JSON]
        Content of ``stage.json``, with only those ``files`` that are here.
    left_out : tuple[str, ...]
        Names of the files that were left out and aren't here.

    None if there is no such folder.

    Raises
    ------
    IntegrityError
        If a file is damaged or missing without being listed, or the stage has another key.
    StorageError
        If it can't be read.
    """
    if not path.exists():
        return None
    file = path / STAGE_JSON
    try:
        content = unseal(file.read_bytes(), file)
        # The folder's name has only the beginning of the key.
        require_equal(file, content["key"], key)
        left_out = _left_out(path)
        for name in left_out:
            content["files"].pop(name, None)
        for name, expected in content["files"].items():
            # In pieces: to verify a file, it needn't fit into memory.
            with open(path / name, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            require_equal(path / name, digest, expected["sha256"])
    # A missing file is damage; other errors of the system may be temporary, and say nothing about
    # the content.
    except (FileNotFoundError, NotADirectoryError, *MALFORMED) as error:
        # Another process may just have moved it aside.
        if not path.exists():
            return None
        raise IntegrityError(f"{file} is corrupt or incomplete: {error!r}.") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}.") from error
    return content, left_out


def _left_out(path: Path) -> tuple[str, ...]:
    """List the left-out files that a folder still lacks: some may have come later."""
    if not (path / LEFT_OUT).exists():
        return ()
    names = json.loads((path / LEFT_OUT).read_bytes())
    return tuple(name for name in names if not (path / name).exists())
