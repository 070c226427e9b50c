"""Our diversity beside the paper's Table 1."""

from __future__ import annotations

import math

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.studies.numbers import Number, few_decimals
from lotperm.studies.published import live_label, paper, recorded


def beside_diversity(table: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """Put our diversity, live and recorded, beside the paper's Table 1.

    Parameters
    ----------
    table : DataFrame
        As `Pipeline.diversity` returns it.
    experiment : Experiment
        The experiment behind it.

    Returns
    -------
    DataFrame
        Index (whose, method): first the paper's networks, then ours, each followed by its
        differences from the paper's first. Columns accuracy (percent, ours with the 95 % interval
        over members), gain (the ensemble's accuracy less the members', points), disagreement (a
        fraction), KL and JS (nats); texts, "" where there is none.
    """

    def columns(rows: pd.DataFrame, mean: str, ensemble: str, scale: float) -> pd.DataFrame:
        rows = rows.set_index("method")
        return pd.DataFrame(
            {
                # The paper's table is in percent, ours are fractions.
                "accuracy": scale * rows[mean],
                "half_width": scale * rows["half_width"] if "half_width" in rows else math.nan,
                "gain": scale * (rows[ensemble] - rows[mean]),
                "disagreement": rows["disagreement"],
                "KL": rows["kl"],
                "JS": rows["js"],
            }
        )

    found = {
        f"paper, {model}, {dataset}": columns(rows, "test_acc_mean", "ensemble_acc", 1)
        for (model, dataset), rows in paper("table1_diversity").groupby(["model", "dataset"])
    }
    # Differences are taken from the paper's first network; others stand beside it.
    first, theirs = next(iter(found.items()))
    ours = {live_label(experiment): table}
    for run in recorded(kind="diversity"):
        for (s, k), rows in run.summary.groupby(["sparsity", "rewind_epoch"]):
            ours[f"{run.label}, S = {s:g}, k = {k}"] = rows
    for label, rows in ours.items():
        found[label] = columns(rows, "mean", "ensemble_accuracy", 100)
        # A difference keeps our interval: the paper's numbers have none.
        found[f"{label} − {first}"] = (found[label] - theirs).assign(
            half_width=found[label]["half_width"]
        )
    both = pd.concat(found).rename_axis(["", "method"])
    halves = both.pop("half_width")
    shown = few_decimals(both, 2)
    shown["accuracy"] = [
        Number(*pair).text(2) for pair in zip(both["accuracy"], halves, strict=True)
    ]
    return shown
