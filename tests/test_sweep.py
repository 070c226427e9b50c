"""Sweeps in processes here: stages into jobs, each computed once, preemption, failure. Slurm: tests/slurm."""

import os
import re
import signal
from pathlib import Path

import pytest
import sweeps

from lotperm import Store, sweep
from lotperm.campaign import Campaign
from lotperm.errors import ParameterError, StorageError, SweepError


def labels(jobs):
    return [[task.name for task in job.tasks] for job in jobs]


def test_chains_and_what_is_cheap_make_one_job(tmp_path):
    path, store = sweeps.write(tmp_path, *sweeps.PAIR), Store(tmp_path / "store")
    jobs = sweep.jobs(Campaign.load(path).tasks(store))
    assert labels(jobs) == [["dense", "match"], ["imp"], ["sparse"], ["imp", "sparse"]]
    assert [job.after for job in jobs] == [set(), {0}, {0, 1}, {1}]
    assert sweep.arrays(jobs) == [[0], [1], [2], [3]]


def test_jobs_that_wait_for_the_same_are_one_array(tmp_path):
    entry = {**sweeps.TINY, "name": "wide", "sparsity": [0.5, 0.75], "rewind_epoch": [0, 1, 2]}
    path, store = sweeps.write(tmp_path, entry), Store(tmp_path / "store")
    jobs = sweep.jobs(Campaign.load(path).tasks(store))
    arrays = [[labels(jobs)[number][0] for number in group] for group in sweep.arrays(jobs)]
    assert arrays == [["dense"], ["imp"], ["sparse"] * 3, ["imp"], ["sparse"] * 3]
    assert all(before < number for number, job in enumerate(jobs) for before in job.after)
    keys = [task.key for job in jobs for task in job.tasks]
    assert len(keys) == len(set(keys)) == len(Campaign.load(path).tasks(store))


def test_a_round_of_pruning_for_one_sparsity_alone_is_one_job(tmp_path):
    path = sweeps.write(tmp_path, {**sweeps.TINY, "name": "deep", "sparsity": 0.9})
    jobs = sweep.jobs(Campaign.load(path).tasks(Store(tmp_path / "store")))
    assert labels(jobs) == [["dense", "match"], ["imp", "imp", "imp", "imp", "sparse"]]


def test_two_processes_compute_every_stage_once(tmp_path):
    path, store = sweeps.write(tmp_path, *sweeps.PAIR), Store(tmp_path / "store")
    said = []
    sweep.submit(path, store, sweep.Options(at_once=2)).wait(said.append)
    assert len(said) == 6 + 2
    assert said[0] == "done, 1 of 6: dense A and B"
    assert sweeps.contents(store.root) == sweeps.unbroken(path, tmp_path / "plain")
    for name in ("half", "more"):
        tables = [
            folder / name / "results.csv" for folder in (tmp_path / "results", tmp_path / "plain" / "results")
        ]
        assert tables[0].read_bytes() == tables[1].read_bytes()
    assert [row["state"] for row in sweep.status(path, store)] == ["done"] * 6
    assert sweep.jobs(Campaign.load(path).tasks(store)) == []


def test_a_preempted_job_goes_on_to_the_same_bits(tmp_path):
    path, store = sweeps.write(tmp_path, sweeps.LONG), Store(tmp_path / "store")
    running = sweep.submit(path, store, sweep.Options())
    stage = sweeps.until(lambda: sweeps.training(store.root))
    controller = running.handles[0].job_id
    (worker,) = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    os.kill(int(worker), signal.SIGUSR2)
    sweeps.until(lambda: list((store.root / "work" / stage).glob("checkpoint-*.safetensors")))
    assert not (store.root / "stages" / stage).exists()
    running.wait(lambda line: None)
    assert re.search(r"dense A and B was stopped in epoch \d+ of 150", sweeps.logs(store.root))
    assert "Requeued job" in sweeps.logs(store.root)
    assert sweeps.contents(store.root) == sweeps.unbroken(path, tmp_path / "plain")


def test_what_fails_is_tried_again_and_then_named(tmp_path):
    path, store = sweeps.write(tmp_path, *sweeps.PAIR), Store(tmp_path / "store")
    sweeps.block(store, path, "IMP round 2/2, sparsity 0.750")
    named = (
        r"2 stages are missing, 1 of them failed\. IMP round 2/2, sparsity 0\.750: StorageError: .*_log\.out"
    )
    with pytest.raises(SweepError, match=named) as error:
        sweep.submit(path, store, sweep.Options(retries=1)).wait(lambda line: None)
    log = Path(re.search(r"Its log: (\S+_log\.out)\.", str(error.value))[1]).read_text()
    assert "failed, try 1 of 2: IMP round 2/2" in log
    assert "failed, try 2 of 2: IMP round 2/2" in log
    assert "not computed, as it or a stage before it failed: sparse arms, sparsity 0.75" in log
    states = {row["stage"]: row["state"] for row in sweep.status(path, store)}
    assert states["dense A and B"] == states["sparse arms, sparsity 0.5, k = 1"] == "done"
    assert states["IMP round 2/2, sparsity 0.750"].startswith("failed: StorageError")
    assert states["sparse arms, sparsity 0.75, k = 1"] == "missing"


def test_what_makes_no_sense_is_refused_before_anything_starts(tmp_path, monkeypatch):
    path, store = sweeps.write(tmp_path, *sweeps.PAIR), Store(tmp_path / "store")
    with pytest.raises(ParameterError, match="expected 'slurm' or 'local'"):
        sweep.submit(path, store, sweep.Options(cluster="moab"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ParameterError, match="no sbatch here"):
        sweep.submit(path, store, sweep.Options(cluster="slurm"))
    lost = sweeps.write(tmp_path / "b", {**sweeps.TINY, "name": "lost", "dataset": "svhn", "sparsity": 0.5})
    with pytest.raises(StorageError, match="lotperm data fetch svhn"):
        sweep.submit(lost, store, sweep.Options())
    with pytest.raises(StorageError, match="was not swept from here"):
        sweep.status(path, Store(tmp_path / "other"))
