"""Stages before they are computed: their inputs, their keys and the work they take.

A `Task` is a stage of `lotperm.store.stages` that may not exist yet. Plans count the work of tasks,
campaigns and sweeps choose among them, and running a task runs the tasks before it.

A task names its inputs once, as (stage, file). Three things follow from that declaration: its key,
which includes the keys of its inputs; the files that may be loaded while it is computed; and the
files that must travel with it to another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lotperm.config.experiment import Experiment
from lotperm.errors import ParameterError, unknown_name
from lotperm.store.stages import Stage, StageResult, Store, stage_key
from lotperm.store.workspace import Workspace

Plain = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """The amount of work that a stage takes.

    Attributes
    ----------
    networks : int
        Networks trained.
    epochs : int
        Epochs of each of them.
    train_images : int
        Examples that go forward and backward, summed over networks and epochs.
    forward_images : int
        Examples that only go forward: evaluation, matching, barriers.
    kept : int
        Sets of weights that the store keeps.
    masks : int
        Masks that the store keeps.
    """

    networks: int = 0
    epochs: int = 0
    train_images: int = 0
    forward_images: int = 0
    kept: int = 0
    masks: int = 0


@dataclass(frozen=True)
class Source:
    """Files of another stage that a stage reads.

    Attributes
    ----------
    task : Task
        The other stage.
    files : tuple[str, ...]
        Names of the files, without suffix. Empty if only the key of that stage matters.
    """

    task: Task
    files: tuple[str, ...] = ()


class Inputs:
    """The declared inputs of a stage, as its computation sees them.

    Parameters
    ----------
    sources : Mapping[str, Source | None]
        Role ("dense", "imp", "match", ...) -> `Source`, or None where the stage has no such input.
    """

    def __init__(self, sources: Mapping[str, Source | None]) -> None:
        self._sources = sources

    def has(self, role: str) -> bool:
        """Return True if the stage has an input of this role."""
        return self._sources.get(role) is not None

    def files(self, role: str) -> tuple[str, ...]:
        """Return the names of the declared files of an input; none if there is no such input."""
        source = self._sources.get(role)
        return source.files if source else ()

    def load(self, role: str, file: str) -> dict[str, Tensor]:
        """Load one declared file of an input.

        Returns
        -------
        dict[str, Tensor]
            Name -> tensor, on the CPU.

        Raises
        ------
        ParameterError
            If the stage didn't declare this input or this file, so that its key and plan wouldn't
            account for it.
        """
        source = self._sources.get(role)
        if source is None:
            raise unknown_name("input", role, [r for r, s in self._sources.items() if s])
        # A file that isn't declared wouldn't travel with the task, so it may not be read either.
        if file not in source.files:
            raise unknown_name(f"file of the input {role!r}", file, source.files)
        return source.task.load(file)

    def replicates(self, role: str, file: str) -> list[dict[str, Tensor]]:
        """Load one declared file of an input as one dictionary of tensors for each network."""
        return unpack(self.load(role, file))


@dataclass(eq=False, kw_only=True)
class Task:
    """A stage of an experiment, computed or not.

    Attributes
    ----------
    name : str
        Name of the stage.
    inputs : Mapping[str, Source | None]
        Role -> `Source`, or None. The keys of these stages are part of this one's configuration,
        under the name of the role.
    settings : dict[str, Any]
        Everything else that the result depends on, as plain data.
    label : str
        Description of the stage, for progress bars and reports.
    work : Work
        The work that it takes.
    experiment : Experiment
        An experiment that the stage is part of; several may share the stage.
    store : Store
        The store that keeps the result.
    compute : Callable[[Inputs, Workspace], StageResult]
        Computes the result from the inputs; resumes from the workspace's checkpoint.
    """

    name: str
    inputs: Mapping[str, Source | None]
    settings: Plain
    label: str
    work: Work
    experiment: Experiment
    store: Store = field(repr=False)
    compute: Callable[[Inputs, Workspace], StageResult] = field(repr=False)
    _stage: Stage | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # A setting and an input of one name would overwrite each other in the configuration, and
        # two stages could share a key.
        if twice := self.inputs.keys() & self.settings.keys():
            raise ParameterError(
                f"stage {self.name!r} names {sorted(twice)[0]!r} as an input and as a setting."
            )

    @cached_property
    def config(self) -> Plain:
        """Configuration of the stage, which identifies it: settings and the keys of its inputs."""
        # An input that a stage doesn't have is None, and part of its key as well.
        keys = {role: source and source.task.key for role, source in self.inputs.items()}
        return {**keys, **self.settings}

    @cached_property
    def key(self) -> str:
        """Key of the stage (64 hex digits), known before it is computed."""
        return stage_key(self.name, self.config)

    @cached_property
    def after(self) -> tuple[Task, ...]:
        """Tasks whose files this one reads."""
        # Without files only the input's key matters, and it needn't be computed.
        sources = [source for source in self.inputs.values() if source and source.files]
        return tuple({source.task.key: source.task for source in sources}.values())

    @cached_property
    def reads(self) -> dict[str, tuple[str, ...]]:
        """Key of each task before this one -> names of its files that are read."""
        files: dict[str, tuple[str, ...]] = {}
        for source in self.inputs.values():
            if source and source.files:
                # One task may be an input in several roles.
                both = (*files.get(source.task.key, ()), *source.files)
                files[source.task.key] = tuple(dict.fromkeys(both))
        return files

    def exists(self) -> bool:
        """Return True if the store has a folder for the stage, without verifying it."""
        return self._stage is not None or self.store.exists(self.name, self.config)

    def done(self) -> bool:
        """Return True if the store has the stage, intact."""
        return self._stage is not None or self.store.find(self.name, self.config) is not None

    def run(self) -> Stage:
        """Return the finished stage: load it, or compute it after the tasks before it."""
        # A stage is verified once in a process; afterwards its folder isn't read again.
        if self._stage is None:
            self._stage = self.store.find(self.name, self.config)
        if self._stage is None:
            # Before the stage's lock is taken, so that whoever waits for it waits for this stage
            # alone.
            for task in self.after:
                task.run()
            inputs = Inputs(self.inputs)
            self._stage = self.store.stage(
                self.name, self.config, lambda workspace: self.compute(inputs, workspace)
            )
        return self._stage

    def load(self, file: str) -> dict[str, Tensor]:
        """Load the tensors of one file of the finished stage."""
        return self.run().load(file)

    @property
    def results(self) -> Plain:
        """Small results of the finished stage."""
        return self.run().results

    @property
    def meta(self) -> Plain:
        """Notes about the computation of the finished stage: time, place, versions."""
        return self.run().meta


def epoch_file(epoch: int) -> str:
    """Name the file of a dense stage that holds the weights after an epoch."""
    return f"epoch-{epoch:04d}"


def pack(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the dictionaries of M networks into one dictionary of tensors (M, ...)."""
    # It is iterated over once for each name.
    states = list(states)
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def unpack(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Undo `pack`: return one dictionary of tensors for each network."""
    members = len(next(iter(tensors.values())))
    return [{name: tensor[m] for name, tensor in tensors.items()} for m in range(members)]


def chain(tasks: Iterable[Task]) -> list[Task]:
    """List tasks and all tasks before them, each once, in an order that can be computed."""
    found: dict[str, Task] = {}

    def add(task: Task) -> None:
        if task.key not in found:
            # Depth first, so that every task comes after those that it reads.
            for before in task.after:
                add(before)
            found[task.key] = task

    for task in tasks:
        add(task)
    return list(found.values())


def provenance(tasks: Iterable[Task]) -> list[Plain]:
    """Describe finished tasks, each by its name, its key and the notes about its computation."""
    return [{"stage": task.name, "key": task.key, **task.meta} for task in tasks]
