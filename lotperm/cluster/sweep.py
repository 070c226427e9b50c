"""Sweeps: a campaign's stages as jobs, on a Slurm cluster or in processes here.

What Slurm does is left to Slurm: it starts a job when those before it have ended well, keeps so
many at once, and starts again what it took away. Here there is only what it can't know: which
stages there are, which of them make one job, and that each is computed once
(`lotperm.store.stages`). submitit (Incubator of FAIR) writes the batch scripts, hands the jobs
over, and requeues them.

A job that is asked to stop (SIGUSR2: it is preempted, or its time is nearly over) finishes a step
of training, saves its state and is put into the queue again, where it goes on to the same bits. A
stage that fails is tried again in the same way.

With several ranks the job's own process trains nothing: for each stage it starts them as torchrun
does, tells them when to stop, and alone speaks with the queue. So it doesn't matter which rank
fails or is killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lotperm.cluster.campaign import Campaign
from lotperm.cluster.jobs import Job, arrays, jobs
from lotperm.cluster.worker import Collector, Worker, collect, failure_note
from lotperm.engine.shared import check_shared
from lotperm.errors import ParameterError, StorageError, SweepError
from lotperm.store.files import write_atomic
from lotperm.store.stages import Store
from lotperm.studies.workbench import Datasets

_TIMEOUTS = 10_000

"""A job may use up its time so often: each time it gets further."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How a sweep is run.

    Attributes
    ----------
    cluster : str
        "slurm" or "local".
    at_once : int
        Jobs of an array at once; on "local", processes.
    minutes : int | None
        That a job may take before it is put into the queue again; None: 240 on Slurm, no limit
        here.
    gpus : int | None
        On Slurm, of each job; None: one for each rank. Here, of all processes; None: those that
        there are.
    partition : str | None
        Of Slurm.
    slurm : Mapping[str, str]
        Further options of ``sbatch`` by name, e.g. ``{"account": "x", "mem": "32G"}``.
    retries : int
        How often a stage that failed is tried again.
    runtime : Mapping[str, Any]
        As of `Worker`.
    results : Path | None
        Folder to record in; None: the campaign's.
    ranks : int
        Processes that compute each stage together, one a GPU if there are any: torchrun's data
        parallel training inside each job.
    """

    cluster: str = "local"
    at_once: int = 1
    minutes: int | None = None
    gpus: int | None = None
    partition: str | None = None
    slurm: Mapping[str, str] = field(default_factory=dict)
    retries: int = 2
    runtime: Mapping[str, Any] = field(default_factory=dict)
    results: Path | None = None
    ranks: int = 1


@dataclass
class Sweep:
    """A sweep that was submitted.

    Attributes
    ----------
    campaign, store, folder : Campaign
        Of what, and where.
    options : Options
        How.
    jobs : list[Job]
        That were submitted.
    handles : list[Any]
        Submitit's jobs; on Slurm one for each of `jobs` and the one that collects.
    """

    campaign: Campaign
    store: Store
    folder: Path
    options: Options
    jobs: list[Job]
    handles: list[Any]

    def alive(self) -> bool:
        """Whether anything is running or will."""
        if self.options.cluster == "slurm":
            return bool(queue([handle.job_id for handle in self.handles]))
        return not all(handle.done() for handle in self.handles)

    def wait(self, say: Callable[[str], None], seconds: float = 2.0) -> None:
        """Wait to the end, telling what is done, and record the tables then.

        On Slurm the last job has recorded them already, unless it was killed.

        Raises
        ------
        SweepError, StorageError
            As `collect`.
        """
        tasks = [task for job in self.jobs for task in job.tasks]
        left, alive = tasks, True
        while alive:
            alive = self.alive()
            for task in (task for task in left if task.exists()):
                number = len(tasks) - len(left) + 1
                say(f"done, {number} of {len(tasks)}: {task.label}")
                left = [other for other in left if other is not task]
            if alive:
                time.sleep(seconds)
        collect(self.campaign, self.store, self.folder, self.options.results, say)

    def cancel(self, seconds: float = 30.0) -> None:
        """End what was started here: each process saves its state after a step; one that
        doesn't in time is killed.
        """
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and (left := [h for h in self.handles if not h.done()]):
            for handle in left:  # again and again: while a job begins, submitit ignores it there
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(handle.job_id), signal.SIGTERM)
            time.sleep(0.5)
        for handle in self.handles:
            if not handle.done():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(handle.job_id), signal.SIGUSR1)


def folder_of(path: Path, store: Store) -> Path:
    """Where a campaign's sweep keeps its notes and logs."""
    return (store.root / "sweeps" / path.stem).absolute()


def submit(path: Path, store: Store, options: Options) -> Sweep:
    """Submit what a campaign lacks.

    Parameters
    ----------
    path : Path
        The campaign's file; jobs read a copy, so that it may be edited.
    store : Store
        In a file system that all nodes see.
    options : Options
        How.

    Raises
    ------
    ParameterError
        If the campaign or an option makes no sense, there is no Slurm, or the campaign is in its
        queue already.
    StorageError
        If a data set isn't there: before anything is submitted.
    """
    if options.cluster not in ("slurm", "local"):
        raise ParameterError(f"cluster is {options.cluster!r}; expected 'slurm' or 'local'.")
    try:
        import submitit
    except ImportError:
        raise ParameterError("sweeps need submitit: pip install 'lotperm[cluster]'.") from None
    campaign, folder = Campaign.load(path), folder_of(path, store)
    _check_ranks(campaign, options)
    store = Store(store.root.absolute())
    if options.cluster == "slurm" and (alive := queue(_noted(folder))):
        raise ParameterError(f"{path} is in the queue already: jobs {', '.join(sorted(alive))}.")
    datasets: Datasets = {}
    for part in campaign.parts(store, options.results):
        if not part.recorded() and (lacking := part.entry.lacking(datasets)):
            raise StorageError(lacking)
    shutil.rmtree(folder / "failed", ignore_errors=True)
    copy = folder / f"campaign{path.suffix}"
    write_atomic(copy, path.read_bytes())
    found = jobs(campaign.missing(store, options.results))

    def worker(numbers: Iterable[int]) -> Worker:
        keys = [[task.key for task in found[number].tasks] for number in numbers]
        return Worker(
            copy, store.root, folder, keys, dict(options.runtime), options.retries, options.ranks
        )

    note = partial(_note, folder, options, found)
    executor: Any
    if options.cluster == "local":
        executor = _local_executor(folder / "logs")
        handles = _start_here(executor, found, worker, options)
        note(handles)
    else:
        if not shutil.which("sbatch"):
            raise ParameterError("there is no sbatch here, so no Slurm. Use --cluster local.")
        executor = submitit.SlurmExecutor(folder / "logs", max_num_timeout=_TIMEOUTS)
        last = Collector(copy, store.root, folder, options.results and options.results.absolute())
        handles = _submit_to_slurm(executor, found, worker, last, options, path.stem, note)
    return Sweep(campaign, store, folder, options, found, handles)


def _note(folder: Path, options: Options, found: Sequence[Job], handles: Sequence[Any]) -> None:
    """Keep what was submitted; an empty id stands for a job that wasn't yet."""
    ids = ["" if handle is None else str(handle.job_id) for handle in handles]
    keys = [[task.key for task in job.tasks] for job in found]
    note = {
        "cluster": options.cluster,
        "ids": ids,
        "jobs": keys,
        "after": [sorted(j.after) for j in found],
        "results": options.results and str(options.results),
    }
    write_atomic(folder / "sweep.json", (json.dumps(note, indent=1) + "\n").encode())


def _gpus(options: Options) -> int:
    """`Options.gpus`, or what None stands for."""
    if options.gpus is not None:
        return options.gpus
    return options.ranks if options.cluster == "slurm" else torch.cuda.device_count()


def _check_ranks(campaign: Campaign, options: Options) -> None:
    """Refuse what the ranks would refuse only when their job begins."""
    ranks, gpus = options.ranks, _gpus(options)
    if ranks < 1:
        raise ParameterError(f"ranks is {ranks}; expected 1 or more.")
    if 0 < gpus < ranks:
        raise ParameterError(
            f"{ranks} ranks need as many GPUs, but there are {gpus}. Use --ranks {gpus}, or --gpus 0: ranks on the CPU."
        )
    here = torch.cuda.device_count()
    if options.cluster == "local" and gpus > here:
        raise ParameterError(
            f"--gpus is {gpus}, but on this machine there are {here} that may be used."
        )
    for entry in campaign.entries:
        compiled = bool(options.runtime.get("compile") or entry.compile)
        for experiment in entry.experiments:
            check_shared(experiment.dense, compiled, ranks)


_CONTROLLER = f"""
import contextlib, signal, sys
from pathlib import Path
from submitit.local.local import Controller
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.default_int_handler)
with contextlib.suppress(KeyboardInterrupt):
    Controller(Path(sys.argv[1])).run({_TIMEOUTS})
"""


def _local_executor(folder: Path) -> Any:
    """submitit's for this machine, with another controller, the process that starts a job and
    starts it again.

    submitit's own starts a job six times at the most. Ctrl-C at a terminal, which reaches every
    process, makes it kill its job after a second; here a job ends by itself, after a step, and
    SIGUSR1 is what kills it: `Sweep.cancel` sees to it. And submitit numbers GPUs from 0,
    whichever of them CUDA_VISIBLE_DEVICES allows.
    """
    import submitit

    class Executor(submitit.LocalExecutor):
        def _submit_command(self, command: str) -> submitit.LocalJob[Any]:
            allowed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            gpus = self.parameters.get("visible_gpus", ())
            names = [allowed[gpu] if allowed[0] else str(gpu) for gpu in gpus]
            minutes, delay = (
                self.parameters["timeout_min"],
                self.parameters.get("signal_delay_s", 30),
            )
            variables = {
                "SUBMITIT_EXECUTOR": "local",
                "SUBMITIT_LOCAL_COMMAND": command,
                "SUBMITIT_LOCAL_NTASKS": "1",
                "SUBMITIT_LOCAL_NODEID": "0",
                "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
                "SUBMITIT_LOCAL_WITH_SHELL": "",
                "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * minutes),
                "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(delay),
                "SUBMITIT_STDERR_TO_STDOUT": "",
                "CUDA_VISIBLE_DEVICES": ",".join(names),
            }
            process = subprocess.Popen(
                [sys.executable, "-c", _CONTROLLER, self.folder], env={**os.environ, **variables}
            )
            return submitit.LocalJob(self.folder, str(process.pid), process=process, tasks=[0])

    return Executor(folder, max_num_timeout=_TIMEOUTS)


def _start_here(
    executor: Any, found: Sequence[Job], worker: Callable[[Iterable[int]], Worker], options: Options
) -> list[Any]:
    """Start processes that share the jobs.

    There is no queue here. Each process takes every so-manieth job, in order, then whatever is
    left; a task computes those before it, or waits at the store's locks for the process that does.
    A lock is only held by who has all that he needs, so nobody waits in a circle.
    """
    count = min(options.at_once, len(found))
    cards, ranks = _gpus(options), options.ranks
    numbers, handles = range(len(found)), []
    for first in range(count):
        mine = numbers[first::count]
        rest = [number for number in numbers if number not in mine]
        minutes = options.minutes or 60 * 24 * 365
        own = [(first * ranks + rank) % cards for rank in range(ranks if cards else 0)]
        executor.update_parameters(timeout_min=minutes, gpus_per_node=len(own), visible_gpus=own)
        handles.append(executor.submit(worker([*mine, *rest])))
    return handles


def _submit_to_slurm(
    executor: Any,
    found: Sequence[Job],
    worker: Callable[[Iterable[int]], Worker],
    last: Collector,
    options: Options,
    name: str,
    note: Callable[[Sequence[Any]], None],
) -> list[Any]:
    """Submit arrays of jobs that wait for those before them, and one job that waits for all;
    note each at once.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    handles: list[Any] = [None] * len(found)
    common = {
        "job_name": name,
        "time": options.minutes or 240,
        "array_parallelism": options.at_once,
        "partition": options.partition,
        "gpus_per_node": _gpus(options) or None,
    }
    # Jobs behind one that failed are taken out of the queue; otherwise they would stay there for
    # ever.
    further = {
        "requeue": True,
        "kill-on-invalid-dep": "yes",
        "mincpus": options.ranks,
        **options.slurm,
    }
    executor.update_parameters(
        **{k: v for k, v in common.items() if v is not None}, additional_parameters=further
    )
    try:
        for group in arrays(found):
            before = [handles[number].job_id for number in sorted(found[group[0]].after)]
            executor.update_parameters(dependency="afterok:" + ":".join(before) if before else None)
            submitted = executor.submit_array([worker([number]) for number in group])
            for number, handle in zip(group, submitted, strict=True):
                handles[number] = handle
            note(handles)
        ids = _array_ids(handles)
        dependency = "afterany:" + ":".join(ids) if ids else None
        executor.update_parameters(
            dependency=dependency, gpus_per_node=None, job_name=f"{name}-collect"
        )
        handles.append(executor.submit(last))
    except (FailedJobError, FailedSubmissionError) as error:
        if ids := _array_ids(handle for handle in handles if handle is not None):
            subprocess.run(["scancel", *ids], check=False)
        said = (str(error).strip() or "it said nothing").splitlines()[-1]
        raise ParameterError(
            f"Slurm refused a job: {said} What was submitted before it is cancelled. See --partition, --time, --gpus, "
            "--array-parallelism and --slurm."
        ) from error
    note(handles)
    return handles


def _array_ids(handles: Iterable[Any]) -> list[str]:
    """The ids of the job arrays that some jobs are of."""
    return sorted({handle.job_id.partition("_")[0] for handle in handles})


def queue(ids: Iterable[str]) -> dict[str, str]:
    """State and reason, as ``squeue`` says them, of those of some jobs that are in Slurm's
    queue.
    """
    wanted = set(ids)
    if not wanted or not shutil.which("squeue"):
        return {}
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T %r"]
    for pause in (1, 4, 16, 0):  # a busy Slurm doesn't always answer at once
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        time.sleep(pause)
    if done.returncode != 0:
        raise SweepError(f"squeue failed: {done.stderr.strip()}")
    rows = (line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())
    return {job: state.strip() for job, state in rows if job in wanted}


def _noted(folder: Path) -> list[str]:
    """The ids of the last submission."""
    try:
        return list(json.loads((folder / "sweep.json").read_text())["ids"])
    except FileNotFoundError:
        return []


def status(path: Path, store: Store) -> list[dict[str, str]]:
    """Where every stage of a campaign's sweep is; changes nothing.

    Returns
    -------
    list of dict
        Text, one row a stage: entry, stage, state (done, recorded, epoch reached, failed, or what
        Slurm says), log. What is recorded comes last.
    """
    folder = folder_of(path, store)
    try:
        note = json.loads((folder / "sweep.json").read_text())
    except FileNotFoundError:
        raise StorageError(f"{path} was not swept from here: there is no {folder}.") from None
    where = {key: number for number, keys in enumerate(note["jobs"]) for key in keys}
    slurm = note["cluster"] == "slurm"
    states = queue(note["ids"]) if slurm else {}
    rows: dict[str, dict[str, str]] = {}
    parts = Campaign.load(path).parts(store, note["results"] and Path(note["results"]))
    for recorded, part in sorted(((p.recorded(), p) for p in parts), key=lambda pair: pair[0]):
        for task in part.tasks():
            state, log = "done" if task.exists() else "recorded" if recorded else "missing", ""
            if state == "missing":
                if reached := store.workspace(task.name, task.key).peek():
                    state = f"epoch {reached['epoch']} of {task.work.epochs}"
                if (failed := failure_note(folder, task.key)).exists():
                    content = json.loads(failed.read_text())
                    state, log = f"failed: {content['error']}", content["log"]
                elif slurm and task.key in where:
                    job = note["ids"][where[task.key]]
                    state += f" ({states[job].lower()})" if job in states else " (not in the queue)"
                    log = str(folder / "logs" / f"{job}_0_log.out")
            row = {"entry": part.entry.name, "stage": task.label, "state": state, "log": log}
            rows.setdefault(task.key, row)
    return list(rows.values())
