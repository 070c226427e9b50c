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
from lotperm.science.rules.registry import Call, rule, unknown


@rule(
    "amax", "amin", "linalg_vector_norm", "logsumexp", "mean", "norm", "prod", "std", "sum", "var"
)
def reduction(labels: Labels, call: Call) -> Tensor:
    """Label a statistic that takes the place of the dimensions it is over."""
    return statistic(labels, call.tensors[0], _dims(call)).reshape(call.shape)


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


@rule("argmax", "argmin", "cummax", "cummin", "cumprod", "cumsum", "diff", "kthvalue")
@rule("logcumsumexp", "max", "median", "min", "mode", "nanmedian", "sort", "argsort", "topk")
@rule("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "index_select")
def along_positions(labels: Labels, call: Call) -> Any:
    """Label an operation on values in their order along one dimension.

    The units that lie along others stay free. Of units themselves it is a statistic if only the
    value of one is taken, and not which.
    """
    ids, dim = call.tensors[0], call.arguments.get("dim")
    values = call.node.meta["val"]
    if len(call.tensors) > 1 and call.name in ("max", "min"):
        return align(labels, call.tensors)
    if not isinstance(dim, int) or not labels.crosses(ids, dim):
        taken = {u.args[1] for u in call.node.users if u.target is operator.getitem and u.users}
        value_alone = isinstance(values, Tensor) or 1 not in taken
        if call.name in ("max", "min", "median", "nanmedian", "kthvalue") and value_alone:
            whole = statistic(labels, ids, _dims(call))
            return pytree.tree_map_only(
                Tensor, lambda value: whole.reshape(concrete_shape(value)), values
            )
        return unknown(labels, call)
    dim %= ids.dim()

    def label(value: Tensor) -> Tensor:
        kept = value.dim() == ids.dim()
        row = ids.narrow(dim, 0, 1) if kept else ids.select(dim, 0)
        return row.expand(concrete_shape(value))

    return pytree.tree_map_only(Tensor, label, values)


def _dims(call: Call) -> list[int]:
    """Return the dimensions that a statistic is over; all, if none are named."""
    dims = call.arguments.get("dim")
    return [dims] if isinstance(dims, int) else dims or list(range(call.tensors[0].dim()))


def statistic(labels: Labels, ids: Tensor, dims: list[int], kind: str = "inside") -> Tensor:
    """Keep together what enters a statistic over `dims`.

    Returns
    -------
    Tensor
        Ids of the statistic, with `dims` kept at size 1: that of the unit, or that of the set of
        units that it is over (`Labels.derive`).
    """
    dims = [d % ids.dim() for d in dims]
    roots = thin(labels.find(ids))
    kept = [d for d in range(ids.dim()) if d not in dims]
    rows = roots.permute(kept + dims).reshape(*(roots.shape[d] for d in kept), -1)
    of_one = (rows == rows[..., :1]).all(-1)
    out = torch.where(of_one, rows[..., 0], FIXED)
    if not of_one.all():
        sets, inverse = rows[~of_one].sort(-1).values.unique(dim=0, return_inverse=True)
        out[~of_one] = labels.derive(sets, kind)[inverse]
    for d in sorted(dims):
        out = out.unsqueeze(d)
    return out.expand([1 if d in dims else ids.shape[d] for d in range(ids.dim())])
