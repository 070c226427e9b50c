"""The host side of the CUDA path, with a stand-in for the GPU (`tests/stand_in`).

Everything runs in one process, whose report the tests read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import stand_in
import torch
from filelock import FileLock

ROOT = Path(__file__).parents[2]
MEMBERS, STEPS = 3, 4


@pytest.fixture(scope="session")
def report(shared, home):
    """Run everything once; return the report."""
    if torch.version.cuda is None and not os.environ.get("CI"):
        pytest.skip("this PyTorch is no CUDA build")
    folder = shared / "stand-in"
    with FileLock(shared / "stand-in.lock"):
        if not (folder / "report.json").exists():
            environment = {
                **os.environ,
                **stand_in.build(folder),
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
                "LOTPERM_HOME": str(home),
                "OMP_NUM_THREADS": "1",
                # Its own, so that compiling is tried and not looked up.
                "TORCHINDUCTOR_CACHE_DIR": str(folder / "programs"),
                "TRITON_CACHE_DIR": str(folder / "triton"),
            }
            done = subprocess.run(
                [sys.executable, "-m", "stand_in.host", folder],
                env=environment,
                capture_output=True,
                text=True,
                # Threads that wait for each other must be a failure, and not wait for ever.
                timeout=1800,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            (folder / "report.json").write_text(done.stdout.splitlines()[-1])
    return json.loads((folder / "report.json").read_text())


def test_the_step_is_compiled_and_captured_once_and_then_replayed(report):
    steps = 2 * STEPS * MEMBERS
    assert report["forms"]["compiled"] == [["compiled", steps], ["compiled", steps]]
    assert report["forms"]["programs"] == 1
    first, second = report["forms"]["seconds"]
    assert second < first / 2


def test_a_step_is_few_kernels(report):
    """Two convolutions, two norms and a linear layer, forward and backward, with eight parameters;
    as they stand, each of these is a kernel, and so are the updates and the casts.
    """
    assert 5 < report["forms"]["launches_a_step"] < 28


def test_masks_change_between_replays_and_movement_is_summed_up_in_them(report):
    # RigL's update at step 3 of 8 is no replay.
    steps = 2 * STEPS * MEMBERS
    assert report["forms"]["changing"] == [["graph", steps - MEMBERS], ["graph", steps]]


def test_streams_have_the_priority_that_was_asked_for(report):
    assert report["forms"]["priorities"] == [-1]


def test_a_step_that_cannot_be_made_goes_one_down_and_says_so_in_a_line(report):
    mode, said = report["forms"]["no compiler"]
    assert mode == "graph"
    assert said == "training: the step can't be compiled: RuntimeError: no compiler\n"
    mode, said = report["forms"]["no graph"]
    assert mode == "plain"
    assert said.splitlines()[1:] == [
        "training: the step can't be made a CUDA graph: RuntimeError: no compiler"
    ]
    assert report["forms"]["plain"] == ["plain", 0]


def test_a_run_that_is_stopped_at_every_step_ends(report):
    found = report["checkpoints"]
    assert found["stops"] >= 2 * STEPS - 1
    assert (found["epochs"], found["mode"]) == (2, "graph")


def test_float32_is_float32_unless_tf32_is_named(report):
    assert report["precisions"] == {"float32": [False], "tf32": [True], "bfloat16": [False]}


def test_the_smoke_campaign_is_recorded_with_the_form_of_its_steps(report):
    assert set(report["campaign"]) == {
        "smoke_table",
        "smoke_early",
        "smoke_diversity",
        "smoke_connectivity",
        "smoke_widths_x0.25",
        "smoke_widths_x0.5",
    }
    for steps in report["campaign"].values():
        assert set(steps) <= {"graph", "None"}
        assert "graph" in steps


def test_convolutions_see_channels_last_and_captures_nothing_that_waits(report):
    # Matching and evaluation, which aren't a hot path, are in float32.
    assert [last for last, dtype in report["layouts"] if dtype == "torch.bfloat16"] == [True]
    assert report["complaints"] == 0
