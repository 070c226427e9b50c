"""The stages of an experiment before anything is computed: what each depends on, and how much work
it is.

A `Task` is a `lotperm.store.stages` stage that may not be there yet. Plans count their work,
campaigns and sweeps choose among them, and running one runs those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from lotperm.config.experiment import Experiment
from lotperm.store.stages import Stage, StageResult, Store, stage_key
from lotperm.store.workspace import Workspace

Plain = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What a stage computes.

    Attributes
    ----------
    networks : int
        Networks trained.
    epochs : int
        Of each of them.
    train_images : int
        Examples that go forward and backward, all networks and epochs counted.
    forward_images : int
        Examples that only go forward: evaluation, matching, barriers.
    kept : int
        Networks whose weights the store keeps, each time that they are kept counted.
    masks : int
        Masks that it keeps.
    """

    networks: int = 0
    epochs: int = 0
    train_images: int = 0
    forward_images: int = 0
    kept: int = 0
    masks: int = 0


@dataclass(eq=False)
class Task:
    """A stage of an experiment, computed or not.

    Attributes
    ----------
    name, config : str
        Of the stage, which they identify.
    after : tuple[Task, ...]
        The tasks whose results it uses.
    reads : Mapping[str, tuple[str, ...]]
        Key of such a task -> the files of it that are read: what must be at hand to compute this
        one.
    label : str
        What it does, in words.
    work : Work
        How much it computes.
    experiment : Experiment
        What it is a stage of; if several share it, one of them.
    """

    name: str
    config: Plain
    after: tuple[Task, ...]
    reads: Mapping[str, tuple[str, ...]]
    label: str
    work: Work
    experiment: Experiment
    _store: Store
    _compute: Callable[[Workspace], StageResult]
    _stage: Stage | None = None

    @cached_property
    def key(self) -> str:
        """The key of the stage (64 hex digits), known before it is computed."""
        return stage_key(self.name, self.config)

    def exists(self) -> bool:
        """Whether the store has the stage; a look at its folder, nothing is verified."""
        return self._stage is not None or self._store.exists(self.name, self.config)

    def done(self) -> bool:
        """Whether the store has the stage, whole."""
        return self._stage is not None or self._store.find(self.name, self.config) is not None

    def run(self) -> Stage:
        """The finished stage: loaded, or else computed, those before it first."""
        if self._stage is None and (found := self._store.find(self.name, self.config)) is not None:
            self._stage = found
        if self._stage is None:
            for task in self.after:
                task.run()
            self._stage = self._store.stage(self.name, self.config, self._compute)
        return self._stage

    def load(self, file: str) -> dict[str, Tensor]:
        """The tensors of one file of the finished stage."""
        return self.run().load(file)

    @property
    def results(self) -> Plain:
        """The small results of the finished stage."""
        return self.run().results

    @property
    def meta(self) -> Plain:
        """Where and when the finished stage was computed."""
        return self.run().meta


def epoch_file(epoch: int) -> str:
    """The file of a dense stage with the weights after an epoch."""
    return f"epoch-{epoch:04d}"


def chain(tasks: Iterable[Task]) -> list[Task]:
    """The tasks and all those that they come after, each once, in an order in which they can be
    computed.
    """
    found: dict[str, Task] = {}

    def add(task: Task) -> None:
        if task.key not in found:
            for before in task.after:
                add(before)
            found[task.key] = task

    for task in tasks:
        add(task)
    return list(found.values())


def provenance(tasks: Iterable[Task]) -> list[Plain]:
    """Name, key and meta (device, versions, source hash, seconds, …) of finished tasks."""
    return [{"stage": task.name, "key": task.key, **task.meta} for task in tasks]
