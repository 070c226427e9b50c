"""The store survives what machines do: killed processes, company, full and read-only disks."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from stores import CONFIG, Compute, check, counting, tensors

from lotperm.errors import StorageError
from lotperm.store.files import write_atomic
from lotperm.store.stages import StageResult, Store
from lotperm.store.workspace import Workspace

FORK = multiprocessing.get_context("fork")


def four_stages(root: Path, started: Any = None) -> None:
    def compute(workspace: Workspace) -> StageResult:
        state, start = torch.zeros(100_000), 0
        if (saved := workspace.latest()) is not None:
            state, start = saved[0]["state"], saved[1]
        if started is not None:
            started.set()
        for step in range(start, 20):
            state = state + step
            workspace.checkpoint({"state": state}, step + 1)
        return StageResult({"sum": state[0].item()}, {"state": {"state": state}})

    for n in range(4):
        Store(root).stage("sum", {"n": n}, compute)


def test_killed_at_any_moment_the_rerun_gives_the_same_files(tmp_path: Path) -> None:
    four_stages(tmp_path / "whole")
    rng, kills = random.Random(1), 0
    for _ in range(8):
        started = FORK.Event()
        child = FORK.Process(target=four_stages, args=(tmp_path / "killed", started))
        child.start()
        started.wait(5)
        time.sleep(rng.uniform(0, 0.1))
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
    assert kills >= 1
    four_stages(tmp_path / "killed")
    assert list((tmp_path / "killed" / "stages").glob("*.corrupt")) == []
    assert list((tmp_path / "killed" / "work").rglob("*")) == []
    names = sorted(
        p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.safetensors")
    )
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    for n in range(4):
        stage = Store(tmp_path / "killed").find("sum", {"n": n})
        assert stage is not None
        assert stage.results == {"sum": 190.0}


def crowd(root: Path, log: Path, barrier: Any) -> None:
    def compute(workspace: Workspace) -> StageResult:
        with open(log, "a") as file:
            file.write("computed\n")
        time.sleep(0.1)
        return StageResult(
            {"accuracy": [0.5]}, {"weights": tensors(), "mask": {"m": tensors()["mask"]}}
        )

    barrier.wait()
    check(Store(root).stage("dense", CONFIG, compute))


def test_of_four_processes_one_computes(tmp_path: Path) -> None:
    barrier = FORK.Barrier(4)
    children = [
        FORK.Process(target=crowd, args=(tmp_path / "store", tmp_path / "log", barrier))
        for _ in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    assert (tmp_path / "log").read_text() == "computed\n"


def no_space(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the disk be full after so many bytes: the last write is cut short, the next one
    fails.
    """
    write, left = os.write, [after]

    def limited(fd: int, data: Any) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(fd, data[: left[0]])
        left[0] -= count
        return count

    monkeypatch.setattr(os, "write", limited)


@pytest.mark.parametrize("room", [0, 1, 100, 700, 1500])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    store, compute = Store(tmp_path), Compute()
    with monkeypatch.context() as patch:
        no_space(patch, room)
        with pytest.raises(StorageError, match="No space left") as caught:
            store.stage("dense", CONFIG, compute)
    assert caught.value.exit_code == 5
    assert list((tmp_path / "stages").iterdir()) == []
    check(store.stage("dense", CONFIG, compute))


def test_a_full_disk_keeps_the_last_checkpoint_and_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, seen = Store(tmp_path), list[int]()
    with monkeypatch.context() as patch:
        no_space(patch, 1000)
        with pytest.raises(StorageError):
            store.stage("sum", CONFIG, counting(10, None, seen))
    assert store.stage("sum", CONFIG, counting(10, None, seen)).results == {"sum": 45.0}
    assert seen[1] > 0
    write_atomic(tmp_path / "file", b"old")
    with monkeypatch.context() as patch:
        no_space(patch, 1)
        with pytest.raises(StorageError):
            write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert list(tmp_path.glob(".*")) == []


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse what a read-only file system refuses. (Permissions don't bind the user root.)"""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    opened = os.open

    def open_read_only(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        return (
            refuse()
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            else opened(path, flags, *rest, **named)
        )

    for name in ("mkdir", "unlink", "rmdir", "rename", "replace"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(os, "open", open_read_only)
    monkeypatch.setattr(Path, "touch", refuse)


def test_a_read_only_store_can_be_read_but_not_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, compute = Store(tmp_path), Compute()
    store.stage("dense", CONFIG, compute)
    with monkeypatch.context() as patch:
        read_only(patch)
        check(store.stage("dense", CONFIG, compute))
        with pytest.raises(StorageError, match="Read-only") as caught:
            store.stage("dense", {"another": 1}, compute)
    assert caught.value.exit_code == 5
    assert compute.calls == 1


def test_a_root_that_cannot_be_made_is_found_before_computing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    compute = Compute()
    with pytest.raises(StorageError):
        Store(tmp_path / "file" / "store").stage("dense", CONFIG, compute)
    assert compute.calls == 0


def test_stages_that_cannot_be_written_are_found_before_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, compute = os.open, Compute()

    def refuse_stages(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT and "stages" in Path(path).parts:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse_stages)
    with pytest.raises(StorageError, match="Permission denied"):
        Store(tmp_path).stage("dense", CONFIG, compute)
    assert compute.calls == 0
