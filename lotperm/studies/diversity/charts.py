"""The figure of diversity."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lotperm.studies.charts import MARKERS, METHODS, line_style, name_lines
from lotperm.studies.findings import each, ranked
from lotperm.studies.numbers import number
from lotperm.studies.origin import conclude


def diversity(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw members, ensemble and disagreement of every method, as in the paper's Table 1.

    Parameters
    ----------
    table : DataFrame
        As `Pipeline.diversity` returns it.
    title : str
        The figure's title: data, network and profile.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
    names = list(table["method"])
    # Dense members are the networks B.
    colours = [METHODS["dense_b" if name == "dense" else name][1] for name in names]
    y = np.arange(len(names))
    # The bar from the members' mean to their ensemble shows what the ensemble gains.
    left.hlines(
        y, 100 * table["mean"], 100 * table["ensemble_accuracy"], color=colours, linewidth=3
    )
    left.scatter(
        100 * table["mean"],
        y,
        color="white",
        edgecolor=colours,
        zorder=3,
        label="mean of the members",
    )
    left.scatter(
        100 * table["ensemble_accuracy"], y, color=colours, zorder=3, label="their ensemble"
    )
    left.set_yticks(y, names)
    left.invert_yaxis()
    left.set(xlabel="test accuracy (%)")
    left.legend(fontsize=8)
    right.barh(y, 100 * table["disagreement"], color=colours)
    right.set(xlabel="disagreement between members (%)")
    figure.suptitle(title)
    by_method = table.set_index("method")
    gains = 100 * (by_method["ensemble_accuracy"] - by_method["mean"])
    alike = by_method["disagreement"].idxmin()
    return conclude(
        figure,
        f"Points gained together: {ranked(gains.to_dict(), unit='')}. Members of {alike} agree most.",
    )


def against_sparsity(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw the members' mean and their ensemble against sparsity, a line for every method.

    Parameters
    ----------
    table : DataFrame
        As `lotperm.studies.diversity.study.diversity_table`, with the column sparsity.
    title : str
        The figure's title: data, network and profile.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
    columns = {"mean": "one member (mean)", "ensemble_accuracy": "the members together"}
    for ax, (column, words) in zip(axes, columns.items(), strict=True):
        for method, rows in table.groupby("method", sort=False):
            name = "dense_b" if method == "dense" else str(method)
            label = "dense" if method == "dense" else METHODS[name][0]
            x, y = 100 * rows["sparsity"], 100 * rows[column]
            ax.plot(x, y, marker=MARKERS[name], label=label, **line_style(name))
        ax.set(title=words, xlabel="sparsity (%)", xticks=sorted(100 * table["sparsity"].unique()))
    axes[0].set(ylabel="test accuracy (%)")
    # Both panels have the same lines: they are named only in the last panel.
    name_lines(axes[1])
    figure.suptitle(title)
    ranks = []
    for sparsity, rows in table.groupby("sparsity"):
        together = 100 * rows.set_index("method")["ensemble_accuracy"]
        ranks.append(
            (f"{number(100 * float(str(sparsity)), 0)} % sparsity", ranked(together.to_dict()))
        )
    return conclude(figure, f"The members together. {each(ranks)}")
