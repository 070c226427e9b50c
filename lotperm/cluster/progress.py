"""Progress of a campaign, and the time that the rest will take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lotperm.cluster.campaign import Campaign
from lotperm.config.experiment import ModelConfig
from lotperm.store.stages import Store
from lotperm.store.tasks import Task
from lotperm.studies.subject import Datasets

Network = tuple[str, ModelConfig, str]
"""A network whose rate is known: data set, model, and precision of training."""


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """Progress of a stage of a campaign.

    Attributes
    ----------
    entry : str
        Name of the first entry that needs it.
    label : str
        What the stage does, in words.
    state : str
        "done", "in progress" or "missing".
    epoch, epochs : int
        Whole epochs that are trained, as of its last checkpoint, and the number of all epochs.
    images_left : int
        Examples that are still to be trained on, all networks counted.
    seconds_left : float or None
        Estimate by the rate of finished stages of the same network; None if there are none, or
        there is nothing to train.
    seconds : float or None
        Time that a finished stage took.
    """

    entry: str
    label: str
    state: str
    epoch: int
    epochs: int
    images_left: int
    seconds_left: float | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class CampaignStatus:
    """Progress of a campaign.

    Attributes
    ----------
    stages : list of StageProgress
        Stages needed for what isn't recorded yet, each under the first entry that needs it.
    skipped : dict of str to str
        Entries whose data set isn't there, by name, and why.
    recorded : dict of str to list of Path
        Folders that are there already, by the name of their entry.
    """

    stages: list[StageProgress]
    skipped: dict[str, str]
    recorded: dict[str, list[Path]]


def status(campaign: Campaign, store: Store, results: Path | None = None) -> CampaignStatus:
    """Look up how far a campaign is; this changes nothing.

    Parameters
    ----------
    campaign : Campaign
        The campaign.
    store : Store
        Where its stages are kept.
    results : Path, optional
        Folder to record in; None: the campaign's own.
    """
    # Shared by all parts, so that each data set is looked for once.
    datasets: Datasets = {}
    skipped: dict[str, str] = {}
    recorded: dict[str, list[Path]] = {}
    needed: dict[str, tuple[str, Task]] = {}
    for part in campaign.parts(store, results, None, datasets):
        name = part.entry.name
        if part.recorded():
            recorded.setdefault(name, []).append(part.folder)
        elif lacking := part.entry.lacking(datasets):
            skipped[name] = lacking
        else:
            for task in part.tasks():
                # A stage counts under the first entry that needs it; later ones find it computed.
                needed.setdefault(task.key, (name, task))
    rates = _rates(task for _, task in needed.values())
    stages = [_stage(name, task, store, rates) for name, task in needed.values()]
    return CampaignStatus(stages=stages, skipped=skipped, recorded=recorded)


def _network(task: Task) -> Network:
    e = task.experiment
    return e.data.name, e.model, e.dense.precision


def _rates(tasks: Iterable[Task]) -> dict[Network, float]:
    """Return seconds per training image of each network, over its finished stages."""
    images: dict[Network, int] = {}
    seconds: dict[Network, float] = {}
    for task in tasks:
        # The time of stages that train nothing says nothing about the rate of training.
        if task.work.train_images and task.done():
            network = _network(task)
            images[network] = images.get(network, 0) + task.work.train_images
            seconds[network] = seconds.get(network, 0.0) + task.meta["seconds"]
    return {network: seconds[network] / images[network] for network in images}


def _stage(entry: str, task: Task, store: Store, rates: dict[Network, float]) -> StageProgress:
    """Look up how far one stage is."""
    epochs, images = task.work.epochs, task.work.train_images
    rate = rates.get(_network(task))
    if task.done():
        state, epoch, left = "done", epochs, 0
    else:
        checkpoint = store.workspace(task.name, task.key).peek()
        state = "in progress" if checkpoint else "missing"
        epoch = int(checkpoint["epoch"]) if checkpoint else 0
        # By whole epochs, as of the last checkpoint: later steps would be trained again.
        left = images - (images * epoch // epochs if epochs else 0)
    return StageProgress(
        entry=entry,
        label=task.label,
        state=state,
        epoch=epoch,
        epochs=epochs,
        images_left=left,
        seconds_left=left * rate if left and rate else None,
        seconds=task.meta["seconds"] if state == "done" else None,
    )
