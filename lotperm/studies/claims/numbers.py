"""The 672 numbers of the paper's Tables 5 to 14 in tidy form, and what they say.

Accuracies are in percent and differences in points, as the paper prints them. Nothing here is a
number of this project's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lotperm.errors import ParameterError, unknown_name
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.published import paper

SETTING = ["table", "network", "width", "dataset", "sparsity", "rewind_epoch", "metric"]
"""Columns that tell the settings of Tables 5 to 14 apart: at each there are three arms."""

ROW = ["network", "width", "dataset", "sparsity"]
"""Columns that name a row of the tables: its settings differ only in the rewind epoch."""


NAMES = {
    "resnet20": "ResNet20",
    "resnet50": "ResNet50",
    "vgg11": "VGG11",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
}
"""Networks and data sets of the tables, as they are written in running text."""


def figures() -> pd.DataFrame:
    """Return the number of each figure in the authors' post and in the paper.

    Returns
    -------
    DataFrame
        Index `id`; columns what, post and paper ("" where it isn't there), tables (of the paper's
        appendix, "first-last" or ""), page (of this book, without suffix).
    """
    return paper("figures").fillna("").set_index("id")


def both_numbers(figure: str) -> str:
    """Name a figure by both numberings, for running text.

    Parameters
    ----------
    figure : str
        Its `id` in `figures`.

    Returns
    -------
    str
        As "Figure 7 of the post, Figure 8 of the paper (Table 9)".

    Raises
    ------
    ParameterError
        If there is no such figure.
    """
    table = figures()
    if figure not in table.index:
        raise unknown_name("figure of the paper", figure, table.index.to_list())
    row = table.loc[figure]
    found = [f"{row[where]} of the {where}" for where in ("post", "paper") if row[where]]
    return ", ".join(found) + _tables(str(row["tables"]))


def _tables(span: str) -> str:
    """Return " (Tables 5–8)", or "" if the figure has none."""
    if not span:
        return ""
    first, last = span.split("-")
    return f" (Table {first})" if first == last else f" (Tables {first}–{last})"


def cells() -> pd.DataFrame:
    """Return Tables 5 to 14, one row for each number.

    Returns
    -------
    DataFrame
        Columns table, figure (its `id` in `figures`), network, width, dataset, sparsity,
        rewind_epoch, method, metric ("top1" or "top5"), mean and std (percent). The paper says
        neither that its spread is a standard deviation nor over what it is taken; here it is taken
        for the standard deviation of three runs. Table 10 (ImageNet, one run) has none.
    """
    raw = paper("tables_5_14")
    # resnet20x4 is ResNet20 at width 4. Without an x the width is 1.
    parts = raw["model"].str.extract(r"^(?P<network>[a-z]+\d+?|vgg11)(?:x(?P<width>\d+))?$")
    spans = figures()["tables"]
    # The list of figures says which tables each of them has.
    figure_of = {
        table: name
        for name, span in spans[spans != ""].items()
        for table in range(int(span.split("-")[0]), int(span.split("-")[1]) + 1)
    }
    return pd.DataFrame(
        {
            "table": raw["table"],
            "figure": raw["table"].map(figure_of),
            "network": parts["network"],
            "width": parts["width"].fillna("1").astype(int),
            **{name: raw[name] for name in ("dataset", "sparsity", "rewind_epoch", "method")},
            "metric": raw["metric"],
            "mean": raw["value"],
            "std": raw["spread"],
        }
    )


def settings(tidy: pd.DataFrame) -> pd.DataFrame:
    """Return the three arms of every setting side by side, with what permuting gains.

    Parameters
    ----------
    tidy : DataFrame
        As `cells` returns it, or a part of it.

    Returns
    -------
    DataFrame
        One row per setting: `SETTING`, lth, permuted, naive (percent), gain = permuted − naive,
        gap = lth − naive (points), share = gain / gap (NaN where the gap is 0), and `gain_error`:
        the standard error of the gain if spreads are standard deviations of three runs.
    """
    wide = tidy.pivot_table(index=SETTING, columns="method", values="mean")[list(PAPER_ARMS)]
    # Differences of numbers with two decimals: without rounding, ties would get tiny differences.
    wide["gain"] = (wide["permuted"] - wide["naive"]).round(2)
    wide["gap"] = (wide["lth"] - wide["naive"]).round(2)
    wide["share"] = wide["gain"] / wide["gap"].where(wide["gap"] != 0)
    # Table 10 has no spreads, but its settings must stay. dropna=False also makes settings that
    # don't exist, which reindexing removes.
    spread = tidy.pivot_table(index=SETTING, columns="method", values="std", dropna=False)
    variances = (spread.reindex(wide.index)[["permuted", "naive"]] ** 2).sum(axis=1, skipna=False)
    # The standard error of a difference of two means over three runs each.
    wide["gain_error"] = np.sqrt(variances / 3)
    return wide.rename_axis(columns=None).reset_index()


def gain_at(table: float, sparsity: float, rewind_epoch: float) -> float:
    """Return the points that permuting gains at one setting of Tables 5 to 14, in top-1 accuracy.

    Raises
    ------
    ParameterError
        If there is no such setting.
    """
    return float(_setting(table, sparsity, rewind_epoch)["gain"])


def share_at(table: float, sparsity: float, rewind_epoch: float) -> float:
    """Return the share of the gap that permuting closes at a setting, in percent.

    It raises the errors of `gain_at`.
    """
    return 100 * float(_setting(table, sparsity, rewind_epoch)["share"])


def _setting(table: float, sparsity: float, rewind_epoch: float) -> pd.Series:
    arms = settings(cells())
    chosen = arms[
        (arms["metric"] == "top1")
        & (arms["table"] == table)
        & (arms["sparsity"] == sparsity)
        & (arms["rewind_epoch"] == rewind_epoch)
    ]
    if len(chosen) != 1:
        raise ParameterError(
            f"Table {table:g} has no setting with S = {sparsity:g} and k = {rewind_epoch:g}; "
            "book/paper/tables_5_14.csv lists all."
        )
    return chosen.iloc[0]


class Count(NamedTuple):
    """Numbers of settings in which permuted is above naive, equal to it, and below it."""

    above: int
    equal: int
    below: int

    @property
    def total(self) -> int:
        """Return the number of settings."""
        return sum(self)


def above_naive(arms: pd.DataFrame) -> Count:
    """Count the top-1 settings in which permuted is above naive; `arms` is as in `settings`."""
    # Top-5 accuracies are of networks whose top-1 accuracies are counted already.
    gain = arms.loc[arms["metric"] == "top1", "gain"]
    return Count(int((gain > 0).sum()), int((gain == 0).sum()), int((gain < 0).sum()))


def mean_gains(arms: pd.DataFrame) -> pd.DataFrame:
    """Return what permuting gains in top-1 accuracy, at k = 0 and at k > 0.

    Returns
    -------
    DataFrame
        Columns network, dataset, rewound (k > 0), mean, least, most (points), settings; a row for
        ResNet20 on each of its data sets, VGG11, ResNet50, at k = 0 (where there is one) and
        above.
    """
    top = arms[arms["metric"] == "top1"]
    # k = 0 is separate: from a truly random start permuting gains next to nothing.
    top = top.assign(rewound=top["rewind_epoch"] > 0)
    found = top.groupby(["network", "dataset", "rewound"])["gain"]
    return found.agg(mean="mean", least="min", most="max", settings="size").reset_index()


def by_width(arms: pd.DataFrame, rewind_epoch: int = 50) -> pd.DataFrame:
    """Return share closed and points gained by ResNet20 at its smallest and its largest width.

    Parameters
    ----------
    arms : DataFrame
        As `settings` returns it.
    rewind_epoch : int, optional
        k of the settings that are compared.

    Returns
    -------
    DataFrame
        One row for each data set and sparsity: share_narrow, share_wide (fractions), gain_narrow,
        gain_wide (points), narrow and wide (widths).
    """
    chosen = arms[(arms["network"] == "resnet20") & (arms["rewind_epoch"] == rewind_epoch)]
    rows = []
    for (dataset, sparsity), group in chosen.groupby(["dataset", "sparsity"]):
        ordered = group.sort_values("width")
        narrow, wide = ordered.iloc[0], ordered.iloc[-1]
        row: dict[str, Any] = {"dataset": dataset, "sparsity": sparsity}
        row |= {"narrow": narrow["width"], "wide": wide["width"]}
        for what in ("share", "gain"):
            row |= {f"{what}_narrow": narrow[what], f"{what}_wide": wide[what]}
        rows.append(row)
    return pd.DataFrame(rows)


def shares(arms: pd.DataFrame, network: str, width: int = 1, metric: str = "top1") -> pd.Series:
    """Return the share of the gap that permuting closes at every setting of a network with k > 0.

    Returns
    -------
    Series
        Fractions; index (dataset, sparsity, rewind_epoch).
    """
    chosen = arms[
        (arms["network"] == network)
        & (arms["width"] == width)
        & (arms["metric"] == metric)
        & (arms["rewind_epoch"] > 0)
    ]
    return chosen.set_index(["dataset", "sparsity", "rewind_epoch"])["share"]
