"""The figure of early matching."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lotperm.science.statistics import interval
from lotperm.studies.arms.charts import line
from lotperm.studies.charts import METHODS
from lotperm.studies.results import Results


def early_matching(
    table: pd.DataFrame, results: Results, sparsity: float, rewind_epoch: int, *, title: str
) -> Figure:
    """Draw the permuted arm's accuracy, and how well units match, against the matching epoch.

    Parameters
    ----------
    table : DataFrame
        As `Pipeline.early_matching` returns it.
    results : Results
        Results of the same experiment, for LTH and naive.
    sparsity, rewind_epoch : float and int
        Those of the arms.
    title : str
        The figure's title: data, network and profile.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    epochs = sorted(table["matching_epoch"].unique())

    def values(metric: str, epoch: int) -> np.ndarray:
        at = (table["metric"] == metric) & (table["matching_epoch"] == epoch)
        return table[at]["value"].to_numpy()

    line(left, epochs, [values("test_accuracy", t) for t in epochs], "permuted")
    # Neither depends on when B is matched, so each is one level with its interval.
    for arm in ("lth", "naive"):
        mean, half = interval(results.values(arm, sparsity, rewind_epoch).to_numpy())
        words, colour = METHODS[arm]
        left.axhline(100 * mean, color=colour, label=words)
        left.axhspan(
            100 * (mean - half), 100 * (mean + half), color=colour, alpha=0.15, linewidth=0
        )
    left.set(xlabel="matching epoch t of B", ylabel="test accuracy (%)")
    left.legend(fontsize=8)
    # The matching epoch affects the accuracy only through the permutation, whose quality is
    # therefore shown beside it.
    line(right, epochs, [values("score", t) for t in epochs], "permuted", scale=1)
    right.set(xlabel="matching epoch t of B", ylabel="mean correlation of matched units")
    figure.suptitle(title)
    return figure
