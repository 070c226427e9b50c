"""Threads that take turns on the host, while a device works for all of them.

PyTorch has one of many things in a process: the precision of products, the number of threads, the
default generator. Tracing replaces methods of every module, and what is captured as a CUDA graph
must not meet another capture. So threads that each train something must not run side by side. Here
one of them has the turn and the others wait; it gives the turn away only where nothing of that is
under way and the device has been given work.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator


class Turns:
    """The order in which threads have their turn: who asks first has it first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        # Who stands first has the turn.
        self._line: deque[int] = deque()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Have the turn inside a ``with``."""
        self.take()
        try:
            yield
        finally:
            self.give()

    def meanwhile(self, done: Callable[[], bool], every: float = 0.001) -> None:
        """Give the turn away until something is done, and have it again afterwards.

        Parameters
        ----------
        done : Callable[[], bool]
            Is asked without having the turn: it may change nothing. Even if it is True at once, the
            others have their turn first.
        every : float, optional
            Seconds between two questions.
        """
        self.give()
        try:
            while not done():
                time.sleep(every)
        finally:
            self.take()

    def take(self) -> None:
        """Wait for the turn."""
        me = threading.get_ident()
        with self._condition:
            self._line.append(me)
            try:
                self._condition.wait_for(lambda: self._line[0] == me)
            except BaseException:
                # Interrupted by a signal: the others must not wait for this thread.
                self._leave(me)
                raise

    def give(self) -> None:
        """Give the turn to the next in line."""
        me = threading.get_ident()
        with self._condition:
            # Who was interrupted while waiting has no turn to give away.
            if self._line and self._line[0] == me:
                self._leave(me)

    def _leave(self, me: int) -> None:
        self._line.remove(me)
        self._condition.notify_all()
