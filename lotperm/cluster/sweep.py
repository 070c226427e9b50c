"""Sweeps: a campaign's stages as jobs, on a Slurm cluster or in processes here.

What Slurm can do is left to Slurm: it starts a job when those before it have ended well, limits how
many run at once, and restarts preempted jobs. This package adds only what Slurm can't know: which
stages there are, which of them make one job (`lotperm.cluster.jobs`), and that each is computed
once (`lotperm.store.stages`). submitit (Incubator of FAIR) writes the batch scripts, hands the
jobs over, and requeues them.

A job that is asked to stop (SIGUSR2: it is preempted, or its time is nearly over) finishes a step
of training, saves its state and is put into the queue again; its results are the same bits as
without a stop. A stage that fails is tried again in the same way.

With several ranks the job's own process trains nothing: for each stage it starts the ranks as
torchrun does and tells them when to stop, and only this process deals with the queue. So it doesn't
matter which rank fails or is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lotperm.cluster import local, slurm
from lotperm.cluster.campaign import Campaign
from lotperm.cluster.collect import Collector, collect
from lotperm.cluster.folder import SweepFolder
from lotperm.cluster.jobs import Job, jobs
from lotperm.cluster.options import Options
from lotperm.cluster.worker import Worker
from lotperm.errors import ParameterError, StorageError
from lotperm.store.stages import Store
from lotperm.store.tasks import Task
from lotperm.studies.subject import Datasets


@dataclass(kw_only=True)
class Sweep:
    """A sweep that was submitted.

    Attributes
    ----------
    campaign : Campaign
        What is computed.
    store : Store
        Where its stages are kept.
    folder : SweepFolder
        Where failures and logs are kept.
    options : Options
        How it is run.
    jobs : list of Job
        What was submitted.
    handles : list
        submitit's handles; on Slurm one for each of `jobs` and the one that collects.
    """

    campaign: Campaign
    store: Store
    folder: SweepFolder
    options: Options
    jobs: list[Job]
    handles: list[Any]

    def alive(self) -> bool:
        """Return whether any job is running or will run."""
        if self.options.cluster == "slurm":
            return bool(slurm.queue([handle.job_id for handle in self.handles]))
        return not all(handle.done() for handle in self.handles)

    def wait(self, say: Callable[[str], None], seconds: float = 2.0) -> None:
        """Wait to the end, then record the tables.

        On Slurm the last job has recorded them already, unless it was killed.

        Parameters
        ----------
        say : callable
            Gets a line for each stage that is done, and for each entry that is recorded.
        seconds : float, optional
            Time between two checks.

        Raises
        ------
        SweepError, StorageError
            As `collect`.
        """
        tasks = [task for job in self.jobs for task in job.tasks]
        left, alive = tasks, True
        while alive:
            # Asked before looking for stages, so that one that finishes last is still reported.
            alive = self.alive()
            for task in (task for task in left if task.exists()):
                number = len(tasks) - len(left) + 1
                say(f"done, {number} of {len(tasks)}: {task.label}")
                left = [other for other in left if other is not task]
            if alive:
                time.sleep(seconds)
        collect(self.campaign, self.store, self.folder, self.options.results, say)

    def cancel(self, seconds: float = 30.0) -> None:
        """End the processes of a sweep on this machine (`lotperm.cluster.local.cancel`)."""
        local.cancel(self.handles, seconds)


def folder_of(path: Path, store: Store) -> SweepFolder:
    """Return the folder in which a campaign's sweep keeps its notes and logs."""
    return SweepFolder((store.root / "sweeps" / path.stem).absolute())


def submit(path: Path, store: Store, options: Options) -> Sweep:
    """Submit jobs for the stages that a campaign lacks.

    Parameters
    ----------
    path : Path
        The campaign's file; jobs read a copy, so that it may be edited.
    store : Store
        In a file system that all nodes see.
    options : Options
        How to run it.

    Raises
    ------
    ParameterError
        If the campaign or an option makes no sense, there is no Slurm, or the campaign is in its
        queue already.
    StorageError
        If a data set isn't there: before anything is submitted.
    """
    try:
        # Imported first, so that nothing is written without it.
        import submitit  # noqa: F401
    except ImportError:
        raise ParameterError("sweeps need submitit: pip install 'lotperm[cluster]'.") from None
    campaign, folder = Campaign.load(path), folder_of(path, store)
    options.check(campaign)
    # Jobs run in other working directories.
    store = Store(store.root.absolute())
    on_slurm = options.cluster == "slurm"
    noted = folder.submission()
    # A second submission would queue the same stages again.
    if on_slurm and noted and (alive := slurm.queue(noted["ids"])):
        raise ParameterError(f"{path} is in the queue already: jobs {', '.join(sorted(alive))}.")
    _check_data(campaign, store, options.results)
    folder.forget_failures()
    copy = folder.keep_campaign(path)
    # What is recorded or in the store needs no job.
    found = jobs(campaign.missing(store, options.results))

    def worker(numbers: Iterable[int]) -> Worker:
        return Worker(
            campaign=copy,
            store=store.root,
            folder=folder,
            # Only keys: a job makes its tasks anew from its copy of the campaign's file.
            work=[[task.key for task in found[number].tasks] for number in numbers],
            runtime=dict(options.runtime),
            retries=options.retries,
            ranks=options.ranks,
        )

    note = partial(folder.note_submission, options, found)
    if on_slurm:
        results = options.results and options.results.absolute()
        handles = slurm.submit(
            slurm.slurm_executor(folder.logs),
            found,
            worker=worker,
            last=Collector(campaign=copy, store=store.root, folder=folder, results=results),
            options=options,
            name=path.stem,
            note=note,
        )
    else:
        handles = local.start(local.local_executor(folder.logs), found, worker, options)
        note(handles)
    return Sweep(
        campaign=campaign,
        store=store,
        folder=folder,
        options=options,
        jobs=found,
        handles=handles,
    )


def _check_data(campaign: Campaign, store: Store, results: Path | None) -> None:
    """Raise `StorageError` if a data set isn't here that a job would need."""
    datasets: Datasets = {}
    for part in campaign.parts(store, results):
        # A recorded part no longer needs its data.
        if not part.recorded() and (lacking := part.entry.lacking(datasets)):
            raise StorageError(lacking)


def status(path: Path, store: Store) -> list[dict[str, str]]:
    """Look up the state of every stage of a campaign's sweep; this changes nothing.

    Parameters
    ----------
    path : Path
        The campaign's file.
    store : Store
        Where its stages are kept.

    Returns
    -------
    list of dict
        One row of text for each stage: entry, stage, state (done, recorded, epoch reached, failed,
        or what Slurm says), log. Recorded stages come last.

    Raises
    ------
    StorageError
        If the campaign was never submitted with this store.
    """
    folder = folder_of(path, store)
    note = folder.submission()
    if note is None:
        raise StorageError(f"{path} was not swept from here: there is no {folder.path}.")
    job_of, queued = {}, {}
    if note["cluster"] == "slurm":
        job_of = {key: note["ids"][n] for n, keys in enumerate(note["jobs"]) for key in keys}
        queued = slurm.queue(note["ids"])
    rows: dict[str, dict[str, str]] = {}
    # Recorded parts come last, so that a stage that several parts share is shown with one that
    # still needs it.
    parts = Campaign.load(path).parts(store, note["results"] and Path(note["results"]))
    for recorded, part in sorted(((p.recorded(), p) for p in parts), key=lambda pair: pair[0]):
        for task in part.tasks():
            state, log = "recorded" if recorded else "missing", ""
            if task.exists():
                state = "done"
            elif not recorded:
                state, log = _unfinished(task, store, folder, job_of, queued)
            row = {"entry": part.entry.name, "stage": task.label, "state": state, "log": log}
            rows.setdefault(task.key, row)
    return list(rows.values())


def _unfinished(
    task: Task,
    store: Store,
    folder: SweepFolder,
    job_of: Mapping[str, str],
    queued: Mapping[str, str],
) -> tuple[str, str]:
    """Return state and log of a stage that is neither done nor recorded.

    Parameters
    ----------
    task : Task
        The stage.
    store : Store
        The store that has its checkpoints, if there are any.
    folder : SweepFolder
        The folder that has its failure, if it failed.
    job_of : mapping of str to str
        Id of Slurm's job by the key of a stage; empty for a sweep on this machine.
    queued : mapping of str to str
        What Slurm says about the jobs in its queue, by id.
    """
    if failed := folder.failure(task.key):
        return f"failed: {failed['error']}", failed["log"]
    reached = store.workspace(task.name, task.key).peek()
    state = f"epoch {reached['epoch']} of {task.work.epochs}" if reached else "missing"
    if task.key not in job_of:
        return state, ""
    job = job_of[task.key]
    where = queued[job].lower() if job in queued else "not in the queue"
    # submitit's name for the log of a job's first process.
    return f"{state} ({where})", str(folder.logs / f"{job}_0_log.out")
