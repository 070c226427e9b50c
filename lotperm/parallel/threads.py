"""Python threads that divide the cores of a CPU, and freed memory that is kept for reuse.

OpenMP threads that share every single operation wait for each other at its end; small operations
gain little from them, and become ten times slower while the machine is busy with other work.
Threads that each run their own operations don't wait for each other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import ThreadPool
from typing import Any

import torch

_OPENMP = "OMP_NUM_THREADS"


def keep_freed_memory() -> None:
    """Make glibc reuse large freed blocks instead of returning them to the system.

    Otherwise each activation would be paged in anew, which took up to half of the time. When a
    block larger than its threshold is freed, glibc raises the threshold to its size, up to 32 MiB:
    mallopt(3), M_MMAP_THRESHOLD. With other C libraries this has no effect.
    """
    # Freed at once. Its size is just below the 32 MiB up to which glibc raises the threshold.
    torch.empty(31 * 2**20, dtype=torch.uint8)


@contextlib.contextmanager
def cores_divided(processes: int) -> Iterator[None]:
    """Let processes that are started inside a ``with`` statement divide the cores.

    Otherwise each would start a thread for every core. A number of threads that the environment
    has, in ``OMP_NUM_THREADS``, stays: whoever set it chose it for each process.

    Parameters
    ----------
    processes : int
        Number of processes that compute at the same time.
    """
    if _OPENMP in os.environ:
        yield
        return
    # PyTorch's number, as it may have been told to use fewer cores than there are.
    os.environ[_OPENMP] = str(max(1, torch.get_num_threads() // processes))
    try:
        yield
    finally:
        del os.environ[_OPENMP]


@contextlib.contextmanager
def workers(count: int) -> Iterator[Callable[..., list[Any]]]:
    """Yield a `map` whose calls run in several threads, each with a share of PyTorch's threads.

    Parameters
    ----------
    count : int
        Number of threads; with 1, the calls run in the calling thread.
    """
    if count == 1:
        yield lambda function, *arguments: [
            function(*each) for each in zip(*arguments, strict=True)
        ]
        return
    threads = torch.get_num_threads()
    share = max(1, threads // count)
    # Each thread sets its own share, as the setting is partly per thread. An executor of
    # concurrent.futures won't do: a process forked in one of its threads, such as a reader of
    # images, ends with exit code 1, and a DataLoader that is still open takes that for a failure.
    pool = ThreadPool(count, initializer=torch.set_num_threads, initargs=(share,))

    def each(function: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
        # The first error is raised, and calls that haven't begun are skipped.
        return list(pool.imap(lambda given: function(*given), zip(*arguments, strict=True)))

    try:
        yield each
    finally:
        # Calls that have begun are waited for, as they use objects that the caller holds.
        pool.terminate()
        pool.join()
        # Restored, since parts of this setting are global.
        torch.set_num_threads(threads)
