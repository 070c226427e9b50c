"""The quantities that the predictions of the causal test speak of."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from lotperm.studies.causal.study import COPY_NAIVE, IDENTITY, oracle
from lotperm.studies.predictions import Measure, less


def doses(rows: pd.DataFrame, of: str) -> pd.DataFrame:
    """Return the accuracies in percent against the scrambled share: index seed, columns shares.

    Parameters
    ----------
    rows : DataFrame
        One cell of the study's table.
    of : str
        "copy", whose permutation is known, or "B".
    """
    if of == "copy":
        chosen = rows[(rows["test"] == "oracle") & (rows["arm"] != COPY_NAIVE.name)]
    else:
        chosen = rows[(rows["test"] == "dose") | (rows["arm"] == "permuted")]
    return 100 * chosen.pivot(index="seed", columns="share", values="accuracy")


def _fall(of: str) -> Callable[[pd.DataFrame], pd.Series]:
    """Return the measure of the fall from 0 to 100 % scrambled, by a line fitted to each seed."""

    def fall(rows: pd.DataFrame) -> pd.Series:
        table = doses(rows, of)
        x = table.columns.to_numpy(float) - table.columns.to_numpy(float).mean()
        return -(table * x).sum(axis=1) / (x**2).sum()

    return fall


def rank_correlation(rows: pd.DataFrame) -> pd.Series:
    """Return each seed's rank correlation of accuracy and matched correlation, over B's arms."""
    moved = rows[(rows["permutation"] != IDENTITY) & (rows["test"] != "oracle")]
    ranks = moved.groupby("seed")[["correlation", "accuracy"]].rank()
    ranks["seed"] = moved["seed"]
    # Spearman's: Pearson's correlation of the ranks.
    return ranks.groupby("seed").apply(lambda of: of["correlation"].corr(of["accuracy"]))


MEASURES: dict[str, Measure] = {
    "copy is lth": Measure("copy, π known − LTH", less(oracle(0).name, "lth")),
    "copy naive is naive": Measure("copy, naive − B, naive", less(COPY_NAIVE.name, "naive")),
    "copy falls": Measure("copy, fall from 0 to 100 % scrambled", _fall("copy")),
    "found falls": Measure("B, fall from 0 to 100 % scrambled", _fall("B")),
    "rank correlation": Measure(
        "rank correlation of accuracy and alike units", rank_correlation, ""
    ),
    "other seed is random": Measure(
        "π of another B − random π", less("other-seed", "B, 100% scrambled")
    ),
    "256 is all": Measure("π from 256 examples − from all", less("activations-256", "permuted")),
    "untrained is better": Measure(
        "π to B at epoch 0 − to B at the end", less("epoch-0", "permuted")
    ),
}
"""Every quantity, by its name in ``predictions.toml``."""
