"""The smallest network with a weight symmetry: two neurons, two weights.

The model is f(x) = relu(w0·x) + relu(w1·x). It learns a teacher of the same kind, relu(s0·x) +
relu(s1·x), on inputs x ~ N(0, 1). Swapping w0 and w1 leaves f unchanged, so the loss surface is
its own mirror image in the diagonal w0 = w1. Gradient descent, pruning, matching and the three
sparse arms of the paper all happen in the plane: its Figure 3. Everything is float64 and exact,
because the expectation over x has a closed form.

``site/js/landscape.js`` does the same computation, with the same operations in the same order, in
the reader's browser.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from lotperm.errors import ParameterError
from lotperm.studies.arms.arms import ARMS

Floats = npt.NDArray[np.float64]

RUNS = ("dense_a", "dense_b", "lth", "naive", "permuted")
"""The five networks that are trained: two dense ones and three sparse arms."""

# A dense network below this loss has found a minimum of the default teacher.
_GOOD = 1e-3


@dataclass(frozen=True)
class Scene:
    """A teacher, two initializations and the settings of plain gradient descent.

    Parameters
    ----------
    teacher : tuple[float, float], optional
        The teacher's two slopes (s0, s1).
    init_a, init_b : tuple[float, float], optional
        Weights (w0, w1) of networks A and B before training.
    learning_rate : float, optional
        The learning rate, above 0 and below 2, where gradient descent on this loss diverges.
    steps : int, optional
        The number of steps that every run takes, 1 to 100,000.
    rewind : int, optional
        The step k whose dense weights the sparse arms start from, 0 (the initialization) to
        `steps`.

    Raises
    ------
    ParameterError
        If a value is out of range or isn't finite.
    """

    teacher: tuple[float, float] = (2.0, -0.4)
    # Chosen to tell the story, as the paper's are: A and B end in minima that are mirror images.
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
            # As tuples of floats: a notebook's parameters are lists, maybe of integers.
            object.__setattr__(self, name, value)
        # NaN fails this comparison, too.
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
    """One panel of Figure 3: its title, the runs that it shows, and a sentence about them."""

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
    """Compute the slopes of f on either side of 0: f(x) = P·x for x > 0 and −N·x for x < 0.

    Parameters
    ----------
    weights : array_like of float64, shape (..., 2)
        Weights (w0, w1) of networks.

    Returns
    -------
    positive : ndarray of float64, shape (...)
        P, the sum of the positive weights.
    negative : ndarray of float64, shape (...)
        N, the sum of the magnitudes of the negative weights.
    """
    w = np.asarray(weights, dtype=np.float64)
    up, down = np.maximum(w, 0.0), np.maximum(-w, 0.0)
    return up[..., 0] + up[..., 1], down[..., 0] + down[..., 1]


def output(weights: npt.ArrayLike, x: npt.ArrayLike) -> Floats:
    """Compute the network's output f(x) = relu(w0·x) + relu(w1·x).

    Parameters
    ----------
    weights : array_like of float64, shape (..., 2)
        Weights (w0, w1) of networks.
    x : array_like of float64, shape (n,)
        Inputs.

    Returns
    -------
    ndarray of float64, shape (..., n)
    """
    w, inputs = np.asarray(weights, dtype=np.float64), np.asarray(x, dtype=np.float64)
    units = np.maximum(w[..., None] * inputs, 0.0)  # (..., 2, n)
    return units[..., 0, :] + units[..., 1, :]


def loss(weights: npt.ArrayLike, teacher: npt.ArrayLike) -> Floats:
    """Compute half the mean squared error, E[(f(x) − t(x))²] / 2 over x ~ N(0, 1).

    With (P, N) the `slopes` of the network and (a, b) those of the teacher, the closed form is
    [(P − a)² + (N − b)²] / 4, because E[x²] over half of the normal distribution is 1/2.

    Parameters
    ----------
    weights : array_like of float64, shape (..., 2)
        Weights (w0, w1) of networks.
    teacher : array_like of float64, shape (2,)
        The slopes of the teacher.

    Returns
    -------
    ndarray of float64, shape (...)
    """
    (p, n), (a, b) = slopes(weights), slopes(teacher)
    # Products rather than powers, in an order that the script has too: both give the same bits.
    return 0.25 * ((p - a) * (p - a) + (n - b) * (n - b))


def gradient(weights: npt.ArrayLike, teacher: npt.ArrayLike) -> Floats:
    """Compute the exact gradient of `loss`.

    It is (P − a)/2 for a positive weight and (b − N)/2 for a negative one. The loss has a kink
    where a weight is 0. There the gradient is zero, as backpropagation gives it with the usual
    relu'(0) = 0, so a weight that is exactly 0 stays 0.

    Parameters
    ----------
    weights : array_like of float64, shape (..., 2)
        Weights (w0, w1) of networks.
    teacher : array_like of float64, shape (2,)
        The slopes of the teacher.

    Returns
    -------
    ndarray of float64, shape (..., 2)
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
    """Train by gradient descent under a mask.

    Parameters
    ----------
    start : array_like of float64, shape (..., 2)
        The initialization; it is masked before the first step.
    mask : array_like of bool, shape (..., 2)
        True for a weight that is kept.
    teacher : array_like of float64, shape (2,)
        The slopes of the teacher.
    learning_rate : float
        As in `Scene`.
    steps : int
        As in `Scene`.

    Returns
    -------
    ndarray of float64, shape (steps + 1, ..., 2)
        The weights before each step and after the last.
    """
    kept = np.asarray(mask, dtype=bool)
    w = np.where(kept, np.asarray(start, dtype=np.float64), 0.0)
    path = np.empty((steps + 1, *w.shape))
    path[0] = w
    for step in range(steps):
        # The update is masked as well, so a removed weight stays exactly 0.
        w = np.where(kept, w - learning_rate * gradient(w, teacher), 0.0)
        path[step + 1] = w
    return path


def prune(weights: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Prune the smaller weight: the magnitude mask at sparsity 1/2.

    Of two equal weights the first is kept.

    Parameters
    ----------
    weights : array_like of float64, shape (..., 2)
        Weights (w0, w1) of networks.

    Returns
    -------
    ndarray of bool, shape (..., 2)
    """
    size = np.abs(np.asarray(weights, dtype=np.float64))
    first = size[..., 0] >= size[..., 1]
    return np.stack([first, ~first], axis=-1)


def match(weights_a: npt.ArrayLike, weights_b: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Find the order of A's neurons that makes their activations most like B's.

    This is activation matching: it minimizes E‖z_B − π(z_A)‖², that is, it maximizes the sum over
    neurons of E[z_B[i] · z_A[π(i)]]. For activations z = relu(w·x) and x ~ N(0, 1) the expectation
    of a pair is w_A·w_B / 2 if the weights have the same sign and 0 if not. With two neurons there
    are two assignments to compare; if they are equally good, the identity is taken.

    Parameters
    ----------
    weights_a, weights_b : array_like of float64, shape (..., 2)
        The trained dense networks.

    Returns
    -------
    ndarray of int64, shape (..., 2)
        ``p[i]`` is the neuron of A that moves to position i: [0, 1] or [1, 0].
    """
    a, b = np.asarray(weights_a, dtype=np.float64), np.asarray(weights_b, dtype=np.float64)

    # Neuron i of B and neuron j of A.
    def alike(i: int, j: int) -> Floats:
        # In closed form: neurons whose weights differ in sign are never active on the same input.
        up = np.maximum(b[..., i], 0.0) * np.maximum(a[..., j], 0.0)
        return 0.5 * (up + np.maximum(-b[..., i], 0.0) * np.maximum(-a[..., j], 0.0))

    swap = alike(0, 1) + alike(1, 0) > alike(0, 0) + alike(1, 1)
    return np.stack([swap, ~swap], axis=-1).astype(np.int64)


@dataclass(frozen=True)
class Result:
    """The paths, masks and permutation that a scene leads to.

    Attributes
    ----------
    paths : dict of ndarray of float64, shape (steps + 1, ..., 2)
        The weights at every step, for each of `RUNS`.
    mask : ndarray of bool, shape (..., 2)
        A's mask.
    permutation : ndarray of int64, shape (..., 2)
        The order of A's neurons, as `match` returns it.
    permuted_mask : ndarray of bool, shape (..., 2)
        A's mask in B's order.
    pruned : ndarray of float64, shape (..., 2)
        Trained A, pruned and not trained further.
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
        """Return the loss of each run at every step, float64 (steps + 1, ...) by name."""
        return {name: loss(path, self.teacher) for name, path in self.paths.items()}

    def final_losses(self) -> dict[str, Floats]:
        """Return the loss of each run at its end, and of ``"pruned"``, float64 (...) by name."""
        ends = {name: path[-1] for name, path in self.paths.items()} | {"pruned": self.pruned}
        return {name: loss(w, self.teacher) for name, w in ends.items()}


def simulate(scene: Scene) -> Result:
    """Train A and B densely, prune A, match A to B, and train the three sparse arms.

    The arms start from the dense weights at step ``scene.rewind``, as `lotperm.studies.arms` says.
    """
    return _simulate(np.array(scene.init_a), np.array(scene.init_b), scene)


def _simulate(init_a: Floats, init_b: Floats, scene: Scene) -> Result:
    """Simulate many pairs of initializations at a time, (..., 2) each."""

    def train(start: Floats, mask: npt.NDArray[np.bool_]) -> Floats:
        return descend(start, mask, scene.teacher, scene.learning_rate, scene.steps)

    everything = np.ones(init_a.shape, dtype=bool)
    dense_a, dense_b = train(init_a, everything), train(init_b, everything)
    mask = prune(dense_a[-1])
    permutation = match(dense_a[-1], dense_b[-1])
    # At place i stands the mask of the neuron that moves there.
    permuted_mask = np.take_along_axis(mask, permutation, axis=-1)
    paths = {"dense_a": dense_a, "dense_b": dense_b}
    # Named as in the table of arms; a scattered mask is the control's, which isn't run here.
    masks = {"as found": mask, "permuted": permuted_mask}
    for arm in (ARMS[name] for name in RUNS if name in ARMS):
        start = paths[f"dense_{arm.weights}"][scene.rewind]
        paths[arm.name] = train(start, masks[arm.mask])
    return Result(
        paths=paths,
        mask=mask,
        permutation=permutation,
        permuted_mask=permuted_mask,
        pruned=np.where(mask, dense_a[-1], 0.0),
        teacher=scene.teacher,
    )


def loss_along(
    points: Sequence[npt.ArrayLike], teacher: npt.ArrayLike, samples: int = 201
) -> Floats:
    """Compute the loss along straight lines from point to point.

    Parameters
    ----------
    points : sequence of array_like of float64, shape (2,)
        The corners of the way, k of them.
    teacher : array_like of float64, shape (2,)
        The slopes of the teacher.
    samples : int, optional
        The number of points on each line, both ends included.

    Returns
    -------
    float64 ((k - 1) * samples,)
    """
    corners = np.asarray(points, dtype=np.float64)
    lines = [np.linspace(start, end, samples) for start, end in itertools.pairwise(corners)]
    return loss(np.concatenate(lines), teacher)


def outcomes(scene: Scene, pairs: int, seed: int = 0) -> pd.DataFrame:
    """Simulate pairs with random initializations, w ~ N(0, 1), and count how they end.

    Parameters
    ----------
    scene : Scene
        Teacher, learning rate, steps and rewind; its initializations aren't used.
    pairs : int
        The number of pairs of A and B.
    seed : int, optional
        The seed of the initializations.

    Returns
    -------
    DataFrame
        One row for each kind of pair (in mirrored minima, in the same minimum, at least one in no
        minimum). Its columns are ``share``, of all pairs, and the mean final loss of ``lth``,
        ``naive`` and ``permuted``.

    Raises
    ------
    ParameterError
        If `pairs` is below 1.
    """
    if pairs < 1:
        raise ParameterError(f"pairs is {pairs}; expected at least 1.")
    init_a, init_b = np.random.default_rng(seed).standard_normal((2, pairs, 2))
    result = _simulate(init_a, init_b, scene)
    final = result.final_losses()
    # Which of the two minima a network is in can only be asked where it has found one.
    both = (final["dense_a"] < _GOOD) & (final["dense_b"] < _GOOD)
    # Of two minima that are mirror images, one is A's and one B's if matching swaps the neurons.
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
