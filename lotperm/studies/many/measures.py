"""The quantities that the predictions about ensembles of one ticket speak of."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from lotperm.studies.predictions import Measure


def together(rows: pd.DataFrame, column: str = "accuracy") -> pd.DataFrame:
    """Return a column for the largest ensembles of a cell: index ticket, a column per method."""
    largest = rows[rows["members"] == rows["members"].max()]
    return largest.pivot(index="ticket", columns="method", values=column)


def at_price(rows: pd.DataFrame, method: str, of: str) -> pd.Series:
    """Return the accuracy of the largest ensemble that costs no more than another method's largest.

    Parameters
    ----------
    rows : DataFrame
        One cell of the question's table.
    method : str
        The method whose ensemble is evaluated.
    of : str
        The method whose price is paid, that of all its members.

    Returns
    -------
    Series
        Index ticket: fractions; NaN where the price doesn't buy a single member.
    """
    price = together(rows, "flops")[of]
    own = rows[rows["method"] == method]
    bought = own[own["flops"] <= own["ticket"].map(price)].sort_values("members")
    return bought.groupby("ticket")["accuracy"].last().reindex(price.index)


def _less(a: str, b: str, column: str = "accuracy") -> Callable[[pd.DataFrame], pd.Series]:
    """Return the measure "a − b" of all members together, in points."""

    def difference(rows: pd.DataFrame) -> pd.Series:
        values = 100 * together(rows, column)
        return values[a] - values[b]

    return difference


def _at_its_price(method: str, other: str, sign: int) -> Callable[[pd.DataFrame], pd.Series]:
    """Return the measure "a method's ensemble − what its price buys of another", times a sign."""

    def difference(rows: pd.DataFrame) -> pd.Series:
        return 100 * sign * (together(rows)[method] - at_price(rows, other, method))

    return difference


MEASURES: dict[str, Measure] = {
    "permuted − lth": Measure("ensemble, permuted − LTH", _less("permuted", "lth")),
    "permuted − naive": Measure("ensemble, permuted − naive", _less("permuted", "naive")),
    "own − permuted": Measure("ensemble, own tickets − permuted", _less("own tickets", "permuted")),
    "permuted at k − permuted": Measure(
        "ensemble, matched at k − at the end", _less("permuted at k", "permuted")
    ),
    "permuted at k − own, at its price": Measure(
        "ensemble, matched at k − own tickets for its price",
        _at_its_price("permuted at k", "own tickets", 1),
    ),
    "permuted at k − signs": Measure(
        "ensemble, matched at k − signs", _less("permuted at k", "signs")
    ),
    "dense − permuted at k, at its price": Measure(
        "ensemble, dense for its price − matched at k", _at_its_price("permuted at k", "dense", -1)
    ),
    "disagreement: own − permuted": Measure(
        "disagreement of members, own tickets − permuted",
        _less("own tickets", "permuted", "disagreement"),
    ),
}
"""Every quantity, by its name in ``predictions.toml``."""
