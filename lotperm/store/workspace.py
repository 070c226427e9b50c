"""Progress of a stage that is being computed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lotperm.config.canonical import canonical_json
from lotperm.errors import IntegrityError, StorageError
from lotperm.store.files import (
    JSON,
    MALFORMED,
    MAX_HEADER_BYTES,
    decode_tensors,
    load_tensors,
    move_aside,
    read_bytes,
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
        self.path = path
        self.earlier: list[JSON] = []
        self._key, self._maker = key, dict(maker or {})
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent on this stage, those before the checkpoint that it resumed from
        included.
        """
        return time.monotonic() - self._started

    def _checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("checkpoint-*.safetensors"))

    def checkpoint(self, tensors: Mapping[str, Tensor], info: JSON) -> None:
        """Save the state atomically. The one before is kept, older ones are deleted.

        Parameters
        ----------
        tensors : Mapping[str, Tensor]
            Name -> tensor, on any device.
        info : JSON
            Plain JSON: counters, random states as numbers.
        """
        older = self._checkpoints()
        for path in self.path.glob(".*.tmp"):  # left by a killed process: the lock is ours
            path.unlink(missing_ok=True)
        makers = canonical_json([*self.earlier, self._maker])
        notes = {
            "key": self._key,
            "info": canonical_json(info),
            "seconds": repr(self.seconds),
            "makers": makers,
        }
        save_tensors(self.next(), tensors, notes)
        with storage_errors("tidy up", self.path):
            for path in older[:-1]:
                path.unlink(missing_ok=True)

    def next(self) -> Path:
        """The file of the next checkpoint."""
        older = self._checkpoints()
        number = int(older[-1].stem.removeprefix("checkpoint-")) + 1 if older else 0
        return self.path / f"checkpoint-{number:08d}.safetensors"

    def newest(self) -> bytes | None:
        """The bytes of the newest good checkpoint, or None; its owner may be writing the next
        one.
        """
        for _ in range(3):
            paths = self._checkpoints()
            for path in reversed(paths):
                with contextlib.suppress(IntegrityError, StorageError, *MALFORMED):
                    data = read_bytes(path)
                    if decode_tensors(data, path, checked=True)[1]["key"] == self._key:
                        return data
            if paths == self._checkpoints():
                break
        return None

    def peek(self) -> JSON | None:
        """What the newest checkpoint says of itself (its info), for reports: neither verified
        nor changed.
        """
        for path in reversed(self._checkpoints()):
            with contextlib.suppress(OSError, *MALFORMED), open(path, "rb") as file:
                length = min(int.from_bytes(file.read(8), "little"), MAX_HEADER_BYTES)
                return json.loads(json.loads(file.read(length))["__metadata__"]["info"])
        return None

    def latest(self) -> tuple[dict[str, Tensor], JSON] | None:
        """The newest good checkpoint as (tensors, info), or None. Corrupt ones are moved aside."""
        for path in reversed(self._checkpoints()):
            try:
                tensors, notes = load_tensors(path, checked=True)
                require_equal(path, notes["key"], self._key)
            except IntegrityError as error:
                move_aside(path, f"{error} The checkpoint before it is used")
                continue
            self._started = time.monotonic() - float(notes["seconds"])
            self.earlier = [
                maker for maker in json.loads(notes.get("makers", "[]")) if maker != self._maker
            ]
            return tensors, json.loads(notes["info"])
        return None

    def clear(self) -> None:
        """Delete the checkpoints; files that were moved aside stay."""
        with contextlib.suppress(OSError):
            for path in (*self._checkpoints(), *self.path.glob(".*.tmp")):
                path.unlink(missing_ok=True)
            self.path.rmdir()
