"""The figures of the 2-neuron loss landscape: Figure 3, the curves, and an interactive one."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lotperm.site.html import script_element
from lotperm.site.landscape.model import Floats, loss, output
from lotperm.site.landscape.scenes import PRESETS, RUNS, Scene, simulate
from lotperm.studies.arms.arms import ARMS
from lotperm.studies.findings import short
from lotperm.studies.numbers import number
from lotperm.studies.origin import conclude, describe

Methods = Mapping[str, tuple[str, str]]
"""Name of a run -> its words and its colour, as in `lotperm.studies.charts.METHODS`."""

LEVELS = (0.02, 0.06, 0.15, 0.35, 0.7, 1.2, 2.0, 3.5, 6.0)
"""Losses at which the surface changes its shade. With the default teacher, no run ends at one."""

# Markers and dashes tell the runs apart where colours don't.
_MARKERS = {"dense_a": "o", "dense_b": "D", "lth": "s", "naive": "X", "permuted": "^"}
_NETWORK = {"dense_a": "A", "dense_b": "B"} | {
    name: ARMS[name].weights.upper() for name in RUNS if name in ARMS
}
_LINES = {"dense_a": "-", "dense_b": "--", "lth": "-", "naive": "-", "permuted": "-"}


def extent(scene: Scene) -> float:
    """Return half the width of the part of the plane that is drawn.

    It holds the minima, both initializations, and a margin.
    """
    first, second = scene.teacher
    # Slopes of one sign can come from one neuron alone, whose weight is then their sum.
    teacher = abs(first + second) if first * second > 0 else max(abs(first), abs(second))
    largest = max(teacher, *(abs(v) for v in (*scene.init_a, *scene.init_b)))
    return max(3.0, math.ceil(largest + 0.5))


def _surface(ax: Axes, scene: Scene) -> None:
    """Draw the loss as shades with contour lines, the diagonal, and the axes of pruned networks."""
    size = extent(scene)
    side = np.linspace(-size, size, 241)
    weights = np.stack(np.meshgrid(side, side), axis=-1)
    values = loss(weights, scene.teacher)
    # Only pale shades, so that the paths stand out.
    shades = plt.get_cmap("Purples")(np.linspace(0, 0.45, len(LEVELS) + 1))
    ax.contourf(side, side, values, levels=LEVELS, extend="both", colors=shades)
    ax.contour(side, side, values, levels=LEVELS, colors="#6b6480", linewidths=0.4)
    # The surface is its own mirror image in the diagonal.
    ax.plot([-size, size], [-size, size], color="#666666", linestyle=":", linewidth=1)
    ax.axhline(0, color="#444444", linewidth=0.6)
    ax.axvline(0, color="#444444", linewidth=0.6)
    ax.set(xlim=(-size, size), ylim=(-size, size), xlabel="$w_0$", ylabel="$w_1$", aspect="equal")
    ax.grid(False)


def figure3(scene: Scene, methods: Methods) -> Figure:
    """Draw Figure 3 of the paper, one panel for each of `PRESETS`.

    Parameters
    ----------
    scene : Scene
        The networks and settings of training.
    methods : mapping of str to tuple[str, str]
        Words and colour of each run.
    """
    result = simulate(scene)
    final = result.final_losses()
    figure, axes = plt.subplots(2, 2, figsize=(8, 8.2), layout="constrained")
    starts = {"A": scene.init_a, "B": scene.init_b}
    for (name, preset), ax in zip(PRESETS.items(), axes.flat, strict=True):
        _surface(ax, scene)
        for run in preset.shows:
            words, colour = methods[run]
            path = result.paths[run]
            start = result.paths[f"dense_{_NETWORK[run].lower()}"][
                # Dense networks come from their initialization, arms from the rewind point.
                0 if run in RUNS[:2] else scene.rewind
            ]
            # Where an arm starts, the mask projects the weights onto an axis.
            ax.plot(*zip(start, path[0], strict=True), color=colour, linestyle=":", linewidth=1.5)
            ax.plot(*path.T, color=colour, linestyle=_LINES[run], linewidth=2)
            label = f"{words}, loss {_short(final[run])}"
            ax.plot(
                *path[-1],
                _MARKERS[run],
                color=colour,
                markeredgecolor="white",
                markersize=9,
                label=label,
            )
        # Panel (a) ends with pruning, which isn't a run.
        if name == "a":
            ax.annotate(
                "", result.pruned, result.paths["dense_a"][-1], arrowprops={"arrowstyle": "->"}
            )
            ax.plot(
                *result.pruned,
                "*",
                color="black",
                markeredgecolor="white",
                markersize=13,
                label=f"pruned A, loss {_short(final['pruned'])}",
            )
        for letter in sorted({_NETWORK[run] for run in preset.shows}):
            ax.plot(*starts[letter], "o", color="white", markeredgecolor="black", markersize=13)
            ax.annotate(letter, starts[letter], ha="center", va="center", fontsize=8, color="black")
        ax.set_title(f"({name}) {preset.title}")
        ax.legend(loc="lower left", fontsize=8, frameon=True, framealpha=0.9)
    ends = "; ".join(
        f"{methods[run][0]} from {_place(path[0])} to {_place(path[-1])}, loss {_short(final[run])}"
        for run, path in result.paths.items()
    )
    kept = "w0" if result.mask[0] else "w1"
    describe(
        figure,
        f"Contours of the loss over the weights w0 and w1, symmetric about the diagonal, with the "
        f"path of each run. A's mask keeps {kept}. {ends}; A, pruned, at {_place(result.pruned)}, "
        f"loss {_short(final['pruned'])}.",
    )
    losses = ", ".join(f"{short(methods[run][0])} {_short(final[run])}" for run in RUNS[2:])
    return conclude(figure, f"A's mask keeps {kept}. Final losses: {losses}.")


def curves(scene: Scene, methods: Methods) -> Figure:
    """Draw the loss of each run at every step, and the trained networks beside the teacher."""
    result = simulate(scene)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    x = np.linspace(-2, 2, 201)
    right.plot(x, output(scene.teacher, x), color="#bbbbbb", linewidth=6, label="teacher")
    for name, values in result.losses().items():
        words, colour = methods[name]
        left.plot(values, color=colour, linestyle=_LINES[name], label=words)
        right.plot(
            x, output(result.paths[name][-1], x), color=colour, linestyle=_LINES[name], label=words
        )
    left.set(xlabel="step", ylabel="loss", yscale="log")
    right.set(xlabel="$x$", ylabel="$f(x)$")
    right.legend(fontsize=8)
    slopes = []
    for name in RUNS:
        left_end, right_end = (
            float(output(result.paths[name][-1], np.array([z]))[0]) for z in (-1, 1)
        )
        slopes.append(f"{methods[name][0]} {right_end:.2f} right and {left_end:.2f} left of zero")
    final = result.final_losses()
    lowest, highest = (end(RUNS, key=lambda run: final[run]) for end in (min, max))
    describe(
        figure,
        "Left: loss against the step, logarithmic; it ends at "
        + ", ".join(f"{_short(final[run])} for {methods[run][0]}" for run in RUNS)
        + f". Right: what the trained networks compute, with the slopes: {'; '.join(slopes)}; the "
        f"teacher has {scene.teacher[0]:g} and {scene.teacher[1]:g}.",
    )
    return conclude(
        figure,
        f"The loss ends lowest for {short(methods[lowest][0])}, at {_short(final[lowest])}, and highest for "
        f"{short(methods[highest][0])}, at {_short(final[highest])}.",
    )


def _place(weights: Floats) -> str:
    """Write a place of the plane: (2.00, 0.00)."""
    x, y = (number(float(w), 2) for w in weights)
    return f"({x}, {y})"


def _short(value: float | Floats) -> str:
    """Format a loss in few characters: 1.000, 0.040 or 1.1e-06."""
    return f"{value:.3f}" if value >= 5e-4 else f"{value:.1e}"


def interactive(
    scene: Scene, methods: Methods, *, element: str = "lotperm-landscape"
) -> dict[str, str | bytes]:
    """Make the interactive figure, for ``display(interactive(...), raw=True)``.

    It needs neither a kernel nor a server.

    Parameters
    ----------
    scene : Scene
        The scene that the figure shows first, and to which its presets return.
    methods : mapping of str to tuple[str, str]
        Words and colour of each run.
    element : str, optional
        The id of the figure's root element, unique on the page.

    Returns
    -------
    dict
        The content by MIME type: the script and its data as ``text/html``; `figure3` as
        ``image/png``, for where scripts don't run; the final losses as ``text/plain``.
    """
    config: dict[str, Any] = {
        "scene": asdict(scene),
        "presets": {name: preset._asdict() for name, preset in PRESETS.items()},
        "methods": {
            name: dict(zip(("words", "colour"), methods[name], strict=True)) for name in RUNS
        },
        "levels": LEVELS,
        "extent": extent(scene),
    }
    script = (
        resources.files("lotperm.site").joinpath("js", "landscape.js").read_text(encoding="utf-8")
    )
    # Paths aren't in the page: the script computes them, and stays in step with the sliders.
    call = f"lotpermLandscape.mount(document.getElementById({json.dumps(element)}), {json.dumps(config)});\n"
    figure = figure3(scene, methods)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    plt.close(figure)
    final = ", ".join(
        f"{name} {_short(value)}" for name, value in simulate(scene).final_losses().items()
    )
    return {
        "text/html": f'<div id="{element}" class="lotperm-landscape"><noscript>This figure needs JavaScript; '
        f"the picture of its four presets doesn't.</noscript></div>\n{script_element(script + call)}",
        "image/png": png.getvalue(),
        "text/plain": f"The 2-neuron landscape. Final losses: {final}",
    }
