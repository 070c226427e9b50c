"""Statistics over dimensions: mean, sum, maximum, norm, softmax."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lotperm.science.graphs import concrete_shape
from lotperm.science.labels import FIXED, Labels, thin
from lotperm.science.rules.elementwise import align
from lotperm.science.rules.lookups import choice
from lotperm.science.rules.registry import Call, rule, unknown


@rule("all", "amax", "amin", "any", "count_nonzero", "linalg_vector_norm", "logsumexp", "mean")
@rule("nanmean", "nansum", "norm", "prod", "std", "sum", "var")
def reduction(labels: Labels, call: Call) -> Tensor:
    """Label a statistic that replaces the dimensions that it is taken over."""
    return statistic(labels, call.tensors[0], _dims(call)).reshape(call.shape)


@rule("dist", "linalg_vecdot")
def of_two(labels: Labels, call: Call) -> Tensor:
    """Label a distance or a product of two vectors, or of many at once."""
    dims = _dims(call) if call.name == "dist" else [call.arguments["dim"]]
    return statistic(labels, align(labels, call.tensors), dims).reshape(call.shape)


@rule("_softmax", "log_softmax", "softmax")
def softmax(labels: Labels, call: Call) -> Tensor:
    """Label values that are divided by their sum."""
    statistic(labels, call.tensors[0], _dims(call))
    return call.tensors[0]


@rule("std_mean", "var_mean")
def several_statistics(labels: Labels, call: Call) -> Any:
    """Label two statistics of the same values."""
    ids = statistic(labels, call.tensors[0], _dims(call))
    return pytree.tree_map_only(
        Tensor, lambda value: ids.reshape(concrete_shape(value)), call.node.meta["val"]
    )


@rule("cosine_similarity", "pairwise_distance")
def comparison(labels: Labels, call: Call) -> Tensor:
    """Label a number that compares two vectors, value by value."""
    differences = align(labels, call.tensors)
    return statistic(labels, differences, [call.arguments.get("dim", -1)]).reshape(call.shape)


# The values of these depend on the set of their inputs, not on its order.
_OF_SETS = (
    *("kthvalue", "max", "median", "min", "mode", "nanmedian", "nanquantile", "quantile"),
    *("sort", "topk"),
)


@rule(*_OF_SETS, "argmax", "argmin", "argsort", "cummax", "cummin", "cumprod", "cumsum", "diff")
@rule("logcumsumexp", "fft_fft", "fft_ifft", "fft_rfft", "fft_irfft")
@rule(*(f"fft_{kind}fft{n}" for kind in ("", "i", "r", "ir") for n in ("2", "n")))
def along_positions(labels: Labels, call: Call) -> Any:
    """Label an operation that depends on the order of values along some dimensions.

    Units that lie along other dimensions may still move. If units lie along these, the values are
    a statistic of the units, and their indices a choice among them.
    """
    ids = call.tensors[0]
    values = call.node.meta["val"]
    if len(call.tensors) > 1 and call.name in ("max", "min"):
        return align(labels, call.tensors)
    dims = [d % ids.dim() for d in _dims(call)]
    if call.arguments.get("dim") is not None and all(labels.crosses(ids, d) for d in dims):
        row = ids[tuple(slice(1) if d in dims else slice(None) for d in range(ids.dim()))]
        indices = row
    else:
        # Output 1 says where the values were, which changes when units move.
        taken = {u.args[1] for u in call.node.users if u.target is operator.getitem and u.users}
        value_alone = isinstance(values, Tensor) or 1 not in taken
        if call.name in ("argmax", "argmin", "argsort"):
            index = choice(labels, ids, dims)
            return unknown(labels, call) if index is None else index.expand(call.shape)
        index = None if value_alone else choice(labels, ids, dims)
        if call.name not in _OF_SETS or not (value_alone or index) or len(call.tensors) > 1:
            return unknown(labels, call)
        row = indices = statistic(labels, ids, dims)
        if index is not None:
            indices = index.expand(row.shape)

    def label(value: Tensor, row: Tensor) -> Tensor:
        shape = concrete_shape(value)
        return row.expand(shape) if len(shape) == row.dim() else row.squeeze(dims).expand(shape)

    if isinstance(values, Tensor):
        return label(values, row)
    return tuple(label(value, own) for value, own in zip(values, (row, indices), strict=False))


def _dims(call: Call) -> list[int]:
    """Return the dimensions that a statistic is taken over; all if none are given."""
    dims = call.arguments.get("dim")
    return [dims] if isinstance(dims, int) else dims or list(range(call.tensors[0].dim()))


def statistic(labels: Labels, ids: Tensor, dims: list[int], kind: str = "inside") -> Tensor:
    """Keep units together that enter a statistic over `dims`, and label the statistic.

    Returns
    -------
    Tensor
        Ids of the statistic, with `dims` kept at size 1: the unit's own, if it is the only one, or
        that of the set of units (`Labels.derive`).
    """
    dims = [d % ids.dim() for d in dims]
    roots = thin(labels.find(ids))
    kept = [d for d in range(ids.dim()) if d not in dims]
    rows = roots.permute(kept + dims).reshape(*(roots.shape[d] for d in kept), -1)
    of_one = (rows == rows[..., :1]).all(-1)
    out = torch.where(of_one, rows[..., 0], FIXED)
    if not of_one.all():
        # Order doesn't matter within a set, and a set that occurs again has the same statistic.
        sets, inverse = rows[~of_one].sort(-1).values.unique(dim=0, return_inverse=True)
        out[~of_one] = labels.derive(sets, kind)[inverse]
    for d in sorted(dims):
        out = out.unsqueeze(d)
    return out.expand([1 if d in dims else ids.shape[d] for d in range(ids.dim())])
