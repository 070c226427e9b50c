"""Style, colours and figures that questions share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from lotperm.science.statistics import interval
from lotperm.studies.numbers import number
from lotperm.studies.origin import conclude, describe
from lotperm.studies.tables import by_cell

METHODS = {
    "dense_a": ("dense A", "#555555"),
    "dense_b": ("dense B", "#999999"),
    "imp": ("IMP (A)", "#8c6bb1"),
    "lth": ("LTH: A, mask", "#0072b2"),
    "permuted": ("permuted: B, π(mask)", "#009e73"),
    "naive": ("naive: B, mask", "#d55e00"),
}
"""Method -> its words and its colour (Okabe and Ito's, told apart by colour-blind readers)."""

DASHES = {
    "dense_a": (0, (1, 1.5)),
    "dense_b": (0, (1, 3)),
    "imp": (0, (3, 1, 1, 1)),
    "lth": "-",
    "permuted": (0, (5, 1.5)),
    "naive": (0, (5, 1.5, 1, 1.5)),
}
"""Method -> the pattern of its line, as in the start page's panel: in print there are no colours."""

MARKERS = {
    "dense_a": "D",
    "dense_b": "d",
    "imp": "v",
    "lth": "o",
    "permuted": "s",
    "naive": "^",
}
"""Method -> the shape of its points."""


def line_style(method: str) -> dict[str, Any]:
    """Return how a method's line is drawn, as keywords of ``Axes.plot``; without its points."""
    return {"color": METHODS[method][1], "linestyle": DASHES[method]}


def name_lines(ax: Axes) -> None:
    """Write the name of each line at its end, in its colour; points and bars get a legend.

    Parameters
    ----------
    ax : Axes
        Axes whose lines have labels and whose limits are set.
    """
    handles, words = ax.get_legend_handles_labels()
    lines = [one for one in handles if isinstance(one, Line2D) and len(one.get_xdata()) > 1]  # type: ignore[arg-type]
    if len(lines) < len(handles) or not lines:
        if handles:
            ax.legend(handles, words, fontsize=8)
        return
    # One line of text needs a share of the axes' height, whatever the limits are.
    low, high = ax.get_ylim()
    step = (high - low) * 11 / (72 * _height(ax))
    ends = sorted((float(np.asarray(one.get_ydata())[-1]), i) for i, one in enumerate(lines))
    place = -np.inf
    for y, i in ends:
        one = lines[i]
        place = max(y, place + step)
        ax.annotate(
            str(one.get_label()).partition(":")[0],
            (1, place),
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=one.get_color(),
            annotation_clip=False,
        )


def _height(ax: Axes) -> float:
    """Return the height of axes in inches, about: their part of the figure, without words."""
    spec = ax.get_subplotspec()
    rows = 1 if spec is None else spec.get_gridspec().nrows
    figure = ax.get_figure(root=True)
    assert figure is not None
    return 0.7 * float(figure.get_size_inches()[1]) / rows


def use_style() -> None:
    """Set the look of all figures: readable at the width of the book's text."""
    sns.set_theme(
        style="whitegrid",
        rc={
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "font.size": 10,
            "font.sans-serif": ["DejaVu Sans"],
            "axes.titlesize": 11,
            "legend.frameon": False,
        },
    )


def dots(ax: Axes, values: Mapping[str, npt.ArrayLike], colours: Mapping[str, str]) -> None:
    """Draw a row for each label: a dot for every seed, and their mean with its 95 % interval.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    values : mapping of str to array_like of float
        Label -> a number for each seed, in the unit of the axis. From top to bottom.
    colours : mapping of str to str
        Label -> colour.
    """
    for y, (label, seen) in enumerate(values.items()):
        mean, half = interval(seen)
        colour = colours[label]
        # Seeds are drawn below their mean, whose interval stays visible.
        ax.plot(seen, [y + 0.25] * len(np.asarray(seen)), "o", color=colour, alpha=0.5, ms=3.5)
        ax.errorbar(mean, y, xerr=half, fmt="o", color=colour, capsize=3, linewidth=2, ms=6)
    # The axis is inverted: labels run from top to bottom.
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.set_yticks(range(len(values)), list(values))


def cell_panels(
    table: pd.DataFrame, *, title: str, height: float, sharex: bool = False
) -> tuple[Figure, list[tuple[Axes, str, pd.DataFrame]]]:
    """Make a row of panels with one vertical axis, one for each sparsity and rewind epoch.

    Parameters
    ----------
    table : DataFrame
        With columns sparsity and rewind_epoch.
    title : str
        The figure's title: data, network and profile.
    height : float
        Height of the figure, in inches.
    sharex : bool, optional
        Whether the panels share their horizontal axis too.

    Returns
    -------
    figure : Figure
    panels : list of tuple of (Axes, str, DataFrame)
        From left to right: an empty panel, its cell in words, and the cell's rows.
    """
    cells = by_cell(table)
    figure, axes = plt.subplots(
        1,
        len(cells),
        figsize=(8, height),
        layout="constrained",
        squeeze=False,
        sharex=sharex,
        sharey=True,
    )
    figure.suptitle(title)
    return figure, [(ax, *cell) for ax, cell in zip(axes[0], cells, strict=True)]


def ticket_gain(ax: Axes, arms: pd.DataFrame) -> None:
    """Draw what the ticket itself gains over naive: the level that other arms may reach.

    Parameters
    ----------
    ax : Axes
        A panel of gains.
    arms : DataFrame
        Test accuracy in percent: a column for each arm, a row for each seed.
    """
    words, colour = METHODS["lth"]
    gained = (arms["lth"] - arms["naive"]).mean()
    ax.axhline(gained, color=colour, linestyle="--", linewidth=1.2, label=words)


def density_per_layer(masks: Sequence[Mapping[str, Tensor]], *, title: str) -> Figure:
    """Draw the share of the weights that the masks keep in each layer.

    Parameters
    ----------
    masks : sequence of mapping of str to Tensor
        The masks of all replicates: name of a parameter -> bool. A dot is drawn for each, and a
        bar for their mean.
    title : str
        The figure's title.
    """
    rows = [
        {"layer": name.removesuffix(".weight"), "kept (%)": 100 * kept.float().mean().item()}
        for mask in masks
        for name, kept in mask.items()
    ]
    frame = pd.DataFrame(rows)
    figure, ax = plt.subplots(figsize=(8, 0.8 + 0.35 * len(masks[0])), layout="constrained")
    sns.barplot(frame, y="layer", x="kept (%)", ax=ax, color="#b3cde3", errorbar=None)
    sns.stripplot(frame, y="layer", x="kept (%)", ax=ax, color="#333333", size=3, jitter=False)
    # All replicates are pruned to the same sparsity, so the first mask gives the density of all
    # layers together.
    total = sum(kept.numel() for kept in masks[0].values())
    overall = 100 * sum(int(kept.sum()) for kept in masks[0].values()) / total
    ax.axvline(overall, color="#d55e00", linestyle="--", label=f"all layers: {overall:.1f} %")
    ax.legend()
    ax.set(ylabel="", title=title)
    means = frame.groupby("layer", sort=False)["kept (%)"].mean()
    each = ", ".join(f"{layer} {share:.1f}" for layer, share in means.items())
    conclude(
        figure,
        f"The mask keeps the largest share of {means.idxmax()}, {means.max():.1f} %, and the smallest "
        f"of {means.idxmin()}, {means.min():.1f} %.",
    )
    return describe(figure, f"Percent of the weights kept: {each}; all layers {overall:.1f}.")


def mask_images(images: Mapping[str, Tensor], *, title: str) -> Figure:
    """Draw masks side by side, kept weights dark.

    Parameters
    ----------
    images : mapping of str to Tensor
        Title of each panel -> bool (n_out, n_in).
    title : str
        The figure's title.
    """
    figure, axes = plt.subplots(
        1, len(images), figsize=(8, 8 / len(images) + 0.6), layout="constrained", squeeze=False
    )
    for ax, (words, image) in zip(axes[0], images.items(), strict=True):
        # Layers may be far from square; stretched pixels keep the panels alike.
        ax.imshow(image.numpy(), cmap="Greys", interpolation="none", aspect="auto")
        ax.set(title=words, xlabel="input unit", ylabel="output unit")
        ax.grid(False)
    figure.suptitle(title)
    if len(images) == 2 and len({image.shape for image in images.values()}) == 1:
        one, other = images.values()
        conclude(
            figure,
            f"Of {int(one.sum()):,} dark places on the left, {int((one & other).sum()):,} are dark "
            "on the right.",
        )
    return figure


def correlation_before_after(correlation: Tensor, permutation: Tensor, *, title: str) -> Figure:
    """Draw the correlation of all units of B with all units of A, before and after permuting A.

    Parameters
    ----------
    correlation : Tensor
        float (n, n), rows are units of B and columns units of A.
    permutation : Tensor
        int64 (n,), the unit of A that moves to each position.
    title : str
        The figure's title: which group of units, and which replicate.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained", sharey=True)
    # Only columns move: they are units of A, and permuting A puts the partner of B's unit i into
    # column i. A good match shows as a dark diagonal.
    pictures = {"before": correlation, "after: A permuted": correlation[:, permutation]}
    seen, means = [], []
    for ax, (words, matrix) in zip(axes, pictures.items(), strict=True):
        # One scale from −1 to 1 for both panels: they share a colour bar, and white is 0.
        image = ax.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none")
        diagonal = matrix.diagonal().mean().item()
        seen.append(f"{words}: mean correlation on the diagonal {diagonal:.2f}")
        means.append(number(diagonal, 2))
        ax.set(title=f"{words}\nmean of the diagonal {diagonal:.2f}", xlabel="unit of A")
        ax.grid(False)
    axes[0].set_ylabel("unit of B")
    figure.colorbar(image, ax=axes, label="Pearson correlation")
    figure.suptitle(title)
    conclude(figure, f"The mean of the diagonal is {means[0]} before and {means[1]} after.")
    return describe(figure, f"Correlations of units of B and A. {'; '.join(seen)}.")


# The sign of a weight, in drawings of small networks: colours that no arm has.
POSITIVE, NEGATIVE = "#5e3c99", "#a6611a"

# More of Okabe and Ito's colours, to follow single units through a permutation, and a grey.
UNIT_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#bbbbbb")


def example_images(
    pictures: Mapping[str, Sequence[Tensor]], rows: Sequence[str], *, title: str
) -> Figure:
    """Draw images of a folder as networks see them, one column for each class.

    Parameters
    ----------
    pictures : mapping of str to sequence of Tensor
        Class -> images, uint8 (3, H, W), equally many for each class.
    rows : sequence of str
        The label of each row.
    title : str
        The figure's title: data, network and profile.
    """
    figure, axes = plt.subplots(
        len(rows),
        len(pictures),
        figsize=(8, 0.8 + 0.85 * len(rows)),
        layout="constrained",
        squeeze=False,
    )
    for column, (name, images) in zip(axes.T, pictures.items(), strict=True):
        column[0].set_title(name, fontsize=7)
        for ax, image in zip(column, images, strict=True):
            ax.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
    for ax, words in zip(axes[:, 0], rows, strict=True):
        ax.set_ylabel(words, fontsize=7)
    figure.suptitle(title)
    return figure
