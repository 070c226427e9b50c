"""Tables of barriers between dense A and its sparse solutions."""

from __future__ import annotations

import pandas as pd

from lotperm.science.barrier import error_barriers
from lotperm.studies.lines import REPAIR_WORDS
from lotperm.studies.numbers import Number
from lotperm.studies.relearning.tables import WORDS

_LINE = ["round", "sparsity", "reference", "network"]


def barriers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the error barrier of every line.

    Parameters
    ----------
    table : DataFrame
        As `basin_table` returns it.

    Returns
    -------
    DataFrame
        Columns round, sparsity, reference, network, seed, repair, barrier (a fraction).
    """
    return error_barriers(table, [*_LINE, "seed"])


def largest(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """Return every seed's largest barrier, over rounds of IMP or over edges of the plane.

    Parameters
    ----------
    table : DataFrame
        As `basin_table` returns it.
    what : str
        "rounds" or "edges".

    Returns
    -------
    DataFrame
        Index seed, a column for each repair; fractions.
    """
    own = table["network"] == "imp"
    found = barriers(table[own if what == "rounds" else ~own])
    return found.groupby(["seed", "repair"])["barrier"].max().unstack()


def edges(table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the barriers along the edges of the plane's triangle, and that of pruned A.

    Returns
    -------
    DataFrame
        Index: the line; a column for each repair, in points with 95 % intervals, texts.
    """
    found = barriers(table[table["round"] == table["round"].max()])
    rows = {}
    for (reference, network), part in found.groupby(["reference", "network"], sort=False):
        rows[f"{WORDS[str(reference)]} to {WORDS[str(network)]}"] = {
            REPAIR_WORDS[str(repair)]: Number.of(of["barrier"]).text(1)
            for repair, of in part.groupby("repair")
        }
    return pd.DataFrame(rows).T.rename_axis("error barrier (points)")
