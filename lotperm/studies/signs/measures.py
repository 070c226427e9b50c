"""The quantities that the predictions about signs speak of."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from lotperm.studies.arms.arms import Arm
from lotperm.studies.predictions import Measure
from lotperm.studies.signs import arms
from lotperm.studies.signs.arms import LTH, NAIVE, NAIVE_A, PERMUTED, PERMUTED_A


def by_arm(rows: pd.DataFrame, column: str = "accuracy", ticket: str = "own") -> pd.DataFrame:
    """Return a column of one cell in percent: index seed, a column for each arm."""
    chosen = rows[rows["ticket"] == ticket]
    return 100 * chosen.pivot(index="seed", columns="arm", values=column)


def _less(
    a: Arm, b: Arm, column: str = "accuracy", ticket: str = "own"
) -> Callable[[pd.DataFrame], pd.Series]:
    """Return the measure "a − b" in points."""

    def difference(rows: pd.DataFrame) -> pd.Series:
        values = by_arm(rows, column, ticket)
        return values[a.name] - values[b.name]

    return difference


def _words(a: Arm, b: Arm) -> str:
    a_words, b_words = (arm.name.replace("lth", "LTH") for arm in (a, b))
    return f"({a_words}) − ({b_words})"


def _accuracy(a: Arm, b: Arm) -> Measure:
    return Measure(_words(a, b), _less(a, b))


MEASURES: dict[str, Measure] = {
    "signs gain on naive": _accuracy(NAIVE_A, NAIVE),
    "naive with signs is lth": _accuracy(NAIVE_A, LTH),
    "permuted with signs is lth": _accuracy(PERMUTED_A, LTH),
    "moved signs beat unmoved": _accuracy(PERMUTED_A, arms.PERMUTED_WRONG),
    "random signs are own": _accuracy(arms.PERMUTED_RANDOM, PERMUTED),
    "a beats b end": _accuracy(PERMUTED_A, arms.PERMUTED_B),
    "naive barrier falls": Measure(
        f"barrier to the ticket, {_words(NAIVE, NAIVE_A)}",
        _less(NAIVE, NAIVE_A, "accuracy_barrier"),
    ),
    "permuted barrier falls": Measure(
        f"barrier to the permuted ticket, {_words(PERMUTED, PERMUTED_A)}",
        _less(PERMUTED, PERMUTED_A, "accuracy_barrier_permuted"),
    ),
    "disagreement falls": Measure(
        f"disagreement with the ticket, {_words(NAIVE, NAIVE_A)}",
        _less(NAIVE, NAIVE_A, "disagreement"),
    ),
    "signs add to permuted": _accuracy(PERMUTED_A, PERMUTED),
    "signs gain on lth": _accuracy(arms.LTH_A, LTH),
    "members are more alike": Measure(
        f"disagreement of members, {_words(PERMUTED, PERMUTED_A)}",
        _less(PERMUTED, PERMUTED_A, "between", "first"),
    ),
}
"""Every quantity, by its name in ``predictions.toml``."""
