"""How near solutions are to A's: live beside recorded."""

from __future__ import annotations

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.studies.published import live_label, recorded
from lotperm.studies.relearning.tables import main_reference, nearness


def beside_relearning(table: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """Put nearness to pruned A, live and recorded, one below the other.

    Parameters
    ----------
    table : DataFrame
        As `relearning_table` returns it.
    experiment : Experiment
        The experiment of the page.

    Returns
    -------
    DataFrame
        Index (whose, network); columns as in `nearness`, only towards pruned A.
    """
    found = {live_label(experiment): table}
    for run in recorded(kind="relearning"):
        for (s, k), rows in run.summary.groupby(["sparsity", "rewind_epoch"]):
            found[f"{run.label}, S = {s:g}, k = {k}"] = rows
    towards = {
        label: nearness(rows[rows["reference"] == main_reference(table)]).droplevel(0)
        for label, rows in found.items()
    }
    return pd.concat(towards).rename_axis(["", "network"])
