"""Let the parts of a training run take turns on threads of which there are fewer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from lotperm.engine.run import Run
from lotperm.engine.runtime import ProgressBar

_TURNS = 8
"""Turns of each part in an epoch: at its end, threads are idle for one turn at most."""


def advance(
    each: Callable[..., list[Any]],
    threads: int,
    runs: Sequence[Run],
    epoch: int,
    pause: Callable[[], bool],
    bar: ProgressBar | None,
) -> None:
    """Train all parts to the end of the epoch, or until `pause` returns True.

    Three parts on two threads, one after another, would take as long as four. So if a thread would
    be left without a part, each trains the part that is furthest behind, for a fraction of an
    epoch.

    Parameters
    ----------
    each : callable
        The `map` of `threads` threads, as `lotperm.parallel.threads.workers` yields it.
    threads : int
        Number of threads.
    runs : Sequence[Run]
        The parts.
    epoch : int
        The epoch, counted from 0.
    pause : callable
        Asked after every step.
    bar : ProgressBar | None
        Counts images.
    """
    # Files would be read ahead anew at every turn.
    if len(runs) < threads or len(runs) % threads == 0 or runs[0].data.streamed:
        each(lambda run: run.advance(epoch, pause, bar), runs)
        return
    waiting, lock = list(runs), threading.Lock()

    def turn(run: Run) -> None:
        end = run.step + max(1, run.steps // _TURNS)
        run.advance(epoch, lambda: run.step >= end or pause(), bar)

    def work(_: int) -> None:
        while True:
            with lock:
                unfinished = [run for run in waiting if run.step < run.steps]
                if not unfinished:  # other threads have the rest
                    return
                behind = min(unfinished, key=lambda run: run.step)
                waiting.remove(behind)
            turn(behind)
            with lock:
                waiting.append(behind)
            if pause():
                return

    each(work, range(threads))
