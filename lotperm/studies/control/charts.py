"""Figures of the sparse training problem: two networks, one mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lotperm.studies.charts import METHODS, NEGATIVE, POSITIVE
from lotperm.studies.findings import gain
from lotperm.studies.origin import conclude


def draw_network(
    ax: Axes,
    weights: Sequence[Tensor],
    *,
    kept: Sequence[Tensor] | None = None,
    names: Sequence[Sequence[str]] | None = None,
    colours: Sequence[Sequence[str]] | None = None,
) -> None:
    """Draw a small fully connected network.

    Positive weights are blue lines, negative ones orange; larger weights are wider lines.

    Parameters
    ----------
    ax : Axes
        Where to draw; its frame is removed.
    weights : sequence of Tensor, shape (n_out, n_in)
        The weights of each layer.
    kept : sequence of Tensor of bool, shape (n_out, n_in), optional
        The mask of each layer; removed connections are dotted.
    names : sequence of sequence of str, optional
        The name of every unit, layer by layer, inputs first; by default none is written.
    colours : sequence of sequence of str, optional
        The colour of every unit, likewise; by default all are grey.
    """
    sizes = [weights[0].shape[1], *(w.shape[0] for w in weights)]
    strongest = max(float(w.abs().max()) for w in weights)
    # Layers are centred, so that a wide one and a narrow one share an axis.
    heights = [np.linspace(0.5 + (n - 1) / 2, 0.5 - (n - 1) / 2, n) for n in sizes]
    for layer, w in enumerate(weights):
        for i, j in np.ndindex(*w.shape):
            value = w[i, j].item()
            there = kept is None or bool(kept[layer][i, j])
            ax.plot(
                [layer, layer + 1],
                [heights[layer][j], heights[layer + 1][i]],
                zorder=1,
                color=(POSITIVE if value >= 0 else NEGATIVE) if there else "#aaaaaa",
                # Relative to the strongest weight of all layers, so that layers can be compared.
                linewidth=0.5 + 3 * abs(value) / strongest if there else 0.7,
                linestyle="-" if there else (0, (1, 3)),
                solid_capstyle="round",
            )
    size = 130 if names is None else 340
    for layer, n in enumerate(sizes):
        ax.scatter(
            [layer] * n,
            heights[layer],
            s=size,
            c=colours[layer] if colours else "#dddddd",
            edgecolors="#555555",
            zorder=2,
        )
        for unit in range(n if names else 0):
            ax.annotate(
                (names or [[]])[layer][unit],
                (layer, heights[layer][unit]),
                ha="center",
                va="center",
                zorder=3,
            )
    ax.set(
        xlim=(-0.3, len(weights) + 0.3),
        ylim=(0.5 - max(sizes) / 2 - 0.1, 0.5 + max(sizes) / 2 + 0.1),
    )
    ax.axis("off")


def sparse_training_problem(
    networks: Mapping[str, Sequence[Tensor]],
    mask: Sequence[Tensor],
    accuracies: Mapping[str, float],
    *,
    title: str,
) -> Figure:
    """Draw Figure 1 of the paper with a few units of the real networks.

    Its panels are (a) dense, (b) naive and (c) lottery ticket.

    Parameters
    ----------
    networks : mapping of str to sequence of Tensor, shape (n_out, n_in)
        The weights of each layer of ``a_start`` and ``b_start`` (at the rewind epoch), and of
        ``dense_a``, ``imp``, ``naive`` and ``lth`` (at the end of their training).
    mask : sequence of Tensor of bool, shape (n_out, n_in)
        A's mask.
    accuracies : mapping of str to float
        Test accuracy (fraction) of ``dense_a``, ``imp``, ``naive`` and ``lth``.
    title : str
        The figure's title: data, network and profile.
    """
    # Each row has three pictures: the network at first, what is done to it, how it ends.
    panels = [
        (
            "(a) train A, then prune it",
            "imp",
            [("a_start", None), ("dense_a", None), ("imp", mask)],
        ),
        ("(b) its mask on B", "naive", [("b_start", None), ("b_start", mask), ("naive", mask)]),
        (
            "(c) its mask on A, rewound",
            "lth",
            [("a_start", None), ("a_start", mask), ("lth", mask)],
        ),
    ]
    steps = {
        "imp": ("train", "prune"),
        "naive": ("mask of A", "train"),
        "lth": ("mask of A", "train"),
    }
    words = {
        "a_start": "A, early",
        "b_start": "B, early",
        "dense_a": "A, trained",
        "imp": "A, pruned",
    }
    figure, axes = plt.subplots(3, 3, figsize=(8, 6.6), gridspec_kw={"wspace": 0.45, "hspace": 0.5})
    for row, (caption, method, drawings) in zip(axes, panels, strict=True):
        for ax, (name, kept) in zip(row, drawings, strict=True):
            draw_network(ax, networks[name], kept=kept)
            text = words.get(name, METHODS[method][0].split(":")[0])
            # Trained networks need no such word: the row's title names their mask.
            if kept is not None and name.endswith("start"):
                text += ", masked"
            if name in accuracies:
                text += f": {100 * accuracies[name]:.1f} %"
            last = name in METHODS
            ax.text(
                0.5,
                -0.02,
                text,
                transform=ax.transAxes,
                ha="center",
                va="top",
                fontsize=9,
                color=METHODS[name][1] if last else "#333333",
                fontweight="bold" if last else "normal",
            )
        row[0].set_title(caption, loc="left", fontweight="bold", fontsize=10)
        for ax, step in zip(row[:2], steps[method], strict=True):
            ax.annotate(
                "",
                (1.42, 0.5),
                (1.06, 0.5),
                xycoords="axes fraction",
                arrowprops={"arrowstyle": "-|>", "color": "#555555"},
            )
            ax.text(1.23, 0.56, step, transform=ax.transAxes, ha="center", fontsize=9)
    figure.suptitle(title)
    percent = {name: 100 * share for name, share in accuracies.items()}
    return conclude(
        figure,
        f"With the same mask and as many weights, LTH ends {gain(percent['lth'], percent['naive'])} "
        "naive.",
    )
