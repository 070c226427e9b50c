"""The figure of ensembles against their cost."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lotperm.science.statistics import interval
from lotperm.studies.charts import METHODS as ARMS
from lotperm.studies.findings import ranked
from lotperm.studies.many.methods import METHODS
from lotperm.studies.tables import by_cell

# Method -> its colour and marker.
_LOOKS = {
    "dense": (ARMS["dense_b"][1], "d"),
    "own tickets": (ARMS["imp"][1], "v"),
    "own, as pruned": (ARMS["imp"][1], "1"),
    "lth": (ARMS["lth"][1], "o"),
    "naive": (ARMS["naive"][1], "^"),
    "permuted": (ARMS["permuted"][1], "s"),
    "permuted at k": ("#56b4e9", "D"),
    "signs": ("#e69f00", "P"),
}


def against_cost(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw the accuracy of ensembles against the cost of their training, and against their size.

    Parameters
    ----------
    table : DataFrame
        The question's table, of one cell.
    title : str
        The figure's title: data, network and profile.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8, 4.4), layout="constrained", sharey=True, width_ratios=(3, 2)
    )
    for ax, column, label in (
        (left, "dense_trainings", "FLOPs of all trainings\n(1 = one dense network)"),
        (right, "weights", "weights that are kept"),
    ):
        _curves(ax, table, column)
        ax.set(xscale="log", xlabel=label)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    left.set_ylabel("accuracy of the ensemble (%)")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8
    )
    figure.suptitle(title)
    return figure


def _curves(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """Draw a line for each method, a point for each number of members."""
    for method, known in METHODS.items():
        rows = table[table["method"] == method]
        by_size = 100 * rows.pivot(index="ticket", columns="members", values="accuracy")
        place = rows.groupby("members")[column].mean()
        means = by_size.mean()
        colour, marker = _LOOKS[method]
        ax.plot(
            place,
            means[place.index],
            marker=marker,
            color=colour,
            label=f"{method}: {known.words}",
            linestyle=":" if method in ("naive", "own, as pruned") else "-",
            linewidth=1.2,
            ms=5,
        )
        mean, half = interval(by_size[by_size.columns.max()])
        if np.isfinite(half):
            # Only for all members: the other intervals are about as wide.
            ax.errorbar(place.iloc[-1], mean, half, color=colour, capsize=3, linewidth=1)


def largest(table: pd.DataFrame) -> str:
    """Say how accurate all members of each method are together, and what the cheapest costs."""
    last = table[table["members"] == table["members"].max()]
    means = last.groupby("method")[["accuracy", "dense_trainings"]].mean()
    cheap = means["dense_trainings"].idxmin()
    return (
        f"{last['members'].iloc[0]} members together: {ranked((100 * means['accuracy']).to_dict())}. "
        f"The cheapest is {cheap}, for {means['dense_trainings'].min():.1f} dense trainings."
    )


def curves_of(table: pd.DataFrame) -> list[str]:
    """Say in words what the figure shows: each method's ends."""
    found = []
    for cell, rows in by_cell(table):
        for method in METHODS:
            own = rows[rows["method"] == method].groupby("members")[["accuracy", "dense_trainings"]]
            ends = own.mean().iloc[[0, -1]]
            (a, x), (b, y) = ends.to_numpy()
            count = ends.index[-1]
            found.append(
                f"{cell}, {method}: 1 member {100 * a:.1f} % for {x:.1f} dense trainings, "
                f"{count} together {100 * b:.1f} % for {y:.1f}"
            )
    return found
