"""Diversity of the predictions of several networks, and the accuracy of their ensemble.

Networks that disagree more gain more as an ensemble (Fort et al. 2019).
"""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import numpy.typing as npt

from lotperm.errors import ParameterError
from lotperm.types import Float, Float64

# Probabilities are floored here inside logarithms: float32 softmax underflows to exactly 0.
FLOOR = 1e-12


def disagreement(probs: Float[np.ndarray, " ..."]) -> float:
    """Compute the fraction of samples on which two members predict different classes.

    Parameters
    ----------
    probs : ndarray of float, shape (S, N, K)
        Predicted probabilities: members, samples, classes.

    Returns
    -------
    float
        Mean over the pairs of members.

    Raises
    ------
    ParameterError
        There are fewer than two members.
    """
    votes = _members(probs).argmax(2)
    return float(
        np.mean([np.mean(votes[i] != votes[j]) for i, j in combinations(range(len(votes)), 2)])
    )


def kl_divergence(probs: Float[np.ndarray, " ..."]) -> float:
    """Compute the Kullback-Leibler divergence between members' predictions.

    Parameters
    ----------
    probs : ndarray of float, shape (S, N, K)
        Predicted probabilities: members, samples, classes.

    Returns
    -------
    float
        KL(p_i || p_j) in nats, mean over samples and ordered pairs of members.

    Raises
    ------
    ParameterError
        There are fewer than two members.
    """
    p = _members(probs)
    return float(np.mean([_kl(p[i], p[j]) for i, j in permutations(range(len(p)), 2)]))


def js_divergence(probs: Float[np.ndarray, " ..."]) -> float:
    """Compute the Jensen-Shannon divergence between members' predictions.

    Parameters
    ----------
    probs : ndarray of float, shape (S, N, K)
        Predicted probabilities: members, samples, classes.

    Returns
    -------
    float
        (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats, at most ln 2; mean over samples
        and pairs of members.

    Raises
    ------
    ParameterError
        There are fewer than two members.
    """
    p = _members(probs)
    pairs = ((p[i], p[j], (p[i] + p[j]) / 2) for i, j in combinations(range(len(p)), 2))
    return float(np.mean([(_kl(a, middle) + _kl(b, middle)) / 2 for a, b, middle in pairs]))


def ensemble_accuracy(
    probs: Float[np.ndarray, "members n classes"], targets: npt.ArrayLike
) -> float:
    """Compute the accuracy of the members' mean probabilities.

    Parameters
    ----------
    probs : ndarray of float, shape (S, N, K)
        Predicted probabilities: members, samples, classes. One member is its own ensemble.
    targets : array_like of int, shape (N,)
        The right classes.

    Returns
    -------
    float
        A fraction.
    """
    return float(np.mean(np.asarray(probs).mean(0).argmax(1) == np.asarray(targets)))


def _members(probs: Float[np.ndarray, " ..."]) -> Float64[np.ndarray, "members n classes"]:
    """Return the probabilities in float64, if there are at least two members."""
    p = np.asarray(probs, dtype=float)
    if p.ndim != 3 or len(p) < 2:
        raise ParameterError(
            f"diversity needs (members >= 2, samples, classes), got an array of shape {p.shape}."
        )
    return p


def _kl(p: Float64[np.ndarray, "n classes"], q: Float64[np.ndarray, "n classes"]) -> float:
    """Return the mean over samples of KL(p || q), both `(N, K)`; 0 log 0 is 0."""
    ratio = np.maximum(p, FLOOR) / np.maximum(q, FLOOR)
    return float(np.mean(np.sum(p * np.log(ratio), axis=1)))
