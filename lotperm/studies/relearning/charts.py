"""The figure of nearness to A's solutions."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lotperm.science.statistics import interval
from lotperm.studies.charts import METHODS
from lotperm.studies.findings import ranked
from lotperm.studies.origin import conclude
from lotperm.studies.relearning.tables import WORDS, main_reference


def nearness(
    table: pd.DataFrame, networks: Sequence[str] = ("lth", "permuted", "naive"), *, title: str
) -> Figure:
    """Draw how far the networks are from pruned A (`main_reference`): predictions and barriers.

    Parameters
    ----------
    table : DataFrame
        As `relearning_table` returns it.
    networks : sequence of str
        The networks that are drawn.
    title : str
        The figure's title: data, network and profile.
    """
    chosen = table[table["reference"] == main_reference(table)]
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.6), layout="constrained", sharey=True)
    y = np.arange(len(networks))
    for ax, column, label in zip(
        axes,
        ("disagreement", "barrier_none", "barrier_repair"),
        ("disagreement (%)", "error barrier (points)", "the same, after REPAIR"),
        strict=True,
    ):
        for at, name in zip(y, networks, strict=True):
            values = 100 * chosen.loc[chosen["network"] == name, column].to_numpy()
            mean, half = interval(values)
            colour = METHODS[name][1]
            ax.barh(at, mean, xerr=half, color=colour, capsize=4, ecolor="#333333", height=0.6)
            # Every seed, as a bar hides the values behind its mean.
            ax.scatter(values, np.full(len(values), at), s=8, color="#333333", zorder=3)
        ax.set(xlabel=label, xlim=(0, None))
    axes[0].set_yticks(y, [WORDS[name] for name in networks])
    axes[0].invert_yaxis()
    figure.suptitle(title)
    means = 100 * chosen.groupby("network")[["disagreement", "barrier_repair"]].mean()
    near = {METHODS[name][0]: means.loc[name] for name in networks}
    apart, height = (
        {name: row[column] for name, row in near.items()}
        for column in ("disagreement", "barrier_repair")
    )
    return conclude(
        figure,
        f"Disagreement: {ranked(apart)}. Barrier after REPAIR: {ranked(height, ' points')}.",
    )
