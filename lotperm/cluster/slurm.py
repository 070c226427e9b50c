"""A sweep as jobs of a Slurm cluster."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lotperm.cluster.collect import Collector
from lotperm.cluster.jobs import Job, arrays
from lotperm.cluster.options import MAX_TIMEOUTS, Options
from lotperm.cluster.worker import Worker
from lotperm.errors import ParameterError, SweepError

# A job that isn't done after this time saves its state and is queued again.
_MINUTES = 240
_PAUSES = (1, 4, 16, 0)
"""Seconds to wait after each try of ``squeue``."""


def slurm_executor(folder: Path) -> Any:
    """Make submitit's executor for Slurm.

    Parameters
    ----------
    folder : Path
        The folder for the jobs' scripts and logs.

    Raises
    ------
    ParameterError
        If there is no Slurm here.
    """
    import submitit

    if not shutil.which("sbatch"):
        raise ParameterError("there is no sbatch here, so no Slurm. Use --cluster local.")
    return submitit.SlurmExecutor(folder, max_num_timeout=MAX_TIMEOUTS)


def submit(
    executor: Any,
    jobs: Sequence[Job],
    *,
    worker: Callable[[Iterable[int]], Worker],
    last: Collector,
    options: Options,
    name: str,
    note: Callable[[Sequence[Any]], None],
) -> list[Any]:
    """Submit arrays of jobs that wait for those before them, and one job that waits for all.

    Parameters
    ----------
    executor : object
        As `slurm_executor` makes it.
    jobs : sequence of Job
        The jobs; each comes after those that it waits for.
    worker : callable
        Makes what a job runs from its number.
    last : Collector
        What the last job runs.
    options : Options
        What each job asks Slurm for.
    name : str
        Name of the jobs in Slurm's queue.
    note : callable
        Called after each array with all handles so far, None for a job that is not submitted yet:
        if this process is killed in between, no job is in the queue that nobody knows of.

    Returns
    -------
    list[Any]
        submitit's handles of the jobs, and of the last one.

    Raises
    ------
    ParameterError
        If Slurm refuses a job; those before it are cancelled.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    handles: list[Any] = [None] * len(jobs)
    executor.update_parameters(**_parameters(options, name))
    try:
        for group in arrays(jobs):
            # All members of an array wait for the same jobs, so the first one's stand for all.
            before = [handles[number].job_id for number in sorted(jobs[group[0]].after)]
            # A job begins only if those before it ended well: it builds on their stages.
            executor.update_parameters(dependency=_dependency("afterok", before))
            submitted = executor.submit_array([worker([number]) for number in group])
            for number, handle in zip(group, submitted, strict=True):
                handles[number] = handle
            note(handles)
        executor.update_parameters(
            # After success or failure: this job records the tables, or names what failed.
            dependency=_dependency("afterany", _array_ids(handles)),
            # It trains nothing.
            gpus_per_node=None,
            job_name=f"{name}-collect",
        )
        handles.append(executor.submit(last))
    except (FailedJobError, FailedSubmissionError) as error:
        # A part of a sweep would end without its last job, and block the next submission.
        if ids := _array_ids(handle for handle in handles if handle is not None):
            subprocess.run(["scancel", *ids], check=False)
        said = (str(error).strip() or "it said nothing").splitlines()[-1]
        raise ParameterError(
            f"Slurm refused a job: {said} What was submitted before it is cancelled. See "
            "--partition, --time, --gpus, --array-parallelism and --slurm."
        ) from error
    note(handles)
    return handles


def _parameters(options: Options, name: str) -> dict[str, Any]:
    """Return the parameters that submitit gets for every job."""
    common = {
        "job_name": name,
        "time": options.minutes or _MINUTES,
        "array_parallelism": options.at_once,
        "partition": options.partition,
        "gpus_per_node": options.gpu_count() or None,
    }
    further = {
        # Slurm puts a job that it preempts, or whose node fails, into the queue again.
        "requeue": True,
        # Jobs behind one that failed are taken out of the queue; otherwise they would stay there
        # for ever.
        "kill-on-invalid-dep": "yes",
        # At least a core for each rank. What the user gives comes last and wins.
        "mincpus": options.ranks,
        **options.slurm,
    }
    given = {key: value for key, value in common.items() if value is not None}
    return {**given, "additional_parameters": further}


def _dependency(kind: str, ids: Sequence[str]) -> str | None:
    """Return sbatch's option for a job that waits for others; None if it waits for none."""
    return ":".join((kind, *ids)) if ids else None


def _array_ids(handles: Iterable[Any]) -> list[str]:
    """Return the ids of the job arrays that some jobs belong to."""
    # The id of a job in an array is that of the array, "_" and its number.
    return sorted({handle.job_id.partition("_")[0] for handle in handles})


def queue(ids: Iterable[str]) -> dict[str, str]:
    """Look up which jobs are in Slurm's queue.

    Parameters
    ----------
    ids : iterable of str
        Ids of jobs.

    Returns
    -------
    dict[str, str]
        State and reason, as ``squeue`` gives them, of the jobs that are in the queue, by id; empty
        if there is no Slurm here.

    Raises
    ------
    SweepError
        If ``squeue`` fails for 20 seconds.
    """
    wanted = set(ids)
    if not wanted or not shutil.which("squeue"):
        return {}
    # --array gives every job of an array a line of its own, under the id of its handle.
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T %r"]
    # A busy Slurm doesn't always answer at once.
    for pause in _PAUSES:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        time.sleep(pause)
    if done.returncode != 0:
        raise SweepError(f"squeue failed: {done.stderr.strip()}")
    rows = (line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())
    return {job: state.strip() for job, state in rows if job in wanted}
