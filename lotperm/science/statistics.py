"""Intervals, paired tests, and the fraction of a gap that is closed.

Everything here treats seeds as independent draws, and their values or differences of values as
normal. Experimental arms are paired by seed: a seed's arms share initialization and data order, so
their difference varies less than each of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from lotperm.errors import ParameterError
from lotperm.types import Float64


class Paired(NamedTuple):
    """Mean of paired differences, with its interval and test.

    Attributes
    ----------
    mean : float
        In the unit of the values.
    half_width : float
        Half the width of its confidence interval.
    p_value : float
        Of the two-sided paired t-test.
    """

    mean: float
    half_width: float
    p_value: float


class GapClosed(NamedTuple):
    """Fraction of a gap that is closed, seed by seed.

    Attributes
    ----------
    per_seed : ndarray, float64, shape (S,)
        The fraction for each seed; NaN where it is not defined.
    mean, half_width : float
        Mean over the seeds where it is defined, and the half width of its confidence interval.
    """

    per_seed: Float64[np.ndarray, " seeds"]
    mean: float
    half_width: float


class RatioOfMeans(NamedTuple):
    """Ratio of two means with its confidence set.

    Attributes
    ----------
    ratio : float
        Mean of the numerators over mean of the denominators; infinite or NaN if the latter is 0.
    pieces : tuple of (float, float)
        The closed intervals that the set consists of, in ascending order.
    """

    ratio: float
    pieces: tuple[tuple[float, float], ...]

    @property
    def kind(self) -> str:
        """The shape of the set.

        ``"interval"``: bounded; the denominators' mean is clearly not 0. ``"two rays"``: everything
        except a gap; that mean may be 0, but some ratios are excluded. ``"half-line"``: a
        borderline case of probability 0 between these two. ``"everything"``: the data exclude no
        ratio. ``"nothing"``: all denominators are 0, and the numerators' mean clearly isn't.
        """
        if not self.pieces:
            return "nothing"
        if len(self.pieces) == 2:
            return "two rays"
        open_ends = sum(bool(np.isinf(end)) for end in self.pieces[0])
        return ("interval", "half-line", "everything")[open_ends]

    @property
    def bounds(self) -> tuple[float, float]:
        """Ends of the smallest interval that holds the set; NaN if it is empty."""
        if not self.pieces:
            return float("nan"), float("nan")
        return self.pieces[0][0], self.pieces[-1][1]

    def covers(self, value: float) -> bool:
        """Return whether the confidence set contains a value."""
        return any(low <= value <= high for low, high in self.pieces)


def interval(values: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Compute a mean over seeds and the half width of its confidence interval.

    The interval uses Student's t with S - 1 degrees of freedom.

    Parameters
    ----------
    values : array_like of float, shape (S,)
        One value per seed.
    confidence : float, optional
        Coverage of the interval, within (0, 1).

    Returns
    -------
    mean : float
        In the unit of the values.
    half_width : float
        NaN for a single value: one seed says nothing about spread.

    Raises
    ------
    ParameterError
        No values, or a confidence outside (0, 1).
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or x.size == 0:
        raise ParameterError(
            f"interval: expected one value per seed, got an array of shape {x.shape}."
        )
    quantile = _quantile("interval", confidence, x.size)
    if x.size == 1:
        return float(x[0]), float("nan")
    half = quantile * x.std(ddof=1) / np.sqrt(x.size)
    return float(x.mean()), float(half)


def _quantile(name: str, confidence: float, seeds: int) -> float:
    """Return the two-sided quantile of Student's t for a mean over seeds (NaN for one seed)."""
    if not 0 < confidence < 1:
        raise ParameterError(f"{name}: confidence must lie in (0, 1), got {confidence}.")
    return float(special.stdtrit(seeds - 1, (1 + confidence) / 2))


def paired(a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = 0.95) -> Paired:
    """Compute the mean of `a - b` over seeds, with its interval and a paired t-test.

    Parameters
    ----------
    a, b : array_like of float, shape (S,)
        One value per seed, in the same order of seeds.
    confidence : float, optional
        Coverage of the interval, within (0, 1).

    Returns
    -------
    Paired
        If every seed has exactly the same difference, the test has no spread to work with: p is 1
        for a difference of 0 and 0 otherwise. With one seed, half width and p are NaN.

    Raises
    ------
    ParameterError
        The shapes differ, or `interval` rejects the values.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if x.shape != y.shape:
        raise ParameterError(
            f"paired: both arms need the same seeds, got shapes {x.shape} and {y.shape}."
        )
    mean, half = interval(x - y, confidence)
    if x.size == 1:
        return Paired(mean, half, float("nan"))
    error = (x - y).std(ddof=1) / np.sqrt(x.size)
    t = abs(mean) / error if error > 0 else (np.inf if mean != 0 else 0.0)
    return Paired(mean, half, float(2 * special.stdtr(x.size - 1, -t)))


def gap_closed(
    lth: npt.ArrayLike, naive: npt.ArrayLike, permuted: npt.ArrayLike, confidence: float = 0.95
) -> GapClosed:
    """Compute the fraction of the gap from naive to LTH that the permuted arm closes, by seed.

    This is ``(permuted - naive) / (lth - naive)``. If the gap is small compared with its spread,
    the mean of these ratios is biased, and its interval too narrow or too wide; `ratio_of_means`
    remains correct.

    Parameters
    ----------
    lth, naive, permuted : array_like of float, shape (S,)
        Accuracy (fraction) per seed, in the same order of seeds.
    confidence : float, optional
        Coverage of the interval, within (0, 1).

    Returns
    -------
    GapClosed
        A seed on which LTH is not above naive has no gap to close: its value is NaN, and it is left
        out of the mean and the interval (both NaN if no seed is left). A small gap makes the ratio
        unstable; report it along with the paired difference, not instead of it.

    Raises
    ------
    ParameterError
        The shapes differ.
    """
    top, low, mid = (np.asarray(v, dtype=float) for v in (lth, naive, permuted))
    if not top.shape == low.shape == mid.shape:
        raise ParameterError(
            f"gap_closed: all arms need the same seeds, got shapes {top.shape}, {low.shape}, "
            f"{mid.shape}."
        )
    gap = top - low
    per_seed = np.full(gap.shape, np.nan)
    np.divide(mid - low, gap, out=per_seed, where=gap > 0)
    defined = per_seed[~np.isnan(per_seed)]
    return GapClosed(
        per_seed, *(interval(defined, confidence) if defined.size else (float("nan"),) * 2)
    )


def ratio_of_means(
    numerators: npt.ArrayLike, denominators: npt.ArrayLike, confidence: float = 0.95
) -> RatioOfMeans:
    """Compute the ratio of two paired means with its confidence set by Fieller's theorem.

    The fraction of a gap that is closed over all seeds is
    ``ratio_of_means(permuted - naive, lth - naive)``.

    A ratio r is in the set if the mean of ``numerator - r * denominator``, which is normal with
    mean 0 for the true r, is not significantly different from 0 (Fieller 1954). That is a quadratic
    inequality in r, so the coverage is exact for normal pairs, however small the denominators. The
    price is that the set is unbounded if their mean may be 0, since then no bounded interval can
    have the coverage (Gleser & Hwang 1987).

    Parameters
    ----------
    numerators, denominators : array_like of float, shape (S,)
        One pair per seed, in the same order of seeds.
    confidence : float, optional
        Coverage of the set, within (0, 1).

    Returns
    -------
    RatioOfMeans
        With a single seed, the set contains everything.

    Raises
    ------
    ParameterError
        The shapes differ, there are no values or some are not finite, or the confidence is outside
        (0, 1).
    """
    x, y = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or x.size == 0:
        raise ParameterError(
            "ratio_of_means: expected one pair of values per seed, got arrays of shapes "
            f"{x.shape} and {y.shape}."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ParameterError("ratio_of_means: all values must be finite; leave failed seeds out.")
    quantile = _quantile("ratio_of_means", confidence, x.size)
    top, bottom = float(x.mean()), float(y.mean())
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.divide(top, bottom))
    if x.size == 1:
        return RatioOfMeans(ratio, ((-np.inf, np.inf),))
    # Variances and covariance of the means, times the squared quantile.
    (xx, xy), (_, yy) = quantile**2 * np.cov(x, y) / x.size
    pieces = _where_not_positive(bottom**2 - yy, top * bottom - xy, top**2 - xx)
    return RatioOfMeans(ratio, pieces)


def _where_not_positive(a: float, b: float, c: float) -> tuple[tuple[float, float], ...]:
    """Return the intervals of r on which ``a r**2 - 2 b r + c <= 0``."""
    if a == 0:
        if b == 0:
            return ((-np.inf, np.inf),) if c <= 0 else ()
        end = float(c / (2 * b))
        return ((end, np.inf),) if b > 0 else ((-np.inf, end),)
    discriminant = b**2 - a * c
    if a < 0 and discriminant <= 0:
        return ((-np.inf, np.inf),)
    # With a > 0 the estimate itself solves the inequality, so below 0 it is only rounding.
    root = float(np.sqrt(max(discriminant, 0.0)))
    low, high = sorted((float((b - root) / a), float((b + root) / a)))
    return ((low, high),) if a > 0 else ((-np.inf, low), (high, np.inf))
