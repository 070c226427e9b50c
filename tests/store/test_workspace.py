"""Checkpoints: an interrupted stage goes on, from the last one that is whole."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from stores import CONFIG, Interrupted, counting

from lotperm.store.stages import Store
from lotperm.store.workspace import Workspace


def test_an_interrupted_stage_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    store, seen = Store(tmp_path), list[int]()
    with pytest.raises(Interrupted):
        store.stage("sum", CONFIG, counting(10, 6, seen))
    (work,) = (tmp_path / "work").iterdir()
    assert len(list(work.iterdir())) == 2
    stage = store.stage("sum", CONFIG, counting(10, None, seen))
    assert stage.results == {"sum": 45.0}
    assert seen == [0, 6]
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(("bad", "resumes_at"), [(1, 5), (2, 0)])
def test_corrupt_checkpoints_are_moved_aside(
    tmp_path: Path, bad: int, resumes_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    store, seen = Store(tmp_path), list[int]()
    with pytest.raises(Interrupted):
        store.stage("sum", CONFIG, counting(10, 6, seen))
    (work,) = (tmp_path / "work").iterdir()
    for path in sorted(work.iterdir())[-bad:]:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert store.stage("sum", CONFIG, counting(10, None, seen)).results == {"sum": 45.0}
    assert seen == [0, resumes_at]
    assert len(list(work.glob("*.corrupt"))) == bad
    assert "checkpoint-00000005" in caplog.text


def test_time_before_an_interruption_counts(tmp_path: Path) -> None:
    first = Workspace(tmp_path / "work", "k")
    time.sleep(0.2)
    first.checkpoint({}, None)
    second = Workspace(tmp_path / "work", "k")
    assert second.seconds < 0.15
    assert second.latest() == ({}, None)
    assert second.seconds >= 0.2
    assert Workspace(tmp_path / "work", "another key").latest() is None
