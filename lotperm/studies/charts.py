"""One function per figure: results in, a matplotlib figure out. Percent appear here and nowhere
before.
"""

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

from lotperm.config.parameters import ARMS
from lotperm.science.barrier import accuracy_barriers
from lotperm.science.statistics import interval
from lotperm.studies.results import Results

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
    """Mean over seeds against epoch, with its 95 % interval; an arm's epochs are those that its
    rewind point begins.
    """
    chosen = curves[(curves["method"] == method) & (curves["metric"] == metric)]
    if method in ARMS:
        chosen = chosen.assign(epoch=chosen["epoch"] + chosen["rewind_epoch"].astype(int))
    table = chosen.pivot_table(index="epoch", columns="seed", values="value") * scale
    means, halves = np.array([interval(row) for row in table.to_numpy()]).T
    words, colour = METHODS[method]
    ax.plot(table.index, means, color=colour, label=words)
    ax.fill_between(
        table.index, means - halves, means + halves, color=colour, alpha=0.2, linewidth=0
    )


def learning_curves(results: Results, methods: Sequence[str], *, title: str) -> Figure:
    """Training loss and test accuracy against the epoch; mean over seeds and 95 % interval.

    Epochs are those of the dense training: sparse arms begin at their rewind epoch.

    Parameters
    ----------
    results : Results
        Of one sparsity and one rewind epoch.
    methods : Sequence[str]
        Names in `METHODS`.
    title : str
        Says which data, network and profile it is.
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
    """Correlation of every unit of B with every unit of A, before and after A's units are
    permuted.

    Parameters
    ----------
    correlation : Tensor
        float (n, n), rows are units of B and columns units of A.
    permutation : Tensor
        int64 (n,), the unit of A that moves to each position.
    title : str
        Says which group of units and which replicate.
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
    """Final test accuracy of the arms: one grey line a replicate, mean with 95 % interval,
    dense as reference.
    """
    sparsity, k = results.experiment.sparsities[0], results.experiment.rewind_epochs[0]
    figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
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
    """Figure 4 of the paper, drawn from one replicate's own networks: five steps from A and B to a
    sparse B.

    Parameters
    ----------
    mask, permuted : Tensor
        bool (n_out, n_in), one layer of A's mask and of π(mask).
    correlation, aligned : Tensor
        float (n, n), units of B against units of A, before and after the permutation.
    accuracies : Mapping[str, float]
        Final test accuracy (fraction) of ``dense_a``, ``dense_b`` and the three arms.
    title : str
        Says which data, network and profile it is.
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
        axes[words].imshow(image.numpy(), cmap="Greys", interpolation="nearest", aspect="auto")
        axes[words].set_xlabel(f"{name}, one layer", fontsize=9)
    both = np.concatenate(
        [correlation.numpy(), np.ones((len(correlation), 2)), aligned.numpy()], axis=1
    )
    axes["3  match A to B"].imshow(
        both, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", aspect="auto"
    )
    axes["3  match A to B"].set_xlabel("correlation before | after", fontsize=9)
    _bars(axes["1  train A and B"], {m: accuracies[m] for m in ("dense_a", "dense_b")})
    _bars(axes["5  train B, sparse"], {m: accuracies[m] for m in ARMS})
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
    return figure


def _bars(ax: Axes, accuracies: Mapping[str, float]) -> None:
    """Bars of accuracy in percent, labelled."""
    values = [100 * value for value in accuracies.values()]
    bars = ax.bar(range(len(values)), values, color=[METHODS[m][1] for m in accuracies])
    ax.bar_label(bars, fmt="%.1f", fontsize=8)
    ax.set_xticks(
        range(len(values)),
        [m.removeprefix("dense_").upper() if "dense" in m else m for m in accuracies],
    )
    ax.tick_params(axis="x", labelsize=8)
    ax.set_ylim(0, 108)  # from zero, so that lengths can be compared, and alike in all panels
    sns.despine(ax=ax, left=True)
    ax.set_xlabel("test accuracy (%)", fontsize=9)


POSITIVE, NEGATIVE = "#0072b2", "#d55e00"


UNIT_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#bbbbbb")


_CONTROLS = {"random": ("random: B, random mask", "#cc79a7")}


def accuracy_by_method(values: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Final test accuracy: a dot for each replicate, and the mean with its 95 % interval.

    Parameters
    ----------
    values : Mapping[str, Sequence[float]]
        Name in `METHODS`, or ``random`` -> accuracy (fraction) of every replicate; drawn from top
        to bottom.
    title : str
        Says which data, network and profile it is.
    """
    figure, ax = plt.subplots(figsize=(8, 0.9 + 0.5 * len(values)), layout="constrained")
    labels = []
    for y, (method, accuracies) in enumerate(values.items()):
        words, colour = {**METHODS, **_CONTROLS}[method]
        labels.append(words)
        percent = 100 * np.asarray(accuracies)
        mean, half = interval(percent)
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
    ax.set(xlabel="test accuracy (%)", ylim=(len(labels) - 0.4, -0.7), title=title)
    return figure


def _line(
    ax: Axes, x: Sequence[float], values: Sequence[npt.ArrayLike], method: str, scale: float = 100
) -> None:
    """Mean over seeds with its 95 % interval, at each x."""
    means, halves = scale * np.array([interval(v) for v in values]).T
    words, colour = METHODS[method]
    if len(x) == 1:  # a band over one place isn't seen
        ax.errorbar(x, means, halves, fmt="o", color=colour, label=words, markersize=4, capsize=4)
        return
    ax.plot(x, means, "o-", color=colour, label=words, markersize=4)
    ax.fill_between(x, means - halves, means + halves, color=colour, alpha=0.2, linewidth=0)


def _dense_line(ax: Axes, results: Results, label: str = "dense") -> None:
    """Dotted, at the mean accuracy of all dense networks in percent, which `label` may format."""
    dense = np.concatenate(
        [results.values(m, 0.0, None).to_numpy() for m in ("dense_a", "dense_b")]
    )
    mean = 100 * dense.mean()
    ax.axhline(mean, color="#555555", linestyle=":", label=label.format(mean))


def rewind_curves(results: Sequence[Results], *, title: str) -> Figure:
    """Test accuracy of the arms against the rewind epoch: a row a width, a column a sparsity (the
    paper's Figure 5).

    Parameters
    ----------
    results : Sequence[Results]
        One for each width of the network.
    title : str
        Says which data, network and profile it is.
    """
    sparsities = results[0].experiment.sparsities
    figure, axes = plt.subplots(
        len(results),
        len(sparsities),
        figsize=(8, 0.6 + 2.6 * len(results)),
        layout="constrained",
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for row, result in zip(axes, results, strict=True):
        rewinds = sorted(result.experiment.rewind_epochs)
        for ax, sparsity in zip(row, sparsities, strict=True):
            for arm in ARMS:
                _line(ax, rewinds, [result.values(arm, sparsity, k) for k in rewinds], arm)
            _dense_line(ax, result)
            ax.set_title(f"width {result.experiment.model.width:g}, sparsity {100 * sparsity:g} %")
            ax.set_xticks(rewinds)
        row[0].set_ylabel("test accuracy (%)")
    for ax in axes[-1]:
        ax.set_xlabel("rewind epoch k")
    axes[0][0].legend(fontsize=8)
    figure.suptitle(title)
    return figure


def accuracy_against_sparsity(results: Sequence[Results], *, title: str) -> Figure:
    """Test accuracy of the arms against the sparsity, at the last rewind epoch: a panel a
    width.
    """
    figure, axes = plt.subplots(
        1, len(results), figsize=(8, 3.2), layout="constrained", squeeze=False, sharey=True
    )
    for ax, result in zip(axes[0], results, strict=True):
        k, sparsities = max(result.experiment.rewind_epochs), sorted(result.experiment.sparsities)
        for arm in ARMS:
            _line(
                ax,
                [100 * s for s in sparsities],
                [result.values(arm, s, k) for s in sparsities],
                arm,
            )
        _dense_line(ax, result)
        ax.set_title(f"width {result.experiment.model.width:g}, k = {k}")
        ax.set(xlabel="sparsity (%)", xticks=[100 * s for s in sparsities])
    axes[0][0].set_ylabel("test accuracy (%)")
    axes[0][0].legend(fontsize=8)
    figure.suptitle(title)
    return figure


def gap_against_width(results: Sequence[Results], *, title: str) -> Figure:
    """The share of the gap between naive and LTH that permuting closes, against the width, at
    the last rewind epoch.
    """
    figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
    widths = [result.experiment.model.width for result in results]
    sparsities = results[0].experiment.sparsities
    for i, (sparsity, colour) in enumerate(
        zip(sparsities, sns.color_palette("viridis", len(sparsities)), strict=True)
    ):
        rows = []
        for result in results:
            found = result.comparisons()
            at = (found["sparsity"] == sparsity) & (
                found["rewind_epoch"] == max(result.experiment.rewind_epochs)
            )
            rows.append(found[at & (found["comparison"] == "gap closed")].iloc[0])
        # A little apart, so that intervals can be told from each other.
        x = [width * (1 + 0.03 * (i - (len(sparsities) - 1) / 2)) for width in widths]
        means, halves = ([100 * row[name] for row in rows] for name in ("mean", "half_width"))
        ax.errorbar(
            x,
            means,
            halves,
            fmt="o-",
            capsize=4,
            color=colour,
            label=f"sparsity {100 * sparsity:g} %",
        )
    ax.axhline(0, color="#d55e00", linestyle=":")
    ax.axhline(100, color="#0072b2", linestyle=":")
    ax.set_xscale("log", base=2)
    ax.set_xticks(widths, [f"{width:g}" for width in widths])
    ax.minorticks_off()
    ax.set(xlabel="width of the network", ylabel="gap closed (%)", title=title)
    ax.legend()
    return figure


def early_matching(
    table: pd.DataFrame, results: Results, sparsity: float, rewind_epoch: int, *, title: str
) -> Figure:
    """Accuracy of the permuted arm, and how well units match, against the epoch of B that A was
    matched to.

    Parameters
    ----------
    table : pd.DataFrame
        As `Pipeline.early_matching` gives it.
    results : Results
        Of the same experiment, for LTH and naive.
    sparsity, rewind_epoch : float
        Of the arms.
    title : str
        Says which data, network and profile it is.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    epochs = sorted(table["matching_epoch"].unique())

    def values(metric: str, epoch: int) -> np.ndarray:
        at = (table["metric"] == metric) & (table["matching_epoch"] == epoch)
        return table[at]["value"].to_numpy()

    _line(left, epochs, [values("test_accuracy", t) for t in epochs], "permuted")
    for arm in ("lth", "naive"):
        mean, half = interval(results.values(arm, sparsity, rewind_epoch).to_numpy())
        words, colour = METHODS[arm]
        left.axhline(100 * mean, color=colour, label=words)
        left.axhspan(
            100 * (mean - half), 100 * (mean + half), color=colour, alpha=0.15, linewidth=0
        )
    left.set(xlabel="matching epoch t of B", ylabel="test accuracy (%)")
    left.legend(fontsize=8)
    _line(right, epochs, [values("score", t) for t in epochs], "permuted", scale=1)
    right.set(xlabel="matching epoch t of B", ylabel="mean correlation of matched units")
    figure.suptitle(title)
    return figure


def diversity(table: pd.DataFrame, *, title: str) -> Figure:
    """Members, ensemble and disagreement of every method: what Table 1 of the paper lists.

    Parameters
    ----------
    table : pd.DataFrame
        As `Pipeline.diversity` gives it.
    title : str
        Says which data, network and profile it is.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
    names = list(table["method"])
    colours = [METHODS["dense_b" if name == "dense" else name][1] for name in names]
    y = np.arange(len(names))
    left.hlines(
        y, 100 * table["mean"], 100 * table["ensemble_accuracy"], color=colours, linewidth=3
    )
    left.scatter(
        100 * table["mean"],
        y,
        color="white",
        edgecolor=colours,
        zorder=3,
        label="mean of the members",
    )
    left.scatter(
        100 * table["ensemble_accuracy"], y, color=colours, zorder=3, label="their ensemble"
    )
    left.set_yticks(y, names)
    left.invert_yaxis()
    left.set(xlabel="test accuracy (%)")
    left.legend(fontsize=8)
    right.barh(y, 100 * table["disagreement"], color=colours)
    right.set(xlabel="disagreement between members (%)")
    figure.suptitle(title)
    return figure


REPAIR_WORDS = {"none": "nothing repaired", "bn": "batch norm reset", "repair": "REPAIR"}

"""What is done to interpolated networks -> words."""


_LINES = (("as trained", "#d55e00", "A to B"), ("permuted", "#009e73", "π(A) to B"))


def connectivity(table: pd.DataFrame, metric: str, *, title: str) -> Figure:
    """Loss or accuracy along the lines from A and from π(A) to B: a panel a repair, mean over
    seeds and 95 % interval.

    Parameters
    ----------
    table : pd.DataFrame
        As `Pipeline.connectivity` gives it.
    metric : str
        "accuracy" or "loss".
    title : str
        Says which data, network and profile it is.
    """
    repairs = list(table["repair"].unique())
    figure, axes = plt.subplots(
        1, len(repairs), figsize=(8, 3.1), layout="constrained", sharey=True, squeeze=False
    )
    scale = 100 if metric == "accuracy" else 1
    for ax, repair in zip(axes[0], repairs, strict=True):
        for ends, colour, words in _LINES:
            part = table[(table["repair"] == repair) & (table["ends"] == ends)]
            lines = part.pivot_table(index="alpha", columns="seed", values=metric)
            means, halves = scale * np.array([interval(row) for row in lines.to_numpy()]).T
            ax.plot(lines.index, means, color=colour, label=words)
            ax.fill_between(
                lines.index, means - halves, means + halves, color=colour, alpha=0.2, linewidth=0
            )
        ax.set(title=REPAIR_WORDS[repair], xlabel="position α on the line")
    axes[0][0].set_ylabel("test accuracy (%)" if metric == "accuracy" else "test loss (nats)")
    axes[0][0].legend(fontsize=8)
    figure.suptitle(title)
    return figure


def barriers(table: pd.DataFrame, x: str, *, label: str, title: str, log: bool = False) -> Figure:
    """Accuracy barrier (mean of the ends less the midpoint, points) against a width or an IMP
    round.

    Parameters
    ----------
    table : pd.DataFrame
        Rows of `Pipeline.connectivity` at α = 0, 0.5 and 1, with a column named by `x`.
    x : str
        The column to draw against.
    label : str
        Words for it.
    title : str
        Says which data, network and profile it is.
    log : bool, optional
        a binary logarithmic axis, for widths.
    """
    found = accuracy_barriers(table, [x])
    repairs = list(found["repair"].unique())
    figure, axes = plt.subplots(
        1, len(repairs), figsize=(8, 3.1), layout="constrained", sharey=True, squeeze=False
    )
    for ax, repair in zip(axes[0], repairs, strict=True):
        for ends, colour, words in _LINES:
            part = found[(found["repair"] == repair) & (found["ends"] == ends)]
            groups = {at: 100 * group["barrier"].to_numpy() for at, group in part.groupby(x)}
            means, halves = np.array([interval(values) for values in groups.values()]).T
            ax.errorbar(list(groups), means, halves, fmt="o-", capsize=4, color=colour, label=words)
        if log:
            ax.set_xscale("log", base=2)
            ax.set_xticks(list(groups), [f"{at:g}" for at in groups])
            ax.minorticks_off()
        ax.set(title=REPAIR_WORDS[repair], xlabel=label)
    axes[0][0].set_ylabel("accuracy barrier (points)")
    axes[0][0].legend(fontsize=8)
    figure.suptitle(title)
    return figure


def correlation_per_layer(matchings: Sequence[Mapping[str, Tensor]], *, title: str) -> Figure:
    """How alike matched units are in each group, before and after the permutation; mean over
    replicates, 95 % interval.

    Parameters
    ----------
    matchings : Sequence[Mapping[str, Tensor]]
        `lotperm.science.matching.Matching` of every replicate.
    title : str
        Says which data, network and profile it is.
    """
    groups = list(matchings[0])
    figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for attribute, colour, words in (
        ("identity_scores", "#d55e00", "unit i of A and unit i of B"),
        ("scores", "#009e73", "matched units"),
    ):
        values = [[getattr(m, attribute)[g] for m in matchings] for g in groups]
        means, halves = np.array([interval(v) for v in values]).T
        ax.errorbar(
            range(len(groups)), means, halves, fmt="o-", capsize=4, color=colour, label=words
        )
    many = len(groups) > 14
    labels = [
        f"{g} ({len(matchings[0][g])})" if many else f"{g}\n({len(matchings[0][g])} units)"
        for g in groups
    ]
    ax.set_xticks(range(len(groups)), labels, fontsize=6 if many else 8, rotation=90 if many else 0)
    ax.set(ylabel="mean correlation", ylim=(-0.1, 1.02), title=title)
    ax.legend()
    return figure


def example_images(
    pictures: Mapping[str, Sequence[Tensor]], rows: Sequence[str], *, title: str
) -> Figure:
    """Images of a folder as networks see them: a column a class.

    Parameters
    ----------
    pictures : Mapping[str, Sequence[Tensor]]
        Class -> images, uint8 (3, H, W), the same number for each.
    rows : Sequence[str]
        What each of them shows.
    title : str
        Says which data, network and profile it is.
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
