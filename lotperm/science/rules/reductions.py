"""Statistics over dimensions: mean, sum, maximum, norm, softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from lotperm.science.labels import FIXED, Labels, thin
from lotperm.science.rules.registry import Call, rule


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


def _dims(call: Call) -> list[int]:
    """Return the dimensions that a statistic is over; all, if none are named."""
    dims = call.arguments.get("dim")
    return [dims] if isinstance(dims, int) else dims or list(range(call.tensors[0].dim()))


def statistic(labels: Labels, ids: Tensor, dims: list[int]) -> Tensor:
    """Keep together what enters a statistic over `dims`.

    Returns
    -------
    Tensor
        Ids of the statistic, with `dims` kept at size 1: that of the unit, or `FIXED` if it is
        over several units.
    """
    dims = [d % ids.dim() for d in dims]
    roots = thin(labels.find(ids))
    kept = [d for d in range(ids.dim()) if d not in dims]
    rows = roots.permute(kept + dims).reshape(*(roots.shape[d] for d in kept), -1)
    of_one = (rows == rows[..., :1]).all(-1)
    if not of_one.all():
        labels.keep_together(rows[~of_one].unique(dim=0))
    out = torch.where(of_one, rows[..., 0], FIXED)
    for d in sorted(dims):
        out = out.unsqueeze(d)
    return out.expand([1 if d in dims else ids.shape[d] for d in range(ids.dim())])
