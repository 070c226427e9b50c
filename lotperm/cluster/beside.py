"""Stages of a campaign beside each other on one GPU.

A small network can't fill a GPU, and the rounds of pruning are trained one network at a time. So
while the stages are computed in their order, a second thread computes, of those to come, the next
one whose inputs are there: the arms of one sparsity are trained beside the rounds that lead to the
next. The threads take turns on the host (`lotperm.parallel.turns`), so every stage does the same
operations in the same order as alone.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import torch

from lotperm.engine.runtime import Runtime
from lotperm.parallel import distributed
from lotperm.parallel.turns import Turns
from lotperm.store.tasks import Task

_IDLE = 0.01
"""Seconds after which a thread that has nothing to do looks again."""


def wanted(runtime: Runtime) -> bool:
    """Return True if stages are to be computed beside each other: asked for, and possible."""
    # Several ranks exchange gradients in one order.
    return runtime.overlap and distributed.world_size() == 1


class Beside:
    """A second thread that computes tasks before their turn, while this context is entered.

    Parameters
    ----------
    runtime : Runtime
        How to compute; no thread is started unless it asks for stages beside each other.
    say : callable
        Gets a line for each stage that begins.

    Attributes
    ----------
    runtime : Runtime
        How the tasks must compute.
    """

    def __init__(self, runtime: Runtime, say: Callable[[str], None]) -> None:
        self._stop, self._say = runtime.stop or (lambda: False), say
        self._used, self._turns = wanted(runtime), Turns()
        self.runtime = runtime
        if self._used:
            self.runtime = dataclasses.replace(
                runtime, stop=self._over, meanwhile=self._turns.meanwhile
            )
        self._tasks: Sequence[tuple[str, Task]] = ()
        self._first: str | None = None
        self._second: str | None = None
        # Tasks that the first thread began, and how many of them the second one has seen.
        self._begun = self._seen = 0
        self._failed: dict[str, Exception] = {}
        self._left = False
        self._thread = threading.Thread(
            target=self._work,
            args=(torch.get_num_threads(),),
            name="beside",
            # A second Ctrl-C ends the program, whatever the stage does.
            daemon=True,
        )

    def start(self, tasks: Callable[[], Sequence[tuple[str, Task]]]) -> None:
        """Begin to look ahead.

        Parameters
        ----------
        tasks : callable
            Lists all tasks in the order in which the first thread asks for them, each with the name
            that it is reported under; called only if they are computed beside each other.
        """
        if self._used:
            self._tasks = tasks()
            self._thread.start()

    def run(self, name: str, task: Task) -> None:
        """Compute a task in the first thread, or wait until the second one has computed it.

        Raises
        ------
        Exception
            What the task raised, in whichever thread.
        """
        if self._second == task.key:
            self._turns.meanwhile(lambda: self._second != task.key, _IDLE)
            if task.done():
                return
        if error := self._failed.get(task.key):
            raise error
        self._say(f"{name}: {task.label}")
        self._first = task.key
        self._begun += 1
        if self._thread.is_alive():
            # Otherwise a short task might be over before the second thread has looked for work.
            self._turns.meanwhile(self._looked, _IDLE)
        try:
            task.run()
        finally:
            self._first = None

    def __enter__(self) -> Self:
        self._turns.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the second thread save its state after a step, and wait until it has ended."""
        self._left = True
        self._turns.give()
        if self._thread.is_alive():
            self._thread.join()

    def _over(self) -> bool:
        return self._left or self._stop()

    def _work(self, threads: int) -> None:
        """Compute the tasks that are ready, until all are done or the first thread leaves."""
        # A new thread has PyTorch's default, not what this program has chosen.
        torch.set_num_threads(threads)
        with self._turns.turn():
            while not self._over() and (waiting := self._waiting()):
                ready = [(n, t) for n, t in waiting if all(b.exists() for b in t.after)]
                if not ready:
                    self._wait_for_first()
                    continue
                name, task = ready[0]
                self._say(f"{name}: {task.label}, beside the others")
                self._second = task.key
                try:
                    task.run()
                # Raised again when the first thread comes to this task, as if it had computed it.
                except Exception as error:
                    self._failed[task.key] = error
                finally:
                    self._second = None

    def _looked(self) -> bool:
        """Return True if the second thread has something to do, or has found nothing."""
        busy = self._second is not None or self._seen == self._begun
        return busy or not self._thread.is_alive()

    def _wait_for_first(self) -> None:
        """Wait until the first thread has begun another task."""
        self._seen = self._begun
        self._turns.meanwhile(lambda: self._seen != self._begun or self._over(), _IDLE)

    def _waiting(self) -> list[tuple[str, Task]]:
        """List the tasks that nobody has begun."""
        return [
            (name, task)
            for name, task in self._tasks
            # Only looks for the folder: whoever reads the stage verifies it.
            if task.key != self._first and task.key not in self._failed and not task.exists()
        ]
