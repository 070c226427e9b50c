"""Tables of how near solutions are to A's."""

from __future__ import annotations

import pandas as pd

from lotperm.science.statistics import paired
from lotperm.studies.numbers import Number

WORDS = {
    "imp": "pruned A (IMP)",
    "dense_a": "dense A",
    "lth": "LTH",
    "permuted": "permuted",
    "naive": "naive",
    "dense_b": "dense B",
}
"""Network -> its words."""

COLUMNS = {
    "disagreement": "disagreement (%)",
    "js": "JS (nats)",
    "barrier_none": "barrier (points)",
    "barrier_repair": "barrier, REPAIR (points)",
}
"""Column of the question's table -> its heading."""


def main_reference(table: pd.DataFrame) -> str:
    """Return "imp", the pruned A, or "dense_a" where the mask has no network of its own."""
    return "imp" if "imp" in set(table["reference"]) else "dense_a"


def nearness(table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate how near every network is to pruned and to dense A.

    Parameters
    ----------
    table : DataFrame
        As `relearning_table` returns it.

    Returns
    -------
    DataFrame
        Index (reference, network); means over seeds with 95 % intervals, as texts.
    """
    rows = {}
    for (reference, network), part in table.groupby(["reference", "network"], sort=False):
        shown = {}
        for column, words in COLUMNS.items():
            # Divergences are in nats; everything else is a fraction.
            in_nats = column == "js"
            number = Number.of(part[column] / 100 if in_nats else part[column])
            shown[words] = number.text(3 if in_nats else 1)
        rows[f"to {WORDS[str(reference)]}", WORDS[str(network)]] = shown
    found = pd.DataFrame(rows).T.rename_axis(["", "network"])
    return found.sort_index(level=0, sort_remaining=False, ascending=False)


def relearned(table: pd.DataFrame, column: str = "disagreement") -> pd.DataFrame:
    """Compare LTH with the networks that start from B, seed by seed.

    Parameters
    ----------
    table : DataFrame
        As `relearning_table` returns it.
    column : str
        A column of `COLUMNS`.

    Returns
    -------
    DataFrame
        Index (reference, network); by how much more the network differs from the reference than
        LTH does, with 95 % interval and p of the paired t-test, as texts.
    """
    scale = 1 if column == "js" else 100
    rows = {}
    for reference, part in table.groupby("reference", sort=False):
        wide = scale * part.pivot_table(index="seed", columns="network", values=column)
        for network in ("permuted", "naive", "dense_b"):
            found = paired(wide[network], wide["lth"])
            rows[f"to {WORDS[str(reference)]}", WORDS[network]] = {
                f"{COLUMNS[column]}, more than LTH": f"{found.mean:.1f} ± {found.half_width:.1f}",
                "p": f"{found.p_value:.2g}",
            }
    return pd.DataFrame(rows).T.rename_axis(["", "network"])
