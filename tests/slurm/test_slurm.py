"""Sweeps on a real Slurm: dependencies, preemption, requeueing, failure."""

import json
import subprocess

import pytest
import sweeps

from lotperm import Store

HERE = ["--cluster", "slurm", "--gpus", "0", "--device", "cpu"]


def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def running():
    """The jobs of Slurm that run."""
    return slurm("squeue", "--noheader", "--array", "--states=running", "--format=%i").split()


def note(store, name="small"):
    return json.loads((store / "sweeps" / name / "sweep.json").read_text())


def logs(store):
    return "".join(path.read_text() for path in sorted((store / "sweeps" / "small" / "logs").glob("*_log.out")))


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A longer campaign, computed without a break: (file, contents)."""
    folder = tmp_path_factory.mktemp("long")
    path = sweeps.write(folder, {**sweeps.LONG, "name": "long"})
    sweeps.unbroken(path, Store(folder / "store"))
    return path, sweeps.contents(folder / "store")


def test_a_sweep_waits_for_what_it_needs_and_gives_the_same(tmp_path):
    path, store = sweeps.write(tmp_path, *sweeps.PAIR), tmp_path / "store"
    sweep = sweeps.start(path, *HERE, "--array-parallelism", "2", store=store)
    code, output = sweeps.finish(sweep, 60)
    assert code == 0, output
    ids = note(store)["ids"]
    assert len(ids) == 5, output
    dependency = slurm("squeue", "--noheader", "--format=%i %E")
    again, refused = sweeps.finish(sweeps.start(path, *HERE, store=store), 60)
    assert again == 2
    assert "is in the queue already" in refused
    assert "afterok:" in dependency
    assert "afterany:" in dependency
    sweeps.until(lambda: not slurm("squeue", "--noheader"), 300)
    code, output = sweeps.finish(sweeps.start("status", path, store=store))
    assert "6 of 6 stages are done" in output, output
    sweeps.unbroken(path, Store(tmp_path / "plain"))
    assert sweeps.contents(store) == sweeps.contents(tmp_path / "plain")
    assert {p.name for p in (tmp_path / "results").iterdir()} == {"half", "more"}


@pytest.mark.parametrize("how", ["signal", "requeue"])
def test_a_preempted_job_goes_on_to_the_same_bits(tmp_path, long, how):
    path, wanted = long
    store = tmp_path / "store"
    sweep = sweeps.start(path, *HERE, "--wait", "--out", tmp_path / "results", store=store)
    stage = sweeps.until(lambda: sweeps.training(store), 120)
    job = running()[0]
    if how == "signal":
        # What Slurm sends before the time is up, or before it preempts (PreemptParameters=send_user_signal).
        slurm("scancel", "--signal=USR2", job)
    else:
        slurm("scontrol", "requeue", job)
    work = store / "work" / stage
    sweeps.until(lambda: list(work.glob("checkpoint-*.safetensors")), 60)
    assert not (store / "stages" / stage).exists()
    code, output = sweeps.finish(sweep, 400)
    assert code == 0, output
    assert "was stopped in epoch" in logs(store)
    if how == "signal":
        assert "Requeued job" in "".join(
            p.read_text() for p in (store / "sweeps" / "small" / "logs").glob("*_log.*")
        )
    assert sweeps.contents(store) == wanted
    assert (tmp_path / "results" / "long" / "results.csv").exists()


def test_what_fails_is_tried_again_then_named_and_nothing_waits_for_it(tmp_path):
    path = sweeps.write(tmp_path, {**sweeps.TINY, "name": "lost", "dataset": "fashion_mnist", "sparsity": 0.5})
    store = tmp_path / "store"
    # The data set is there when the sweep is submitted, and gone when it runs.
    (store / "data").mkdir(parents=True)
    sweep = sweeps.start(path, *HERE, "--wait", "--retries", "1", store=store)
    code, output = sweeps.finish(sweep, 60)
    assert code == 5, output
    assert "lotperm data fetch fashion_mnist" in output
