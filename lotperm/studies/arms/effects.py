"""What permuting gains against the rewind point, the sparsity and the width, with its tests.

A curve against one factor averages over the others, but only over settings that every point of the
curve has, so that it compares like with like. Intervals and tests are over seeds; the paper's
numbers, which are means, have none.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pandas as pd

from lotperm.science.statistics import interval, ratio_of_means
from lotperm.studies.arms.series import SETTING, Series
from lotperm.studies.claims.evidence import (
    Above,
    Effect,
    Rule,
    Within,
    mean_effect,
    ratio_effect,
    slope,
)

Factor = Literal["rewind", "sparsity", "units"]

# A factor's own column. The rewind point is shown as a share of training, as runs differ in length.
_COLUMN: dict[Factor, str] = {"rewind": "rewind_epoch", "sparsity": "sparsity", "units": "units"}

LEVELS = {"recorded": 0.05, "live": 0.01}
"""Kind of a run -> the p-value below which it shows an effect.

A page's own run has a setting that was chosen because it shows the effect, so it must show it more
clearly than a recorded run.
"""


def balanced(table: pd.DataFrame, factor: Factor) -> pd.DataFrame:
    """Keep the settings of the other factors that every level of a factor has."""
    column = _COLUMN[factor]
    others = [name for name in SETTING if name != column]
    levels = table[column].nunique()
    common = table.groupby(others)[column].transform("nunique") == levels
    return table[common]


def against(series: Series, factor: Factor) -> pd.DataFrame:
    """Average gain and share of the gap at every level of a factor.

    Parameters
    ----------
    series : Series
        Arms of one source.
    factor : {"rewind", "sparsity", "units"}
        The rewind point as a share of training (k = 0 included), the sparsity, or the units of the
        narrowest layer (both over k > 0).

    Returns
    -------
    DataFrame
        Columns x, gain, gain_low, gain_high (points), share, share_low, share_high (percent; NaN
        where the gap isn't clearly above 0, or LTH isn't reported), seeds. Empty if there are fewer
        than two levels.
    """
    table = balanced(series.table if factor == "rewind" else series.rewound, factor)
    if table[_COLUMN[factor]].nunique() < 2:
        return pd.DataFrame()
    return averages(table, factor)


def averages(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Average gain and share of the gap at every value of a column, as `against` returns them."""
    return pd.DataFrame([_point(x, part) for x, part in table.groupby(column)])


def _point(x: object, part: pd.DataFrame) -> dict[str, object]:
    by_seed = part.groupby("seed")[["gain", "gap"]].mean()
    gain, half = interval(by_seed["gain"].to_numpy())
    found = {"x": x, "gain": gain, "gain_low": gain - half, "gain_high": gain + half}
    return {**found, **_share(by_seed), "seeds": len(by_seed)}


def _share(by_seed: pd.DataFrame) -> dict[str, float]:
    """Return the share of the gap that is closed, with Fieller's interval, in percent."""
    nothing = dict.fromkeys(("share", "share_low", "share_high"), math.nan)
    if by_seed["gap"].isna().any() or by_seed["gap"].mean() <= 0:
        return nothing
    ratio = ratio_of_means(by_seed["gain"], by_seed["gap"])
    if len(by_seed) == 1:
        return {**nothing, "share": 100 * ratio.ratio}
    # Where the gap may be 0, the share may be anything: no point is drawn there.
    if ratio.kind != "interval":
        return nothing
    low, high = ratio.bounds
    return {"share": 100 * ratio.ratio, "share_low": 100 * low, "share_high": 100 * high}


def headline(series: Series) -> Effect:
    """Return permuted − naive over all settings with k > 0, in points, paired by seed."""
    by_seed = series.rewound.groupby("seed")["gain"].mean()
    return mean_effect(series.label, "permuted − naive", by_seed)


def share(series: Series) -> Effect:
    """Return the share of the gap closed over all settings with k > 0; NaN without LTH."""
    by_seed = series.rewound.groupby("seed")[["gain", "gap"]].mean()
    what = "share of the gap closed"
    if by_seed["gap"].isna().any():
        return Effect(series.label, what, math.nan, unit="%")
    return ratio_effect(series.label, what, by_seed["gain"], by_seed["gap"])


def shows(kind: str, effect: Effect) -> bool:
    """Return whether an effect over seeds is above 0, beyond chance for its kind of run."""
    return effect.value > 0 and effect.p < LEVELS[kind]


def width_trend(series: Series) -> Effect:
    """Test whether wider networks close a larger share of the gap.

    If the share were the same s at every width, gain − s · gap would be 0 on average at each, and
    so would its slope over the logarithm of the width. That slope is the effect, in points for each
    doubling; its t interval is over seeds. Unlike a trend of single shares it stays valid where a gap
    is small, as Fieller's interval does.

    Returns
    -------
    Effect
        NaN if there is one width, or no LTH.
    """
    what = "share of the gap, with width"
    none = Effect(series.label, what, math.nan)
    shares = against(series, "units")
    if shares.empty or shares["share"].notna().sum() < 2:
        return none
    ends = shares.dropna(subset="share")
    note = " to ".join(f"{share:.0f} %" for share in ends["share"].iloc[[0, -1]])
    note = f"{note}, from {ends['x'].iloc[0]:g} to {ends['x'].iloc[-1]:g} units"
    by_seed = balanced(series.rewound, "units").groupby(["seed", "units"])[["gain", "gap"]].mean()
    pooled = by_seed["gain"].mean() / by_seed["gap"].mean()
    # Seeds that every width has: widths may have been run with different numbers of them.
    excess = (by_seed["gain"] - pooled * by_seed["gap"]).unstack().dropna()
    doublings = np.log2(excess.columns.to_numpy(dtype=float))
    slopes = [slope(doublings, row) for row in excess.to_numpy()]
    return mean_effect(series.label, what, slopes).noted(note)


def statements(series: Series) -> list[tuple[str, Effect, Rule]]:
    """List the paper's statements about its figures that a series can test.

    Returns
    -------
    list of (str, Effect, Rule)
        The statement, the effect that decides it, and the rule by which it is judged.
    """
    rewound, whole = series.rewound, balanced(series.table, "rewind")
    found: list[tuple[str, Effect, Rule]] = [
        ("permuting gains, at k > 0", headline(series), Above()),
        ("it gains more in sparser networks", _sparser(series, rewound), Above()),
        ("it closes more of the gap in wider ones", width_trend(series), Above()),
        ("it gains less at k = 0", _later(series, whole, "gain"), Above()),
        ("LTH is worse at k = 0", _later(series, whole, "lth"), Above()),
        ("naive gains nothing from k", _later(series, whole, "naive"), Within()),
    ]
    return [row for row in found if not math.isnan(row[1].value)]


def _sparser(series: Series, rewound: pd.DataFrame) -> Effect:
    table = balanced(rewound, "sparsity")
    low, high = table["sparsity"].min(), table["sparsity"].max()
    what = f"gain at S = {high:g} less at {low:g}"
    if not low < high:
        return Effect(series.label, what, math.nan)
    ends = (table[table["sparsity"] == s].groupby("seed")["gain"].mean() for s in (high, low))
    return _paired(series, what, *ends)


def _later(series: Series, whole: pd.DataFrame, column: str) -> Effect:
    """Return the mean of a column at k > 0 less that at k = 0."""
    first = whole["rewind_epoch"] == 0
    what = f"{column} at k > 0 less at k = 0"
    if first.all() or not first.any():
        return Effect(series.label, what, math.nan)
    late, start = (whole[at].groupby("seed")[column].mean() for at in (~first, first))
    return _paired(series, what, late, start)


def _paired(series: Series, what: str, a: pd.Series, b: pd.Series) -> Effect:
    difference = (a - b).dropna()
    if difference.empty:
        return Effect(series.label, what, math.nan)
    return mean_effect(series.label, what, difference)
