"""Sweeps on a real Slurm: dependencies, preemption, requeueing, failure."""

import subprocess
import sys

import pytest
import sweeps

from lotperm import Store
from lotperm.cluster import sweep
from lotperm.cluster.options import Options
from lotperm.errors import ParameterError, SweepError

HERE = {"cluster": "slurm", "gpus": 0, "at_once": 2, "runtime": {"device": "cpu"}}


def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def begin_at_once():
    """Let requeued jobs begin in five seconds, in which Slurm forgets that it killed them.

    By itself it lets them wait for two minutes.
    """
    rows = slurm(
        "squeue", "--noheader", "--array", "--states=pending", "--format=%i %r"
    ).splitlines()
    held = [row.split()[0] for row in rows if row.endswith("BeginTime")]
    for job in held:
        slurm("scontrol", "update", f"jobid={job}", "starttime=now+5")
    return held


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Compute a campaign without a break: (file, ranks -> contents of the store)."""
    folder = tmp_path_factory.mktemp("lines")
    path, ranks = sweeps.write(folder, sweeps.LINES), Store(folder / "ranks")
    # Recorded elsewhere: a campaign skips what is recorded.
    options = Options(ranks=2, gpus=0, results=folder / "ranks results")
    sweep.submit(path, ranks, options).wait(print)
    return path, {1: sweeps.unbroken(path, folder), 2: sweeps.contents(ranks.root)}


def test_jobs_wait_for_what_they_need_and_give_the_same(tmp_path):
    path, store = sweeps.write(tmp_path, *sweeps.PAIR), Store(tmp_path / "store")
    running = sweep.submit(path, store, Options(**HERE))
    jobs = [handle.job_id for handle in running.handles]
    waiting = dict(
        line.split(maxsplit=1)
        for line in slurm("squeue", "--noheader", "--format=%i %E").splitlines()
    )
    assert f"afterok:{jobs[0]}(unfulfilled)" in waiting[jobs[1]]
    assert f"afterok:{jobs[1]}(unfulfilled)" in waiting[jobs[2]]
    assert all(f"afterany:{job}(unfulfilled)" in waiting[jobs[4]] for job in jobs[:4])
    with pytest.raises(ParameterError, match="is in the queue already"):
        sweep.submit(path, store, Options(**HERE))
    assert any("pending" in row["state"] for row in sweep.status(path, store))
    running.wait(print)
    assert [row["state"] for row in sweep.status(path, store)] == ["done"] * 6
    assert sweeps.contents(store.root) == sweeps.unbroken(path, tmp_path / "plain")
    assert {folder.name for folder in (tmp_path / "results").iterdir()} == {"half", "more"}


def test_jobs_that_wait_for_the_same_are_an_array(tmp_path):
    entry = {**sweeps.TINY, "name": "wide", "sparsity": 0.5, "rewind_epoch": [0, 1]}
    path = sweeps.write(tmp_path, entry)
    command = [
        sys.executable,
        "-m",
        "lotperm",
        "sweep",
        path,
        "--cluster",
        "slurm",
        "--gpus",
        "0",
        "--wait",
    ]
    done = subprocess.run(
        [*command, "--out", tmp_path / "results"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "done, 5 of 5" in done.stdout
    assert (tmp_path / "results" / "wide" / "results.csv").exists()


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("how", ["signal", "requeue"])
def test_a_preempted_job_goes_on_to_the_same_bits(tmp_path, lines, patient, how, ranks):
    path, wanted = lines
    store = Store(tmp_path / "store")
    running = sweep.submit(path, store, Options(**HERE, ranks=ranks, results=tmp_path / "results"))
    stage = sweeps.until(lambda: sweeps.training(store.root), 120)
    job = running.handles[0].job_id
    if how == "signal":
        # What Slurm sends before the time is up, or before it preempts
        # (PreemptParameters=send_user_signal).
        slurm("scancel", "--signal=USR2", job)
    else:
        slurm("scontrol", "requeue", job)
    work = store.root / "work" / stage
    sweeps.until(lambda: list(work.glob("checkpoint-*.safetensors")))
    assert not (store.root / "stages" / stage).exists()
    sweeps.until(begin_at_once)
    running.wait(print)
    assert "dense A and B was stopped in epoch" in sweeps.logs(store.root)
    assert ("Requeued job" in sweeps.logs(store.root)) == (how == "signal")
    assert sweeps.contents(store.root) == wanted[ranks]
    assert {stage.meta["ranks"] for stage in store.stages()} == {ranks}
    assert (tmp_path / "results" / "lines" / "results.csv").exists()


def test_what_fails_is_tried_again_then_named_and_nothing_waits_for_it(tmp_path):
    path, store = sweeps.write(tmp_path, *sweeps.PAIR), Store(tmp_path / "store")
    sweeps.block(store, path, "IMP round 1/1, sparsity 0.500")
    running = sweep.submit(path, store, Options(**HERE, retries=1))
    sweeps.until(begin_at_once, 120)
    with pytest.raises(SweepError, match=r"4 stages are missing, 1 of them failed\. IMP round 1/1"):
        running.wait(print)
    assert "failed, try 2 of 2: IMP round 1/1" in sweeps.logs(store.root)
    states = {row["stage"]: row["state"] for row in sweep.status(path, store)}
    assert states["match A to B"] == "done"
    assert states["IMP round 1/1, sparsity 0.500"].startswith("failed: StorageError")
    assert states["sparse arms, sparsity 0.5, k = 1"] == "missing (not in the queue)"


def test_what_slurm_refuses_is_said_in_one_line(tmp_path):
    path, store = sweeps.write(tmp_path, *sweeps.PAIR), Store(tmp_path / "store")
    with pytest.raises(
        ParameterError, match=r"^Slurm refused a job: .*partition.* --partition, --time"
    ):
        sweep.submit(path, store, Options(**HERE, partition="nowhere"))
    assert slurm("squeue", "--noheader") == ""
