"""Figures of the arms of a transformer."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lotperm.science.statistics import interval
from lotperm.studies.attention.study import COPY, KINDS, WEIGHTS
from lotperm.studies.charts import METHODS, cell_panels, dots
from lotperm.studies.findings import each, ranked
from lotperm.studies.origin import conclude, describe
from lotperm.studies.predictions import by_arm

ARMS = {
    "lth": METHODS["lth"],
    COPY.name: ("copy of A, π known", "#cc79a7"),
    "permuted": METHODS["permuted"],
    WEIGHTS.name: ("permuted, π by weights", "#e69f00"),
    "naive": METHODS["naive"],
    "random": ("random mask on B", "#999999"),
}
"""Arm -> its words and colour, from top to bottom."""

# Kind of unit -> its words.
_KINDS = {
    "stream": "residual stream",
    "keys": "keys",
    "values": "values",
    "mlp": "MLP units",
}

# Arm whose permutation joins units -> what is done, colour, marker.
_JOINED = {
    "permuted": ("by activations", METHODS["permuted"][1], "D"),
    WEIGHTS.name: ("by weights", "#e69f00", "s"),
    "naive": ("as they are", METHODS["naive"][1], "o"),
}


def accuracies(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw the accuracies of all arms, a panel for each cell.

    Parameters
    ----------
    table : DataFrame
        The question's table.
    title : str
        The figure's title: data, network and profile.
    """
    figure, panels = cell_panels(table, title=title, height=3.2)
    said, ranks = [], []
    for ax, cell, rows in panels:
        arms = by_arm(rows)
        dots(ax, {words: arms[arm] for arm, (words, _) in ARMS.items()}, dict(ARMS.values()))
        dense = 100 * rows[rows["arm"] == "lth"]["dense"].mean()
        ax.axvline(dense, color=METHODS["dense_a"][1], linestyle=":", linewidth=1)
        ax.set(title=cell, xlabel="test accuracy (%)")
        means = ", ".join(f"{words} {arms[arm].mean():.1f}" for arm, (words, _) in ARMS.items())
        said.append(f"{cell}: {means}; dense A {dense:.1f}")
        ranks.append((cell, ranked({words: arms[arm] for arm, (words, _) in ARMS.items()})))
    conclude(figure, f"From best to worst. {each(ranks)}")
    return describe(figure, f"Test accuracy in percent. {'. '.join(said)}.")


def likeness(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw how alike the units are that a permutation joins, by kind of unit.

    Parameters
    ----------
    table : DataFrame
        The question's table, of one cell: the dense networks are the same for all.
    title : str
        The figure's title.
    """
    figure, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
    said, alike = [], {}
    for arm, (words, colour, marker) in _JOINED.items():
        found = [interval(by_arm(table, kind)[arm]) for kind in KINDS]
        means, halves = zip(*found, strict=True)
        ax.errorbar(
            means,
            range(len(KINDS)),
            xerr=halves,
            fmt=marker,
            color=colour,
            label=words,
            capsize=3,
            linewidth=1.5,
        )
        alike[words] = means
        said.append(
            f"joined {words}: "
            + ", ".join(
                f"{_KINDS[kind]} {mean:.2f}" for kind, mean in zip(KINDS, means, strict=True)
            )
        )
    ax.set_yticks(range(len(KINDS)), [_KINDS[kind] for kind in KINDS])
    ax.set_ylim(len(KINDS) - 0.5, -0.5)
    ax.set(xlabel="mean correlation of joined units", title=title)
    figure.legend(title="A and B joined", loc="outside right center")
    conclude(figure, f"Mean over the kinds of unit, joined {ranked(alike, unit='', digits=2)}.")
    return describe(figure, f"Correlation of units of A and B. {'. '.join(said)}.")
