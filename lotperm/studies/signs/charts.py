"""Figures of signs against symmetry."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lotperm.science.statistics import interval
from lotperm.studies.arms.arms import Arm
from lotperm.studies.charts import METHODS, cell_panels, dots
from lotperm.studies.findings import each, listed, ranked, short
from lotperm.studies.numbers import number
from lotperm.studies.origin import conclude
from lotperm.studies.signs import arms
from lotperm.studies.signs.measures import by_arm

_GREY = "#777777"

# Arm -> its colour and marker; controls are grey.
_LOOKS = {
    arms.LTH: (METHODS["lth"][1], "o"),
    arms.PERMUTED: (METHODS["permuted"][1], "o"),
    arms.NAIVE: (METHODS["naive"][1], "o"),
    arms.NAIVE_A: ("#e69f00", "s"),
    arms.PERMUTED_A: ("#56b4e9", "s"),
    arms.NAIVE_WRONG: (_GREY, "s"),
    arms.PERMUTED_WRONG: (_GREY, "D"),
    arms.PERMUTED_RANDOM: (_GREY, "X"),
    arms.NAIVE_B: (_GREY, "v"),
    arms.PERMUTED_B: (_GREY, "^"),
    arms.PERMUTED_IMP: (_GREY, "P"),
    arms.LTH_A: ("#8c6bb1", "s"),
}

_ORDER = (
    arms.LTH,
    arms.LTH_A,
    arms.NAIVE,
    arms.NAIVE_A,
    arms.NAIVE_WRONG,
    arms.NAIVE_B,
    arms.PERMUTED,
    arms.PERMUTED_A,
    arms.PERMUTED_WRONG,
    arms.PERMUTED_IMP,
    arms.PERMUTED_B,
    arms.PERMUTED_RANDOM,
)


_MAIN = (arms.LTH, arms.PERMUTED, arms.NAIVE, arms.NAIVE_A, arms.PERMUTED_A)
"""The arms that the captions mention: the ticket, and masks and signs as found or moved."""


def _label(arm: Arm) -> str:
    return METHODS[arm.name][0] if arm.name in METHODS else arm.name


def accuracies(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw the accuracies of all arms, a panel for each cell.

    Parameters
    ----------
    table : DataFrame
        The study's table, of one width.
    title : str
        The figure's title: data, network and profile.
    """
    figure, panels = cell_panels(table[table["ticket"] == "own"], title=title, height=4.6)
    said = []
    for ax, words, rows in panels:
        found = by_arm(rows)
        shown = [arm for arm in _ORDER if arm.name in found]
        main = {_label(arm): found[arm.name] for arm in _MAIN if arm.name in found}
        said.append((words, ranked(main)))
        dots(
            ax,
            {_label(arm): found[arm.name] for arm in shown},
            {_label(arm): _LOOKS[arm][0] for arm in shown},
        )
        ax.axvline(found["lth"].mean(), color=METHODS["lth"][1], linestyle=":", linewidth=1)
        ax.set(title=words, xlabel="test accuracy (%)")
    return conclude(figure, f"The ticket and the two by two, from best to worst. {each(said)}")


def whose_basin(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw the barrier to the permuted ticket against that to the ticket, a panel for each cell.

    Below the diagonal an arm ends nearer to the permuted copy of A's basin than to A's own.
    """
    others = table[(table["ticket"] == "own") & (table["arm"] != arms.LTH.name)]
    figure, panels = cell_panels(others, title=title, height=4.4, sharex=True)
    said = []
    for ax, words, rows in panels:
        own, permuted = (by_arm(rows, f"accuracy_barrier{end}") for end in ("", "_permuted"))
        nearer = {
            short(_label(arm)): bool(own[arm.name].mean() < permuted[arm.name].mean())
            for arm in _MAIN
            if arm.name in own
        }
        said.append((words, _nearer(nearer)))
        for arm in _ORDER:
            if arm.name not in own:
                continue
            colour, marker = _LOOKS[arm]
            (x, dx), (y, dy) = interval(own[arm.name]), interval(permuted[arm.name])
            ax.errorbar(
                x,
                y,
                xerr=dx,
                yerr=dy,
                fmt=marker,
                color=colour,
                label=_label(arm),
                capsize=2,
                linewidth=1,
                ms=6,
            )
        ends = [min(ax.get_xlim()[0], ax.get_ylim()[0]), max(ax.get_xlim()[1], ax.get_ylim()[1])]
        ax.plot(ends, ends, color="#aaaaaa", linewidth=1, linestyle=":", zorder=0)
        ax.set(title=words, xlabel="barrier to A's ticket (points)")
    panels[0][0].set_ylabel("barrier to the permuted ticket (points)")
    figure.legend(
        *panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    return conclude(figure, f"By the lower mean barrier. {each(said)}")


def _nearer(to_ticket: dict[str, bool]) -> str:
    """Say which arms end nearer to A's ticket, and which to its permuted copy."""
    parts = []
    for wanted, words in ((True, "to A's ticket"), (False, "to the permuted ticket")):
        names = [name for name, near in to_ticket.items() if near == wanted]
        if names:
            parts.append(f"nearer {words} are {listed(names)}")
    return ". N".join(part.removeprefix("n") if i else part for i, part in enumerate(parts))


def gains(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw what mask, signs and both gain over naive, in every cell of every width.

    Parameters
    ----------
    table : DataFrame
        The study's table with a column ``width``.
    title : str
        The figure's title: data, network and profile.
    """
    own = table[table["ticket"] == "own"]
    places = [
        (f"×{width:g}, S = {s:g}, k = {k}", by_arm(rows))
        for (width, s, k), rows in own.groupby(["width", "sparsity", "rewind_epoch"])
    ]
    figure, ax = plt.subplots(figsize=(8, 1.2 + 0.55 * len(places)), layout="constrained")
    compared = (arms.PERMUTED, arms.NAIVE_A, arms.PERMUTED_A, arms.LTH)
    spans = []
    for n, arm in enumerate(compared):
        colour, marker = _LOOKS[arm]
        points = [interval(found[arm.name] - found["naive"]) for _, found in places]
        means, halves = zip(*points, strict=True)
        spans.append(
            f"{_label(arm).partition(':')[0]} {number(min(means))} to {number(max(means))}"
        )
        ax.errorbar(
            means,
            [y + 0.16 * (n - 1.5) for y in range(len(places))],
            xerr=halves,
            fmt=marker,
            color=colour,
            capsize=3,
            ms=5,
            label=_label(arm),
        )
    ax.axvline(0, color=METHODS["naive"][1], linestyle=":", label=METHODS["naive"][0])
    ax.set_yticks(range(len(places)), [words for words, _ in places])
    ax.set(xlabel="gain over naive (points)", ylim=(len(places) - 0.4, -0.6), title=title)
    ax.legend(fontsize=8)
    return conclude(figure, f"Points gained over naive in these settings: {'; '.join(spans)}.")
