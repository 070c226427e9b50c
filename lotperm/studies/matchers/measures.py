"""The quantities that the predictions of the bench speak of."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from lotperm.studies.predictions import Measure


def by_arm(rows: pd.DataFrame, column: str = "accuracy") -> pd.DataFrame:
    """Return a column of a cell, accuracies in percent: index seed, a column for each arm."""
    wide = rows.pivot(index="seed", columns="arm", values=column)
    return 100 * wide if column == "accuracy" else wide


def _less(a: str, b: str, column: str = "accuracy") -> Callable[[pd.DataFrame], pd.Series]:
    """Return the measure "a − b"."""

    def difference(rows: pd.DataFrame) -> pd.Series:
        arms = by_arm(rows, column)
        return arms[a] - arms[b]

    return difference


CONTRASTS: dict[str, tuple[str, str]] = {
    "weights − activations": ("weights", "permuted"),
    "refined − activations": ("weights-refined", "permuted"),
    "best of ten − weights": ("weights-best-10", "weights"),
    "joint − weights": ("weights-joint", "weights"),
    "kept − weights": ("weights-kept", "weights"),
    "many − weights": ("weights-many", "weights"),
    "random − naive": ("random", "naive"),
    "lth − refined": ("lth", "weights-refined"),
    "before the ReLU − activations": ("pre-activations", "permuted"),
}
"""Contrasts of accuracies that were written down before the runs -> the two arms."""

MEASURES: dict[str, Measure] = {
    **{words: Measure(words, _less(*pair)) for words, pair in CONTRASTS.items()},
    "barrier: weights − activations": Measure(
        "test barrier in nats, weights − activations", _less("weights", "permuted", "barrier"), ""
    ),
}
"""Every quantity, by its name in ``predictions.toml``."""
