"""Killed at any moment, a run that is started again ends with the files of an unbroken one."""

from __future__ import annotations

import collections
import random
import signal
from pathlib import Path
from typing import Any

from conftest import KILLS, Warm, fingerprint, problems

# Where the signal is sent, in the order of a run, and how long it may wait there (seconds).
MOMENTS = [
    ("start", 0.05),
    ("dense", 0.3),
    ("save", 0.004),
    ("dense", 0.3),
    ("imp", 0.04),
    ("imp", 0.08),
    ("match", 0.02),
    ("sparse", 0.005),
    ("save", 0.004),
    ("sparse", 0.04),
    ("connectivity", 0.08),
    ("results", 0.03),
]


def broken_run(
    warm: Warm,
    home: Path,
    moments: list[tuple[str, float]],
    rng: random.Random,
    most: int,
    **call: Any,
) -> tuple[list[str], str]:
    """Begin a run again and again, kill it at each of the moments, let it end: where it was
    hit, what it printed.
    """
    hits: list[str] = []
    for phase, longest in moments:
        hit = {"phase": phase, "delay": rng.uniform(0, longest), "signal": signal.SIGKILL}
        done = warm.ask(warm.whole(home, **call), hit=hit)
        if done["codes"] == [-signal.SIGKILL]:
            hits.append(done["hit"])
        if len(hits) == most:
            break
    done = warm.ask(warm.whole(home, **call))
    return hits, "" if done["codes"] == [0] else done["printed"][0] or str(done["codes"])


def test_killed_anywhere_the_rerun_gives_the_same_files(warm: Warm, unbroken, tmp_path, record):
    rng = random.Random(KILLS)
    kills: collections.Counter[str] = collections.Counter()
    runs = 0
    while kills.total() < KILLS:
        home = tmp_path / str(runs)
        faults = {"checkpoints": {"seconds": 0.05}}
        # A wait that is too long ends behind the stage; so every third run is about the sparse
        # arms alone.
        moments = MOMENTS if runs % 3 else [("sparse", 0.05)] * 4
        hits, failure = broken_run(warm, home, moments, rng, KILLS - kills.total(), faults=faults)
        assert failure == ""
        assert problems(home, unbroken) == []
        kills.update(hits)
        runs += 1
    assert kills.total() == KILLS
    assert {"dense", "imp", "sparse", "save"} <= set(kills), kills
    words = {
        "save": "during a save",
        "start": "at the start, or between stages",
        "results": "while results are written",
    }
    for phase, count in kills.items():
        outcome = (
            f"after a rerun, all files of the {runs} runs are those of an unbroken one, bit for bit"
        )
        record(f"kill −9 {words.get(phase, f'in the stage {phase}')}", count, outcome)


def test_a_writer_in_place_fails_the_same_check(warm: Warm, tmp_path, record):
    """The control: if this test fails, the one above shows nothing."""
    rng = random.Random(0)
    options = {"parameters": {"hidden": [256, 256]}}
    assert warm.ask(warm.whole(tmp_path / "unbroken", **options))["codes"] == [0]
    expected = fingerprint(tmp_path / "unbroken")
    faults = {"checkpoints": {"seconds": 0.0}, "in_place": {}}
    kills, found = 0, []
    for run in range(10):
        home = tmp_path / str(run)
        hits, failure = broken_run(
            warm, home, [("save", 0.004)] * 4, rng, 4, faults=faults, **options
        )
        found = [failure] if failure else problems(home, expected)
        kills += len(hits)
        if found:
            break
    assert found, f"{kills} kills of a store that writes in place, and nothing was noticed"
    assert "torn" in " ".join(found), found
    record(
        "control: kill −9 of a store that writes in place",
        kills,
        "the same check fails, as it must",
    )
