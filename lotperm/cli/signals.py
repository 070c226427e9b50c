"""Signals that ask a process to end: Ctrl-C, SIGTERM, and Slurm's SIGUSR2."""

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
"""A signal that comes again so soon is torchrun's copy of the one that came before."""


class SignalStop:
    """Handlers of the signals that ask a process to end, and whether one of them came.

    During training the first signal is noted: training asks after every step, saves its state and
    ends with `PreemptedError`. Within `children` it raises `Ended`. At any other time, and for a
    second signal, the process is left at once: every file of the store is whole at every instant.
    An exception would be less safe: a signal is handled between any two instructions, also in
    Python code that PyTorch's or pandas' C++ has called, and that code can abort on one, or hide
    it.

    Attributes
    ----------
    number : int or None
        The last signal that came; None if none did.
    at : float
        When it came, in seconds of `time.monotonic`.
    raises : bool
        True while the first signal raises `Ended`, as within `children`.
    """

    NAMES = ("SIGINT", "SIGTERM", "SIGUSR2")
    """The signals; Windows has no SIGUSR2."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.at = -math.inf
        self.raises = False

    def asked(self) -> bool:
        """Return whether a signal came."""
        return self.number is not None

    def code(self) -> int:
        """Return the exit code: 130 after Ctrl-C, else 143, as after SIGTERM."""
        return 130 if self.number == signal.SIGINT else PreemptedError.exit_code

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals meanwhile, and put the handlers before it back.

        Python delivers signals to the main thread alone: in another one this does nothing.
        """
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
        """Let the first signal raise `Ended` meanwhile.

        This process then only waits for others, which must end with it.
        """
        self.raises = True
        try:
            yield
        finally:
            self.raises = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal that came while `frame` ran."""
        now = time.monotonic()
        # torchrun passes on to every rank what has reached the rank already.
        if distributed.world_size() > 1 and now - self.at < _ECHO_SECONDS:
            return
        first, self.number, self.at = self.number is None, number, now
        # Training asks by itself after every step.
        if first and _called_from(frame, training.train):
            return
        if first and self.raises:
            raise Ended
        self.leave()

    def leave(self) -> NoReturn:
        """End this process at once, whatever it is doing, with one line on stderr."""
        # The signal may have come in the middle of a print, whose lock is then held.
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        line = "lotperm: error: stopped by a signal. Run it again: it goes on from what was saved."
        with contextlib.suppress(OSError):
            # The first line break ends the line of a progress bar.
            os.write(2, f"\n{line}\n".encode())
        # Not sys.exit, which raises: see the class. Nor does anything have to be tidied up.
        os._exit(self.code())


class Ended(BaseException):
    """Raised by a signal within `SignalStop.children`.

    It is no LotpermError, so that no handler of errors takes it for one.
    """


stop = SignalStop()
"""What the command line asks: a process has one."""


def _called_from(frame: FrameType | None, function: Callable[..., Any]) -> bool:
    """Return whether a function, without its decorators, is a frame or one of its callers."""
    # By code, as a function that is decorated has another object in its frame.
    code = inspect.unwrap(function).__code__
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False
