"""Figures of the bench of matchings."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from matplotlib.figure import Figure

from lotperm.science.statistics import interval
from lotperm.studies.charts import METHODS, cell_panels, ticket_gain
from lotperm.studies.findings import each
from lotperm.studies.numbers import number
from lotperm.studies.origin import conclude
from lotperm.studies.predictions import by_arm

# Arm -> its words, colour and marker.
_MATCHERS = {
    "naive": ("none: naive", METHODS["naive"][1], "P"),
    "random": ("random", "#999999", "v"),
    "permuted": ("activations", METHODS["permuted"][1], "D"),
    "pre-activations": ("activations before the ReLU", "#009e73", "d"),
    "gradients": ("gradients", "#882255", "h"),
    "attributions": ("activations × gradients", "#332288", ">"),
    "weights": ("weights", "#e69f00", "s"),
    "weights-best-10": ("weights, best of 10", "#b8860b", "p"),
    "weights-refined": ("weights, from activations", "#cc79a7", "o"),
    "weights-joint": ("weights, all groups at once", "#8c6bb1", "^"),
    "weights-kept": ("kept weights alone", "#56b4e9", "<"),
    "weights-many": ("weights, many networks", "#555555", "X"),
}


def words_of(arm: str) -> str:
    """Return the words for an arm's matching."""
    return _MATCHERS[arm][0] if arm in _MATCHERS else METHODS[arm][0] if arm in METHODS else arm


def ordered(arms: Iterable[str]) -> list[str]:
    """Return arms in the order of the legend: LTH first, those without a colour of their own last."""
    places = {arm: i for i, arm in enumerate(("lth", *_MATCHERS))}
    return sorted(arms, key=lambda arm: (places.get(arm, len(places)), arm))


def gain_against(table: pd.DataFrame, column: str, label: str, *, title: str) -> Figure:
    """Draw what every matching gains over naive against another column, a panel for each cell.

    Parameters
    ----------
    table : DataFrame
        The question's table.
    column : str
        "barrier", "correlation" or "agreement".
    label : str
        The column in words, for the axis.
    title : str
        The figure's title.
    """
    figure, panels = cell_panels(table, title=title, height=4)
    said = []
    for ax, cell, rows in panels:
        arms, across = by_arm(rows), by_arm(rows, column)
        for arm in map(str, arms):
            if arm == "lth":
                continue
            words, colour, marker = _MATCHERS.get(arm, (arm, "#333333", "."))
            gained, half = interval(arms[arm] - arms["naive"])
            place, spread = interval(across[arm])
            ax.errorbar(
                place,
                gained,
                # Naive gains nothing over itself, without any spread.
                half if arm != "naive" else None,
                spread,
                fmt=marker,
                color=colour,
                label=words,
                capsize=2,
                linewidth=1,
                ms=6,
            )
        ticket_gain(ax, arms)
        said.append((cell, _best(arms, across)))
        ax.set(title=cell, xlabel=label)
    panels[0][0].set_ylabel("gain over naive (points)")
    figure.legend(
        *panels[-1][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    return conclude(figure, each(said))


def _best(arms: pd.DataFrame, across: pd.DataFrame) -> str:
    """Say which matching gains most, and which stand farthest to the left and to the right."""
    gains = arms.drop(columns="lth").mean()
    places = across.drop(columns="lth", errors="ignore").mean()
    best, left, right = (str(end) for end in (gains.idxmax(), places.idxmin(), places.idxmax()))
    return (
        f"{words_of(best)} gains most, {number(gains.max() - gains['naive'])} points; leftmost is "
        f"{words_of(left)} ({places.min():.3g}), rightmost {words_of(right)} ({places.max():.3g})"
    )
