"""Words and tables that all chapters of results share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from lotperm.config.choices import IMAGE_FOLDERS
from lotperm.config.experiment import Experiment
from lotperm.science.statistics import paired
from lotperm.studies.origin import NAMES
from lotperm.studies.pipeline import Pipeline


def title(experiment: Experiment) -> str:
    """Describe an experiment in a figure's title: data set, network and profile.

    On MNIST-1D, networks are one-dimensional twins of the networks whose names they have; the title
    says so.
    """
    e = experiment
    twin = "1-D twin, " if e.data.name == "mnist1d" else ""
    return f"{twin}{NAMES.get(e.data.name, e.data.name)}, {NAMES.get(e.model.name, e.model.name)}, profile {e.profile}"


def settings(pipelines: Sequence[Pipeline]) -> pd.DataFrame:
    """Tabulate the settings of a chapter's experiments.

    Parameters
    ----------
    pipelines : sequence of Pipeline
        One for each width of the network. The images of an image folder are counted, so the
        folder must be here.

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
        size = sum(p.numel() for p in pipeline.model.parameters())
        network = f"{NAMES.get(e.model.name, e.model.name)}, {size:,} parameters"
        data: dict[str, str | int] = {"data set": NAMES.get(e.data.name, e.data.name)}
        schedule = {}
        if e.data.name in IMAGE_FOLDERS:
            # What a folder holds isn't known beforehand: a reader's may have other classes and
            # sizes. The schedule is shown as well, since only these recipes have steps and a
            # warm-up.
            of, dense = pipeline.data, e.dense
            data = {
                "image folder": f"{NAMES.get(e.data.name, e.data.name)}, {of.classes} classes",
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
            **(
                {"epochs a round of IMP": round_epochs(e)}
                if e.pruning.mask == "imp"
                else {"masks by": e.pruning.mask}
            ),
        }
    return pd.DataFrame(columns)


def round_epochs(experiment: Experiment) -> int | str:
    """Return the epochs of a round of IMP, for each rewind epoch if they differ."""
    e = experiment
    if e.pruning.imp == "finetune":
        return e.pruning.finetune.epochs
    # A round that rewinds trains as long as an arm from the same epoch.
    return ", ".join(str(e.sparse_recipe(k).epochs) for k in e.rewind_epochs)


def with_interval(mean: float, half: float) -> str:
    """Format a mean and half its interval in percent or points.

    Parameters
    ----------
    mean : float
        A fraction; NaN (0 / 0) gives "".
    half : float
        A fraction; NaN if there is a single seed, which has no spread.
    """
    # 0 / 0 has no value: nothing is shown, rather than "nan".
    if np.isnan(mean):
        return ""
    return f"{100 * mean:.1f}" + ("" if np.isnan(half) else f" ± {100 * half:.1f}")


def joined(means: npt.ArrayLike, halves: npt.ArrayLike) -> list[str]:
    """Format means with half their intervals, each as `with_interval`."""
    return [with_interval(m, h) for m, h in zip(np.asarray(means), np.asarray(halves), strict=True)]


def by_width(experiments: Sequence[Experiment], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join the tables of several experiments; a last column has the width of the network."""
    pairs = zip(experiments, tables, strict=True)
    return pd.concat([table.assign(width=e.model.width) for e, table in pairs])


def by_cell(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return each sparsity and rewind epoch in words, with its rows."""
    return [
        (f"S = {s:g}, k = {k}", rows)
        for (s, k), rows in table.groupby(["sparsity", "rewind_epoch"])
    ]


def contrasts(arms: pd.DataFrame, pairs: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Return paired differences of arms by their words, as text with intervals and p-values.

    Parameters
    ----------
    arms : DataFrame
        Accuracies as fractions: index seed, a column for each arm.
    pairs : mapping
        A difference in words -> the two arms, the second subtracted from the first. Pairs with an
        arm that the table lacks are left out.
    """
    found = {}
    for words, (a, b) in pairs.items():
        if a in arms and b in arms:
            test = paired(arms[a], arms[b])
            p = "" if pd.isna(test.p_value) else f", p = {test.p_value:.1g}"
            found[words] = with_interval(test.mean, test.half_width) + p
    return found
