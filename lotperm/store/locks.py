"""The lock of a stage: whoever holds it computes the stage and writes its folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import filelock

from lotperm.parallel import distributed
from lotperm.store.files import storage_errors

_log = logging.getLogger(__name__)

# Seconds. While rank 0 waits, the other ranks must hear from it before they give up.
_ASK_AGAIN = 60


@contextlib.contextmanager
def hold(root: Path, name: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of one stage of a store, on rank 0 for all ranks.

    It is a lock of the operating system on an open file, so it is free again when its owner dies.

    Parameters
    ----------
    root : Path
        Folder of the store; its subfolders are made.
    name : str
        Name of the stage's folder.
    wait : bool, optional
        True: wait for another process that holds it.

    Yields
    ------
    bool
        True if it is held; False only if another process holds it and `wait` is False.

    Raises
    ------
    StorageError
        If the store can't be written. It is raised at once, not after hours of training.
    """
    lock = filelock.FileLock(root / "locks" / f"{name}.lock")

    def acquire(seconds: float) -> bool:
        with storage_errors("write to", root), contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=seconds)
        return lock.is_locked

    def begin() -> bool:
        _prepare(root, name)
        # First tried without waiting, so that the log can say what this process waits for.
        free = acquire(0)
        if not free and wait:
            _log.info("waiting for another process that computes %s", name)
        return free

    held = distributed.once(begin)
    while wait and not held:
        held = distributed.once(lambda: acquire(_ASK_AGAIN))
    try:
        yield held
    finally:
        lock.release()


def _prepare(root: Path, name: str) -> None:
    """Make the folders of a store, and check that finished stages can be written."""
    probe = root / "stages" / f".{name}.probe"
    with storage_errors("write to", root):
        for folder in ("stages", "work", "locks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        # Permissions say too little: a file system can be full or mounted read-only.
        probe.touch()
        probe.unlink(missing_ok=True)
