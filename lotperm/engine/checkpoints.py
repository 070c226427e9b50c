"""The state of a training run in progress, as tensors in a checkpoint.

Tensors are stored by member, however many members run together and on however many ranks, so
training can resume from a checkpoint with another partition, or another number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from lotperm.engine.run import Run
from lotperm.engine.trained import Trained
from lotperm.parallel import distributed

_SHARE = 1 / 50
"""Largest fraction of the time that checkpoints may take."""


class Checkpoints(Protocol):
    """The place where a run in progress is kept; the store's workspace is one."""

    def checkpoint(self, tensors: Mapping[str, Tensor], info: Any) -> None:
        """Keep this state in place of the one before."""

    def latest(self) -> tuple[dict[str, Tensor], Any] | None:
        """Return the newest intact state, or None."""


Found = tuple[dict[str, Tensor], Any]
"""Tensors and plain JSON data, as `pack` makes them."""


def pack(runs: Sequence[Run], done: Trained, epoch: int) -> Found:
    """Pack everything that `restore` needs to resume in an epoch that may have begun.

    Parameters
    ----------
    runs : Sequence[Run]
        All parts of the training.
    done : Trained
        The outcome so far.
    epoch : int
        The epoch to resume, counted from 0.
    """
    parts = [{name: t.cpu() for name, t in run.tensors().items()} for run in runs]
    tensors = {f"now/{name}": torch.cat([part[name] for part in parts]) for name in parts[0]}
    # Weights kept on the way are part of the state, since a resumed run can't recompute them.
    for saved, states in done.checkpoints.items():
        for name in states[0]:
            tensors[f"epoch-{saved}/{name}"] = torch.stack([state[name] for state in states])
    info = {
        "epoch": epoch,
        # By member, like the tensors: the next run may divide the members differently.
        "steps": [run.step for run in runs for _ in range(run.members)],
        "saved": sorted(done.checkpoints),
        "train_loss": done.train_loss,
        # JSON can't have numbers as keys.
        "evaluations": {str(e): metrics for e, metrics in done.evaluations.items()},
    }
    return tensors, info


def restore(runs: Sequence[Run], parts: Sequence[slice], found: Found) -> tuple[Trained, int]:
    """Restore the state that `pack` packed.

    Parameters
    ----------
    runs : Sequence[Run]
        All parts of the training, newly made; they are changed in place.
    parts : Sequence[slice]
        The members of each part.
    found : Found
        The state, as `pack` made it.

    Returns
    -------
    done : Trained
        The outcome so far.
    epoch : int
        The epoch to resume.
    """
    tensors, info = found
    for run, part in zip(runs, parts, strict=True):
        # `partition` put only members of the same step into a part.
        run.step = info["steps"][part.start]
        for name, tensor in run.tensors().items():
            # In place: parameters, programs and graphs are bound to this memory.
            tensor.copy_(tensors[f"now/{name}"][part])
    checkpoints = {}
    for epoch in info["saved"]:
        prefix = f"epoch-{epoch}/"
        packed = {
            name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)
        }
        checkpoints[int(epoch)] = [
            {name: t[m].clone() for name, t in packed.items()} for m in range(len(info["steps"]))
        ]
    done = Trained(
        checkpoints=checkpoints,
        train_loss=list(info["train_loss"]),
        evaluations={int(e): metrics for e, metrics in info["evaluations"].items()},
    )
    return done, int(info["epoch"])


class Keeper:
    """Saves a training run from time to time, and when it is asked to stop.

    All ranks must call its methods, at the same steps; rank 0 writes.

    Parameters
    ----------
    checkpoints : Checkpoints | None
        Where to save it; None: nowhere.
    seconds : float
        Seconds between two checkpoints; more if they take long to write. 0 saves after every step.
    stop : Callable[[], bool] | None
        As in `lotperm.engine.runtime.Runtime`.
    """

    def __init__(
        self, checkpoints: Checkpoints | None, seconds: float, stop: Callable[[], bool] | None
    ) -> None:
        self.checkpoints, self.seconds = checkpoints, seconds
        self._stop = stop or (lambda: False)
        # The monotonic clock doesn't jump when the system's time is set.
        self._saved = time.monotonic()
        self._took = 0.0

    def found(self, members: int) -> Found | None:
        """Return the state to resume from, or None if there is none for this number of members."""
        if self.checkpoints is None:
            return None
        # Rank 0 reads, and moves damaged files aside; all ranks must resume from the same state.
        found = distributed.once(self.checkpoints.latest)
        if found is not None and len(found[1].get("steps", ())) != members:
            # The checkpoint is of an older version, or of another number of members, so training
            # starts anew.
            return None
        return found

    def wanted(self) -> bool:
        """Return whether any rank wants to save or to stop."""
        return distributed.any_rank(self._stop() or self._due())

    def save_if_wanted(self, runs: Sequence[Run], done: Trained, epoch: int) -> bool:
        """Save the run if that is due or it was asked to stop; return whether it was asked to."""
        # Both questions are always asked, since every rank must take part in each. All ranks act on
        # the shared answers, as their clocks and signals may differ.
        stopping, saving = distributed.any_rank(self._stop()), distributed.any_rank(self._due())
        if self.checkpoints is not None and (stopping or saving):
            begin = time.monotonic()
            distributed.once(partial(_save, self.checkpoints, runs, done, epoch))
            self._saved = time.monotonic()
            self._took = self._saved - begin
        return stopping

    def _due(self) -> bool:
        # A large network takes seconds to write, during which nothing is trained.
        wait = max(self.seconds, self._took / _SHARE) if self.seconds else 0.0
        return self.checkpoints is not None and time.monotonic() - self._saved > wait


def _save(checkpoints: Checkpoints, runs: Sequence[Run], done: Trained, epoch: int) -> None:
    checkpoints.checkpoint(*pack(runs, done, epoch))
