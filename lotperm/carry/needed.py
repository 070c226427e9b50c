"""The part of a store that a campaign needs to go on, on another machine."""

from __future__ import annotations

from lotperm.carry.packing import Parcel
from lotperm.cluster.campaign import Campaign
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain
from lotperm.studies.subject import Datasets


def needed(campaign: Campaign, store: Store) -> list[Parcel]:
    """List what must travel for a campaign to go on elsewhere.

    Parameters
    ----------
    campaign : Campaign
        The campaign, which is computed in slices.
    store : Store
        The store in which it was computed so far.

    Returns
    -------
    list[Parcel]
        Every stage of the campaign, in an order in which they can be computed; of a finished one
        its results, and those of its files that a later computation reads. Entries whose data set
        isn't here are left out, since nothing of them can have been computed here.
    """
    datasets: Datasets = {}
    files: dict[str, set[str]] = {}
    tasks: list[Task] = []
    for entry in campaign.entries:
        if entry.lacking(datasets):
            continue
        own = [
            task
            for bench in entry.benches(store, None, datasets)
            for task in entry.own_tasks(bench)
        ]
        missing = [task for task in chain(own) if not task.done()]
        # What is published beside a record holds what the entry's own stages read, and is written
        # once all of them are done.
        readers = [*missing, *own] if missing and entry.study.publishes else missing
        for task in readers:
            for key, names in task.reads.items():
                files.setdefault(key, set()).update(names)
        # Finished stages are carried in any case: their results make the tables, and are small.
        tasks += own
    return [
        Parcel(task.name, task.key, frozenset(files.get(task.key, ()))) for task in chain(tasks)
    ]
