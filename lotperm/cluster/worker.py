"""What a job of a sweep runs."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch

from lotperm.cluster import campaign as campaigns
from lotperm.cluster.campaign import Campaign
from lotperm.engine.runtime import Runtime
from lotperm.errors import (
    DivergedError,
    ParameterError,
    PreemptedError,
    RankLostError,
    StorageError,
    SweepError,
)
from lotperm.parallel import distributed
from lotperm.store.files import write_atomic
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain

_log = logging.getLogger(__name__)

Plain = dict[str, Any]


_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Worker:
    """What a process of a sweep runs: some jobs of a campaign, one after another.

    Parameters
    ----------
    campaign : Path
        Its file.
    store : Path
        Folder of the store.
    folder : Path
        Of the sweep.
    work : Sequence[Sequence[str]]
        For each job the keys of its tasks.
    runtime : Plain
        Values for `Runtime`: device ("auto": cuda where there is one), compile, members.
    retries : int
        How often a task that failed is tried again.
    ranks : int, optional
        Processes that compute each task together (`lotperm.parallel.distributed`); 1: this one.
    """

    def __init__(
        self,
        campaign: Path,
        store: Path,
        folder: Path,
        work: Sequence[Sequence[str]],
        runtime: Plain,
        retries: int,
        ranks: int = 1,
    ) -> None:
        self.campaign, self.store, self.folder = campaign, store, folder
        self.work, self.runtime, self.retries, self.ranks = work, runtime, retries, ranks
        self.failures: dict[str, int] = {}

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again: the same work; the store knows how far it
        is.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        """Compute the tasks.

        Raises
        ------
        SweepError
            If some failed for good; they are noted in the sweep's folder.
        """
        _log_to_stdout()
        # submitit's: it saves this object and requeues the job. It mustn't cut through a step, so
        # it is called later.
        requeue = signal.getsignal(signal.SIGUSR2)
        # The signal that asks to stop, where ranks see it too: one that has just been started
        # would miss the signal.
        asked = multiprocessing.get_context("spawn").RawValue("i", 0)

        def ask(number: int, frame: types.FrameType | None) -> None:
            if asked.value != signal.SIGUSR2:
                asked.value = number

        for number in _STOP_SIGNALS:
            signal.signal(number, ask)
        try:
            failed = self._run(asked, requeue)
        except PreemptedError as error:
            _log.info("%s", error)
            if asked.value == signal.SIGUSR2:
                _again(requeue)
            # Any other: whoever cancels a job doesn't want it back, and Slurm itself requeues what
            # it preempts.
            sys.exit(error.exit_code)
        if failed:
            raise SweepError(f"{len(failed)} tasks failed: {', '.join(failed)}.")

    def _device(self) -> str:
        """The device of the runtime, with "auto" made out."""
        device: str = self.runtime.get("device", "auto")
        return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"

    def _tasks(self, asked: Any) -> dict[str, Task]:
        """The campaign's tasks by key. Training stops after a step as soon as the shared number
        `asked` isn't 0.
        """
        runtime = Runtime(
            **{**self.runtime, "device": self._device()}, stop=lambda: bool(asked.value)
        )
        return {t.key: t for t in Campaign.load(self.campaign).tasks(Store(self.store), runtime)}

    def _run(self, asked: Any, requeue: Any) -> list[str]:
        """Labels of the tasks that failed for good."""
        tasks, failed = self._tasks(asked), []
        for task in (tasks[key] for keys in self.work for key in keys):
            if asked.value:
                raise PreemptedError(f"stopped before {task.label}")
            if any(failure_note(self.folder, before.key).exists() for before in chain([task])):
                _log.info("not computed, as it or a stage before it failed: %s", task.label)
                continue
            _log.info("begins: %s", task.label)
            try:
                self._compute(task, asked)
            except PreemptedError:
                raise
            except Exception as error:
                # These come back however often one tries.
                final = isinstance(error, ParameterError | DivergedError)
                tried = self.failures[task.key] = self.failures.get(task.key, 0) + 1
                _log.exception("failed, try %d of %d: %s", tried, self.retries + 1, task.label)
                if not final and tried <= self.retries:
                    _again(requeue)
                failed.append(task.label)
                note = {
                    "label": task.label,
                    "error": f"{type(error).__name__}: {error}",
                    "tries": tried,
                }
                write_atomic(
                    failure_note(self.folder, task.key),
                    json.dumps({**note, "log": _own_log()}).encode(),
                )
            else:
                _log.info("done: %s", task.label)
        return failed

    def _compute(self, task: Task, asked: Any) -> None:
        """`Task.run`, in this process or in ranks."""
        if self.ranks == 1:
            task.run()
        elif not task.done():
            # Slurm may signal every process of a job. Ranks ignore that, and Python's own helper
            # inherits this mask.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
            try:
                stopped = distributed.launch(self.ranks, _rank, self, task.key, asked)
            except RankLostError:
                stopped = bool(asked.value)  # it was still starting, and couldn't ignore it yet
                if not stopped:
                    raise
            if stopped:
                raise PreemptedError(f"stopped in {task.label}")


def _rank(worker: Worker, key: str, asked: Any) -> bool:
    """Compute one task, as one of the ranks; whether it was stopped."""
    for number in _STOP_SIGNALS:
        signal.signal(
            number, signal.SIG_IGN
        )  # the job's own process gets them too, and sets `asked`
    _log_to_stdout(logging.INFO if os.environ["RANK"] == "0" else logging.WARNING)
    with distributed.processes(worker._device()):
        try:
            worker._tasks(asked)[key].run()
        except PreemptedError as error:
            _log.info("%s", error)
            return True
    return False


def _again(requeue: Any) -> None:
    """End this process and start it anew, as submitit does it on its signal; outside of
    submitit, just end.
    """
    if callable(requeue):
        requeue(signal.SIGUSR2, None)
    sys.exit(PreemptedError.exit_code)


def _log_to_stdout(level: int = logging.INFO) -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING, stream=sys.stdout)
    logging.getLogger("lotperm").setLevel(level)


def _own_log() -> str:
    """Where this process writes its log, if submitit started it."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return ""
    from submitit import JobEnvironment

    return str(JobEnvironment().paths.stdout)


class Collector:
    """The last job of a sweep: record the tables, or name what failed.

    Parameters
    ----------
    campaign, store, folder : Path
        As of `Worker`.
    results : Path | None
        Folder to record in; None: the campaign's.
    """

    def __init__(self, campaign: Path, store: Path, folder: Path, results: Path | None) -> None:
        self.campaign, self.store, self.folder, self.results = campaign, store, folder, results

    def __call__(self) -> None:
        """Record; raises as `collect`."""
        _log_to_stdout()
        collect(
            Campaign.load(self.campaign), Store(self.store), self.folder, self.results, _log.info
        )


def collect(
    campaign: Campaign, store: Store, folder: Path, results: Path | None, say: Callable[[str], None]
) -> None:
    """Record the tables of a campaign whose stages are all there.

    Raises
    ------
    SweepError
        If stages are missing, naming the first that failed, why, and its log.
    StorageError
        If a data set isn't here any more.
    """
    if missing := campaign.missing(store, results):
        notes = failures(folder)
        unknown = f"Nobody noted why: see the logs in {folder / 'logs'}."
        first = (
            f"{notes[0]['label']}: {notes[0]['error']} Its log: {notes[0]['log']}."
            if notes
            else unknown
        )
        raise SweepError(
            f"{len(missing)} stages are missing, {len(notes)} of them failed. {first} What is done is kept; the same "
            "command tries the rest again."
        )
    if skipped := campaigns.run(campaign, store, Runtime(), results, say):
        raise StorageError(f"not recorded, as a data set isn't here: {', '.join(skipped)}.")


def failure_note(folder: Path, key: str) -> Path:
    return folder / "failed" / f"{key[:16]}.json"


def failures(folder: Path) -> list[Plain]:
    """What failed for good in a sweep: label, error, tries and log of each, oldest first."""
    paths = sorted((folder / "failed").glob("*.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text()) for path in paths]
