"""The paper's figures, drawn again from its tables; every title says that the numbers are its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lotperm.errors import unknown_name
from lotperm.studies.charts import MARKERS, METHODS, line_style
from lotperm.studies.claims import numbers
from lotperm.studies.origin import attach, of_table

_WORDS = {"lth": "LTH", "permuted": "permuted", "naive": "naive"}

# Ordered shades, since sparsities are ordered.
_SHADES = plt.get_cmap("viridis")


def against_rewinding(table: int, *, metric: str = "top1") -> Figure:
    """Draw one of Tables 5 to 14: accuracy against the rewind epoch, a panel for each sparsity.

    These are the paper's Figures 5, 6, 8, and 11 and 7 (top-1 and top-5 of Table 10).

    Parameters
    ----------
    table : int
        Its number in the paper.
    metric : str, optional
        "top1", or "top5" for Table 10.

    Returns
    -------
    Figure
        Two panels a row, on common axes of k; bands are the paper's spreads, where it prints them.

    Raises
    ------
    ParameterError
        If there is no such table, or it doesn't have the metric.
    """
    tidy = numbers.cells()
    if table not in set(tidy["table"]):
        raise unknown_name("table", str(table), sorted({str(t) for t in tidy["table"]}))
    chosen = tidy[tidy["table"] == table]
    # Only Table 10 has top-5 accuracies.
    if metric not in set(chosen["metric"]):
        raise unknown_name("metric", metric, sorted(set(chosen["metric"])))
    chosen = chosen[chosen["metric"] == metric]
    first = chosen.iloc[0]
    network, dataset = (numbers.NAMES[first[what]] for what in ("network", "dataset"))
    title = f"Paper, Table {table}: {network}×{first['width']} on {dataset}"
    panels = [(f"S = {sparsity:.2f}", part) for sparsity, part in chosen.groupby("sparsity")]
    unit = "test accuracy (%)" if metric == "top1" else "top-5 accuracy (%)"
    figure = _panels(panels, "rewind_epoch", title, xlabel="rewind epoch k", ylabel=unit)
    return attach(figure, of_table(table))


def against_sparsity(dataset: str, width: int) -> Figure:
    """Draw ResNet20's accuracy against sparsity, a panel for each of four rewind epochs.

    These are the paper's Figures 9 and 10.

    Parameters
    ----------
    dataset : str
        "cifar10" or "cifar100".
    width : int
        1, 4, 8 or 16.
    """
    tidy = numbers.cells()
    chosen = tidy[
        (tidy["network"] == "resnet20")
        & (tidy["dataset"] == dataset)
        & (tidy["width"] == width)
        # Those that the paper's Figures 9 and 10 show.
        & tidy["rewind_epoch"].isin([10, 25, 50, 100])
    ]
    if chosen.empty:
        known = tidy.loc[tidy["network"] == "resnet20", ["dataset", "width"]].drop_duplicates()
        names = [f"{d}×{w}" for d, w in known.itertuples(index=False)]
        raise unknown_name("ResNet20 of the paper's tables", f"{dataset}×{width}", names)
    panels = [(f"k = {k}", part) for k, part in chosen.groupby("rewind_epoch")]
    title = f"Paper, Table {chosen['table'].iloc[0]}: ResNet20×{width} on {numbers.NAMES[dataset]}"
    figure = _panels(panels, "sparsity", title, xlabel="sparsity S", ylabel="test accuracy (%)")
    return attach(figure, of_table(int(chosen["table"].iloc[0])))


def against_width(dataset: str, rewind_epoch: int = 50) -> Figure:
    """Draw what widening ResNet20 does: the share of the gap closed, and the points gained.

    Parameters
    ----------
    dataset : str
        "cifar10" or "cifar100".
    rewind_epoch : int, optional
        k of the settings.
    """
    arms = numbers.settings(numbers.cells())
    arms = arms[(arms["network"] == "resnet20") & (arms["rewind_epoch"] == rewind_epoch)]
    if dataset not in set(arms["dataset"]):
        raise unknown_name("data set", dataset, sorted(set(arms["dataset"])))
    chosen = arms[arms["dataset"] == dataset]
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
    sparsities = sorted(set(chosen["sparsity"]))
    for ax, column, scale, label in (
        (axes[0], "share", 100, "share of the gap closed (%)"),
        (axes[1], "gain", 1, "permuted − naive (points)"),
    ):
        for i, sparsity in enumerate(sparsities):
            line = chosen[chosen["sparsity"] == sparsity].sort_values("width")
            # The end of the map is left out: its yellow is hard to see on white.
            colour = _SHADES(0.85 * i / (len(sparsities) - 1))
            ax.plot(
                line["width"],
                scale * line[column],
                marker="osD^"[i],
                color=colour,
                label=f"S = {sparsity:.2f}",
            )
        _logarithmic(ax, sorted(set(chosen["width"])))
        # From 0, so that the drawing doesn't magnify growth.
        ax.set(xlabel="width", ylabel=label, ylim=(0, None))
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(f"Paper: ResNet20 on {numbers.NAMES[dataset]}, k = {rewind_epoch}")
    return attach(figure, of_table(*sorted(map(int, set(chosen["table"])))))


def _logarithmic(ax: Axes, widths: Sequence[int]) -> None:
    """Put widths on a logarithmic axis, with ticks at those that there are."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(widths, [f"×{width}" for width in widths])
    ax.minorticks_off()


def _panels(
    panels: Sequence[tuple[str, pd.DataFrame]], x: str, title: str, *, xlabel: str, ylabel: str
) -> Figure:
    """Draw the arms of several settings, two panels a row."""
    rows = (len(panels) + 1) // 2
    size = (8, 0.8 + 2.6 * rows)
    figure, axes = plt.subplots(rows, 2, figsize=size, layout="constrained", squeeze=False)
    # Not strict: an odd number of panels leaves one place of the grid empty.
    for ax, (words, part) in zip(axes.flat, panels, strict=False):
        _arms(ax, part, x)
        ax.set(title=words, xlabel=xlabel, ylabel=ylabel)
    _remove(axes.flat[len(panels) :])
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(title)
    return figure


def _arms(ax: Axes, part: pd.DataFrame, x: str) -> None:
    for arm, word in _WORDS.items():
        line = part[part["method"] == arm].sort_values(x)
        colour = METHODS[arm][1]
        ax.plot(line[x], line["mean"], marker=MARKERS[arm], label=word, **line_style(arm))
        # ImageNet has one run of each setting, and so no spread.
        if line["std"].notna().all():
            low, high = (line["mean"] + sign * line["std"] for sign in (-1, 1))
            ax.fill_between(line[x], low, high, color=colour, alpha=0.15, linewidth=0)
    # The nine rewind epochs don't all have room for a label.
    ax.set_xticks(np.unique(part[x]) if len(np.unique(part[x])) < 6 else [0, 25, 50, 75, 100])


def _remove(axes: Iterable[Axes]) -> None:
    for ax in axes:
        ax.remove()
