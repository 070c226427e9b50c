"""Sentences for captions that say what a figure's numbers show, computed from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lotperm.studies.numbers import number


def ranked(values: Mapping[Any, npt.ArrayLike], unit: str = " %", digits: int = 1) -> str:
    """List labels with their numbers in words, the highest first.

    Parameters
    ----------
    values : mapping of str to array_like of float
        Label -> a number, or one for each seed, whose mean is given. Of a label such as
        "LTH: A, mask" the words before the colon are used.
    unit : str
        What follows the last number.
    digits : int
        Digits after the point.

    Returns
    -------
    str
        Such as "LTH 62.8, permuted 59.1, naive 43.2 %".
    """
    means = {short(str(label)): float(np.mean(np.asarray(seen))) for label, seen in values.items()}
    order = sorted(means, key=lambda label: -means[label])
    return listed([f"{label} {number(means[label], digits)}" for label in order]) + unit


def listed(parts: Sequence[str]) -> str:
    """Join parts by commas, or by semicolons if one of them has a comma itself."""
    return ("; " if any("," in part for part in parts) else ", ").join(parts)


def each(parts: Iterable[tuple[str, str]]) -> str:
    """Join what is said about several panels: "S = 0.9, k = 0: …. S = 0.9, k = 8: …."."""
    return " ".join(f"{name[:1].upper()}{name[1:]}: {said}." for name, said in parts)


def gain(a: npt.ArrayLike, b: npt.ArrayLike) -> str:
    """Say how many points a is above b, or below: "3.2 points above", "as high as" if 0.0."""
    apart = float(np.mean(np.asarray(a, float) - np.asarray(b, float)))
    if round(abs(apart), 1) == 0:
        return "as high as"
    return f"{abs(apart):.1f} points {'above' if apart > 0 else 'below'}"


def short(label: str) -> str:
    """Return a label's words before the colon, on one line."""
    return " ".join(label.partition(":")[0].split())
