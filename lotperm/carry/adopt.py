"""Taking over what another machine computed: finished stages, and the progress of others.

What is in the store and whole is never replaced, a stage must be what its key says, and a stage
that a process computes here at this moment is left to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from lotperm.config.canonical import canonical_json
from lotperm.errors import IntegrityError
from lotperm.store.files import (
    JSON,
    MALFORMED,
    decode_tensors,
    move_aside,
    require_equal,
    storage_errors,
    sync_folder,
    write_atomic,
)
from lotperm.store.folders import LEFT_OUT, STAGE_JSON
from lotperm.store.stages import Stage, Store, identify

Outcome = Literal["added", "completed", "present", "busy"]

"""What became of a stage or a checkpoint: it is new here; the stage was here but lacked files;
nothing had to be done; a process computes the stage just now.
"""


def adopt_stage(store: Store, files: Iterable[tuple[str, bytes]]) -> Outcome:
    """Take over a finished stage.

    Parameters
    ----------
    store : Store
        Where to.
    files : Iterable[tuple[str, bytes]]
        Plain file names and contents: ``stage.json``, and those of the tensor files that came
        along. The others that ``stage.json`` names are noted as left out.

    Returns
    -------
    Outcome
        What became of it.

    Raises
    ------
    IntegrityError
        If a file isn't what ``stage.json`` says, or that isn't what its key says: nothing was
        taken over.
    """
    # In the store's file system, so that the last step is a rename.
    incoming = store.root / "stages" / f".incoming-{uuid.uuid4().hex}.tmp"
    came = set()
    try:
        for name, content in files:
            write_atomic(incoming / name, content)
            came.add(name)
        named = sorted(json.loads((incoming / STAGE_JSON).read_bytes())["files"])
        _note_left_out(incoming, [name for name in named if name not in came])
        return _take_over(store, incoming)
    except MALFORMED as error:
        raise IntegrityError(f"its stage.json is malformed: {error!r}") from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _take_over(store: Store, incoming: Path) -> Outcome:
    """Move a stage's folder, or the files of it that are lacking here, to where they belong."""
    # Verified before the lock is taken, for large stages take their time.
    name, key = identify(incoming)
    path, new = store.folder(name, key), Stage.read(incoming, key)
    assert new is not None
    with store.lock(name, key, wait=False) as mine, storage_errors("write", path):
        if not mine:
            return "busy"
        try:
            old = Stage.read(path, key)
        except IntegrityError as error:
            move_aside(path, f"{error} It is replaced")
            old = None
        if old is None:
            os.rename(incoming, path)
            sync_folder(path.parent)
            store.workspace(name, key).clear()
            return "added"
        # The same stage computed on two machines may differ in its last bits: they aren't mixed.
        same = (incoming / STAGE_JSON).read_bytes() == (path / STAGE_JSON).read_bytes()
        wanted = [file for file in new.files if file in old.left_out] if same else []
        for file in wanted:
            os.replace(incoming / file, path / file)
        _note_left_out(path, [file for file in old.left_out if file not in wanted])
        return "completed" if wanted else "present"


def _note_left_out(folder: Path, names: list[str]) -> None:
    if names:
        write_atomic(folder / LEFT_OUT, canonical_json(names).encode())
    else:
        (folder / LEFT_OUT).unlink(missing_ok=True)


def adopt_checkpoint(store: Store, name: str, key: str, data: bytes) -> Outcome:
    """Take over the progress of a stage that another machine began, if it is further than here.

    Parameters
    ----------
    store : Store
        Where to.
    name, key : str
        Of the stage.
    data : bytes
        A checkpoint file.

    Returns
    -------
    Outcome
        What became of it.

    Raises
    ------
    IntegrityError
        If it is corrupt or another stage's.
    """
    workspace = store.workspace(name, key)
    where = workspace.path / "checkpoint"
    try:
        notes = decode_tensors(data, where, checked=True)[1]
        require_equal(where, notes["key"], key)
        reached = _reached(json.loads(notes["info"]))
    except MALFORMED as error:
        raise IntegrityError(f"{where} is corrupt or not a checkpoint: {error!r}.") from error
    with store.lock(name, key, wait=False) as mine:
        if not mine:
            return "busy"
        # What is finished needs no checkpoint; what is finished but damaged does.
        with contextlib.suppress(IntegrityError):
            if Stage.read(store.folder(name, key), key) is not None:
                return "present"
        old = workspace.latest()
        if old is not None and _reached(old[1]) >= reached:
            return "present"
        write_atomic(workspace.next(), data)
        return "added"


def _reached(info: JSON) -> tuple[int, int]:
    """Read off a checkpoint's notes how far its training was: whole epochs, then steps."""
    return info["epoch"], sum(info["steps"])
