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
    """Accuracy of the permuted arm, and how well units match, against the epoch of B that A was
    matched to.

    Parameters
    ----------
    table : pd.DataFrame
        As `Pipeline.early_matching` gives it.
    results : Results
        Of the same experiment, for LTH and naive.
    sparsity, rewind_epoch : float
        Of the arms.
    title : str
        Says which data, network and profile it is.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    epochs = sorted(table["matching_epoch"].unique())

    def values(metric: str, epoch: int) -> np.ndarray:
        at = (table["metric"] == metric) & (table["matching_epoch"] == epoch)
        return table[at]["value"].to_numpy()

    line(left, epochs, [values("test_accuracy", t) for t in epochs], "permuted")
    for arm in ("lth", "naive"):
        mean, half = interval(results.values(arm, sparsity, rewind_epoch).to_numpy())
        words, colour = METHODS[arm]
        left.axhline(100 * mean, color=colour, label=words)
        left.axhspan(
            100 * (mean - half), 100 * (mean + half), color=colour, alpha=0.15, linewidth=0
        )
    left.set(xlabel="matching epoch t of B", ylabel="test accuracy (%)")
    left.legend(fontsize=8)
    line(right, epochs, [values("score", t) for t in epochs], "permuted", scale=1)
    right.set(xlabel="matching epoch t of B", ylabel="mean correlation of matched units")
    figure.suptitle(title)
    return figure
