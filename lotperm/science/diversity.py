"""How different the predictions of several networks are, and what their ensemble gains."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import numpy.typing as npt

from lotperm.errors import ParameterError
from lotperm.science.repair import FLOOR
from lotperm.types import Float, Float64


def disagreement(probs: Float[np.ndarray, " ..."]) -> float:
    """Fraction of samples on which two members predict different classes, mean over the pairs of
    members.

    Parameters
    ----------
    probs : Float[np.ndarray,  ...]
        Predicted probabilities `(S, N, K)`: members, samples, classes.
    """
    votes = _members(probs).argmax(2)
    return float(
        np.mean([np.mean(votes[i] != votes[j]) for i, j in combinations(range(len(votes)), 2)])
    )


def kl_divergence(probs: Float[np.ndarray, " ..."]) -> float:
    """KL(p_i || p_j) in nats, mean over samples and ordered pairs of members; `probs` is `(S,
    N, K)`.
    """
    p = _members(probs)
    return float(np.mean([_kl(p[i], p[j]) for i, j in permutations(range(len(p)), 2)]))


def js_divergence(probs: Float[np.ndarray, " ..."]) -> float:
    """Jensen-Shannon divergence in nats, mean over samples and pairs of members; `probs` is
    `(S, N, K)`.
    """
    p = _members(probs)
    pairs = ((p[i], p[j], (p[i] + p[j]) / 2) for i, j in combinations(range(len(p)), 2))
    return float(np.mean([(_kl(a, middle) + _kl(b, middle)) / 2 for a, b, middle in pairs]))


def ensemble_accuracy(
    probs: Float[np.ndarray, "members n classes"], targets: npt.ArrayLike
) -> float:
    """Accuracy (fraction) of the members' mean probabilities `(S, N, K)` against the targets
    `(N,)`.
    """
    return float(np.mean(np.asarray(probs).mean(0).argmax(1) == np.asarray(targets)))


def _members(probs: Float[np.ndarray, " ..."]) -> Float64[np.ndarray, "members n classes"]:
    p = np.asarray(probs, dtype=float)
    if p.ndim != 3 or len(p) < 2:
        raise ParameterError(
            f"diversity needs (members >= 2, samples, classes), got an array of shape {p.shape}."
        )
    return p


def _kl(p: Float64[np.ndarray, "n classes"], q: Float64[np.ndarray, "n classes"]) -> float:
    """Mean over samples of KL(p || q), both `(N, K)`; 0 log 0 is 0."""
    ratio = np.maximum(p, FLOOR) / np.maximum(q, FLOOR)
    return float(np.mean(np.sum(p * np.log(ratio), axis=1)))
