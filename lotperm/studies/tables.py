"""Words and tables that all chapters of results share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.config.parameters import IMAGE_FOLDERS
from lotperm.studies.pipeline import Pipeline


def title(experiment: Experiment) -> str:
    """What the title of a figure says of an experiment: data set, network and profile.

    On MNIST-1D a network is the one-dimensional twin of that of its name, which is said too.
    """
    e = experiment
    twin = "1-D twin, " if e.data.name == "mnist1d" else ""
    return f"{twin}{e.data.name}, {e.model.name}, profile {e.profile}"


def settings(pipelines: Sequence[Pipeline]) -> pd.DataFrame:
    """The settings of a chapter's experiments.

    Parameters
    ----------
    pipelines : Sequence[Pipeline]
        One for each width of the network. Of an image folder, images are counted, so it must be
        here.

    Returns
    -------
    DataFrame
        A column for each width, a row for each setting: texts and whole numbers.

    Raises
    ------
    StorageError
        If an image folder isn't there.
    """
    columns = {}
    for pipeline in pipelines:
        e = pipeline.experiment
        network = (
            f"{e.model.name}, {sum(p.numel() for p in pipeline.model.parameters()):,} parameters"
        )
        data: dict[str, str | int] = {"data set": e.data.name}
        schedule = {}
        if e.data.name in IMAGE_FOLDERS:
            of, dense = pipeline.data, e.dense
            data = {
                "image folder": f"{e.data.name}, {of.classes} classes",
                "images": f"{len(of.train):,} for training, {len(of.test):,} for validation",
                "pixels a side": of.input_shape[-1],
            }
            steps = ", ".join(map(str, dense.milestones))
            schedule = {"schedule": f"{dense.schedule} at {steps}; warm-up {dense.warmup_epochs}"}
        columns[f"width {e.model.width:g}"] = {
            **data,
            "network": network,
            "replicates (seeds)": len(e.seeds),
            "epochs dense": e.dense.epochs,
            **schedule,
            "rewind epochs k": ", ".join(map(str, e.rewind_epochs)),
            "sparsities S": ", ".join(f"{s:g}" for s in e.sparsities),
            "epochs a round of IMP": round_epochs(e),
        }
    return pd.DataFrame(columns)


def round_epochs(experiment: Experiment) -> int | str:
    """How many epochs a round of IMP trains, for each rewind epoch if they differ."""
    e = experiment
    if e.pruning.imp == "finetune":
        return e.pruning.finetune.epochs
    return ", ".join(str(e.sparse_recipe(k).epochs) for k in e.rewind_epochs)


def with_interval(mean: float, half: float) -> str:
    """A mean in percent or points ± a half width, if there is one: a single seed has no spread,
    0 / 0 no value.
    """
    if np.isnan(mean):
        return ""
    return f"{100 * mean:.1f}" + ("" if np.isnan(half) else f" ± {100 * half:.1f}")


def joined(means: npt.ArrayLike, halves: npt.ArrayLike) -> list[str]:
    return [with_interval(m, h) for m, h in zip(np.asarray(means), np.asarray(halves), strict=True)]


def by_width(experiments: Sequence[Experiment], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The tables of several experiments as one, with the width of the network in a last column,
    ``width``.
    """
    pairs = zip(experiments, tables, strict=True)
    return pd.concat([table.assign(width=e.model.width) for e, table in pairs])
