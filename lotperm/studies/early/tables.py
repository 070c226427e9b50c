"""Tables of early matching: what it yields and what it costs."""

from __future__ import annotations

import pandas as pd

from lotperm.studies.results import Results


def early_means(
    table: pd.DataFrame, results: Results, sparsity: float, rewind_epoch: int
) -> tuple[float, float, dict[int, float]]:
    """Average test accuracies over seeds; parameters as in `matching_costs`.

    Returns
    -------
    lth, naive : float
        Fractions.
    permuted : dict of int to float
        Matching epoch -> fraction.
    """
    lth, naive = (
        float(results.values(arm, sparsity, rewind_epoch).mean()) for arm in ("lth", "naive")
    )
    permuted = table[table["metric"] == "test_accuracy"].groupby("matching_epoch")["value"].mean()
    return lth, naive, dict(zip(permuted.index.tolist(), permuted.tolist(), strict=True))


def matching_costs(
    table: pd.DataFrame, results: Results, sparsity: float, rewind_epoch: int
) -> pd.DataFrame:
    """Tabulate what matching at epoch t costs, and what it yields.

    B is trained densely for max(t, k) epochs, for the permutation and the rewind point, and sparse
    for T − k.

    Parameters
    ----------
    table : DataFrame
        As `Pipeline.early_matching` returns it.
    results : Results
        Results of the same experiment, for LTH and naive.
    sparsity, rewind_epoch : float and int
        Those of the arms.

    Returns
    -------
    DataFrame
        Index ``matching epoch t``. Columns, texts in percent: B's dense epochs as a share of T,
        all its epochs as a share of those with t = T, accuracy, and the gap closed as a ratio of
        means ("" if LTH isn't above naive).
    """
    k, whole = rewind_epoch, results.experiment.dense.epochs
    lth, naive, accuracy = early_means(table, results, sparsity, k)
    gap = lth - naive
    return pd.DataFrame(
        {
            "B's dense epochs (% of T)": [f"{100 * max(t, k) / whole:.0f}" for t in accuracy],
            # Waiting for the end means T dense epochs and T − k sparse ones.
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
