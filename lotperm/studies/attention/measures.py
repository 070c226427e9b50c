"""The quantities that the predictions about attention speak of."""

from __future__ import annotations

import pandas as pd

from lotperm.studies.attention.study import COPY
from lotperm.studies.predictions import Measure, by_arm, less


def _half_the_gap(rows: pd.DataFrame) -> pd.Series:
    arms = by_arm(rows)
    return (arms["lth"] - arms["naive"]) / 2 - (arms["permuted"] - arms["naive"])


def _mlp_above_heads(rows: pd.DataFrame) -> pd.Series:
    found = rows[rows["arm"] == "permuted"].set_index("seed")
    return found["mlp"] - (found["keys"] + found["values"]) / 2


CONTRASTS: dict[str, tuple[str, str]] = {
    "permuted − naive": ("permuted", "naive"),
    "LTH − naive": ("lth", "naive"),
    "copy of A, π known − LTH": (COPY.name, "lth"),
    "π by weights − by activations": ("weights", "permuted"),
    "naive − random mask": ("naive", "random"),
}
"""A comparison in words -> the two arms that it compares."""

MEASURES: dict[str, Measure] = {
    **{words: Measure(words, less(*pair)) for words, pair in CONTRASTS.items()},
    "half the gap − gain": Measure("half of LTH − naive, less permuted − naive", _half_the_gap),
    "MLP − heads": Measure(
        "correlation of joined units, MLP less inside of heads", _mlp_above_heads, ""
    ),
}
"""Every quantity, by its name in ``predictions.toml``."""
