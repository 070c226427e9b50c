"""Style, colours and figures that questions share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lotperm.science.statistics import interval

METHODS = {
    "dense_a": ("dense A", "#555555"),
    "dense_b": ("dense B", "#999999"),
    "imp": ("IMP (A)", "#8c6bb1"),
    "lth": ("LTH: A, mask", "#0072b2"),
    "permuted": ("permuted: B, π(mask)", "#009e73"),
    "naive": ("naive: B, mask", "#d55e00"),
}
"""Method -> its words and its colour (Okabe and Ito's, told apart by colour-blind readers)."""


def use_style() -> None:
    """Set the look of all figures: readable at the width of the book's text."""
    sns.set_theme(
        style="whitegrid",
        rc={
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "font.size": 10,
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
        # Seeds stand below their mean, whose interval stays visible.
        ax.plot(seen, [y + 0.25] * len(np.asarray(seen)), "o", color=colour, alpha=0.5, ms=3.5)
        ax.errorbar(mean, y, xerr=half, fmt="o", color=colour, capsize=3, linewidth=2, ms=6)
    # The axis is turned over: labels run from top to bottom.
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.set_yticks(range(len(values)), list(values))


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
    return figure


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
        ax.imshow(image.numpy(), cmap="Greys", interpolation="nearest", aspect="auto")
        ax.set(title=words, xlabel="input unit", ylabel="output unit")
        ax.grid(False)
    figure.suptitle(title)
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
    for ax, (words, matrix) in zip(axes, pictures.items(), strict=True):
        # One scale from −1 to 1 for both panels: they share a colour bar, and white is 0.
        image = ax.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        diagonal = matrix.diagonal().mean().item()
        ax.set(title=f"{words}\nmean of the diagonal {diagonal:.2f}", xlabel="unit of A")
        ax.grid(False)
    axes[0].set_ylabel("unit of B")
    figure.colorbar(image, ax=axes, label="Pearson correlation")
    figure.suptitle(title)
    return figure


# Okabe and Ito's blue and vermilion: the sign of a weight, in drawings of small networks.
POSITIVE, NEGATIVE = "#0072b2", "#d55e00"

# More of their colours, to follow single units through a permutation, and a grey.
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
