"""Tables of the arms: accuracies, and how they compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lotperm.science.statistics import interval
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.results import Results, comparison_text, comparison_words
from lotperm.studies.tables import by_width, with_interval


def accuracies(results: Sequence[Results]) -> pd.DataFrame:
    """Tabulate the accuracy of every method: mean over seeds ± half its 95 % interval.

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
        # Dense networks have no rewind epoch, and would drop out without dropna=False.
        for key, group in chosen.groupby(keys, dropna=False, sort=False):
            method, s, k, metric = key
            name = (result.experiment.model.width, f"{s:g}", "" if pd.isna(k) else k, method)
            # The metrics of a network share a row.
            rows.setdefault(name, {})[words[metric]] = with_interval(
                *interval(group["value"].to_numpy())
            )
    return pd.DataFrame(rows).T.rename_axis(["width", "sparsity", "k", "method"])


def comparisons(results: Sequence[Results]) -> pd.DataFrame:
    """Tabulate how the arms of several experiments compare (`Results.comparisons`), in points.

    Parameters
    ----------
    results : sequence of Results
        One for each width of the network.

    Returns
    -------
    DataFrame
        Index (width, sparsity, rewind_epoch, comparison); columns ``difference (points)``, the
        mean over seeds with its 95 % interval, and ``p (paired t-test)``; texts,
        "" where there is none.
    """
    found = by_width([r.experiment for r in results], [r.comparisons() for r in results])
    rows = found.to_dict("records")
    found["comparison"] = [comparison_words(row) for row in rows]
    found = found.set_index(["width", "sparsity", "rewind_epoch", "comparison"])
    return pd.DataFrame(
        {
            "difference (points)": [comparison_text(row, 1) for row in rows],
            "p (paired t-test)": ["" if pd.isna(p) else f"{p:.1g}" for p in found["p_value"]],
        },
        index=found.index,
    )


def in_short(results: Results) -> str:
    """Say which arms learned something, and which is best, one line for each sparsity.

    This is at the last rewind epoch. Networks of a small data set and few epochs end a point or two
    apart on processors that round differently, so the text, which ``make test`` compares, has no
    accuracies.
    """
    e = results.experiment
    k = max(e.rewind_epochs)
    there = sorted(set(results.summary()["method"]) & set(PAPER_ARMS))
    lines = [f"arms at the first width: {', '.join(there)}"]
    for s in e.sparsities:
        means = {arm: results.values(arm, s, k).mean() for arm in PAPER_ARMS}
        # Half as much again as chance among ten classes.
        learned = [arm for arm in PAPER_ARMS if means[arm] > 0.15]
        best = f"; the best: {max(learned, key=means.__getitem__)}" if learned else ""
        lines.append(f"S = {s:g}: above 15 percent: {', '.join(learned) or 'none'}{best}")
    return "\n".join(lines)
