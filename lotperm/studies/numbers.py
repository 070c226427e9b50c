"""Numbers with intervals, as texts of tables."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from lotperm.science.statistics import interval


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
        # The interval is ours alone: of the paper's numbers at most a spread is known.
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
