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
        The folder of this stage's checkpoints.
    key : str
        The stage's key; a checkpoint of another key is never used.
    maker : Mapping[str, JSON] | None, optional
        Versions and sources that compute it here (plain JSON); checkpoints hand them on.

    Attributes
    ----------
    earlier : list[JSON]
        Makers other than `maker` that computed the stage up to the checkpoint it resumed from.
    """

    def __init__(self, path: Path, key: str, maker: Mapping[str, JSON] | None = None) -> None:
        self.path, self.key = path, key
        self.earlier: list[JSON] = []
        self._maker = dict(maker or {})
        # `latest` moves it back by the time that was spent up to the checkpoint.
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent on this stage, including those before the checkpoint it resumed from."""
        return time.monotonic() - self._started

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints' files, oldest first, unverified."""
        return _checkpoints(self.path)

    def next(self) -> Path:
        """Return the file for the next checkpoint."""
        older = self.checkpoints()
        # Numbers only increase: a new checkpoint never has the name of one that is still there.
        number = int(older[-1].stem.removeprefix("checkpoint-")) + 1 if older else 0
        return self.path / f"checkpoint-{number:08d}.safetensors"

    def checkpoint(self, tensors: Mapping[str, Tensor], info: JSON) -> None:
        """Save the state atomically; keep the one before and delete older ones.

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
        # Left by a killed process: this one holds the lock, so nobody is writing them.
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        notes = {
            "key": self.key,
            # A safetensors file's metadata can only be text.
            "info": canonical_json(info),
            "seconds": repr(self.seconds),
            "makers": canonical_json([*self.earlier, self._maker]),
        }
        # The new one is complete on the disk before an old one is deleted.
        save_tensors(self.next(), tensors, notes)
        # Two are kept, so that a damaged one costs minutes and not the whole stage.
        with storage_errors("tidy up", self.path):
            for path in older[:-1]:
                path.unlink(missing_ok=True)

    def latest(self) -> tuple[dict[str, Tensor], JSON] | None:
        """Return tensors and info of the newest intact checkpoint, or None; move bad ones aside."""
        for path in reversed(self.checkpoints()):
            try:
                tensors, notes = load_tensors(path, checked=True)
                require_equal(path, notes["key"], self.key)
            except IntegrityError as error:
                move_aside(path, f"{error} The checkpoint before it is used")
                continue
            # Work that was done after the checkpoint, and lost, isn't counted.
            self._started = time.monotonic() - float(notes["seconds"])
            # Notes of older versions have no makers. The present maker is noted in any case.
            self.earlier = [
                maker for maker in json.loads(notes.get("makers", "[]")) if maker != self._maker
            ]
            return tensors, json.loads(notes["info"])
        return None

    def peek(self) -> JSON | None:
        """Return the info of the newest checkpoint, unverified, for reports."""
        with contextlib.suppress(*MALFORMED):
            return json.loads(read_notes(self.path)["info"])
        return None

    def clear(self) -> None:
        """Delete the checkpoints; files that were moved aside stay."""
        # The stage is finished by now: checkpoints left behind only cost space.
        with contextlib.suppress(OSError):
            for path in (*self.checkpoints(), *self.path.glob(".*.tmp")):
                path.unlink(missing_ok=True)
            self.path.rmdir()


def read_notes(folder: Path) -> dict[str, str]:
    """Read the notes of the newest checkpoint whose header makes sense.

    Nothing is verified or changed: its owner may be at work.

    Returns
    -------
    dict[str, str]
        As `Workspace.checkpoint` wrote them: key, info, seconds, makers. Empty if there are none.
    """
    for path in reversed(_checkpoints(folder)):
        with contextlib.suppress(OSError, *MALFORMED), open(path, "rb") as file:
            # Only the header is read: the tensors may be gigabytes.
            length = min(int.from_bytes(file.read(8), "little"), MAX_HEADER_BYTES)
            return dict(json.loads(file.read(length))["__metadata__"])
    return {}


def _checkpoints(folder: Path) -> list[Path]:
    # The numbers have leading zeros, so names sort as they do.
    return sorted(folder.glob("checkpoint-*.safetensors"))
