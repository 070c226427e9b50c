"""Threads that take turns on the host while a device works for all of them.

Much in PyTorch exists once per process: the precision of products, the number of threads, the
default generator. Tracing replaces methods of every module, and a capture of a CUDA graph must not
coincide with another one. So threads that each train something must not run side by side. Here one
of them has the turn and the others wait; it gives the turn away only when none of these is in use
and the device has work to do.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator


class Turns:
    """A queue of threads that take turns: the first to ask has the first turn."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        # The first in line has the turn.
        self._line: deque[int] = deque()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the turn inside a ``with`` statement."""
        self.take()
        try:
            yield
        finally:
            self.give()

    def meanwhile(self, done: Callable[[], bool], every: float = 0.001) -> None:
        """Give the turn away until `done` returns True, and take it again afterwards.

        Parameters
        ----------
        done : Callable[[], bool]
            Called without holding the turn, so it mustn't change anything. Even if it returns True
            at once, the others have their turn first.
        every : float, optional
            Seconds between two calls.
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
                # Interrupted by a signal, so the others must not wait for this thread.
                self._leave(me)
                raise

    def give(self) -> None:
        """Give the turn to the next in line."""
        me = threading.get_ident()
        with self._condition:
            # A thread that was interrupted while waiting has no turn to give away.
            if self._line and self._line[0] == me:
                self._leave(me)

    def _leave(self, me: int) -> None:
        self._line.remove(me)
        self._condition.notify_all()
