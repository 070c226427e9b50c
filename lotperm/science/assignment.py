"""The linear assignment behind every matching."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lotperm.errors import ParameterError
from lotperm.types import Float, Float64, Int64


def assign(similarity: Float[Tensor, " ..."]) -> Int64[Tensor, " n"]:
    """Find the permutation p that maximizes the sum of `similarity[i, p[i]]`.

    The solution is exact (`scipy.optimize.linear_sum_assignment`). If several permutations reach
    the maximum because rows, or columns, are identical, as those of dead units are, their units
    keep their order: the upper of two equal rows gets the column further left, and the left of two
    equal columns gets the upper row. This exchanges equal numbers, so it never changes the
    maximum. Other ties, which are accidents of the values, are broken as scipy's deterministic
    algorithm happens to break them.

    Parameters
    ----------
    similarity : Tensor, shape (n, n)
        Unit of B (row) by unit of A (column), finite.

    Returns
    -------
    Tensor, int64, shape (n,)
        `p[i]` is the unit of A that moves to position i.

    Raises
    ------
    ParameterError
        Not a square matrix of finite numbers.
    """
    # Imported here because it loads much of SciPy, and most commands match nothing.
    from scipy.optimize import linear_sum_assignment

    # Adding 0.0 turns -0.0 into 0.0, so that equal values have equal bytes.
    matrix = similarity.detach().cpu().double().numpy() + 0.0
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ParameterError(
            f"assign needs a square matrix of finite numbers, got shape {matrix.shape} with "
            f"{np.count_nonzero(~np.isfinite(matrix))} non-finite entries; check the weights and "
            "activations."
        )
    p = linear_sum_assignment(matrix, maximize=True)[1]
    rows, columns = _equal_rows(matrix), _equal_rows(matrix.T)
    # Each exchange makes p lexicographically smaller, so this ends.
    while True:
        before = p.copy()
        for same in rows:
            p[same] = np.sort(p[same])
        where = np.argsort(p)
        for same in columns:
            p[np.sort(where[same])] = same
        if np.array_equal(p, before):
            return torch.from_numpy(p.astype(np.int64))


def _equal_rows(matrix: np.ndarray) -> list[np.ndarray]:
    """Return each set of two or more identical rows, as ascending indices."""
    same: dict[bytes, list[int]] = {}
    for i, row in enumerate(matrix):
        same.setdefault(row.tobytes(), []).append(i)
    return [np.array(indices) for indices in same.values() if len(indices) > 1]


def mean_matched(matrix: Float64[Tensor, "n n"], p: Int64[Tensor, " n"]) -> float:
    """Return the mean of the matched entries, `matrix[i, p[i]]`."""
    return matrix[torch.arange(len(p)), p].mean().item()
