"""The part of a store that a campaign needs in order to continue on another machine."""

from __future__ import annotations

from lotperm.carry.packing import Parcel
from lotperm.cluster.campaign import Campaign
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain
from lotperm.studies.subject import Datasets


def needed(campaign: Campaign, store: Store) -> list[Parcel]:
    """List what must be carried for a campaign to continue on another machine.

    Parameters
    ----------
    campaign : Campaign
        The campaign, which is computed in slices.
    store : Store
        The store in which it was computed so far.

    Returns
    -------
    list[Parcel]
        Every stage of the campaign, in an order in which they can be computed. A finished stage is
        carried with its results and those of its files that a later computation reads. Entries
        whose data set isn't here are left out, since none of their stages can be here.
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
        # The files published beside a record hold what the entry's own stages read, and are written
        # once all of these stages are done.
        readers = [*missing, *own] if missing and entry.study.publishes else missing
        for task in readers:
            for key, names in task.reads.items():
                files.setdefault(key, set()).update(names)
        # Finished stages are carried in any case: their results make the tables, and are small.
        tasks += own
    return [
        Parcel(task.name, task.key, frozenset(files.get(task.key, ()))) for task in chain(tasks)
    ]
