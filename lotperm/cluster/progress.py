"""How far a campaign is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotperm.cluster.campaign import Campaign
from lotperm.cluster.entry import Entry
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain
from lotperm.studies.workbench import Datasets


@dataclass(frozen=True)
class StageProgress:
    """How far a stage of a campaign is.

    Attributes
    ----------
    entry : str
        Name of the first entry that needs it.
    label : str
        What it does.
    state : str
        "done", "in progress" or "missing".
    epoch, epochs : int
        Whole epochs that are trained, as of its last checkpoint, and all of them.
    images_left : int
        Examples that are still to be trained on, all networks counted.
    seconds_left : float | None
        At the rate of the finished stages of the same network; None if there is none, or nothing
        to train.
    seconds : float | None
        That a finished stage took.
    """

    entry: str
    label: str
    state: str
    epoch: int
    epochs: int
    images_left: int
    seconds_left: float | None
    seconds: float | None


@dataclass(frozen=True)
class CampaignStatus:
    """How far a campaign is.

    Attributes
    ----------
    stages : list[StageProgress]
        Those that what isn't recorded yet needs, each under the first entry that needs it.
    skipped : dict[str, str]
        As `run`: entries whose data set isn't there.
    recorded : dict[str, list[Path]]
        Folders that are there already, of all entries.
    """

    stages: list[StageProgress]
    skipped: dict[str, str]
    recorded: dict[str, list[Path]]


def status(campaign: Campaign, store: Store, results: Path | None = None) -> CampaignStatus:
    """How far a campaign is that records in `results` (None: in its own folder); changes
    nothing.
    """
    datasets: Datasets = {}
    seen: set[str] = set()
    found: list[tuple[Entry, Task, Any]] = []
    skipped: dict[str, str] = {}
    recorded: dict[str, list[Path]] = {}
    work: dict[Any, list[float]] = {}
    for part in campaign.parts(store, results, None, datasets):
        entry = part.entry
        if part.recorded():
            recorded.setdefault(entry.name, []).append(part.folder)
            continue
        if lacking := entry.lacking(datasets):
            skipped[entry.name] = lacking
            continue
        for bench in part.benches:
            e = bench.experiment
            network = (e.data.name, e.model, e.dense.precision)
            for task in chain(entry.own_tasks(bench)):
                if task.key not in seen:
                    seen.add(task.key)
                    found.append((entry, task, network))
                    if task.done() and task.work.train_images:
                        total = work.setdefault(network, [0, 0])
                        total[0] += task.work.train_images
                        total[1] += task.meta["seconds"]
    stages = []
    for entry, task, network in found:
        epochs, images = task.work.epochs, task.work.train_images
        done = task.done()
        info = None if done else store.workspace(task.name, task.key).peek()
        epoch = epochs if done else int(info["epoch"]) if info else 0
        left = 0 if done else images - (images * epoch // epochs if epochs else 0)
        rate = work.get(network)
        state = "done" if done else "in progress" if info else "missing"
        time_left = left * rate[1] / rate[0] if left and rate else None
        took = task.meta["seconds"] if done else None
        stages.append(
            StageProgress(entry.name, task.label, state, epoch, epochs, left, time_left, took)
        )
    return CampaignStatus(stages, skipped, recorded)
