"""Figures in which the paper, recorded runs and this page's run share their axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lotperm.studies.arms import effects
from lotperm.studies.arms.effects import Factor
from lotperm.studies.arms.series import Series
from lotperm.studies.charts import METHODS
from lotperm.studies.numbers import with_minus

KINDS: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "paper": (("#333333",), "s", "--"),
    "recorded": (("#cc79a7", "#e69f00", "#56b4e9"), "D", "-."),
    "live": (("#0072b2",), "o", "-"),
}
"""Kind of a number -> its colours, marker and dashes, in every figure that compares kinds."""

_XLABELS = {
    "rewind": "rewind point k (% of dense training)",
    "sparsity": "sparsity S",
    "units": "units of the narrowest layer",
    "matched": "matching point t (% of B's training)",
}

# The title, above a curve and its interval.
_YLABELS = {"gain": "permuted − naive (points)", "share": "gap closed (%)"}

Curves = Sequence[tuple[Series, pd.DataFrame]]


def curves(series: Sequence[Series]) -> dict[str, list[tuple[Series, pd.DataFrame]]]:
    """Compute the curves of all series, for every factor that one of them varies."""
    factors: tuple[Factor, ...] = ("rewind", "sparsity", "units")
    found: dict[str, list[tuple[Series, pd.DataFrame]]] = {
        f: [(one, effects.against(one, f)) for one in series] for f in factors
    }
    return {
        factor: [(one, curve) for one, curve in pairs if len(curve)]
        for factor, pairs in found.items()
        if any(len(curve) for _, curve in pairs)
    }


def side_by_side(by_factor: Mapping[str, Curves]) -> Figure:
    """Draw points gained and, below them, the share of the gap, in a column for each factor.

    Parameters
    ----------
    by_factor : mapping of str to sequence of (Series, DataFrame)
        As `curves` returns them; a factor may also be "matched", the matching point.

    Returns
    -------
    Figure
        Bands are 95 % intervals over seeds; the paper's curves have none.
    """
    both = any(curve["share"].notna().any() for pairs in by_factor.values() for _, curve in pairs)
    quantities = ("gain", "share") if both else ("gain",)
    figure, axes = plt.subplots(
        len(quantities),
        len(by_factor),
        figsize=(8, 0.9 + 2.3 * len(quantities)),
        layout="constrained",
        sharex="col",
        sharey="row",
        squeeze=False,
    )
    drawn: dict[str, Any] = {}
    colours = _colours([one for pairs in by_factor.values() for one, _ in pairs])
    for column, (factor, pairs) in zip(axes.T, by_factor.items(), strict=True):
        for ax, quantity in zip(column, quantities, strict=True):
            for one, curve in pairs:
                known = curve.dropna(subset=quantity)
                drawn[one.label] = _curve(ax, one.kind, colours[one.label], known, quantity)
            ax.axhline(0, color=METHODS["naive"][1], linewidth=0.8)
            if quantity == "share":
                ax.axhline(100, color=METHODS["lth"][1], linewidth=0.8)
        _xaxis(column[-1], factor, pairs)
        column[-1].set_xlabel(_XLABELS[factor], fontsize=9)
    for row, quantity in zip(axes, quantities, strict=True):
        row[0].set_ylabel(_YLABELS[quantity], fontsize=9)
    _limit(axes, by_factor, quantities)
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _colours(series: Sequence[Series]) -> dict[str, str]:
    """Give every series a colour of its kind, repeating colours if there are too few."""
    found: dict[str, str] = {}
    for kind, (colours, _, _) in KINDS.items():
        labels = dict.fromkeys(one.label for one in series if one.kind == kind)
        found |= {label: colours[i % len(colours)] for i, label in enumerate(labels)}
    return found


def _curve(ax: Axes, kind: str, colour: str, curve: pd.DataFrame, quantity: str) -> Any:
    _, marker, dashes = KINDS[kind]
    (line,) = ax.plot(
        curve["x"], curve[quantity], dashes, marker=marker, color=colour, markersize=5
    )
    # fill_between leaves out NaN, such as the paper's missing intervals.
    ax.fill_between(
        curve["x"],
        curve[f"{quantity}_low"],
        curve[f"{quantity}_high"],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )
    return line


def _xaxis(ax: Axes, factor: str, pairs: Curves) -> None:
    if factor == "units":
        ax.set_xscale("log", base=2)
        places = sorted({int(x) for _, curve in pairs for x in curve["x"]})
        # On a phone there is no room for more.
        places = places[:: 1 + len(places) // 6]
        ax.set_xticks(places, [str(x) for x in places])
        ax.minorticks_off()


def _limit(axes: Any, by_factor: Mapping[str, Curves], quantities: Sequence[str]) -> None:
    """Limit the axes by points and shares, not by their intervals: a wide one is cut off."""
    for row, quantity in zip(axes, quantities, strict=True):
        values = np.concatenate(
            [curve[quantity].dropna() for pairs in by_factor.values() for _, curve in pairs]
        )
        low, high = min(0.0, values.min()), max(100.0 if quantity == "share" else 0.0, values.max())
        margin = 0.12 * (high - low)
        if quantity == "gain" and high > 5:
            _compress(row, low, high)
            margin = min(margin, 0.5)
        row[0].set_ylim(low - margin, 1.2 * high)


def _compress(row: Any, low: float, high: float) -> None:
    """Show gains of a point or less beside those of ten: linear up to 1, logarithmic above."""
    ticks = [
        t for t in (-10, -5, -2, -1, 0, 0.5, 1, 2, 5, 10, 20, 50) if low - 0.5 <= t <= 1.2 * high
    ]
    for ax in row:
        ax.set_yscale("symlog", linthresh=1, linscale=1)
        ax.set_yticks(ticks, [with_minus(f"{t:g}") for t in ticks])
        ax.minorticks_off()


def paper_panels(table: pd.DataFrame, *, columns: str, rows: str, x: str, xlabel: str) -> Figure:
    """Draw numbers of the paper: accuracy of its arms, a panel for each setting.

    Parameters
    ----------
    table : DataFrame
        Columns method, mean, std (percent; NaN if none is reported), and those named next.
    columns, rows, x : str
        Columns of the table that tell panels apart, and the one on the horizontal axis.
    xlabel : str
        Label of the horizontal axis.
    """
    places = [sorted(table[name].unique()) for name in (rows, columns)]
    figure, axes = plt.subplots(
        len(places[0]),
        len(places[1]),
        figsize=(8, 1.1 + 2.0 * len(places[0])),
        layout="constrained",
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    drawn: dict[str, Any] = {}
    for line, row in zip(axes, places[0], strict=True):
        for ax, column in zip(line, places[1], strict=True):
            part = table[(table[rows] == row) & (table[columns] == column)]
            for arm, chosen in part.groupby("method"):
                chosen = chosen.sort_values(x)
                words, colour = METHODS[str(arm)]
                style = {"lth": "o-", "permuted": "s--", "naive": "^:"}[str(arm)]
                drawn[words] = ax.errorbar(
                    chosen[x],
                    chosen["mean"],
                    chosen["std"],
                    fmt=style,
                    color=colour,
                    markersize=3.5,
                    linewidth=1.2,
                    elinewidth=0.8,
                )
            ax.set_title(_panel_words(rows, row) + _panel_words(columns, column), fontsize=9)
        line[0].set_ylabel("test accuracy (%)")
    figure.supxlabel(xlabel, fontsize=10)
    order = [METHODS[arm][0] for arm in ("lth", "permuted", "naive") if METHODS[arm][0] in drawn]
    figure.legend([drawn[w] for w in order], order, loc="outside upper center", ncols=3, fontsize=9)
    return figure


def _panel_words(name: str, value: Any) -> str:
    return {
        "width": f"×{value}, ",
        "sparsity": f"S = {value:g}",
        "rewind_epoch": f"k = {value}",
    }.get(name, "")


def alignment(table: pd.DataFrame) -> Figure:
    """Draw how well A and B are aligned at every width, and the gap closed against it.

    Parameters
    ----------
    table : DataFrame
        Columns units, correlation, correlation_half, barrier, barrier_half (points), share,
        share_low, share_high (percent); a row for each width.
    """
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.9), layout="constrained")
    (colour,), marker, dashes = KINDS["live"]
    style = {"fmt": f"{marker}{dashes}", "color": colour, "capsize": 3, "markersize": 5}
    for ax, name, words in (
        (axes[0], "correlation", "correlation of matched units"),
        (axes[1], "barrier", "barrier after permuting (points)"),
    ):
        ax.errorbar(table["units"], table[name], table[f"{name}_half"], **style)
        ax.set_xlabel(_XLABELS["units"], fontsize=9)
        ax.set_ylabel(words, fontsize=9)
        ax.set_xscale("log", base=2)
        ax.set_xticks(table["units"], [f"{x:g}" for x in table["units"]])
        ax.minorticks_off()
    known = table.dropna(subset="share")
    errors = [known["share"] - known["share_low"], known["share_high"] - known["share"]]
    axes[2].errorbar(known["barrier"], known["share"], errors, **{**style, "fmt": marker})
    for x, y, units in zip(known["barrier"], known["share"], known["units"], strict=True):
        axes[2].annotate(f"{units:g}", (x, y), (5, 5), textcoords="offset points", fontsize=8)
    axes[2].set_xlabel("barrier after permuting (points)", fontsize=9)
    axes[2].set_ylabel(_YLABELS["share"], fontsize=9)
    return figure
