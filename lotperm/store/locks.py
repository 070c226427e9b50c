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

_ASK_AGAIN = 60  # seconds: while rank 0 waits, the other ranks' patience must not run out


@contextlib.contextmanager
def hold(root: Path, name: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of one stage of a store, on rank 0 for all ranks.

    The lock is the operating system's, on an open file, so it is free again when its owner dies.

    Parameters
    ----------
    root : Path
        Of the store. Its folders are made.
    name : str
        Of the stage's folder.
    wait : bool, optional
        Whether to wait for another process that holds it.

    Yields
    ------
    bool
        Whether it is held: False only if another process holds it and `wait` is False.

    Raises
    ------
    StorageError
        If the store can't be written: before anything is computed, not after hours of training.
    """
    lock = filelock.FileLock(root / "locks" / f"{name}.lock")

    def acquire(seconds: float) -> bool:
        with storage_errors("write to", root), contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=seconds)
        return lock.is_locked

    def begin() -> bool:
        _prepare(root, name)
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
    """Make the folders of a store, and make sure that finished stages can be written."""
    probe = root / "stages" / f".{name}.probe"
    with storage_errors("write to", root):
        for folder in ("stages", "work", "locks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        # Permissions don't tell: a file system can be full or mounted read-only.
        probe.touch()
        probe.unlink(missing_ok=True)
