"""Small campaigns for the tests of sweeps, and looks at what a sweep is doing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import little

from lotperm import Store
from lotperm.cluster.campaign import Campaign, run
from lotperm.cluster.worker import Worker
from lotperm.engine.runtime import Runtime
from lotperm.store.tasks import Task

# The sparsity is each entry's own.
TINY = {k: v for k, v in little.TINY.items() if k != "sparsity"} | {"prune_fraction": 0.5}
# Seconds of training, so that there is time to interrupt it, with few states to keep.
LONG: dict[str, Any] = {
    "name": "long",
    "kind": "connectivity",
    "profile": "smoke",
    "epochs": 150,
    "rewind_epoch": 1,
    "hidden": [32],
    "seeds": 1,
    "alphas": [0, 0.5, 1],
    "repairs": "none",
    "keep": [0, 1, 150],
}
LINES: dict[str, Any] = {
    **TINY,
    "name": "lines",
    "kind": "connectivity",
    "sparsity": 0.5,
    "alphas": [0, 0.5, 1],
    "repairs": "none",
}
"""One job: the dense networks, matching, and the lines between them."""
PAIR = [{**TINY, "name": "half", "sparsity": 0.5}, {**TINY, "name": "more", "sparsity": 0.75}]
"""Two entries that share dense networks, matching and a round of pruning."""


class Waiting:
    """The shared number that asks to stop; reading it waits for a while until it does.

    As soon as a state has been saved, reading no longer waits.
    """

    def __init__(self, asked: Any, store: Path) -> None:
        self.asked, self.store = asked, store

    @property
    def value(self) -> int:
        ends = time.monotonic() + 2
        while time.monotonic() < ends and not (self.asked.value or self._saved()):
            time.sleep(0.05)
        return int(self.asked.value)

    def _saved(self) -> bool:
        return any((self.store / "work").glob("*/checkpoint-*.safetensors"))


class PatientWorker(Worker):
    """A worker that can be interrupted in a training of milliseconds."""

    def tasks(self, asked: Any) -> dict[str, Task]:
        return super().tasks(Waiting(asked, self.store))


def write(folder: Path, *entries: dict[str, Any]) -> Path:
    """Write a campaign file into a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.json"
    path.write_text(
        json.dumps({"name": "small", "results": str(folder / "results"), "entries": list(entries)})
    )
    return path


def unbroken(path: Path, folder: Path) -> dict[str, bytes]:
    """Compute a campaign in this process, without a sweep; return the contents of its store."""
    run(Campaign.load(path), Store(folder / "store"), Runtime(), folder / "results")
    return contents(folder / "store")


def block(store: Store, path: Path, label: str) -> Path:
    """Make every try at a stage fail, by a folder in the place of its lock."""
    task = next(task for task in Campaign.load(path).tasks(store) if task.label == label)
    lock = store.root / "locks" / f"{task.name}-{task.key[:16]}.lock"
    lock.mkdir(parents=True)
    return lock


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until a condition is true; return what it gives."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"gave up waiting for {condition}"
        time.sleep(0.05)
    return found


def training(store: Path) -> str | None:
    """Return the name of the dense stage while it trains, a second or more after it began."""
    locks = [
        p
        for p in (store / "locks").glob("dense-*.lock")
        if not (store / "stages" / p.stem).exists()
    ]
    old = [path.stem for path in locks if time.time() - path.stat().st_mtime > 1]
    return old[0] if old else None


def children(pid: int | str) -> list[int]:
    """Return the processes that another one started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ranks(worker: int) -> list[int]:
    """Return the processes of a job's ranks, without the one that Python keeps for itself."""
    started = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children(worker)}
    return [child for child, command in started.items() if b"spawn_main" in command]


def logs(store: Path) -> str:
    """Return all that the jobs of a sweep wrote to their logs."""
    folder = store / "sweeps" / "small" / "logs"
    return "".join(path.read_text() for path in sorted(folder.glob("*_log.*")))


def contents(store: Path) -> dict[str, bytes]:
    """Return every file of tensors of a store's stages, by its path."""
    folder = store / "stages"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("*/*.safetensors"))
    }
