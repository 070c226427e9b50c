"""Figures of the causal test."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lotperm.science.statistics import interval
from lotperm.studies.causal.measures import doses
from lotperm.studies.causal.study import COPY_NAIVE, IDENTITY, oracle
from lotperm.studies.charts import METHODS, cell_panels, dots, ticket_gain
from lotperm.studies.findings import each, ranked
from lotperm.studies.numbers import number
from lotperm.studies.origin import conclude
from lotperm.studies.predictions import by_arm

_COPY = "#cc79a7"

# Kind of a permutation -> its words, colour and marker.
_SOURCES = {
    "activations": ("π from 16, 64, … examples", "#56b4e9", "o"),
    "found": ("π from all examples", METHODS["permuted"][1], "D"),
    "weights": ("π by weights", "#e69f00", "s"),
    "epoch": ("π to B at epoch 0, and at k", "#8c6bb1", "^"),
    "other-seed": ("π to another B", "#555555", "X"),
    "scrambled": ("π, 10 to 100 % scrambled", "#999999", "v"),
    "none": ("none: naive", METHODS["naive"][1], "P"),
}


def known(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw what the mask gives to a copy of A whose permutation is known, a panel for each cell."""
    shown = {
        "lth": (METHODS["lth"][0], METHODS["lth"][1]),
        oracle(0).name: ("shuffled copy of A, π known", _COPY),
        COPY_NAIVE.name: ("shuffled copy of A, mask as found", "#b07aa1"),
        "naive": (METHODS["naive"][0], METHODS["naive"][1]),
    }
    figure, panels = cell_panels(table, title=title, height=2.6)
    said = []
    for ax, words, rows in panels:
        arms = by_arm(rows)
        said.append((words, ranked({label: arms[arm] for arm, (label, _) in shown.items()})))
        dots(ax, {label: arms[arm] for arm, (label, _) in shown.items()}, dict(shown.values()))
        ax.set(title=words, xlabel="test accuracy (%)")
    return conclude(figure, f"From best to worst. {each(said)}")


def dose_response(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw accuracy against the scrambled share, of the copy and of B, a panel for each cell."""
    figure, panels = cell_panels(table, title=title, height=3.4)
    said = []
    for ax, words, rows in panels:
        arms = by_arm(rows)
        ends = []
        for method in ("lth", "naive"):
            _level(ax, arms[method].to_numpy(), method)
        for of, label, colour, marker in (
            ("copy", "copy of A, π known", _COPY, "s"),
            ("B", "B, π found", METHODS["permuted"][1], "o"),
        ):
            found = doses(rows, of)
            means, halves = np.array([interval(found[share]) for share in found]).T
            x = 100 * found.columns.to_numpy(float)
            ends.append(
                f"{label} from {number(means[0])} at {x[0]:.0f} % to {number(means[-1])} at {x[-1]:.0f} %"
            )
            ax.errorbar(
                x, means, halves, fmt=f"{marker}-", color=colour, label=label, capsize=3, ms=5
            )
        said.append((words, "; ".join(ends)))
        ax.set(title=words, xlabel="share of π's units that is scrambled (%)")
    panels[0][0].set_ylabel("test accuracy (%)")
    panels[-1][0].legend(fontsize=8)
    return conclude(figure, f"Accuracy (%) at the smallest and the largest share. {each(said)}")


def _level(ax: Axes, percent: np.ndarray, method: str) -> None:
    """Draw an arm that doesn't depend on the dose: one level with its interval."""
    mean, half = interval(percent)
    words, colour = METHODS[method]
    ax.axhline(mean, color=colour, linestyle="--", label=words, linewidth=1.2)
    ax.axhspan(mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)


def kind(row: pd.Series) -> str:
    """Return the kind of an arm's permutation, as the figure tells them apart."""
    if row["permutation"] == IDENTITY:
        return "none"
    if row["share"]:
        return "scrambled"
    name = str(row["permutation"])
    return name if name in _SOURCES else name.rpartition("-")[0]


def gain_against_correlation(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw what every permutation gains over naive against the likeness of the units it joins."""
    figure, panels = cell_panels(table, title=title, height=3.8)
    said = []
    for ax, words, rows in panels:
        arms = by_arm(rows)
        alike, gained = [], []
        on_b = rows[(rows["test"] != "oracle") & (rows["arm"] != "lth")]
        seen = set()
        for arm, of_arm in on_b.groupby("arm", sort=False):
            gain, half = interval(arms[arm] - arms["naive"])
            alike.append(of_arm["correlation"].mean())
            gained.append(gain)
            what = kind(of_arm.iloc[0])
            label, colour, marker = _SOURCES[what]
            ax.errorbar(
                of_arm["correlation"].mean(),
                gain,
                # Naive gains nothing over itself, without any spread.
                half if arm != "naive" else None,
                fmt=marker,
                color=colour,
                label=None if what in seen else label,
                capsize=2,
                linewidth=1,
                ms=6,
            )
            seen.add(what)
        ticket_gain(ax, arms)
        said.append((words, number(float(np.corrcoef(alike, gained)[0, 1]), 2)))
        ax.set(title=words, xlabel="correlation of the units that π joins")
    panels[0][0].set_ylabel("gain over naive (points)")
    figure.legend(
        *panels[-1][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    return conclude(figure, f"Correlation of the points' two coordinates. {each(said)}")
