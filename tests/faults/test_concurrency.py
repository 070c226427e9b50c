"""Several processes on one store: each stage is computed once, everyone gets the same."""

from __future__ import annotations

import collections
import contextlib
import random
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import TINY, Warm, fingerprint, problems, times
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from lotperm.store.stages import StageResult, Store, stage_key
from lotperm.store.workspace import Workspace

PROCESSES = 4


def crowd(warm: Warm, home: Path) -> list[dict]:
    """Calls of the same experiment on one store, each with results in a folder of its own."""
    return [
        warm.call(
            "whole",
            home,
            {"parameters": TINY, "out": str(home / f"out-{i}")},
            trace=str(home / "trace"),
        )
        for i in range(PROCESSES)
    ]


def outcome(home: Path, unbroken: dict[str, str]) -> None:
    """All results are those of a run without company."""
    folders = sorted(home.glob("out-*"))
    for folder in folders:
        shutil.rmtree(home / "out", ignore_errors=True)
        folder.rename(home / "out")
        assert problems(home, unbroken) == []


def computed(home: Path) -> collections.Counter[str]:
    return collections.Counter((home / "trace").read_text().splitlines())


def test_four_processes_compute_each_stage_once(warm: Warm, unbroken, tmp_path, record):
    rounds = times(2, 20)
    for number in range(rounds):
        home = tmp_path / str(number)
        home.mkdir()
        done = warm.ask(*crowd(warm, home), timeout=300)
        assert done["codes"] == [0] * PROCESSES, done["printed"]
        stages = len([name for name in unbroken if name.endswith("stage.json")])
        assert computed(home) == collections.Counter(dict.fromkeys(computed(home), 1))
        assert len(computed(home)) == stages
        assert len(list(home.glob("out-*"))) == PROCESSES
        outcome(home, unbroken)
    record(
        f"{PROCESSES} processes, one store, one experiment",
        rounds,
        "each stage computed once, identical results",
    )


def test_a_killed_owner_frees_its_lock(warm: Warm, unbroken, tmp_path, record):
    rng, rounds, killed = random.Random(0), 0, 0
    while killed < times(1, 10):
        home = tmp_path / str(rounds)
        home.mkdir()
        rounds += 1
        hit = {
            "phase": rng.choice(["dense", "imp", "sparse"]),
            "delay": rng.uniform(0, 0.05),
            "signal": signal.SIGKILL,
        }
        done = warm.ask(*crowd(warm, home), hit=hit, timeout=300)
        victim = done["victim"]
        if done["hit"] in ("ended", "results"):  # too late: it held no lock any more
            continue
        assert done["codes"][victim] == -signal.SIGKILL
        assert [code for i, code in enumerate(done["codes"]) if i != victim] == [0] * (
            PROCESSES - 1
        )
        assert computed(home).total() <= len(computed(home)) + 1, (
            "more than the victim's stage was computed again"
        )
        assert not (home / f"out-{victim}").exists()
        outcome(home, unbroken)
        killed += 1
    record(
        "one of 4 processes is killed while it computes",
        killed,
        "another takes over, identical results",
    )


NAMES, VALUES = st.sampled_from(["dense", "imp"]), st.integers(0, 2)


class Interrupted(Exception):
    """A stage that is broken off."""


class StoreMachine(RuleBasedStateMachine):
    """Two stores on one folder, and a plain dict that says what must be in it."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.stores = [Store(self.folder), Store(self.folder)]
        self.finished: set[tuple[str, int]] = set()
        self.saved: dict[tuple[str, int], int] = {}
        self.calls = 0

    def compute(self, name: str, value: int, stop_at: int | None = None):
        """Ten steps with a checkpoint after each; `stop_at` breaks it off."""

        def function(workspace: Workspace) -> StageResult:
            self.calls += 1
            found = workspace.latest()
            step = 0 if found is None else found[1]
            assert step == self.saved.get((name, value), 0)
            state = torch.full((5,), float(value)) if found is None else found[0]["state"]
            while step < 10:
                if step == stop_at:
                    raise Interrupted
                state, step = state * 2, step + 1
                workspace.checkpoint({"state": state}, step)
                self.saved[name, value] = step
            return StageResult({"value": value}, {"final": {"state": state}})

        return function

    @rule(name=NAMES, value=VALUES, store=st.integers(0, 1))
    def ask(self, name: str, value: int, store: int) -> None:
        before = self.calls
        stage = self.stores[store].stage(name, {"value": value}, self.compute(name, value))
        assert self.calls - before == (0 if (name, value) in self.finished else 1)
        assert stage.results == {"value": value}
        assert torch.equal(stage.load("final")["state"], torch.full((5,), value * 1024.0))
        self.finished.add((name, value))
        self.saved.pop((name, value), None)

    @rule(name=NAMES, value=VALUES, stop_at=st.integers(0, 9))
    def break_off(self, name: str, value: int, stop_at: int) -> None:
        if (name, value) in self.finished or stop_at < self.saved.get((name, value), 0):
            return
        try:
            self.stores[0].stage(name, {"value": value}, self.compute(name, value, stop_at))
        except Interrupted:
            return
        raise AssertionError("it wasn't broken off")

    @rule(
        name=NAMES,
        value=VALUES,
        at=st.integers(0, 10**6),
        file=st.sampled_from(["stage.json", "final.safetensors"]),
    )
    def damage(self, name: str, value: int, at: int, file: str) -> None:
        if (name, value) in self.finished:
            path = self.stores[0].find(name, {"value": value}).path / file
            content = bytearray(path.read_bytes())
            content[at % len(content)] ^= 1 + at % 255
            path.write_bytes(content)
            self.finished.discard((name, value))

    @rule(name=NAMES, value=VALUES, at=st.integers(0, 10**6))
    def damage_checkpoint(self, name: str, value: int, at: int) -> None:
        step = self.saved.get((name, value), 0)
        if step:
            key = stage_key(name, {"value": value})
            files = self.stores[0].workspace(name, key).checkpoints()
            content = bytearray(files[-1].read_bytes())
            if content[:1] == b"\xff":  # damaged before, and not looked at since
                return
            content[at % len(content)] ^= 1 + at % 255
            content[0] = 0xFF
            files[-1].write_bytes(content)
            self.saved[name, value] = step - 1 if len(files) > 1 else 0

    @rule(name=NAMES, value=VALUES)
    def delete(self, name: str, value: int) -> None:
        if (name, value) in self.finished:
            shutil.rmtree(self.stores[0].find(name, {"value": value}).path)
            self.finished.discard((name, value))

    @invariant()
    def found_is_what_was_finished(self) -> None:
        if hasattr(self, "stores"):
            for name in ("dense", "imp"):
                for value in range(3):
                    found = self.stores[1].find(name, {"value": value})
                    assert (found is not None) == ((name, value) in self.finished)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


def test_any_sequence_of_operations(record):
    runs = times(15, 200)
    options = settings(max_examples=runs, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(StoreMachine, settings=options)
    record("random sequences of 20 operations on a store", runs, "always what a plain dict says")


def test_the_machine_notices_a_store_that_does_not_check(monkeypatch):
    """The control: without checksums a changed weight goes unnoticed by the store, and the
    invariant says so.
    """
    for checks in (True, False):
        machine = StoreMachine()
        machine.begin()
        machine.ask("dense", 1, 0)
        size = (
            (machine.stores[0].find("dense", {"value": 1}).path / "final.safetensors")
            .stat()
            .st_size
        )
        with monkeypatch.context() as patch:
            if not checks:
                patch.setattr("lotperm.store.folders.require_equal", lambda *_: None)
            machine.damage("dense", 1, size - 1, "final.safetensors")
            with contextlib.nullcontext() if checks else pytest.raises(AssertionError):
                machine.found_is_what_was_finished()
        machine.teardown()


def test_the_fingerprint_notices_a_changed_byte(warm: Warm, tmp_path):
    """The control of the comparison itself."""
    assert warm.ask(warm.whole(tmp_path))["codes"] == [0]
    before = fingerprint(tmp_path)
    assert problems(tmp_path, before) == []
    path = tmp_path / "out" / "results.csv"
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    assert problems(tmp_path, before) == ["out/results.csv differs or is missing"]
