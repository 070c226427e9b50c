"""Adoption of stages that another machine computed: finished ones, and checkpoints of others.

An intact stage in the store is never replaced, a stage must match its key, and a stage that a
process is computing here is left to that process.
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
"""What adopting a stage or a checkpoint did.

"added": it is new here; "completed": the stage was here but lacked files; "present": nothing had to
be done; "busy": a process is computing the stage here, and nothing was done.
"""


def adopt_stage(store: Store, files: Iterable[tuple[str, bytes]]) -> Outcome:
    """Adopt a finished stage that another machine computed.

    Parameters
    ----------
    store : Store
        The store that gets it.
    files : Iterable[tuple[str, bytes]]
        Plain file names and contents: ``stage.json``, and the tensor files that came with it.
        Other files that ``stage.json`` names are noted as left out.

    Returns
    -------
    Outcome
        The outcome.

    Raises
    ------
    IntegrityError
        If a file doesn't match ``stage.json``, or ``stage.json`` doesn't match its key; nothing is
        adopted then.
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
    """Move a stage's folder, or only the files that the store lacks, into the store."""
    # Verified before the lock is taken, since verifying a large stage takes long.
    name, key = identify(incoming)
    path, new = store.folder(name, key), Stage.read(incoming, key)
    assert new is not None
    # Not waiting is safe: whoever holds the lock will finish the stage itself.
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
            # This process holds the lock, and a finished stage needs no checkpoints.
            store.workspace(name, key).clear()
            return "added"
        # The same stage computed on two machines may differ in its last bits: files of the two
        # aren't mixed.
        same = (incoming / STAGE_JSON).read_bytes() == (path / STAGE_JSON).read_bytes()
        wanted = [file for file in new.files if file in old.left_out] if same else []
        for file in wanted:
            os.replace(incoming / file, path / file)
        # After the files are in place: a list of missing files that still names one of them is
        # harmless (`_left_out`), a list that names too few isn't.
        _note_left_out(path, [file for file in old.left_out if file not in wanted])
        return "completed" if wanted else "present"


def _note_left_out(folder: Path, names: list[str]) -> None:
    if names:
        write_atomic(folder / LEFT_OUT, canonical_json(names).encode())
    else:
        (folder / LEFT_OUT).unlink(missing_ok=True)


def adopt_checkpoint(store: Store, name: str, key: str, data: bytes) -> Outcome:
    """Adopt another machine's checkpoint of a stage if it is further along than the one here.

    Parameters
    ----------
    store : Store
        The store that gets it.
    name, key : str
        Name and key of the stage.
    data : bytes
        Content of a checkpoint file.

    Returns
    -------
    Outcome
        The outcome.

    Raises
    ------
    IntegrityError
        If the checkpoint is corrupt or belongs to another stage.
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
        # A finished stage needs no checkpoint, unless it is damaged.
        with contextlib.suppress(IntegrityError):
            if Stage.read(store.folder(name, key), key) is not None:
                return "present"
        old = workspace.latest()
        # Of two checkpoints at the same step, ours stays.
        if old is not None and _reached(old[1]) >= reached:
            return "present"
        # Written as the newest checkpoint, which is the one that a run resumes from.
        write_atomic(workspace.next(), data)
        return "added"


def _reached(info: JSON) -> tuple[int, int]:
    """Return how far a checkpoint's training had come: whole epochs, then steps."""
    return info["epoch"], sum(info["steps"])
