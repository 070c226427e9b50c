"""Stages into jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lotperm.store.tasks import Task


@dataclass
class Job:
    """Tasks that are computed one after another, by one process or by the same number of ranks.

    Attributes
    ----------
    tasks : list[Task]
        In order.
    after : set[int]
        Numbers of the jobs that must be done before.
    """

    tasks: list[Task] = field(default_factory=list)
    after: set[int] = field(default_factory=set)


def jobs(tasks: Iterable[Task]) -> list[Job]:
    """Divide tasks that aren't computed yet into jobs, such that nothing waits that could run.

    A task joins the job before it if it alone goes on from there (a chain, such as rounds of
    pruning), or if it trains nothing (matching): that isn't worth a job.

    Parameters
    ----------
    tasks : Iterable[Task]
        In an order in which they can be computed; those that the store has are left out.

    Returns
    -------
    list of Job
        Each comes after those before it.
    """
    pending = {task.key: task for task in tasks if not task.exists()}
    followers = dict.fromkeys(pending, 0)
    for task in pending.values():
        for before in task.after:
            if before.key in pending and task.work.networks:
                followers[before.key] += 1
    found: list[Job] = []
    place: dict[str, int] = {}
    ancestors: list[set[int]] = []
    for task in pending.values():
        homes = {place[before.key] for before in task.after if before.key in place}
        # The one that all the others are before of: whoever waits for it has waited for all.
        last = next((home for home in homes if homes - {home} <= ancestors[home]), None)
        trained = (
            None
            if last is None
            else next((t for t in reversed(found[last].tasks) if t.work.networks), None)
        )
        alone = trained is not None and trained in task.after and followers[trained.key] == 1
        if last is None or not (alone or not task.work.networks):
            found.append(Job(after=homes))
            ancestors.append(homes.union(*(ancestors[home] for home in homes)))
            last = len(found) - 1
        found[last].tasks.append(task)
        place[task.key] = last
    return found


def arrays(found: Sequence[Job]) -> list[list[int]]:
    """Numbers of the jobs that wait for the same ones, each group a job array; in an order to
    submit them in.
    """
    groups: dict[frozenset[int], list[int]] = {}
    for number, job in enumerate(found):
        groups.setdefault(frozenset(job.after), []).append(number)
    return list(groups.values())
