"""Intervals, paired tests and the share of a gap that is closed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from lotperm.errors import ParameterError
from lotperm.types import Float64


class Paired(NamedTuple):
    """Mean of the differences, half width of its interval, two-sided p-value of the paired
    t-test.
    """

    mean: float
    half_width: float
    p_value: float


class GapClosed(NamedTuple):
    """Gap closed per seed (NaN where it is not defined), mean and half width over the seeds
    where it is.
    """

    per_seed: Float64[np.ndarray, " seeds"]
    mean: float
    half_width: float


def interval(values: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Mean over seeds and the half width of its confidence interval (Student t, n - 1 degrees of
    freedom).

    Parameters
    ----------
    values : npt.ArrayLike
        One value a seed, `(S,)`.
    confidence : float, optional
        Coverage of the interval, within (0, 1).

    Returns
    -------
    (float, float)
        The half width is NaN for a single value: one seed says nothing about spread.

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
    if not 0 < confidence < 1:
        raise ParameterError(f"interval: confidence must lie in (0, 1), got {confidence}.")
    if x.size == 1:
        return float(x[0]), float("nan")
    half = stats.t.ppf((1 + confidence) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
    return float(x.mean()), float(half)


def paired(a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = 0.95) -> Paired:
    """Mean of `a - b` over seeds, paired by position, with its half width and two-sided p (paired
    t-test).

    If every seed has exactly the same difference the test has no spread to work with: p is 1 for a
    difference of 0 and 0 otherwise. With one seed, half width and p are NaN.
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
    return Paired(mean, half, float(2 * stats.t.sf(t, x.size - 1)))


def gap_closed(
    lth: npt.ArrayLike, naive: npt.ArrayLike, permuted: npt.ArrayLike, confidence: float = 0.95
) -> GapClosed:
    """How much of the gap from naive to LTH the permuted arm closes: `(permuted - naive) / (lth -
    naive)`.

    Parameters
    ----------
    lth, naive, permuted : npt.ArrayLike
        Accuracy (fraction) per seed, `(S,)`, in the same order of seeds.

    Returns
    -------
    GapClosed
        A seed on which LTH is not above naive has no gap to close: its value is NaN and it is left
        out of the mean and the interval (both NaN if no seed is left). A small gap makes the ratio
        unsteady; report it beside the paired difference, not instead of it.
    """
    top, low, mid = (np.asarray(v, dtype=float) for v in (lth, naive, permuted))
    if not top.shape == low.shape == mid.shape:
        raise ParameterError(
            f"gap_closed: all arms need the same seeds, got shapes {top.shape}, {low.shape}, {mid.shape}."
        )
    gap = top - low
    per_seed = np.full(gap.shape, np.nan)
    np.divide(mid - low, gap, out=per_seed, where=gap > 0)
    defined = per_seed[~np.isnan(per_seed)]
    return GapClosed(
        per_seed, *(interval(defined, confidence) if defined.size else (float("nan"),) * 2)
    )
