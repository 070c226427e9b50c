"""Which stages make one job, and which jobs wait for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lotperm.store.tasks import Task


@dataclass
class Job:
    """Tasks that are computed one after another, by one process or by the same number of ranks.

    Attributes
    ----------
    tasks : list of Task
        The tasks in order.
    after : set of int
        Places, in the list of all jobs, of those that must be done before this one.
    """

    tasks: list[Task] = field(default_factory=list)
    after: set[int] = field(default_factory=set)


def jobs(tasks: Iterable[Task]) -> list[Job]:
    """Divide tasks that aren't computed yet into jobs, so that none waits for what it doesn't need.

    A task joins the job before it if it is the only one that goes on from there (a chain, such as
    rounds of pruning), or if it trains nothing (matching) and so isn't worth a job.

    Parameters
    ----------
    tasks : iterable of Task
        In an order in which they can be computed; those that the store has are left out.

    Returns
    -------
    list of Job
        Each comes after those that it waits for.
    """
    # What the store has needs no job, and nobody has to wait for it.
    pending = {task.key: task for task in tasks if not task.exists()}
    followers = _training_followers(pending)
    found: list[Job] = []
    job_of: dict[str, int] = {}
    ancestors: list[set[int]] = []
    for task in pending.values():
        homes = {job_of[before.key] for before in task.after if before.key in job_of}
        # Of the jobs that the task needs, the one that comes after all the others: whoever waits
        # for it has waited for all.
        last = next((home for home in homes if homes - {home} <= ancestors[home]), None)
        if last is None or not _joins(task, found[last], followers):
            last = len(found)
            found.append(Job(after=homes))
            # All jobs before each job, so that the search above only looks into sets.
            ancestors.append(homes.union(*(ancestors[home] for home in homes)))
        found[last].tasks.append(task)
        job_of[task.key] = last
    return found


def _training_followers(pending: Mapping[str, Task]) -> Counter[str]:
    """Count, for the key of each task, the training tasks that use its result."""
    return Counter(
        before.key
        for task in pending.values()
        if task.work.networks
        for before in task.after
        if before.key in pending
    )


def _joins(task: Task, job: Job, followers: Counter[str]) -> bool:
    """Return whether a task should join a job that it would otherwise wait for."""
    if not task.work.networks:
        return True
    # Only a task that goes on from the job's last training joins it, and only if no other does: at
    # a fork, the second branch would have to wait for the first.
    trained = next((t for t in reversed(job.tasks) if t.work.networks), None)
    return trained is not None and trained in task.after and followers[trained.key] == 1


def arrays(found: Sequence[Job]) -> list[list[int]]:
    """Group jobs that wait for the same jobs: each group can be a job array.

    Parameters
    ----------
    found : sequence of Job
        As `jobs` returns them.

    Returns
    -------
    list of list of int
        Numbers of the jobs, in an order in which the arrays can be submitted.
    """
    groups: dict[frozenset[int], list[int]] = {}
    for number, job in enumerate(found):
        # The jobs of an array have one dependency in common.
        groups.setdefault(frozenset(job.after), []).append(number)
    return list(groups.values())
