"""Barriers of one basin: live beside recorded."""

from __future__ import annotations

from collections.abc import Mapping

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


def beside_basin(tables: Mapping[str, tuple[Experiment, pd.DataFrame]]) -> pd.DataFrame:
    """Put the largest barriers, live and recorded, one below the other.

    Parameters
    ----------
    tables : mapping of str to (Experiment, DataFrame)
        What was computed on the page: any name -> experiment, and table as of `basin_table`.

    Returns
    -------
    DataFrame
        Index (whose, what); columns plain and REPAIR: error barriers in points with 95 % intervals
        over seeds, texts.
    """
    found = {f"{live_label(e)}, {e.model.name}": table for e, table in tables.values()}
    for run in recorded(kind="basin"):
        found[run.label] = run.summary
    rows = {}
    for label, table in found.items():
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
