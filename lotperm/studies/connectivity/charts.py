"""Figures of lines, barriers and correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from lotperm.science.barrier import accuracy_barriers
from lotperm.science.statistics import interval
from lotperm.studies.findings import each, short
from lotperm.studies.lines import REPAIR_WORDS
from lotperm.studies.numbers import number
from lotperm.studies.origin import conclude

# In the colours of the arms naive and permuted, which π tells apart in the same way.
_LINES = (("as trained", "#d55e00", "A to B"), ("permuted", "#009e73", "π(A) to B"))


def connectivity(table: pd.DataFrame, metric: str, *, title: str) -> Figure:
    """Draw loss or accuracy along the lines from A and from π(A) to B, one panel per repair.

    Parameters
    ----------
    table : DataFrame
        As `Pipeline.connectivity` returns it.
    metric : str
        "accuracy" or "loss".
    title : str
        The figure's title: data, network and profile.
    """
    repairs = list(table["repair"].unique())
    figure, axes = plt.subplots(
        1, len(repairs), figsize=(8, 3.1), layout="constrained", sharey=True, squeeze=False
    )
    scale = 100 if metric == "accuracy" else 1
    halfway = []
    for ax, repair in zip(axes[0], repairs, strict=True):
        middles = []
        for ends, colour, words in _LINES:
            part = table[(table["repair"] == repair) & (table["ends"] == ends)]
            lines = part.pivot_table(index="alpha", columns="seed", values=metric)
            means, halves = scale * np.array([interval(row) for row in lines.to_numpy()]).T
            ax.plot(lines.index, means, color=colour, label=words)
            ax.fill_between(
                lines.index, means - halves, means + halves, color=colour, alpha=0.2, linewidth=0
            )
            # The number of positions is odd.
            middles.append(f"{number(means[len(means) // 2], 1 if scale > 1 else 2)} from {words}")
        halfway.append((REPAIR_WORDS[repair], ", ".join(middles)))
        ax.set(title=REPAIR_WORDS[repair], xlabel="position α on the line")
    axes[0][0].set_ylabel("test accuracy (%)" if metric == "accuracy" else "test loss (nats)")
    axes[0][0].legend(fontsize=8)
    figure.suptitle(title)
    unit = "%" if metric == "accuracy" else "nats"
    return conclude(figure, f"Halfway ({unit}). {each(halfway)}")


def barriers(table: pd.DataFrame, x: str, *, label: str, title: str, log: bool = False) -> Figure:
    """Draw accuracy barriers, in points, against the width or the round of IMP.

    A barrier is the mean of the ends less the midpoint.

    Parameters
    ----------
    table : DataFrame
        Rows of `Pipeline.connectivity` at α = 0, 0.5 and 1, with a column named by `x`.
    x : str
        The column to draw against.
    label : str
        The column in words, for the axis.
    title : str
        The figure's title: data, network and profile.
    log : bool, optional
        Use a binary logarithmic axis, for widths.
    """
    found = accuracy_barriers(table, [x])
    repairs = list(found["repair"].unique())
    figure, axes = plt.subplots(
        1, len(repairs), figsize=(8, 3.1), layout="constrained", sharey=True, squeeze=False
    )
    said = []
    for ax, repair in zip(axes[0], repairs, strict=True):
        course = []
        for ends, colour, words in _LINES:
            part = found[(found["repair"] == repair) & (found["ends"] == ends)]
            groups = {at: 100 * group["barrier"].to_numpy() for at, group in part.groupby(x)}
            means, halves = np.array([interval(values) for values in groups.values()]).T
            ax.errorbar(list(groups), means, halves, fmt="o-", capsize=4, color=colour, label=words)
            course.append(f"{words} {_from_to(list(groups), means)}")
        said.append((REPAIR_WORDS[repair], "; ".join(course)))
        # Widths are doubled from one to the next, so a binary scale spaces them evenly.
        if log:
            ax.set_xscale("log", base=2)
            ax.set_xticks(list(groups), [f"{at:g}" for at in groups])
            ax.minorticks_off()
        ax.set(title=REPAIR_WORDS[repair], xlabel=label)
    axes[0][0].set_ylabel("accuracy barrier (points)")
    axes[0][0].legend(fontsize=8)
    figure.suptitle(title)
    return conclude(figure, f"Barrier in points, against the {label}. {each(said)}")


def _from_to(places: Sequence[float], values: Sequence[float]) -> str:
    """Say where a curve begins and ends: "35.4 at 0.25, 46.8 at 1"."""
    ends = dict.fromkeys((0, len(places) - 1))
    return ", ".join(f"{number(values[i])} at {places[i]:g}" for i in ends)


def by_width(table: pd.DataFrame) -> Figure:
    """Draw the barrier of matched networks against width, live, recorded and published.

    Parameters
    ----------
    table : DataFrame
        As `lotperm.studies.connectivity.beside.barriers_by_width` returns it.
    """
    figure, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
    for (source, part), marker in zip(table.groupby("source", sort=False), "osD^v", strict=False):
        ax.errorbar(
            part["width"],
            part["barrier"],
            part["half_width"].fillna(0),
            fmt=f"{marker}-",
            capsize=4,
            label=source,
        )
    ax.set_xscale("log", base=2)
    widths = sorted(set(table["width"]))
    ax.set_xticks(widths, [f"{width:g}" for width in widths])
    ax.minorticks_off()
    # Negative barriers are noise: they are shown, not cut off.
    ax.axhline(0, color="#999999", linewidth=1)
    ax.set(xlabel="width", ylabel="accuracy barrier, π(A) to B (points)")
    ax.legend(fontsize=8)
    said = [
        f"{short(str(source))}, {_from_to(part['width'].tolist(), part['barrier'].tolist())}"
        for source, part in table.groupby("source", sort=False)
    ]
    return conclude(figure, f"Points at the smallest and the largest width: {'; '.join(said)}.")


def correlation_per_layer(matchings: Sequence[Mapping[str, Tensor]], *, title: str) -> Figure:
    """Draw the mean correlation of paired units in each group, before and after permuting.

    Parameters
    ----------
    matchings : sequence of mapping of str to Tensor
        `lotperm.science.matching.result.Matching` of every replicate.
    title : str
        The figure's title: data, network and profile.
    """
    groups = list(matchings[0])
    figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
    matched: dict[str, float] = {}
    for attribute, colour, words in (
        ("identity_scores", "#d55e00", "unit i of A and unit i of B"),
        ("scores", "#009e73", "matched units"),
    ):
        values = [[getattr(m, attribute)[g] for m in matchings] for g in groups]
        means, halves = np.array([interval(v) for v in values]).T
        ax.errorbar(
            range(len(groups)), means, halves, fmt="o-", capsize=4, color=colour, label=words
        )
        matched = dict(zip(groups, means, strict=True))
    # The labels of deep networks fit only if they are vertical and small.
    many = len(groups) > 14
    labels = [
        f"{g} ({len(matchings[0][g])})" if many else f"{g}\n({len(matchings[0][g])} units)"
        for g in groups
    ]
    ax.set_xticks(range(len(groups)), labels, fontsize=6 if many else 8, rotation=90 if many else 0)
    ax.set(ylabel="mean correlation", ylim=(-0.1, 1.02), title=title)
    ax.legend()
    least, most = (end(matched, key=lambda group: matched[group]) for end in (min, max))
    return conclude(
        figure,
        f"Matched units correlate least in {least}, {number(matched[least], 2)}, and most in {most}, "
        f"{number(matched[most], 2)}.",
    )
