"""Several threads of one process, and the processes that they fork."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading

import pytest
import torch

from lotperm.parallel.threads import cores_divided, workers


def forked(_: int) -> int | None:
    """Fork a process that does nothing, as a DataLoader does for its readers."""
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    return process.exitcode


def test_processes_that_threads_fork_end_well() -> None:
    with workers(2) as each:
        assert each(forked, range(3)) == [0, 0, 0]


def test_results_come_in_order_from_threads_that_share_the_cores() -> None:
    before, both = torch.get_num_threads(), threading.Barrier(2)

    def work(number: int, factor: int) -> tuple[int, str]:
        both.wait(30)  # neither goes on alone
        return number * factor, threading.current_thread().name

    with workers(2) as each:
        products, names = zip(*each(work, [3, 4], [10, 100]), strict=True)
    assert products == (30, 400)
    assert len(set(names)) == 2
    assert torch.get_num_threads() == before


def test_the_first_error_is_raised_when_what_has_begun_has_ended() -> None:
    ended, begun = [], threading.Event()

    def work(number: int) -> None:
        if number == 0:
            assert begun.wait(30)
            raise ValueError("the first")
        begun.set()
        threading.Event().wait(0.2)
        ended.append(number)

    with pytest.raises(ValueError, match="the first"), workers(2) as each:
        each(work, range(2))
    assert ended == [1]


@pytest.mark.parametrize(("processes", "each"), [(1, "4"), (2, "2"), (3, "1"), (9, "1")])
def test_processes_divide_the_cores(
    monkeypatch: pytest.MonkeyPatch, processes: int, each: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    # Whatever machine this is.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    before = dict(os.environ)
    with cores_divided(processes):
        assert os.environ["OMP_NUM_THREADS"] == each
    with pytest.raises(KeyError), cores_divided(processes):
        raise KeyError
    assert dict(os.environ) == before


def test_a_number_of_threads_that_was_chosen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    ask = "import torch; print(torch.get_num_threads())"
    with cores_divided(2):
        said = subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True).stdout
    assert int(said) == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"
