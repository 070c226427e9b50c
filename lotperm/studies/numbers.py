"""Numbers with intervals, as texts of tables."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from lotperm.science.statistics import interval


class Number(NamedTuple):
    """A number of a table: in percent or points, with the half width of its 95 % interval over
    seeds, or NaN.
    """

    value: float
    half_width: float = math.nan

    @classmethod
    def of(cls, fractions: pd.Series) -> Number:
        """The mean over seeds, one value a seed."""
        return cls(*(100 * x for x in interval(fractions.to_numpy())))

    def less(self, published: float) -> Number:
        """The difference from a published mean; its interval is ours alone: of theirs only a
        spread is known.
        """
        return Number(self.value - published, self.half_width)

    def text(self, digits: int) -> str:
        """As "49.8 ± 2.1"; empty for NaN."""
        if math.isnan(self.value):
            return ""
        half = "" if math.isnan(self.half_width) else f" ± {self.half_width:.{digits}f}"
        return f"{self.value:.{digits}f}{half}"


def few_decimals(table: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Numbers as texts, "" where there is none."""
    return table.map(lambda x: "" if pd.isna(x) else f"{x:.{digits}f}")
