"""The folder of a finished stage: whole or not there, and verified whenever it is read.

It holds ``stage.json`` (what the stage is, its small results, the sha256 and size of every other
file, and a sha256 of itself) and tensor files. A folder that was carried here from another machine
may lack some of these; then ``left-out.json`` lists their names.
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
    """Write a stage beside its place, and move it there by one rename.

    Parameters
    ----------
    path : Path
        The folder; the caller holds the stage's lock, and nothing is there.
    content : Mapping[str, JSON]
        Of ``stage.json``, except for the list of files.
    tensors : Mapping[str, Mapping[str, Tensor]]
        File name without suffix -> name -> tensor.

    Raises
    ------
    ParameterError
        If a file's name isn't plain, or the content not plain JSON.
    StorageError
        If the disk is full or read-only; nothing is left then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with storage_errors("write", path):
            # The lock is ours: a folder of that name is what a killed process left.
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            files = {}
            for name, group in sorted(tensors.items()):
                file = f"{name}.safetensors"
                if not TENSOR_FILE.fullmatch(file):
                    raise ParameterError(
                        f"file name {name!r} of {content['stage']!r} must be letters, digits, '_.-'."
                    )
                data = encode_tensors(group, {})
                write_synced(temporary / file, data)
                files[file] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            write_synced(temporary / STAGE_JSON, seal({**content, "files": files}))
            # Contents, then names, then the rename: a power cut leaves no folder that is half full.
            sync_folder(temporary)
            os.rename(temporary, path)
            sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_folder(path: Path, key: str) -> tuple[dict[str, JSON], tuple[str, ...]] | None:
    """Verify every byte of a stage's folder, and read what its ``stage.json`` says.

    Parameters
    ----------
    path : Path
        The folder.
    key : str
        That the stage must have.

    Returns
    -------
    content : dict[str, JSON]
        Of ``stage.json``; under ``files`` only those that are here.
    left_out : tuple[str, ...]
        Names of the files that are rightly not here.

    None if there is no such folder.

    Raises
    ------
    IntegrityError
        If a file is damaged, missing without being listed, or the stage is another one.
    StorageError
        If it can't be read.
    """
    if not path.exists():
        return None
    file = path / STAGE_JSON
    try:
        content = unseal(file.read_bytes(), file)
        require_equal(file, content["key"], key)
        left_out = _left_out(path)
        for name in left_out:
            content["files"].pop(name, None)
        for name, expected in content["files"].items():
            # In pieces: to verify a file, it needn't fit into memory.
            with open(path / name, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            require_equal(path / name, digest, expected["sha256"])
    except (FileNotFoundError, NotADirectoryError, *MALFORMED) as error:
        if not path.exists():  # another process has just moved it aside
            return None
        raise IntegrityError(f"{file} is corrupt or incomplete: {error!r}.") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}.") from error
    return content, left_out


def _left_out(path: Path) -> tuple[str, ...]:
    """List the files that a folder may lack and does: some may have come since the list was made."""
    if not (path / LEFT_OUT).exists():
        return ()
    names = json.loads((path / LEFT_OUT).read_bytes())
    return tuple(name for name in names if not (path / name).exists())
