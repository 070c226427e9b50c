"""Figures of the arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from lotperm.science.statistics import interval
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.charts import MARKERS, METHODS, line_style, name_lines
from lotperm.studies.findings import gain, ranked
from lotperm.studies.origin import conclude, describe
from lotperm.studies.results import Results


def band(ax: Axes, curves: pd.DataFrame, method: str, metric: str, scale: float = 1.0) -> None:
    """Draw a method's mean over seeds against the epoch, with its 95 % interval."""
    chosen = curves[(curves["method"] == method) & (curves["metric"] == metric)]
    # An arm counts epochs from its rewind point. Shifted by k, its curve continues the dense one.
    if method in PAPER_ARMS:
        chosen = chosen.assign(epoch=chosen["epoch"] + chosen["rewind_epoch"].astype(int))
    table = chosen.pivot_table(index="epoch", columns="seed", values="value") * scale
    means, halves = np.array([interval(row) for row in table.to_numpy()]).T
    words, colour = METHODS[method]
    ax.plot(table.index, means, label=words, **line_style(method))
    ax.fill_between(
        table.index, means - halves, means + halves, color=colour, alpha=0.2, linewidth=0
    )


def learning_curves(results: Results, methods: Sequence[str], *, title: str) -> Figure:
    """Draw training loss and test accuracy against the epoch, with 95 % intervals over seeds.

    Epochs are those of the dense training: sparse arms begin at their rewind epoch.

    Parameters
    ----------
    results : Results
        Results of one sparsity and one rewind epoch.
    methods : sequence of str
        Names in `METHODS`.
    title : str
        The figure's title: data, network and profile.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for method in methods:
        band(left, results.curves, method, "train_loss")
        band(right, results.curves, method, "test_accuracy", 100)
    left.set(xlabel="epoch of training", ylabel="training loss (nats)", yscale="log")
    right.set(xlabel="epoch of training", ylabel="test accuracy (%)")
    name_lines(right)
    figure.suptitle(title)
    ends, last = [], {}
    for one in right.lines:
        epochs, values = np.asarray(one.get_xdata()), np.asarray(one.get_ydata())
        ends.append(f"{one.get_label()} {values[-1]:.1f} at epoch {epochs[-1]:.0f}")
        last[str(one.get_label())] = values[-1]
    conclude(figure, f"Test accuracy at the end, on average: {ranked(last)}.")
    return describe(figure, f"Learning curves. Mean test accuracy in percent: {', '.join(ends)}.")


def final_comparison(results: Results, *, title: str) -> Figure:
    """Draw the arms' final test accuracies: one line for each replicate, and their means."""
    sparsity, k = results.experiment.sparsities[0], results.experiment.rewind_epochs[0]
    figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
    # In the order that the paper claims, so that each replicate's line should rise.
    arms = ("naive", "permuted", "lth")
    table = pd.DataFrame({arm: results.values(arm, sparsity, k) for arm in arms}) * 100
    for _, row in table.iterrows():
        ax.plot(range(3), row.to_numpy(), color="#bbbbbb", linewidth=0.8, zorder=1)
    for x, arm in enumerate(arms):
        mean, half = interval(table[arm].to_numpy())
        colour = METHODS[arm][1]
        ax.errorbar(
            x, mean, half, fmt="o", color=colour, capsize=5, linewidth=2, markersize=7, zorder=3
        )
        ax.annotate(
            f"{mean:.1f}",
            (x, mean),
            (10, 4),
            textcoords="offset points",
            color=colour,
            fontweight="bold",
        )
    _dense_line(ax, results, "dense: {:.1f}")
    ax.set_xticks(range(3), [METHODS[arm][0] for arm in arms])
    ax.set(ylabel="test accuracy (%)", xlim=(-0.4, 2.6), title=title)
    ax.legend()
    means = ", ".join(f"{METHODS[arm][0]} {table[arm].mean():.1f}" for arm in arms)
    conclude(
        figure,
        f"Permuted ends {gain(table['permuted'], table['naive'])} naive on average, and LTH "
        f"{gain(table['lth'], table['permuted'])} permuted.",
    )
    rising = int(((table["naive"] < table["permuted"]) & (table["permuted"] < table["lth"])).sum())
    return describe(
        figure,
        f"Mean test accuracy in percent: {means}. In {rising} of {len(table)} replicates permuted "
        "lies between naive and LTH.",
    )


def method_overview(
    mask: Tensor,
    permuted: Tensor,
    correlation: Tensor,
    aligned: Tensor,
    accuracies: Mapping[str, float],
    *,
    title: str,
) -> Figure:
    """Draw the method's five steps for one replicate, as in Figure 4 of the authors' blog post.

    Parameters
    ----------
    mask, permuted : Tensor
        bool (n_out, n_in), one layer of A's mask and of π(mask).
    correlation, aligned : Tensor
        float (n, n), units of B against units of A, before and after the permutation.
    accuracies : mapping of str to float
        Final test accuracy (fraction) of ``dense_a``, ``dense_b`` and the three arms.
    title : str
        The figure's title: data, network and profile.
    """
    figure = plt.figure(figsize=(8, 4.6))
    panels = {
        "1  train A and B": (0.02, 0.30),
        "2  prune A": (0.24, 0.58),
        "3  match A to B": (0.24, 0.08),
        "4  permute the mask": (0.52, 0.30),
        "5  train B, sparse": (0.77, 0.30),
    }
    axes = {
        # Placed by hand, since the arrows between the axes need to know where they are.
        words: figure.add_axes((x, y, 0.19 if x else 0.15, 0.30))
        for words, (x, y) in panels.items()
    }
    for words, ax in axes.items():
        ax.set_title(words, fontsize=10, fontweight="bold")
        ax.grid(False)
        ax.set_xticks([])
        ax.set_yticks([])
    pictures = {"2  prune A": (mask, "mask"), "4  permute the mask": (permuted, "π(mask)")}
    for words, (image, name) in pictures.items():
        axes[words].imshow(image.numpy(), cmap="Greys", interpolation="none", aspect="auto")
        axes[words].set_xlabel(f"{name}, one layer", fontsize=9)
    # One image for both matrices, as a panel is too small for two; a line of ones separates them.
    both = np.concatenate(
        [correlation.numpy(), np.ones((len(correlation), 2)), aligned.numpy()], axis=1
    )
    axes["3  match A to B"].imshow(
        both, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none", aspect="auto"
    )
    axes["3  match A to B"].set_xlabel("correlation before | after", fontsize=9)
    _bars(axes["1  train A and B"], {m: accuracies[m] for m in ("dense_a", "dense_b")})
    _bars(axes["5  train B, sparse"], {m: accuracies[m] for m in PAPER_ARMS})
    for start, end in (
        ((0.18, 0.52), (0.24, 0.66)),
        ((0.18, 0.38), (0.24, 0.24)),
        ((0.44, 0.70), (0.52, 0.52)),
        ((0.44, 0.24), (0.52, 0.38)),
        ((0.72, 0.45), (0.77, 0.45)),
    ):
        arrow = FancyArrowPatch(
            start,
            end,
            transform=figure.transFigure,
            arrowstyle="-|>",
            mutation_scale=14,
            color="#555",
        )
        figure.add_artist(arrow)
    figure.suptitle(title)
    arms = {METHODS[m][0]: 100 * accuracies[m] for m in PAPER_ARMS}
    before, after = (float(m.diagonal().mean()) for m in (correlation, aligned))
    return conclude(
        figure,
        f"Matching raises the mean correlation of the paired units from {before:.2f} to {after:.2f}; "
        f"the sparse networks end at {ranked(arms)}.",
    )


def _bars(ax: Axes, accuracies: Mapping[str, float]) -> None:
    """Draw labelled bars of accuracies, in percent."""
    values = [100 * value for value in accuracies.values()]
    bars = ax.bar(range(len(values)), values, color=[METHODS[m][1] for m in accuracies])
    ax.bar_label(bars, fmt="%.1f", fontsize=8)
    ax.set_xticks(
        range(len(values)),
        [m.removeprefix("dense_").upper() if "dense" in m else m for m in accuracies],
    )
    ax.tick_params(axis="x", labelsize=8)
    # From zero, so that lengths can be compared, and alike in all panels.
    ax.set_ylim(0, 108)
    sns.despine(ax=ax, left=True)
    ax.set_xlabel("test accuracy (%)", fontsize=9)


# Not in METHODS, which has the networks that the paper compares.
_CONTROLS = {"random": ("random: B, random mask", "#cc79a7")}


def accuracy_by_method(values: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Draw final test accuracies: a dot for each replicate, and the mean with its 95 % interval.

    Parameters
    ----------
    values : mapping of str to sequence of float
        Name in `METHODS`, or "random" -> accuracy (fraction) of every replicate. Methods are
        drawn from top to bottom.
    title : str
        The figure's title: data, network and profile.
    """
    figure, ax = plt.subplots(figsize=(8, 0.9 + 0.5 * len(values)), layout="constrained")
    labels = []
    for y, (method, accuracies) in enumerate(values.items()):
        words, colour = {**METHODS, **_CONTROLS}[method]
        labels.append(words)
        percent = 100 * np.asarray(accuracies)
        mean, half = interval(percent)
        # Replicates are drawn below their mean, whose interval stays visible.
        ax.plot(percent, [y + 0.22] * len(percent), "o", color=colour, alpha=0.5, markersize=4)
        ax.errorbar(mean, y, xerr=half, fmt="o", color=colour, capsize=4, linewidth=2, markersize=7)
        ax.annotate(
            f"{mean:.1f}",
            (mean, y),
            (0, 7),
            textcoords="offset points",
            ha="center",
            color=colour,
            fontweight="bold",
        )
    ax.set_yticks(range(len(labels)), labels)
    # The axis is inverted: methods run from top to bottom.
    ax.set(xlabel="test accuracy (%)", ylim=(len(labels) - 0.4, -0.7), title=title)
    means = ", ".join(
        f"{label} {100 * np.mean(seen):.1f}"
        for label, seen in zip(labels, values.values(), strict=True)
    )
    seen = {label: 100 * np.asarray(v) for label, v in zip(labels, values.values(), strict=True)}
    conclude(figure, f"From best to worst: {ranked(seen)}.")
    return describe(figure, f"Mean test accuracy in percent: {means}.")


def line(
    ax: Axes, x: Sequence[float], values: Sequence[npt.ArrayLike], method: str, scale: float = 100
) -> None:
    """Draw a method's mean over seeds at each x, with its 95 % interval."""
    means, halves = scale * np.array([interval(v) for v in values]).T
    words, colour = METHODS[method]
    # A band at a single x would be invisible.
    if len(x) == 1:
        marker = MARKERS[method]
        ax.errorbar(x, means, halves, fmt=marker, color=colour, label=words, ms=5, capsize=4)
        return
    ax.plot(x, means, marker=MARKERS[method], markersize=5, label=words, **line_style(method))
    ax.fill_between(x, means - halves, means + halves, color=colour, alpha=0.2, linewidth=0)


def _dense_line(ax: Axes, results: Results, label: str = "dense") -> None:
    """Draw a dotted line at the mean accuracy of all dense networks.

    `label` may format it, in percent.
    """
    dense = np.concatenate(
        [results.values(m, 0.0, None).to_numpy() for m in ("dense_a", "dense_b")]
    )
    mean = 100 * dense.mean()
    ax.axhline(mean, color="#555555", linestyle=":", label=label.format(mean))


def rewind_curves(results: Sequence[Results], *, title: str) -> Figure:
    """Draw the arms' accuracies against the rewind epoch, as in the paper's Figure 5.

    A row is a width, a column a sparsity.

    Parameters
    ----------
    results : sequence of Results
        One for each width of the network.
    title : str
        The figure's title: data, network and profile.
    """
    sparsities = results[0].experiment.sparsities
    figure, axes = plt.subplots(
        len(results),
        len(sparsities),
        figsize=(8, 0.6 + 2.6 * len(results)),
        layout="constrained",
        sharex=True,
        # Accuracies of different widths lie too far apart for one axis.
        sharey="row",
        squeeze=False,
    )
    for row, result in zip(axes, results, strict=True):
        rewinds = sorted(result.experiment.rewind_epochs)
        for ax, sparsity in zip(row, sparsities, strict=True):
            for arm in PAPER_ARMS:
                line(ax, rewinds, [result.values(arm, sparsity, k) for k in rewinds], arm)
            _dense_line(ax, result)
            ax.set_title(f"width {result.experiment.model.width:g}, sparsity {100 * sparsity:g} %")
            ax.set_xticks(rewinds)
        row[0].set_ylabel("test accuracy (%)")
    for ax in axes[-1]:
        ax.set_xlabel("rewind epoch k")
    name_lines(axes[0][-1])
    figure.suptitle(title)
    return figure
