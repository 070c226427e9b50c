"""What a signal that asks the process to end does: Ctrl-C, SIGTERM, and Slurm's SIGUSR2."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from lotperm.engine import training
from lotperm.errors import PreemptedError
from lotperm.parallel import distributed

_ECHO_SECONDS = 5.0


class Stop:
    """What the signals that ask a process to end do here.

    During training the first one is noted: training asks after every step, saves its state and
    ends with `PreemptedError`. Within `children` it raises `Ended`. At any other time, and for a
    second signal, the process is left at once: every file of the store is whole at every instant.
    An exception would be less safe: a signal is handled between any two instructions, also in
    Python code that PyTorch's or pandas' C++ has called, and that code can abort on one, or hide
    it.
    """

    NAMES = ("SIGINT", "SIGTERM", "SIGUSR2")  # Windows has no SIGUSR2

    def __init__(self) -> None:
        self.number: int | None = None
        self.at = -math.inf
        self.raises = False

    def asked(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    def code(self) -> int:
        """The exit code: 130 after Ctrl-C, else that of Slurm's and the system's request."""
        return 130 if self.number == signal.SIGINT else PreemptedError.exit_code

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals meanwhile; in the main thread, others get none."""
        self.number, self.at = None, -math.inf
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [getattr(signal, name) for name in self.NAMES if hasattr(signal, name)]
        # What a shell tells its background jobs to ignore stays ignored.
        numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def children(self) -> Iterator[None]:
        """Raise meanwhile: this process only waits, for others that must end too."""
        self.raises = True
        try:
            yield
        finally:
            self.raises = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if distributed.world_size() > 1 and now - self.at < _ECHO_SECONDS:
            return  # torchrun passes on what has reached this process too
        first, self.number, self.at = self.number is None, number, now
        if first and _called_from(frame, training.train):
            return  # it asks after every step
        if first and self.raises:
            raise Ended
        self.leave()

    def leave(self) -> NoReturn:
        """End this process, whatever it is doing, with one line."""
        with contextlib.suppress(BaseException):  # it may have been in the middle of a print
            sys.stdout.flush()
            sys.stderr.flush()
        line = "lotperm: error: stopped by a signal. Run it again: it goes on from what was saved."
        with contextlib.suppress(OSError):
            os.write(2, f"\n{line}\n".encode())  # there may be a progress bar
        os._exit(self.code())


class Ended(BaseException):
    """Raised by a signal. No LotpermError: no handler of errors may take it for one."""


def _called_from(frame: FrameType | None, function: Callable[..., Any]) -> bool:
    """Whether a function is among the callers of a frame, or is it."""
    code = inspect.unwrap(function).__code__
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False
