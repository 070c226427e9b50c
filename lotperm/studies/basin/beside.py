"""Barriers of one basin: live beside recorded."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.studies.basin.tables import barriers, largest
from lotperm.studies.numbers import Number
from lotperm.studies.published import live_label, recorded

WHAT = {
    "rounds": "dense A to its own sparse solution, largest over the rounds",
    "last": "the same after the last round",
    "edges": "largest edge of the triangle dense A, LTH, permuted",
}
"""Row of the table -> its words."""


def tables_of(live: Iterable[tuple[Experiment, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """Return all tables, live and recorded, by their labels.

    Parameters
    ----------
    live : iterable of (Experiment, DataFrame)
        What was computed on the page: experiment, and table as `basin_table` returns it.
    """
    found = {f"{live_label(e)}, {e.model.name}": table for e, table in live}
    return found | {run.label: run.summary for run in recorded(kind="basin")}


def beside_basin(live: Iterable[tuple[Experiment, pd.DataFrame]]) -> pd.DataFrame:
    """Put the largest barriers, live and recorded, one below the other.

    Parameters
    ----------
    live : iterable of (Experiment, DataFrame)
        As in `tables_of`.

    Returns
    -------
    DataFrame
        Index (whose, what); columns plain and REPAIR: error barriers in points with 95 % intervals
        over seeds, texts.
    """
    rows = {}
    for label, table in tables_of(live).items():
        every = barriers(table[table["network"] == "imp"])
        last = every[every["round"] == every["round"].max()]
        parts = {
            "rounds": largest(table, "rounds"),
            "last": last.pivot_table(index="seed", columns="repair", values="barrier"),
            "edges": largest(table, "edges"),
        }
        for what, part in parts.items():
            rows[label, WHAT[what]] = {
                "plain": Number.of(part["none"]).text(1),
                "REPAIR": Number.of(part["repair"]).text(1),
            }
    return pd.DataFrame(rows).T.rename_axis(["error barrier (points)", ""])
