"""Progress of a stage that is being computed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lotperm.config.canonical import canonical_json
from lotperm.errors import IntegrityError
from lotperm.store.files import (
    JSON,
    MALFORMED,
    MAX_HEADER_BYTES,
    load_tensors,
    move_aside,
    require_equal,
    save_tensors,
    storage_errors,
)


class Workspace:
    """Progress of a stage that is being computed: its last two good checkpoints.

    Parameters
    ----------
    path : Path
        The folder of this stage's progress.
    key : str
        The stage's key; a checkpoint of another key is never used.
    maker : Mapping[str, JSON] | None, optional
        What computes it here: versions, sources (plain JSON); checkpoints hand it on.

    Attributes
    ----------
    earlier : list[JSON]
        Makers, other than `maker`, of what came before the checkpoint that was resumed from.
    """

    def __init__(self, path: Path, key: str, maker: Mapping[str, JSON] | None = None) -> None:
        self.path, self.key = path, key
        self.earlier: list[JSON] = []
        self._maker = dict(maker or {})
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent on this stage, those before the checkpoint that it resumed from included."""
        return time.monotonic() - self._started

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints' files, oldest first, unverified."""
        return _checkpoints(self.path)

    def next(self) -> Path:
        """Return the file that the next checkpoint goes to."""
        older = self.checkpoints()
        number = int(older[-1].stem.removeprefix("checkpoint-")) + 1 if older else 0
        return self.path / f"checkpoint-{number:08d}.safetensors"

    def checkpoint(self, tensors: Mapping[str, Tensor], info: JSON) -> None:
        """Save the state atomically. The one before is kept, older ones are deleted.

        Parameters
        ----------
        tensors : Mapping[str, Tensor]
            Name -> tensor, on any device.
        info : JSON
            Plain JSON: counters, random states as numbers.

        Raises
        ------
        StorageError
            If the disk is full or read-only; the older checkpoints are then untouched.
        """
        older = self.checkpoints()
        for path in self.path.glob(".*.tmp"):  # left by a killed process: the lock is ours
            path.unlink(missing_ok=True)
        notes = {
            "key": self.key,
            "info": canonical_json(info),
            "seconds": repr(self.seconds),
            "makers": canonical_json([*self.earlier, self._maker]),
        }
        save_tensors(self.next(), tensors, notes)
        # Two are kept, so that a damaged one costs minutes and not the whole stage.
        with storage_errors("tidy up", self.path):
            for path in older[:-1]:
                path.unlink(missing_ok=True)

    def latest(self) -> tuple[dict[str, Tensor], JSON] | None:
        """Load the newest good checkpoint as (tensors, info), or None; move corrupt ones aside."""
        for path in reversed(self.checkpoints()):
            try:
                tensors, notes = load_tensors(path, checked=True)
                require_equal(path, notes["key"], self.key)
            except IntegrityError as error:
                move_aside(path, f"{error} The checkpoint before it is used")
                continue
            # Work that was done after the checkpoint, and lost, isn't counted.
            self._started = time.monotonic() - float(notes["seconds"])
            self.earlier = [
                maker for maker in json.loads(notes.get("makers", "[]")) if maker != self._maker
            ]
            return tensors, json.loads(notes["info"])
        return None

    def peek(self) -> JSON | None:
        """Return what the newest checkpoint says of itself (its info): for reports, unverified."""
        with contextlib.suppress(*MALFORMED):
            return json.loads(read_notes(self.path)["info"])
        return None

    def clear(self) -> None:
        """Delete the checkpoints; files that were moved aside stay."""
        with contextlib.suppress(OSError):
            for path in (*self.checkpoints(), *self.path.glob(".*.tmp")):
                path.unlink(missing_ok=True)
            self.path.rmdir()


def read_notes(folder: Path) -> dict[str, str]:
    """Read the notes of the newest checkpoint in a folder whose header makes sense.

    Nothing is verified or changed: its owner may be at work.

    Returns
    -------
    dict[str, str]
        As `Workspace.checkpoint` wrote them: key, info, seconds, makers. Empty if there is none.
    """
    for path in reversed(_checkpoints(folder)):
        with contextlib.suppress(OSError, *MALFORMED), open(path, "rb") as file:
            length = min(int.from_bytes(file.read(8), "little"), MAX_HEADER_BYTES)
            return dict(json.loads(file.read(length))["__metadata__"])
    return {}


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.safetensors"))
