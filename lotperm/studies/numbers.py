"""Numbers as texts: their signs, their decimals, their intervals."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from lotperm.science.statistics import interval


def number(value: float, digits: int = 1, *, signed: bool = False) -> str:
    """Write a number for running text, with the signs of `with_minus`.

    Parameters
    ----------
    value : float
        The number.
    digits : int, optional
        Digits after the point.
    signed : bool, optional
        Whether numbers above zero get a plus.
    """
    if math.isinf(value):
        return with_minus(f"{value:{'+' if signed else ''}}").replace("inf", "∞")
    return with_minus(f"{value:{'+' if signed else ''}.{digits}f}")


def with_minus(text: str) -> str:
    """Give a formatted number a proper minus sign, and zero no sign.

    A difference that is rounded to nothing would otherwise claim a direction: "−0.0".
    """
    is_zero = not text.strip("+-0.")
    return text.lstrip("+-") if is_zero else text.replace("-", "−")


class Number(NamedTuple):
    """A number of a table, in percent or points, and its uncertainty.

    Attributes
    ----------
    value : float
        The number; NaN if there is none.
    half_width : float
        Half the width of its 95 % interval over seeds; NaN if it has none.
    """

    value: float
    half_width: float = math.nan

    @classmethod
    def of(cls, fractions: pd.Series) -> Number:
        """Average over seeds: `fractions` has one value for each seed."""
        # Results are kept as fractions; the book speaks of percent and points.
        return cls(*(100 * x for x in interval(fractions.to_numpy())))

    def less(self, published: float) -> Number:
        """Subtract a published mean, in percent."""
        # The interval is only ours: for the paper's numbers at most a spread is known.
        return Number(self.value - published, self.half_width)

    def text(self, digits: int) -> str:
        """Format as "49.8 ± 2.1"; "" for NaN."""
        if math.isnan(self.value):
            return ""
        half = "" if math.isnan(self.half_width) else f" ± {self.half_width:.{digits}f}"
        return f"{self.value:.{digits}f}{half}"


def few_decimals(table: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Format the numbers of a table; "" where there is none."""
    return table.map(lambda x: "" if pd.isna(x) else f"{x:.{digits}f}")
