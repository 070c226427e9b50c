"""What the chapters of results share: the words and tables that say what was run and what came of
it.

Also how a script stands in a page. What stands beside the paper's numbers is in
`lotperm.studies.published`, figures are in `lotperm.studies.charts`. Fractions come in; percent
and points are made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from lotperm.config.experiment import Experiment
from lotperm.config.parameters import ARMS, IMAGE_FOLDERS
from lotperm.data.dataset import Split
from lotperm.data.images import ImageFiles
from lotperm.errors import ParameterError, shown
from lotperm.science.statistics import interval
from lotperm.studies.pipeline import Pipeline
from lotperm.studies.published import early_means
from lotperm.studies.results import Results, comparison_words


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


def matching_epochs(epochs: int) -> list[int]:
    """The epochs t of B that the chapter of early matching looks at: the paper's, or alike as
    shares of training.

    Parameters
    ----------
    epochs : int
        T, of dense training; the paper's are 200.
    """
    if epochs == 200:
        return [5, 20, 50, 100, 200]
    return sorted({round(epochs * share) for share in (0, 0.025, 0.1, 0.2, 0.5, 1)})


def line_positions(points: int) -> list[float]:
    """Positions α on the line from one network to another, at equal distances from 0 to 1.

    Parameters
    ----------
    points : int
        Their number, odd, so that the middle of the line is one of them.

    Raises
    ------
    ParameterError
        If it is even, below 3, or no whole number.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 3 or points % 2 == 0:
        raise ParameterError(
            f"points is {shown(points)}; expected an odd number, 3 or more, so that the middle is one of them."
        )
    return [i / (points - 1) for i in range(points)]


def pruning_rounds(rounds: int) -> list[int]:
    """The rounds of IMP whose barrier is shown: 0, the dense network, then every second one, and
    the last.

    Parameters
    ----------
    rounds : int
        How many there are.
    """
    return sorted({0, *range(2, rounds, 2), rounds})


def class_examples(split: Split, *, classes: int, views: int) -> dict[str, list[Tensor]]:
    """The first image of some classes of an image folder, as evaluation sees it and as training
    does.

    Parameters
    ----------
    split : Split
        Of an image folder.
    classes : int
        How many at the most, in the order in which the split has them.
    views : int
        How often training shows each, every time augmented by another seed.

    Returns
    -------
    dict
        Class, sorted by name -> 1 + `views` images, uint8 (3, image_size, image_size).

    Raises
    ------
    ParameterError
        If the split holds no files.
    """
    files = split.inputs
    if not isinstance(files, ImageFiles):
        raise ParameterError(
            "class_examples: expected a split of an image folder, got a tensor of examples."
        )
    rows: dict[str, int] = {}
    for row in range(len(split)):
        rows.setdefault(files.class_name(row), row)
        if len(rows) == classes:
            break
    return {
        name: [
            files.read(torch.tensor(row)),
            *files.read_augmented(torch.tensor([[row] * views]), range(views), 0)[0],
        ]
        for name, row in sorted(rows.items())
    }


def _with_interval(mean: float, half: float) -> str:
    """A mean in percent or points ± a half width, if there is one: a single seed has no spread,
    0 / 0 no value.
    """
    if np.isnan(mean):
        return ""
    return f"{100 * mean:.1f}" + ("" if np.isnan(half) else f" ± {100 * half:.1f}")


def _joined(means: npt.ArrayLike, halves: npt.ArrayLike) -> list[str]:
    return [
        _with_interval(m, h) for m, h in zip(np.asarray(means), np.asarray(halves), strict=True)
    ]


def by_width(experiments: Sequence[Experiment], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The tables of several experiments as one, with the width of the network in a last column,
    ``width``.
    """
    pairs = zip(experiments, tables, strict=True)
    return pd.concat([table.assign(width=e.model.width) for e, table in pairs])


def accuracies(results: Sequence[Results]) -> pd.DataFrame:
    """Accuracy of every method, mean over seeds and half width of its 95 % interval.

    Returns
    -------
    DataFrame
        Index (width, sparsity, k, method); columns ``top-1 (%)`` and, where it was evaluated,
        ``top-5 (%)``; texts.
    """
    words = {"test_accuracy": "top-1 (%)", "test_top5": "top-5 (%)"}
    rows: dict[tuple[float, str, int | str, str], dict[str, str]] = {}
    for result in results:
        keys = ["method", "sparsity", "rewind_epoch", "metric"]
        chosen = result.table[result.table["metric"].isin(words)]
        key: Any
        for key, group in chosen.groupby(keys, dropna=False, sort=False):
            method, s, k, metric = key
            name = (result.experiment.model.width, f"{s:g}", "" if pd.isna(k) else k, method)
            rows.setdefault(name, {})[words[metric]] = _with_interval(
                *interval(group["value"].to_numpy())
            )
    return pd.DataFrame(rows).T.rename_axis(["width", "sparsity", "k", "method"])


def comparisons(results: Sequence[Results]) -> pd.DataFrame:
    """How the arms of several experiments compare (`Results.comparisons`), in points.

    Parameters
    ----------
    results : Sequence[Results]
        One for each width of the network.

    Returns
    -------
    DataFrame
        Index (width, sparsity, rewind_epoch, comparison); columns ``difference (points)``, the
        mean over seeds with the half width of its 95 % interval, and ``p (paired t-test)``; texts,
        "" where there is none.
    """
    tables = [r.comparisons() for r in results]
    for table, result in zip(tables, results, strict=True):
        seeds = len(result.experiment.seeds)
        table["comparison"] = [comparison_words(row, seeds) for row in table.to_dict("records")]
    found = by_width([r.experiment for r in results], tables)
    found = found.set_index(["width", "sparsity", "rewind_epoch", "comparison"])
    return pd.DataFrame(
        {
            "difference (points)": _joined(found["mean"], found["half_width"]),
            "p (paired t-test)": ["" if pd.isna(p) else f"{p:.1g}" for p in found["p_value"]],
        },
        index=found.index,
    )


def in_short(results: Results) -> str:
    """Which arms there are, and their mean accuracies at the last rewind epoch, in whole percent:
    a line a sparsity.

    Rounded so that it is the same on every machine: that is what ``make test`` compares.
    """
    e = results.experiment
    k = max(e.rewind_epochs)
    there = sorted(set(results.summary()["method"]) & set(ARMS))
    lines = [f"arms at the first width: {', '.join(there)}"]
    for s in e.sparsities:
        means = {arm: results.values(arm, s, k).mean() for arm in ARMS}
        lines.append(
            f"S = {s:g}: " + " ".join(f"{arm} {100 * mean:.0f}" for arm, mean in means.items())
        )
    return "\n".join(lines)


def diversity(table: pd.DataFrame) -> pd.DataFrame:
    """Members, ensemble and diversity of every method, as the paper's Table 1 lists them.

    Parameters
    ----------
    table : pd.DataFrame
        As `Pipeline.diversity` gives it.

    Returns
    -------
    DataFrame
        Index method; accuracy of the members in percent (mean ± their standard deviation) and of
        the ensemble, disagreement (a fraction), KL and JS (nats); texts.
    """
    small = {"disagreement": "disagreement", "KL": "kl", "JS": "js"}
    return pd.DataFrame(
        {
            "test accuracy (%) ± standard deviation": _joined(table["mean"], table["spread"]),
            "ensemble (%)": (100 * table["ensemble_accuracy"]).map("{:.1f}".format),
            **{words: table[name].map("{:.3f}".format) for words, name in small.items()},
        }
    ).set_index(table["method"])


def early_data(
    table: pd.DataFrame, results: Results, sparsity: float, rewind_epoch: int
) -> pd.DataFrame:
    """What the figure of early matching shows, as one tidy table: ``permuted`` at every t, and LTH
    and naive.

    Parameters are those of `matching_costs`.
    """
    arms = [
        results.values(arm, sparsity, rewind_epoch)
        .reset_index()
        .assign(method=arm, metric="test_accuracy")
        for arm in ("lth", "naive")
    ]
    return pd.concat([table.assign(method="permuted"), *arms], ignore_index=True)


def matching_costs(
    table: pd.DataFrame, results: Results, sparsity: float, rewind_epoch: int
) -> pd.DataFrame:
    """What matching at epoch t costs, and what it yields.

    B is trained densely for max(t, k) epochs, for the permutation and the rewind point, and sparse
    for T − k.

    Parameters
    ----------
    table : pd.DataFrame
        As `Pipeline.early_matching` gives it.
    results : Results
        Of the same experiment, for LTH and naive.
    sparsity, rewind_epoch : float
        Of the arms.

    Returns
    -------
    DataFrame
        Index ``matching epoch t``; B's dense epochs as a share of T, all its epochs as a share of
        those with t = T, accuracy, and the gap closed, of the means ("" if LTH isn't above naive);
        percent, texts.
    """
    k, whole = rewind_epoch, results.experiment.dense.epochs
    lth, naive, accuracy = early_means(table, results, sparsity, k)
    gap = lth - naive
    return pd.DataFrame(
        {
            "B's dense epochs (% of T)": [f"{100 * max(t, k) / whole:.0f}" for t in accuracy],
            "B's epochs in all (% of waiting for T)": [
                f"{100 * (max(t, k) + whole - k) / (2 * whole - k):.0f}" for t in accuracy
            ],
            "test accuracy (%)": [f"{100 * a:.1f}" for a in accuracy.values()],
            "gap closed (%)": [
                f"{100 * (a - naive) / gap:.0f}" if gap > 0 else "" for a in accuracy.values()
            ],
        },
        index=pd.Index(accuracy, name="matching epoch t"),
    )
