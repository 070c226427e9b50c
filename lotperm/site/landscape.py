"""The smallest network with a weight symmetry: two neurons, two weights, a loss surface that can
be drawn.

The model is f(x) = relu(w0·x) + relu(w1·x). It learns a teacher of the same kind, relu(s0·x) +
relu(s1·x), on inputs x ~ N(0, 1). Swapping w0 and w1 leaves f as it is, so the surface is its own
mirror image in the diagonal w0 = w1. Gradient descent, pruning, matching and the three sparse arms
of the paper all happen in the plane: its Figure 3. Everything is float64 and exact: the
expectation over x has a closed form.

``js/landscape.js`` does the same computation, with the same operations in the same order, in the
reader's browser.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lotperm.errors import ParameterError
from lotperm.site.html import script_element

Floats = npt.NDArray[np.float64]
Methods = Mapping[str, tuple[str, str]]
"""Name of a run -> its words and its colour, as in `lotperm.studies.charts.METHODS`."""

RUNS = ("dense_a", "dense_b", "lth", "naive", "permuted")
LEVELS = (0.02, 0.06, 0.15, 0.35, 0.7, 1.2, 2.0, 3.5, 6.0)
"""Losses between which the surface has one shade. None is a loss where runs end with the
default teacher.
"""

_GOOD = 1e-3  # a dense network below this loss has found a minimum of the default teacher


@dataclass(frozen=True)
class Scene:
    """What is trained: a teacher, two initializations and plain gradient descent.

    Parameters
    ----------
    teacher : tuple[float, float], optional
        The teacher's two slopes (s0, s1).
    init_a, init_b : tuple[float, float], optional
        Weights (w0, w1) of networks A and B before training.
    learning_rate : float, optional
        Of gradient descent on the exact loss; 0 < learning_rate < 2, above which it diverges.
    steps : int, optional
        Of gradient descent, for every run; 1 to 100,000.
    rewind : int, optional
        k: the sparse arms start from the dense weights after k steps; 0, the initialization, to
        `steps`.

    Raises
    ------
    ParameterError
        If a value is out of range or isn't finite.
    """

    teacher: tuple[float, float] = (2.0, -0.4)
    init_a: tuple[float, float] = (0.6, -1.3)
    init_b: tuple[float, float] = (-1.0, 0.4)
    learning_rate: float = 0.1
    steps: int = 130
    rewind: int = 0

    def __post_init__(self) -> None:
        for name in ("teacher", "init_a", "init_b"):
            value = tuple(float(v) for v in getattr(self, name))
            if len(value) != 2 or not all(math.isfinite(v) for v in value):
                raise ParameterError(
                    f"{name} is {getattr(self, name)}; expected two finite numbers."
                )
            object.__setattr__(self, name, value)
        if not 0 < self.learning_rate < 2:
            raise ParameterError(
                f"learning_rate is {self.learning_rate}; expected more than 0 and less than 2, where gradient "
                "descent diverges: the largest curvature of the loss is 1."
            )
        if not 1 <= self.steps <= 100_000:
            raise ParameterError(f"steps is {self.steps}; expected 1 to 100,000.")
        if not 0 <= self.rewind <= self.steps:
            raise ParameterError(
                f"rewind is {self.rewind}; expected 0 to steps, which is {self.steps}."
            )


class Preset(NamedTuple):
    """One panel of Figure 3: which runs it shows, and what they do."""

    title: str
    shows: tuple[str, ...]
    text: str


PRESETS = {
    "a": Preset(
        "dense training and pruning",
        ("dense_a",),
        "Pruning sets the smaller of A's two trained weights to 0: a projection onto an axis.",
    ),
    "b": Preset(
        "LTH",
        ("dense_a", "lth"),
        "A starts again, projected onto the axis of its own mask.",
    ),
    "c": Preset(
        "naive",
        ("dense_b", "naive"),
        "B starts projected onto the axis of A's mask.",
    ),
    "d": Preset(
        "permuted",
        ("dense_b", "permuted"),
        "B starts projected onto the axis of the permuted mask.",
    ),
}
"""The four panels of Figure 3 of the paper; all of them with the same `Scene`."""


def slopes(weights: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Slopes of f on either side of 0: f(x) = P·x for x > 0 and −N·x for x < 0.

    Parameters
    ----------
    weights : npt.ArrayLike
        float64 (..., 2).

    Returns
    -------
    positive, negative : float64 (...)
        P, the sum of the positive weights, and N, the sum of the magnitudes of the negative ones.
    """
    w = np.asarray(weights, dtype=np.float64)
    up, down = np.maximum(w, 0.0), np.maximum(-w, 0.0)
    return up[..., 0] + up[..., 1], down[..., 0] + down[..., 1]


def output(weights: npt.ArrayLike, x: npt.ArrayLike) -> Floats:
    """What the network computes: f(x) = relu(w0·x) + relu(w1·x).

    Parameters
    ----------
    weights : npt.ArrayLike
        float64 (..., 2).
    x : npt.ArrayLike
        float64 (n,).

    Returns
    -------
    float64 (..., n)
    """
    w, inputs = np.asarray(weights, dtype=np.float64), np.asarray(x, dtype=np.float64)
    units = np.maximum(w[..., None] * inputs, 0.0)  # (..., 2, n)
    return units[..., 0, :] + units[..., 1, :]


def loss(weights: npt.ArrayLike, teacher: npt.ArrayLike) -> Floats:
    """Half the mean squared error, E[(f(x) − t(x))²] / 2 over x ~ N(0, 1), in closed form.

    With (P, N) the `slopes` of the network and (a, b) those of the teacher it is [(P − a)² + (N −
    b)²] / 4, because E[x²] over half of the normal distribution is 1/2.

    Parameters
    ----------
    weights : npt.ArrayLike
        float64 (..., 2).
    teacher : npt.ArrayLike
        float64 (2,).

    Returns
    -------
    float64 (...)
    """
    (p, n), (a, b) = slopes(weights), slopes(teacher)
    return 0.25 * ((p - a) * (p - a) + (n - b) * (n - b))


def gradient(weights: npt.ArrayLike, teacher: npt.ArrayLike) -> Floats:
    """The exact gradient of `loss`: (P − a)/2 for a positive weight, (b − N)/2 for a negative one.

    The loss has a kink where a weight is 0. There the gradient is what backpropagation gives with
    the usual relu'(0) = 0: zero. So a weight that is exactly 0 stays 0.

    Parameters
    ----------
    weights : npt.ArrayLike
        float64 (..., 2).
    teacher : npt.ArrayLike
        float64 (2,).

    Returns
    -------
    float64 (..., 2)
    """
    w = np.asarray(weights, dtype=np.float64)
    (p, n), (a, b) = slopes(w), slopes(teacher)
    up, down = 0.5 * (p - a), 0.5 * (b - n)
    return np.where(w > 0, up[..., None], np.where(w < 0, down[..., None], 0.0))


def descend(
    start: npt.ArrayLike,
    mask: npt.ArrayLike,
    teacher: npt.ArrayLike,
    learning_rate: float,
    steps: int,
) -> Floats:
    """Gradient descent under a mask.

    Parameters
    ----------
    start : npt.ArrayLike
        float64 (..., 2), the initialization; it is masked before the first step.
    mask : npt.ArrayLike
        bool (..., 2), True for a weight that is kept.
    teacher : npt.ArrayLike
        float64 (2,).
    learning_rate, steps : float
        As in `Scene`.

    Returns
    -------
    float64 (steps + 1, ..., 2)
        The weights before each step and after the last.
    """
    kept = np.asarray(mask, dtype=bool)
    w = np.where(kept, np.asarray(start, dtype=np.float64), 0.0)
    path = np.empty((steps + 1, *w.shape))
    path[0] = w
    for step in range(steps):
        w = np.where(kept, w - learning_rate * gradient(w, teacher), 0.0)
        path[step + 1] = w
    return path


def prune(weights: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """The magnitude mask at sparsity 1/2: True for the larger weight; of equals the first is kept.

    Parameters
    ----------
    weights : npt.ArrayLike
        float64 (..., 2).

    Returns
    -------
    bool (..., 2)
    """
    size = np.abs(np.asarray(weights, dtype=np.float64))
    first = size[..., 0] >= size[..., 1]
    return np.stack([first, ~first], axis=-1)


def match(weights_a: npt.ArrayLike, weights_b: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The order of A's neurons that makes their activations most like B's: activation matching.

    It minimizes E‖z_B − π(z_A)‖², that is, it maximizes the sum over neurons of E[z_B[i] ·
    z_A[π(i)]]. For activations z = relu(w·x) and x ~ N(0, 1) the expectation of a pair is w_A·w_B
    / 2 if the weights have the same sign and 0 if not. With two neurons there are two assignments
    to compare; of equals the identity is taken.

    Parameters
    ----------
    weights_a, weights_b : npt.ArrayLike
        float64 (..., 2), the trained dense networks.

    Returns
    -------
    int64 (..., 2)
        ``p[i]`` is the neuron of A that moves to position i: [0, 1] or [1, 0].
    """
    a, b = np.asarray(weights_a, dtype=np.float64), np.asarray(weights_b, dtype=np.float64)

    def alike(i: int, j: int) -> Floats:  # neuron i of B and neuron j of A
        up = np.maximum(b[..., i], 0.0) * np.maximum(a[..., j], 0.0)
        return 0.5 * (up + np.maximum(-b[..., i], 0.0) * np.maximum(-a[..., j], 0.0))

    swap = alike(0, 1) + alike(1, 0) > alike(0, 0) + alike(1, 1)
    return np.stack([swap, ~swap], axis=-1).astype(np.int64)


@dataclass(frozen=True)
class Result:
    """All that happens in a scene.

    Attributes
    ----------
    paths : dict[str, Floats]
        Name of each of `RUNS` -> float64 (steps + 1, ..., 2), the weights at every step.
    mask : npt.NDArray[np.bool_]
        bool (..., 2), A's mask.
    permutation : npt.NDArray[np.int64]
        int64 (..., 2), as `match` returns it.
    permuted_mask : npt.NDArray[np.bool_]
        bool (..., 2).
    pruned : Floats
        float64 (..., 2), trained A, pruned and not trained further.
    teacher : tuple[float, float]
        The teacher's slopes.
    """

    paths: dict[str, Floats]
    mask: npt.NDArray[np.bool_]
    permutation: npt.NDArray[np.int64]
    permuted_mask: npt.NDArray[np.bool_]
    pruned: Floats
    teacher: tuple[float, float]

    def losses(self) -> dict[str, Floats]:
        """Name of each run -> float64 (steps + 1, ...), its loss at every step."""
        return {name: loss(path, self.teacher) for name, path in self.paths.items()}

    def final_losses(self) -> dict[str, Floats]:
        """Name of each run, and ``"pruned"`` -> float64 (...), its loss at the end."""
        ends = {name: path[-1] for name, path in self.paths.items()} | {"pruned": self.pruned}
        return {name: loss(w, self.teacher) for name, w in ends.items()}


def simulate(scene: Scene) -> Result:
    """Train A and B densely, prune A, match A to B, and train the three sparse arms.

    The arms start from the dense weights at step ``scene.rewind``. LTH is A with A's mask, naive
    is B with A's mask, permuted is B with the permuted mask.
    """
    return _simulate(np.array(scene.init_a), np.array(scene.init_b), scene)


def _simulate(init_a: Floats, init_b: Floats, scene: Scene) -> Result:
    """`simulate` from other initializations: many pairs at a time, (..., 2) each."""

    def train(start: Floats, mask: npt.NDArray[np.bool_]) -> Floats:
        return descend(start, mask, scene.teacher, scene.learning_rate, scene.steps)

    everything = np.ones(init_a.shape, dtype=bool)
    dense_a, dense_b = train(init_a, everything), train(init_b, everything)
    mask = prune(dense_a[-1])
    permutation = match(dense_a[-1], dense_b[-1])
    permuted_mask = np.take_along_axis(mask, permutation, axis=-1)
    return Result(
        paths={
            "dense_a": dense_a,
            "dense_b": dense_b,
            "lth": train(dense_a[scene.rewind], mask),
            "naive": train(dense_b[scene.rewind], mask),
            "permuted": train(dense_b[scene.rewind], permuted_mask),
        },
        mask=mask,
        permutation=permutation,
        permuted_mask=permuted_mask,
        pruned=np.where(mask, dense_a[-1], 0.0),
        teacher=scene.teacher,
    )


def loss_along(
    points: Sequence[npt.ArrayLike], teacher: npt.ArrayLike, samples: int = 201
) -> Floats:
    """The loss along straight lines from point to point.

    Parameters
    ----------
    points : Sequence[npt.ArrayLike]
        k weights, float64 (2,) each.
    teacher : npt.ArrayLike
        float64 (2,).
    samples : int, optional
        Points on each line, both ends included.

    Returns
    -------
    float64 ((k - 1) * samples,)
    """
    corners = np.asarray(points, dtype=np.float64)
    lines = [np.linspace(start, end, samples) for start, end in itertools.pairwise(corners)]
    return loss(np.concatenate(lines), teacher)


def outcomes(scene: Scene, pairs: int, seed: int = 0) -> pd.DataFrame:
    """What happens from random initializations, w ~ N(0, 1), instead of chosen ones.

    Parameters
    ----------
    scene : Scene
        Teacher, learning rate, steps and rewind; its initializations aren't used.
    pairs : int
        How many pairs of A and B.
    seed : int, optional
        Of the initializations.

    Returns
    -------
    DataFrame
        One row for each kind of pair: where trained A and B are to each other. Columns: ``share``
        of the pairs, and the mean final loss of ``lth``, ``naive`` and ``permuted``.
    """
    if pairs < 1:
        raise ParameterError(f"pairs is {pairs}; expected at least 1.")
    init_a, init_b = np.random.default_rng(seed).standard_normal((2, pairs, 2))
    result = _simulate(init_a, init_b, scene)
    final = result.final_losses()
    both = (final["dense_a"] < _GOOD) & (final["dense_b"] < _GOOD)
    swapped = result.permutation[:, 0] == 1
    kind = np.where(
        both & swapped,
        "in mirrored minima",
        np.where(both, "in the same minimum", "at least one in no minimum"),
    )
    frame = pd.DataFrame(
        {"A and B": kind} | {arm: final[arm] for arm in ("lth", "naive", "permuted")}
    )
    groups = frame.groupby("A and B")
    return groups.mean().assign(share=groups.size() / pairs)[["share", "lth", "naive", "permuted"]]


_MARKERS = {"dense_a": "o", "dense_b": "D", "lth": "s", "naive": "X", "permuted": "^"}
_NETWORK = {"dense_a": "A", "dense_b": "B", "lth": "A", "naive": "B", "permuted": "B"}
_LINES = {"dense_a": "-", "dense_b": "--", "lth": "-", "naive": "-", "permuted": "-"}


def extent(scene: Scene) -> float:
    """Half the width of the part of the plane that is drawn: the minima and both
    initializations, and a margin.
    """
    first, second = scene.teacher
    # Slopes of one sign can come from one neuron alone, whose weight is then their sum.
    teacher = abs(first + second) if first * second > 0 else max(abs(first), abs(second))
    largest = max(teacher, *(abs(v) for v in (*scene.init_a, *scene.init_b)))
    return max(3.0, math.ceil(largest + 0.5))


def _surface(ax: Axes, scene: Scene) -> None:
    """The loss as shades with contour lines; the diagonal; the two axes, where pruned networks
    are.
    """
    size = extent(scene)
    side = np.linspace(-size, size, 241)
    weights = np.stack(np.meshgrid(side, side), axis=-1)
    values = loss(weights, scene.teacher)
    shades = plt.get_cmap("Purples")(np.linspace(0, 0.45, len(LEVELS) + 1))
    ax.contourf(side, side, values, levels=LEVELS, extend="both", colors=shades)
    ax.contour(side, side, values, levels=LEVELS, colors="#6b6480", linewidths=0.4)
    ax.plot([-size, size], [-size, size], color="#666666", linestyle=":", linewidth=1)
    ax.axhline(0, color="#444444", linewidth=0.6)
    ax.axvline(0, color="#444444", linewidth=0.6)
    ax.set(xlim=(-size, size), ylim=(-size, size), xlabel="$w_0$", ylabel="$w_1$", aspect="equal")
    ax.grid(False)


def figure3(scene: Scene, methods: Methods) -> Figure:
    """Figure 3 of the paper, computed: one panel for each of `PRESETS`.

    Parameters
    ----------
    scene : Scene
        What is trained.
    methods : Methods
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
    return figure


def curves(scene: Scene, methods: Methods) -> Figure:
    """The loss of each run at every step, and what the trained networks compute beside the
    teacher.
    """
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
    return figure


def _short(value: float | Floats) -> str:
    """A loss in few characters: 1.00, 0.040 or 1.1e-06."""
    return f"{value:.3f}" if value >= 5e-4 else f"{value:.1e}"


def interactive(
    scene: Scene, methods: Methods, *, element: str = "lotperm-landscape"
) -> dict[str, str | bytes]:
    """The figure to play with, for ``display(interactive(...), raw=True)``: it needs no kernel and
    no server.

    Parameters
    ----------
    scene : Scene
        What the figure shows first, and where its presets lead back to.
    methods : Methods
        Words and colour of each run.
    element : str, optional
        Id of the figure's root element, one of its own for each figure on a page.

    Returns
    -------
    dict
        By MIME type: ``text/html``, the script and its data; ``image/png``, `figure3`, for where
        scripts don't run; ``text/plain``, the final losses.
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
