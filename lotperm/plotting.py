"""One function per figure: results in, a matplotlib figure out. Percent appear here and nowhere before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from lotperm.config import ARMS
from lotperm.evaluation import interval
from lotperm.experiments import Results

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


def _band(ax: Axes, curves: pd.DataFrame, method: str, metric: str, scale: float = 1.0) -> None:
    """Mean over seeds against epoch, with its 95 % interval."""
    chosen = curves[(curves["method"] == method) & (curves["metric"] == metric)]
    table = chosen.pivot_table(index="epoch", columns="seed", values="value") * scale
    means, halves = np.array([interval(row) for row in table.to_numpy()]).T
    words, colour = METHODS[method]
    ax.plot(table.index, means, color=colour, label=words)
    ax.fill_between(table.index, means - halves, means + halves, color=colour, alpha=0.2, linewidth=0)


def learning_curves(results: Results, methods: Sequence[str], *, title: str) -> Figure:
    """Training loss and test accuracy against the epoch; mean over seeds and 95 % interval.

    Parameters
    ----------
    results : of one sparsity and one rewind epoch
    methods : names in `METHODS`
    title : says which data, network and profile it is
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for method in methods:
        _band(left, results.curves, method, "train_loss")
        _band(right, results.curves, method, "test_accuracy", 100)
    left.set(xlabel="epoch of training", ylabel="training loss (nats)", yscale="log")
    right.set(xlabel="epoch of training", ylabel="test accuracy (%)")
    right.legend()
    figure.suptitle(title)
    return figure


def density_per_layer(masks: Sequence[Mapping[str, Tensor]], *, title: str) -> Figure:
    """Share of the weights that the masks keep in each layer; a dot a replicate, and the mean."""
    rows = [
        {"layer": name.removesuffix(".weight"), "kept (%)": 100 * kept.float().mean().item()}
        for mask in masks
        for name, kept in mask.items()
    ]
    frame = pd.DataFrame(rows)
    figure, ax = plt.subplots(figsize=(8, 0.8 + 0.35 * len(masks[0])), layout="constrained")
    sns.barplot(frame, y="layer", x="kept (%)", ax=ax, color="#b3cde3", errorbar=None)
    sns.stripplot(frame, y="layer", x="kept (%)", ax=ax, color="#333333", size=3, jitter=False)
    total = sum(kept.numel() for kept in masks[0].values())
    overall = 100 * sum(int(kept.sum()) for kept in masks[0].values()) / total
    ax.axvline(overall, color="#d55e00", linestyle="--", label=f"all layers: {overall:.1f} %")
    ax.legend()
    ax.set(ylabel="", title=title)
    return figure


def mask_images(images: Mapping[str, Tensor], *, title: str) -> Figure:
    """Masks or matrices side by side: kept weights dark. Each (n_out, n_in), bool."""
    figure, axes = plt.subplots(
        1, len(images), figsize=(8, 8 / len(images) + 0.6), layout="constrained", squeeze=False
    )
    for ax, (words, image) in zip(axes[0], images.items(), strict=True):
        ax.imshow(image.numpy(), cmap="Greys", interpolation="nearest", aspect="auto")
        ax.set(title=words, xlabel="input unit", ylabel="output unit")
        ax.grid(False)
    figure.suptitle(title)
    return figure


def correlation_before_after(correlation: Tensor, permutation: Tensor, *, title: str) -> Figure:
    """Correlation of every unit of B with every unit of A, before and after A's units are permuted.

    Parameters
    ----------
    correlation : float (n, n), rows are units of B and columns units of A
    permutation : int64 (n,), the unit of A that moves to each position
    title : says which group of units and which replicate
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained", sharey=True)
    pictures = {"before": correlation, "after: A permuted": correlation[:, permutation]}
    for ax, (words, matrix) in zip(axes, pictures.items(), strict=True):
        image = ax.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        diagonal = matrix.diagonal().mean().item()
        ax.set(title=f"{words}\nmean of the diagonal {diagonal:.2f}", xlabel="unit of A")
        ax.grid(False)
    axes[0].set_ylabel("unit of B")
    figure.colorbar(image, ax=axes, label="Pearson correlation")
    figure.suptitle(title)
    return figure


def final_comparison(results: Results, *, title: str) -> Figure:
    """Final test accuracy of the arms: one grey line a replicate, mean with 95 % interval, dense as reference."""
    sparsity, k = results.experiment.sparsities[0], results.experiment.rewind_epochs[0]
    figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
    arms = ("naive", "permuted", "lth")
    table = pd.DataFrame({arm: results.values(arm, sparsity, k) for arm in arms}) * 100
    for _, row in table.iterrows():
        ax.plot(range(3), row.to_numpy(), color="#bbbbbb", linewidth=0.8, zorder=1)
    for x, arm in enumerate(arms):
        mean, half = interval(table[arm].to_numpy())
        colour = METHODS[arm][1]
        ax.errorbar(x, mean, half, fmt="o", color=colour, capsize=5, linewidth=2, markersize=7, zorder=3)
        ax.annotate(
            f"{mean:.1f}", (x, mean), (10, 4), textcoords="offset points", color=colour, fontweight="bold"
        )
    dense = np.concatenate([results.values(m, 0.0, None).to_numpy() for m in ("dense_a", "dense_b")])
    ax.axhline(100 * dense.mean(), color="#555555", linestyle=":", label=f"dense: {100 * dense.mean():.1f}")
    ax.set_xticks(range(3), [METHODS[arm][0] for arm in arms])
    ax.set(ylabel="test accuracy (%)", xlim=(-0.4, 2.6), title=title)
    ax.legend()
    return figure


def method_overview(
    mask: Tensor,
    permuted: Tensor,
    correlation: Tensor,
    aligned: Tensor,
    accuracies: Mapping[str, float],
    *,
    title: str,
) -> Figure:
    """Figure 4 of the paper, drawn from one replicate's own networks: five steps from A and B to a sparse B.

    Parameters
    ----------
    mask, permuted : bool (n_out, n_in), one layer of A's mask and of π(mask)
    correlation, aligned : float (n, n), units of B against units of A, before and after the permutation
    accuracies : final test accuracy (fraction) of ``dense_a``, ``dense_b`` and the three arms
    title : says which data, network and profile it is
    """
    figure = plt.figure(figsize=(8, 4.6))
    panels = {
        "1  train A and B": (0.02, 0.30), "2  prune A": (0.24, 0.58), "3  match A to B": (0.24, 0.08),
        "4  permute the mask": (0.52, 0.30), "5  train B, sparse": (0.77, 0.30),
    }  # fmt: skip
    axes = {words: figure.add_axes((x, y, 0.19 if x else 0.15, 0.30)) for words, (x, y) in panels.items()}
    for words, ax in axes.items():
        ax.set_title(words, fontsize=10, fontweight="bold")
        ax.grid(False)
        ax.set_xticks([])
        ax.set_yticks([])
    pictures = {"2  prune A": (mask, "mask"), "4  permute the mask": (permuted, "π(mask)")}
    for words, (image, name) in pictures.items():
        axes[words].imshow(image.numpy(), cmap="Greys", interpolation="nearest", aspect="auto")
        axes[words].set_xlabel(f"{name}, one layer", fontsize=9)
    both = np.concatenate([correlation.numpy(), np.ones((len(correlation), 2)), aligned.numpy()], axis=1)
    axes["3  match A to B"].imshow(
        both, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", aspect="auto"
    )
    axes["3  match A to B"].set_xlabel("correlation before | after", fontsize=9)
    _bars(axes["1  train A and B"], {m: accuracies[m] for m in ("dense_a", "dense_b")})
    _bars(axes["5  train B, sparse"], {m: accuracies[m] for m in ARMS})
    for start, end in (((0.18, 0.52), (0.24, 0.66)), ((0.18, 0.38), (0.24, 0.24)), ((0.44, 0.70), (0.52, 0.52)),
                       ((0.44, 0.24), (0.52, 0.38)), ((0.72, 0.45), (0.77, 0.45))):  # fmt: skip
        arrow = FancyArrowPatch(
            start, end, transform=figure.transFigure, arrowstyle="-|>", mutation_scale=14, color="#555"
        )
        figure.add_artist(arrow)
    figure.suptitle(title)
    return figure


def _bars(ax: Axes, accuracies: Mapping[str, float]) -> None:
    """Bars of accuracy in percent, labelled."""
    values = [100 * value for value in accuracies.values()]
    bars = ax.bar(range(len(values)), values, color=[METHODS[m][1] for m in accuracies])
    ax.bar_label(bars, fmt="%.1f", fontsize=8)
    ax.set_xticks(
        range(len(values)), [m.removeprefix("dense_").upper() if "dense" in m else m for m in accuracies]
    )
    ax.tick_params(axis="x", labelsize=8)
    low = min(values)
    ax.set_ylim(max(0, low - 15), max(values) + 4)
    sns.despine(ax=ax, left=True)
    ax.set_xlabel("test accuracy (%)", fontsize=9)
