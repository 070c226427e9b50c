"""What a job of a sweep runs: some stages of a campaign, one after another."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch

from lotperm.cluster.campaign import Campaign
from lotperm.cluster.folder import SweepFolder
from lotperm.engine.runtime import Runtime
from lotperm.errors import (
    DivergedError,
    ParameterError,
    PreemptedError,
    RankLostError,
    SweepError,
)
from lotperm.parallel import distributed
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain

_log = logging.getLogger(__name__)

Plain = dict[str, Any]

# Ctrl-C; the signal with which Slurm ends a job; the one that submitit has it send before that.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Worker:
    """Some jobs of a campaign, as a process of a sweep computes them.

    submitit pickles it, calls it in the job, and pickles it again when the job is requeued: so it
    holds no more than paths, keys and numbers.

    Parameters
    ----------
    campaign : Path
        The campaign's file.
    store : Path
        Folder of the store.
    folder : SweepFolder
        The sweep's folder.
    work : sequence of sequence of str
        The keys of each job's tasks.
    runtime : dict
        Values for `Runtime`: device ("auto": cuda where there is one), compile, members.
    retries : int
        Times that a failed task is tried again.
    ranks : int, optional
        Processes that compute each task together (`lotperm.parallel.distributed`); 1: this one.
    """

    def __init__(
        self,
        *,
        campaign: Path,
        store: Path,
        folder: SweepFolder,
        work: Sequence[Sequence[str]],
        runtime: Plain,
        retries: int,
        ranks: int = 1,
    ) -> None:
        self.campaign, self.store, self.folder = campaign, store, folder
        self.work, self.runtime, self.retries, self.ranks = work, runtime, retries, ranks
        # Pickled along with the job, so tries are counted over all its starts.
        self.tries: dict[str, int] = {}

    def checkpoint(self) -> Any:
        """Return what submitit puts into the queue again.

        That is the same work, since the store knows how far it is.
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
        # As in `lotperm.cli.main`: what was imported stays, so the collector needn't look at it.
        gc.freeze()
        log_to_stdout()
        # submitit's handler saves this object and requeues the job. It mustn't cut through a step,
        # so it is called later.
        requeue = signal.getsignal(signal.SIGUSR2)
        # The number of the signal that asks to stop, or 0, in memory that ranks see too: one that
        # has just been started would miss the signal itself.
        asked = multiprocessing.get_context("spawn").RawValue("i", 0)

        def ask(number: int, frame: types.FrameType | None) -> None:
            # SIGUSR2 stays noted: only it leads back into the queue, and a SIGTERM may follow it.
            if asked.value != signal.SIGUSR2:
                asked.value = number

        for number in _STOP_SIGNALS:
            signal.signal(number, ask)
        try:
            failed = self._compute_all(asked, requeue)
        except PreemptedError as error:
            _log.info("%s", error)
            if asked.value == signal.SIGUSR2:
                _requeue_and_exit(requeue)
            # After any other signal the job ends: whoever cancels a job doesn't want it back, and
            # Slurm itself requeues what it preempts.
            sys.exit(error.exit_code)
        if failed:
            raise SweepError(f"{len(failed)} tasks failed: {', '.join(failed)}.")

    def device(self) -> str:
        """Return the runtime's device, with "auto" resolved on this machine."""
        device: str = self.runtime.get("device", "auto")
        return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"

    def tasks(self, asked: Any) -> dict[str, Task]:
        """Return the campaign's tasks by key.

        Parameters
        ----------
        asked : object
            A shared number; training stops after a step as soon as its value isn't 0.
        """
        # "auto" is decided here, on the machine that computes, not where the sweep was submitted.
        values = {**self.runtime, "device": self.device()}
        runtime = Runtime(**values, stop=lambda: bool(asked.value))
        return {t.key: t for t in Campaign.load(self.campaign).tasks(Store(self.store), runtime)}

    def _compute_all(self, asked: Any, requeue: Any) -> list[str]:
        """Compute all tasks; return the labels of those that failed for good."""
        tasks, failed = self.tasks(asked), []
        left = [tasks[key] for keys in self.work for key in keys]
        while left:
            task = _next(left)
            left.remove(task)
            if asked.value:
                raise PreemptedError(f"stopped before {task.label}")
            # The failure may be another job's, in a stage that this one builds on.
            if any(self.folder.failure(before.key) for before in chain([task])):
                _log.info("not computed, as it or a stage before it failed: %s", task.label)
                continue
            _log.info("begins: %s", task.label)
            try:
                self._compute(task, asked)
            except PreemptedError:
                # No failure: the task goes on when the job comes back.
                raise
            except Exception as error:
                self._after_failure(task, error, requeue)
                failed.append(task.label)
            else:
                _log.info("done: %s", task.label)
        return failed

    def _compute(self, task: Task, asked: Any) -> None:
        """Compute one task, in this process or in ranks."""
        if self.ranks == 1:
            task.run()
            return
        if task.done():
            # Ranks would take seconds to start, only to find the task done.
            return
        # Slurm may signal every process of a job. Ranks ignore that, and Python's own helper
        # inherits this mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        try:
            stopped = distributed.launch(self.ranks, _compute_as_rank, self, task.key, asked)
        except RankLostError:
            # A rank that was still starting couldn't ignore the signal yet.
            stopped = bool(asked.value)
            if not stopped:
                raise
        if stopped:
            raise PreemptedError(f"stopped in {task.label}")

    def _after_failure(self, task: Task, error: Exception, requeue: Any) -> None:
        """Start this process anew for another try, or note that a task failed for good."""
        tried = self.tries[task.key] = self.tries.get(task.key, 0) + 1
        _log.exception("failed, try %d of %d: %s", tried, self.retries + 1, task.label)
        # These errors come back however often one tries.
        final = isinstance(error, ParameterError | DivergedError)
        if not final and tried <= self.retries:
            _requeue_and_exit(requeue)
        self.folder.note_failure(
            task.key,
            label=task.label,
            error=f"{type(error).__name__}: {error}",
            tries=tried,
            log=_own_log(),
        )


def _next(left: Sequence[Task]) -> Task:
    """Return the first task that waits for no other process, or the first if all of them do."""
    known: dict[str, bool] = {}

    def elsewhere(task: Task) -> bool:
        if task.key not in known:
            known[task.key] = not task.exists() and task.store.in_other_hands(task.name, task.key)
        return known[task.key]

    return next((task for task in left if not any(map(elsewhere, chain([task])))), left[0])


def _compute_as_rank(worker: Worker, key: str, asked: Any) -> bool:
    """Compute one task, as one of the ranks; return whether it was stopped."""
    gc.freeze()
    # The job's own process gets these signals too, and sets `asked`.
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    log_to_stdout(logging.INFO if os.environ["RANK"] == "0" else logging.WARNING)
    with distributed.processes(worker.device()):
        try:
            worker.tasks(asked)[key].run()
        except PreemptedError as error:
            _log.info("%s", error)
            return True
    return False


def _requeue_and_exit(requeue: Any) -> None:
    """End this process and have it started anew, as submitit does on its signal.

    Parameters
    ----------
    requeue : object
        submitit's handler of the signal; outside of submitit there is none, and the process just
        ends.
    """
    if callable(requeue):
        requeue(signal.SIGUSR2, None)
    sys.exit(PreemptedError.exit_code)


def log_to_stdout(level: int = logging.INFO) -> None:
    """Send the package's log to stdout, which submitit writes into the job's log file."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING, stream=sys.stdout)
    logging.getLogger("lotperm").setLevel(level)


def _own_log() -> str:
    """Return the path of this process's log file; "" if submitit didn't start it."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return ""
    from submitit import JobEnvironment

    return str(JobEnvironment().paths.stdout)
