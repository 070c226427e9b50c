"""Sweeps in processes here: stages into jobs, each computed once, preemption, failure. Slurm:
tests/slurm.
"""

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import sweeps
import torch
from submitit.core.utils import FailedJobError

from lotperm import Store
from lotperm.cluster import collect, local, slurm, sweep
from lotperm.cluster import jobs as job_lists
from lotperm.cluster.campaign import Campaign
from lotperm.cluster.folder import SweepFolder
from lotperm.cluster.options import Options
from lotperm.errors import ParameterError, StorageError, SweepError


def labels(jobs):
    return [[task.name for task in job.tasks] for job in jobs]


def test_chains_and_what_is_cheap_make_one_job(tmp_path):
    path, store = sweeps.write(tmp_path, *sweeps.PAIR), Store(tmp_path / "store")
    jobs = job_lists.jobs(Campaign.load(path).tasks(store))
    assert labels(jobs) == [["dense", "match"], ["imp"], ["sparse"], ["imp", "sparse"]]
    assert [job.after for job in jobs] == [set(), {0}, {0, 1}, {1}]
    assert job_lists.arrays(jobs) == [[0], [1], [2], [3]]


def test_jobs_that_wait_for_the_same_are_one_array(tmp_path):
    entry = {**sweeps.TINY, "name": "wide", "sparsity": [0.5, 0.75], "rewind_epoch": [0, 1, 2]}
    path, store = sweeps.write(tmp_path, entry), Store(tmp_path / "store")
    jobs = job_lists.jobs(Campaign.load(path).tasks(store))
    arrays = [[labels(jobs)[number][0] for number in group] for group in job_lists.arrays(jobs)]
    assert arrays == [["dense"], ["imp"], ["sparse"] * 3, ["imp"], ["sparse"] * 3]
    assert all(before < number for number, job in enumerate(jobs) for before in job.after)
    keys = [task.key for job in jobs for task in job.tasks]
    assert len(keys) == len(set(keys)) == len(Campaign.load(path).tasks(store))


def test_a_round_of_pruning_for_one_sparsity_alone_is_one_job(tmp_path):
    path = sweeps.write(tmp_path, {**sweeps.TINY, "name": "deep", "sparsity": 0.9})
    jobs = job_lists.jobs(Campaign.load(path).tasks(Store(tmp_path / "store")))
    assert labels(jobs) == [["dense", "match"], ["imp", "imp", "imp", "imp", "sparse"]]


def test_what_is_left_after_an_interruption_may_begin_with_matching(tmp_path):
    path, store = sweeps.write(tmp_path, sweeps.PAIR[0]), Store(tmp_path / "store")
    for task in Campaign.load(path).tasks(store):
        if task.name in ("dense", "imp"):
            task.run()
    assert labels(job_lists.jobs(Campaign.load(path).tasks(store))) == [["match"], ["sparse"]]


def test_two_processes_compute_every_stage_once(tmp_path):
    path, store = sweeps.write(tmp_path, *sweeps.PAIR), Store(tmp_path / "store")
    said = []
    sweep.submit(path, store, Options(at_once=2)).wait(said.append, 0.1)
    assert len(said) == 6 + 4
    assert said[0] == "done, 1 of 6: dense A and B"
    assert sweeps.contents(store.root) == sweeps.unbroken(path, tmp_path / "plain")
    for name in ("half", "more"):
        tables = [
            folder / name / "results.csv"
            for folder in (tmp_path / "results", tmp_path / "plain" / "results")
        ]
        assert tables[0].read_bytes() == tables[1].read_bytes()
    assert [row["state"] for row in sweep.status(path, store)] == ["done"] * 6
    assert job_lists.jobs(Campaign.load(path).tasks(store)) == []
    # What is recorded isn't submitted, whatever the store has; another folder gets all of it.
    empty = Store(tmp_path / "empty")
    again = sweep.submit(path, empty, Options())
    again.wait(said.append, 0.1)
    assert again.jobs == [] and list(empty.stages()) == []
    assert [row["state"] for row in sweep.status(path, empty)] == ["recorded"] * 6
    assert len(Campaign.load(path).missing(empty, tmp_path / "elsewhere")) == 6


def test_a_process_turns_to_what_no_other_computes(tmp_path):
    """The dense networks of the first entry are in other hands, and all its stages need them."""
    first = {**sweeps.PAIR[1], "name": "first"}
    second = {**first, "name": "second", "hidden": [10]}
    path, store = sweeps.write(tmp_path, first, second), Store(tmp_path / "store")
    mine, others = (entry.tasks(store) for entry in Campaign.load(path).entries)
    assert not {task.key for task in mine} & {task.key for task in others}
    dense = next(task for task in mine if task.name == "dense")
    with store.lock(dense.name, dense.key):
        running = sweep.submit(path, store, Options())
        sweeps.until(lambda: all(task.exists() for task in others))
        sweeps.until(lambda: "waiting for another process" in sweeps.logs(store.root))
        assert not any(task.exists() for task in mine)
    running.wait(lambda line: None, 0.1)
    assert all(task.exists() for task in mine)
    assert sweeps.contents(store.root) == sweeps.unbroken(path, tmp_path / "plain")


def test_a_preempted_job_goes_on_to_the_same_bits(tmp_path, patient):
    path, store = sweeps.write(tmp_path, sweeps.LINES), Store(tmp_path / "store")
    running = sweep.submit(path, store, Options())
    stage = sweeps.until(lambda: sweeps.training(store.root))
    (worker,) = sweeps.children(running.handles[0].job_id)
    os.kill(worker, signal.SIGUSR2)
    sweeps.until(lambda: list((store.root / "work" / stage).glob("checkpoint-*.safetensors")))
    assert not (store.root / "stages" / stage).exists()
    running.wait(lambda line: None, 0.1)
    assert re.search(r"dense A and B was stopped in epoch \d+ of 3", sweeps.logs(store.root))
    assert "Requeued job" in sweeps.logs(store.root)
    assert sweeps.contents(store.root) == sweeps.unbroken(path, tmp_path / "plain")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_here_that_is_asked_to_stop_takes_its_processes_along(tmp_path, number):
    path, store = sweeps.write(tmp_path, sweeps.LONG), Store(tmp_path / "store")
    command = [
        sys.executable,
        "-m",
        "lotperm",
        "sweep",
        "run",
        path,
        "--cluster",
        "local",
        "--device",
        "cpu",
    ]
    variables = {**os.environ, "LOTPERM_HOME": str(store.root)}
    running = subprocess.Popen(
        command, env=variables, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    stage = sweeps.until(lambda: sweeps.training(store.root))
    (controller,) = sweeps.children(running.pid)
    (worker,) = sweeps.children(controller)
    if number == signal.SIGINT:  # as a terminal does: to every process
        os.killpg(running.pid, number)
    else:
        running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == (143 if number == signal.SIGTERM else 130), said
    assert (
        said.splitlines()[-1].startswith("lotperm: error: stopped by a signal.")
        and "Traceback" not in said
    )
    assert not any(Path(f"/proc/{pid}").exists() for pid in (controller, worker))
    assert list((store.root / "work" / stage).glob("checkpoint-*.safetensors"))
    assert re.search(r"dense A and B was stopped in epoch \d+ of 150", sweeps.logs(store.root))
    assert re.fullmatch(r"epoch \d+ of 150", sweep.status(path, store)[0]["state"])


def test_ranks_that_are_killed_and_preempted_compute_what_torchrun_does(
    two_ranks, tmp_path, patient
):
    path, store = sweeps.write(tmp_path, sweeps.LINES), Store(tmp_path / "store")
    running = sweep.submit(path, store, Options(ranks=2, gpus=0))
    stage = sweeps.until(lambda: sweeps.training(store.root))
    (worker,) = sweeps.children(running.handles[0].job_id)
    os.kill(sweeps.ranks(worker)[1], signal.SIGKILL)
    sweeps.until(lambda: "Requeued job" in sweeps.logs(store.root))
    (worker,) = sweeps.until(
        lambda: [w for w in sweeps.children(running.handles[0].job_id) if w != worker]
    )
    sweeps.until(lambda: len(sweeps.ranks(worker)) == 2)
    os.kill(worker, signal.SIGUSR2)
    sweeps.until(lambda: list((store.root / "work" / stage).glob("checkpoint-*.safetensors")))
    assert not (store.root / "stages" / stage).exists()
    running.wait(lambda line: None, 0.1)
    said = sweeps.logs(store.root)
    assert re.search(r"failed, try 1 of 3: dense A and B\n(.*\n)+.*RankLostError: rank", said)
    assert re.search(r"dense A and B was stopped in epoch \d+ of 3\. Its state is saved", said)
    assert len(re.findall("submitit INFO .* Requeued job", said)) == 2
    assert [stage.meta["ranks"] for stage in store.stages()] == [2, 2, 2]
    found, expected = sweeps.contents(store.root), sweeps.contents(two_ranks / "home")
    assert {name.partition("-")[0] for name in found} == {"dense", "match"}
    assert found == {name: expected[name] for name in found}
    # One process rounds otherwise: were these its bits, there would have been no ranks.
    alone = sweeps.unbroken(path, tmp_path / "alone")
    assert alone.keys() == found.keys()
    assert alone != found


def test_what_fails_on_all_ranks_is_noted_once(tmp_path):
    path, store = sweeps.write(tmp_path, sweeps.LINES), Store(tmp_path / "store")
    sweeps.block(store, path, "dense A and B")
    named = r"3 stages are missing, 1 of them failed\. dense A and B: StorageError: cannot write"
    with pytest.raises(SweepError, match=named):
        sweep.submit(path, store, Options(ranks=2, gpus=0, retries=0)).wait(lambda line: None, 0.1)
    assert sweeps.logs(store.root).count("failed, try 1 of 1: dense A and B") == 1


def test_every_process_has_as_many_gpus_as_ranks(tmp_path):
    path = sweeps.write(tmp_path, *sweeps.PAIR)
    jobs = job_lists.jobs(Campaign.load(path).tasks(Store(tmp_path / "store")))
    executor, cluster = MagicMock(), MagicMock()
    local.start(executor, jobs, list, Options(at_once=3, gpus=4, ranks=2))
    shares = [call.kwargs["visible_gpus"] for call in executor.update_parameters.call_args_list]
    assert shares == [[0, 1], [2, 3], [0, 1]]
    cluster.submit_array.side_effect = lambda workers: [MagicMock(job_id="1_0") for _ in workers]
    slurm.submit(
        cluster,
        jobs,
        worker=list,
        last=MagicMock(),
        options=Options(cluster="slurm", ranks=2),
        name="small",
        note=print,
    )
    first, *_, last = (call.kwargs for call in cluster.update_parameters.call_args_list)
    assert (first["gpus_per_node"], last["gpus_per_node"]) == (2, None)


@pytest.mark.parametrize(
    ("chosen", "processes", "each"), [(None, 2, "4"), (None, 64, "2"), ("3", 2, "3")]
)
def test_processes_here_divide_the_cores(tmp_path, monkeypatch, chosen, processes, each):
    path = sweeps.write(tmp_path, *sweeps.PAIR)
    jobs = job_lists.jobs(Campaign.load(path).tasks(Store(tmp_path / "store")))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if chosen:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    found, executor = [], MagicMock()
    executor.submit.side_effect = lambda _: found.append(os.environ["OMP_NUM_THREADS"])
    local.start(executor, jobs, list, Options(at_once=processes))
    # No more processes than there are jobs.
    assert found == [each] * min(processes, len(jobs))
    del found[:]
    local.start(executor, jobs, list, Options(at_once=2, gpus=0, ranks=2))
    assert found == [chosen or "2"] * 2


def test_a_process_may_start_again_any_number_of_times(tmp_path):
    """submitit's own controller stops at six."""

    class Again:
        def checkpoint(self):
            from submitit.helpers import DelayedSubmission

            return DelayedSubmission(self)

        def __call__(self):
            with (tmp_path / "runs").open("a") as file:
                file.write("x")
            if (tmp_path / "runs").stat().st_size < 8:
                signal.getsignal(signal.SIGUSR2)(signal.SIGUSR2, None)

    executor = local.local_executor(tmp_path / "logs")
    executor.update_parameters(timeout_min=60, gpus_per_node=0, visible_gpus=[])
    executor.submit(Again()).wait()
    assert (tmp_path / "runs").read_text() == "x" * 8


def ended(pid):
    """Whether a process has ended, or only waits for its exit status to be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_does_not_end_by_itself_is_killed(tmp_path):
    def sleep():
        import signal
        import time

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        (tmp_path / "begun").touch()
        time.sleep(600)

    executor = local.local_executor(tmp_path / "logs")
    executor.update_parameters(timeout_min=60, gpus_per_node=0, visible_gpus=[])
    handle = executor.submit(sleep)
    sweeps.until((tmp_path / "begun").exists)
    (worker,) = sweeps.children(handle.job_id)
    started = sweep.Sweep(
        campaign=MagicMock(),
        store=MagicMock(),
        folder=SweepFolder(tmp_path),
        options=Options(),
        jobs=[],
        handles=[handle],
    )
    started.cancel(seconds=1)
    sweeps.until(handle.done, 20)
    sweeps.until(lambda: ended(worker), 20)


@pytest.mark.parametrize(
    ("allowed", "given"),
    [(None, "1,0"), ("", "1,0"), ("4,2", "2,4"), ("GPU-ab,GPU-cd", "GPU-cd,GPU-ab")],
)
def test_a_sweep_here_keeps_to_the_gpus_that_it_may_use(tmp_path, monkeypatch, allowed, given):
    if allowed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    start = MagicMock(return_value=MagicMock(pid=1))
    monkeypatch.setattr(local.subprocess, "Popen", start)
    executor = local.local_executor(tmp_path)
    executor.update_parameters(timeout_min=1, gpus_per_node=2, visible_gpus=[1, 0])
    executor._submit_command("a command")
    assert start.call_args.kwargs["env"]["CUDA_VISIBLE_DEVICES"] == given


def test_what_slurm_refuses_halfway_leaves_nothing_in_the_queue(tmp_path, monkeypatch):
    path = sweeps.write(tmp_path, *sweeps.PAIR)
    found = job_lists.jobs(Campaign.load(path).tasks(Store(tmp_path / "store")))
    cluster, scancel = MagicMock(), MagicMock()
    folder, options = SweepFolder(tmp_path / "sweep"), Options(cluster="slurm")
    said = "sbatch: error: QOSMaxSubmitJobPerUserLimit"
    cluster.submit_array.side_effect = [
        [MagicMock(job_id="7_0")],
        FailedJobError(f"failed\n{said}"),
    ]
    monkeypatch.setattr(slurm.subprocess, "run", scancel)
    with pytest.raises(
        ParameterError, match=f"Slurm refused a job: {said} What was submitted before it is c"
    ):
        slurm.submit(
            cluster,
            found,
            worker=list,
            last=MagicMock(),
            options=options,
            name="small",
            note=partial(folder.note_submission, options, found),
        )
    assert scancel.call_args.args == (["scancel", "7"],)
    # Noted as soon as it was submitted: whoever is killed in between leaves no job that nobody
    # knows of.
    assert folder.submission()["ids"] == ["7_0", "", "", ""]


def test_waiting_for_slurm_records_what_its_last_job_did_not(tmp_path, monkeypatch):
    path, store = sweeps.write(tmp_path, sweeps.PAIR[0]), Store(tmp_path / "plain" / "store")
    sweeps.unbroken(path, tmp_path / "plain")
    submitted = sweep.Sweep(
        campaign=Campaign.load(path),
        store=store,
        folder=SweepFolder(tmp_path / "sweep"),
        options=Options(cluster="slurm"),
        jobs=[],
        handles=[],
    )
    submitted.wait(lambda line: None, 0.1)
    tables = [
        folder / "half" / "results.csv"
        for folder in (tmp_path / "results", tmp_path / "plain" / "results")
    ]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    monkeypatch.setattr(collect.campaigns, "run", lambda *_: {"half": "no data"})
    with pytest.raises(StorageError, match="not recorded, as a data set isn't here: half"):
        submitted.wait(lambda line: None, 0.1)


def test_a_queue_that_does_not_answer_at_once_is_asked_again(monkeypatch):
    answers = iter(
        [
            MagicMock(returncode=1),
            MagicMock(returncode=0, stdout="7_0 RUNNING None\n8_0 PENDING x\n"),
        ]
    )
    monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
    monkeypatch.setattr(slurm.subprocess, "run", lambda *_, **__: next(answers))
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    assert slurm.queue(["7_0"]) == {"7_0": "RUNNING None"}
    monkeypatch.setattr(
        slurm.subprocess, "run", lambda *_, **__: MagicMock(returncode=1, stderr="down\n")
    )
    with pytest.raises(SweepError, match="squeue failed: down"):
        slurm.queue(["7_0"])


def test_what_fails_is_tried_again_and_then_named(tmp_path):
    path, store = sweeps.write(tmp_path, *sweeps.PAIR), Store(tmp_path / "store")
    sweeps.block(store, path, "IMP round 2/2, sparsity 0.750")
    named = r"2 stages are missing, 1 of them failed\. IMP round 2/2, sparsity 0\.750: StorageError: .*_log\.out"
    with pytest.raises(SweepError, match=named) as error:
        sweep.submit(path, store, Options(retries=1)).wait(lambda line: None, 0.1)
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
        sweep.submit(path, store, Options(cluster="moab"))
    for wrong, message in (
        ({"gpus": 1, "ranks": 2}, "2 ranks need as many GPUs, but there are 1"),
        ({"gpus": 2}, "--gpus is 2, but on this machine there are 0"),
        ({"gpus": 3, "ranks": 4, "cluster": "slurm"}, "4 ranks need as many GPUs, but there are 3"),
        ({"gpus": 0, "ranks": 0}, "ranks is 0"),
        ({"gpus": 0, "ranks": 3}, "batch_size is 128, which 3 processes can't share"),
        ({"gpus": 0, "ranks": 2, "runtime": {"compile": True}}, "Leave compile out"),
    ):
        with pytest.raises(ParameterError, match=message):
            sweep.submit(path, store, Options(**wrong))
    assert not store.root.exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ParameterError, match="no sbatch here"):
        sweep.submit(path, store, Options(cluster="slurm"))
    lost = sweeps.write(
        tmp_path / "b", {**sweeps.TINY, "name": "lost", "dataset": "svhn", "sparsity": 0.5}
    )
    with pytest.raises(StorageError, match="lotperm data fetch svhn"):
        sweep.submit(lost, store, Options())
    with pytest.raises(StorageError, match="was not swept from here"):
        sweep.status(path, Store(tmp_path / "other"))
