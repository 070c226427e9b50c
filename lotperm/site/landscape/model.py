"""The smallest network with a weight symmetry: two neurons, two weights.

The model is f(x) = relu(w0·x) + relu(w1·x). It learns a teacher of the same kind, relu(s0·x) +
relu(s1·x), on inputs x ~ N(0, 1). Swapping w0 and w1 leaves f unchanged, so the loss surface is
its own mirror image in the diagonal w0 = w1. Gradient descent, pruning and matching all happen in
the plane; `lotperm.site.landscape.scenes` puts them together. Everything is float64 and exact,
because the expectation over x has a closed form.

``site/js/landscape.js`` does the same computation, with the same operations in the same order, in
the reader's browser.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


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
