"""Figures of the barriers after every round of pruning, and of the plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lotperm.science.statistics import interval
from lotperm.studies.basin.tables import barriers
from lotperm.studies.charts import METHODS
from lotperm.studies.lines import REPAIR_WORDS
from lotperm.studies.numbers import number
from lotperm.studies.origin import conclude

_LINES = {"none": ("#d55e00", "o-"), "repair": ("#009e73", "s--")}
"""Repair -> colour, and marker with dashes."""


def against_round(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw the error barrier between dense A and A after every round of IMP.

    Parameters
    ----------
    table : DataFrame
        As `basin_table` returns it.
    title : str
        The figure's title: data, network and profile.
    """
    found = barriers(table[table["network"] == "imp"])
    figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
    said = []
    for repair, part in found.groupby("repair"):
        colour, style = _LINES[str(repair)]
        groups = {
            100 * float(rows["sparsity"].iloc[0]): 100 * rows["barrier"].to_numpy()
            for _, rows in part.groupby("sparsity")
        }
        means, halves = np.array([interval(values) for values in groups.values()]).T
        words = REPAIR_WORDS[str(repair)]
        ax.errorbar(list(groups), means, halves, fmt=style, capsize=4, color=colour, label=words)
        highest = int(np.argmax(means))
        said.append(
            f"{words}, {number(means[highest])} points with {list(groups)[highest]:.0f} % removed"
        )
    ax.axhline(0, color="#999999", linewidth=1)
    ax.set(xlabel="weights removed after the round (%)", ylabel="error barrier (points)")
    ax.set_title(title)
    ax.legend()
    return conclude(figure, f"The highest mean barrier: {'; '.join(said)}.")


def plane(places: pd.DataFrame, corners: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Draw the 0–1 loss on the plane through three networks.

    Parameters
    ----------
    places : DataFrame
        Columns x, y, error (a fraction), a full grid.
    corners : mapping of str to (x, y)
        Network -> its place.
    title : str
        The figure's title: data, network and profile.
    """
    grid = 100 * places.pivot_table(index="y", columns="x", values="error")
    figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
    # Levels are densest where the loss is low, since that is where basins can be told apart.
    low, high = float(grid.min().min()), float(grid.max().max())
    levels = low + (high - low) * np.linspace(0, 1, 15) ** 2 if high > low else [low, low + 1]
    shades = ax.contourf(grid.columns, grid.index, grid, levels=levels, cmap="viridis_r")
    ax.contour(grid.columns, grid.index, grid, levels=levels, colors="white", linewidths=0.4)
    xs, ys = zip(*[*corners.values(), next(iter(corners.values()))], strict=True)
    ax.plot(xs, ys, color="#333333", linewidth=1, linestyle=":")
    for name, (x, y) in corners.items():
        ax.plot(x, y, "o", color=METHODS[name][1], markeredgecolor="white", markersize=9)
        ax.annotate(
            _PLACES[name],
            (x, y),
            xytext=(6, 6),
            textcoords="offset points",
            color="#111111",
            bbox={"boxstyle": "round", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )
    figure.colorbar(shades, ax=ax, label="test error (%)", format="%.1f")
    # Distances in the drawing are distances between weights.
    ax.set(xlabel="distance in weight space", aspect="equal")
    ax.grid(False)
    ax.set_title(title)
    errors = {_PLACES[name]: _at(grid, place) for name, place in corners.items()}
    return conclude(
        figure,
        f"Test error next to the corners: {'; '.join(f'{n} {number(e)}' for n, e in errors.items())} %; "
        f"between {number(low)} and {number(high)} % on all of the plane.",
    )


def _at(grid: pd.DataFrame, place: Sequence[float]) -> float:
    """Return the value at the place of the grid that is nearest to the given one."""
    x, y = (np.asarray(axis, float) for axis in (grid.columns, grid.index))
    row, column = (int(np.abs(a - p).argmin()) for a, p in ((y, place[1]), (x, place[0])))
    return float(grid.to_numpy()[row, column])


_PLACES = {"dense_a": "dense A", "lth": "LTH", "permuted": "permuted, brought back"}
"""Corner -> its label."""
