"""Effects with their intervals, and the rules by which a claim's verdict follows from them.

The same rules judge the paper's own tables and our runs; `verdict` documents them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from lotperm.science.statistics import paired, ratio_of_means
from lotperm.studies.numbers import number

Verdict = Literal["agrees", "weaker", "opposite", "not run here", "cannot be run here"]

VERDICTS: tuple[Verdict, ...] = (
    "agrees",
    "weaker",
    "opposite",
    "not run here",
    "cannot be run here",
)

MARGIN = 2.0
"""Points of accuracy within which two networks count as equally good."""

MOST = 0.5
"""Share of a gap, or of a barrier, that "most of it" has to exceed."""


@dataclass(frozen=True)
class Effect:
    """A number that helps to decide a claim: its size, its interval, its sample size.

    Attributes
    ----------
    source : str
        Where it comes from: tables of the paper, or the label of a recorded run.
    what : str
        The quantity, as "permuted − naive".
    value : float
        Its size, in `unit`; positive if it is as claimed, unless the claim is of equality.
    low, high : float
        Ends of its 95 % interval; NaN if it has none.
    n : int
        The number of values that the interval is over.
    over : str
        Their kind: "seeds", "rows of tables", …
    unit : str
        "points" (of accuracy), "%", or "" for a plain number.
    p : float
        Two-sided p-value against 0; NaN if there is none.
    note : str
        Further words for the reader, a sentence without its full stop.
    digits : int
        Decimals that are shown.
    """

    source: str
    what: str
    value: float
    # The rest is given by name: these numbers are easily mixed up.
    _: KW_ONLY
    low: float = math.nan
    high: float = math.nan
    n: int = 1
    over: str = "run"
    unit: str = "points"
    p: float = math.nan
    note: str = ""
    digits: int = 2

    def text(self) -> str:
        """Return value, interval and sample size, as "1.08 points [0.22, 1.94], n = 6 seeds"."""
        unit = {"points": " points", "%": " %"}.get(self.unit, "")
        shown = f"{number(self.value, self.digits)}{unit}"
        # No error at all: a count, or what a protocol implies.
        if self.low == self.high == self.value:
            shown += ", exact"
        elif not math.isnan(self.low):
            ends = ", ".join(number(end, self.digits) for end in (self.low, self.high))
            shown += f" [{ends}]"
        over = self.over.removesuffix("s") if self.n == 1 else self.over
        shown += f", n = {self.n:,} {over}"
        return shown + ("" if math.isnan(self.p) else f", p {_p_value(self.p)}")

    def noted(self, note: str) -> Effect:
        """Return the effect with another note."""
        return replace(self, note=note)

    def shown(self, digits: int) -> Effect:
        """Return the effect with another number of decimals."""
        return replace(self, digits=digits)


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


@dataclass(frozen=True)
class Above:
    """The rule for "there is more": the effect is above 0, and at least of a given size.

    Attributes
    ----------
    at_least : float
        For claims of a size ("most of the gap"); 0 for claims of a direction.
    """

    at_least: float = 0.0

    def judge(self, effect: Effect) -> Verdict:
        """Return what one effect says about the claim."""
        # Comparisons with NaN are false. So an effect without an interval is neither opposite nor
        # clear, which leaves "weaker".
        if effect.high < 0:
            return "opposite"
        # The direction has to be sure; the size has to be reached by the value alone.
        clear = effect.low > 0 and effect.value >= self.at_least
        return "agrees" if clear else "weaker"

    def fits(self, value: float) -> bool:
        """Return whether a value is as claimed, whatever its interval."""
        return value > 0 and value >= self.at_least

    def words(self, unit: str) -> str:
        """Return the rule as a phrase."""
        if not self.at_least:
            return "above 0"
        return f"above 0, and at least {self.at_least:g}{' %' if unit == '%' else ''}"


@dataclass(frozen=True)
class Within:
    """The rule for "they are alike": the effect is within a margin on either side of 0.

    Attributes
    ----------
    margin : float
        In the unit of the effect.
    """

    margin: float = MARGIN

    def judge(self, effect: Effect) -> Verdict:
        """Return what one effect says about the claim."""
        # NaN is outside of no margin and inside of none: it is "weaker" here, too.
        if effect.low > self.margin or effect.high < -self.margin:
            return "opposite"
        inside = effect.low >= -self.margin and effect.high <= self.margin
        return "agrees" if inside else "weaker"

    def fits(self, value: float) -> bool:
        """Return whether a value is as claimed, whatever its interval."""
        return abs(value) <= self.margin

    def words(self, unit: str) -> str:
        """Return the rule as a phrase."""
        shown = {"points": " points", "%": " %"}.get(unit, "")
        return f"within {self.margin:g}{shown} of 0"


# For claims of a direction or a size, and for claims of equality.
Rule = Above | Within


def verdict(effects: Sequence[Effect], rule: Rule) -> Verdict | None:
    """Decide a claim from all effects that bear on it.

    A single effect is judged as follows. A claim of a direction (`Above`) *agrees* if its 95 % interval lies
    wholly above 0 and, for a claim of a size, its value reaches that size. It is *opposite* if the
    interval lies wholly below 0. A claim of equality (`Within`) agrees if the interval lies wholly
    within the margin, and is opposite if it lies wholly outside. All else is *weaker*: smaller than
    claimed, or not to be told from chance. An effect without an interval is never more than weaker.

    Several effects, of several runs or tables, decide together: the claim agrees if each of them
    does; it is opposite if at least one is and none agrees; else it is weaker. A single seed has no
    interval. So beside other runs it doesn't count if its value is as claimed; if it isn't, the
    claim is weaker at best.

    Parameters
    ----------
    effects : sequence of Effect
        The effects found in the paper's tables, or in our runs.
    rule : Rule
        The claim's rule.

    Returns
    -------
    Verdict or None
        None if there is no effect to judge.
    """
    if not effects:
        return None
    # Alone, one seed is "weaker", whatever its value.
    voices = [e for e in effects if not (_is_one_seed(e) and rule.fits(e.value))] or effects
    found = {rule.judge(effect) for effect in voices}
    # One run that disagrees is enough for doubt; one that agrees is enough against a reversal.
    if found == {"agrees"}:
        return "agrees"
    return "opposite" if "opposite" in found and "agrees" not in found else "weaker"


def _is_one_seed(effect: Effect) -> bool:
    """Return whether an effect is a single value, so that its interval is missing or unbounded."""
    return effect.n == 1 and not math.isfinite(effect.high - effect.low)


def exact(source: str, what: str, value: float, n: int, over: str, unit: str = "") -> Effect:
    """Return an effect that has no error: a count, or what follows from a protocol."""
    return Effect(source, what, value, low=value, high=value, n=n, over=over, unit=unit)


def mean_effect(
    source: str, what: str, values: npt.ArrayLike, over: str = "seeds", unit: str = "points"
) -> Effect:
    """Return the mean of values that are positive if as claimed, with its Student t interval."""
    x = np.asarray(values, dtype=float)
    # A single value has no spread, so no interval; it can't be more than "weaker".
    if len(x) == 1:
        return Effect(source, what, float(x[0]), n=1, over=over, unit=unit)
    # The t interval of a mean is that of paired differences from 0.
    found = paired(x, np.zeros_like(x))
    return Effect(
        source,
        what,
        found.mean,
        low=found.mean - found.half_width,
        high=found.mean + found.half_width,
        n=len(x),
        over=over,
        unit=unit,
        p=found.p_value,
    )


def welch_effect(
    source: str,
    what: str,
    a: tuple[float, float],
    b: tuple[float, float],
    *,
    n: int,
    over: str = "members",
) -> Effect:
    """Return the difference of two means in points, from their values and spreads alone.

    Parameters
    ----------
    source, what : str
        As in `Effect`.
    a, b : tuple[float, float]
        Mean and standard deviation (percent) of either side; the effect is a − b.
    n : int
        Values behind each mean.
    over : str, optional
        The kind of these values.
    """
    found = stats.ttest_ind_from_stats(a[0], a[1], n, b[0], b[1], n, equal_var=False)
    variances = a[1] ** 2 / n, b[1] ** 2 / n
    # Welch and Satterthwaite: the two spreads need not be equal.
    freedom = sum(variances) ** 2 / sum(v**2 / (n - 1) for v in variances)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(variances))
    value = a[0] - b[0]
    p = float(found.pvalue)
    return Effect(source, what, value, low=value - half, high=value + half, n=n, over=over, p=p)


def count_effect(source: str, what: str, a: float, b: float, *, images: int) -> Effect:
    """Return the difference of two fractions of the test images, in points.

    Its interval treats the images as the only source of chance and the two counts as independent.
    It doesn't account for how much another set of members would differ.

    Parameters
    ----------
    source, what : str
        As in `Effect`.
    a, b : float
        Fractions of the images; the effect is a − b.
    images : int
        Number of images in the test set.
    """
    # Two independent counts, each binomial.
    error = math.sqrt((a * (1 - a) + b * (1 - b)) / images)
    value, half = 100 * (a - b), 100 * stats.norm.ppf(0.975) * error
    p = float(2 * stats.norm.sf(abs(a - b) / error)) if error > 0 else math.nan
    over = "test images"
    return Effect(
        source, what, value, low=value - half, high=value + half, n=images, over=over, p=p
    )


def ratio_effect(
    source: str,
    what: str,
    numerator: npt.ArrayLike,
    denominator: npt.ArrayLike,
    over: str = "seeds",
) -> Effect:
    """Return the ratio of two means in percent, with Fieller's interval.

    Parameters
    ----------
    source, what : str
        As in `Effect`.
    numerator, denominator : array_like of float, shape (n,)
        Paired values; the ratio is of their means.
    over : str, optional
        The kind of the values.

    Returns
    -------
    Effect
        Its interval is unbounded, −∞ to ∞, if the mean of the denominator can't be told from 0
        (`lotperm.science.statistics.ratio_of_means`), as it is for a single value.
    """
    found = ratio_of_means(numerator, denominator)
    low, high = found.bounds
    return Effect(
        source,
        what,
        100 * found.ratio,
        low=100 * low,
        high=100 * high,
        n=np.size(numerator),
        over=over,
        unit="%",
        digits=0,
    )


def slope(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the slope of the least-squares line of y on x."""
    return float(np.polyfit(np.asarray(x, dtype=float), np.asarray(y, dtype=float), 1)[0])


def share_above(values: npt.ArrayLike, of: str) -> str:
    """Return "above 0 in 34 of 34 rows", for a note."""
    x = np.asarray(values, dtype=float)
    return f"above 0 in {int((x > 0).sum())} of {len(x)} {of}"
