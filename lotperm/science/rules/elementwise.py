"""Operations value by value: sums, products, nonlinearities, dropout, copies."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from lotperm.science.labels import Labels
from lotperm.science.rules.registry import Call, rule

# Their outputs are where activations are matched.
NONLINEARITIES = frozenset(
    (
        "celu",
        "elu",
        "gelu",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "log_sigmoid",
        "mish",
        "prelu",
        "relu",
        "relu6",
        "rrelu",
        "selu",
        "sigmoid",
        "silu",
        "softplus",
        "tanh",
        "threshold",
    )
)


# Some overloads of these lack ATen's tag `pointwise`; whatever has it takes this rule too.
@rule("alias", "clone", "contiguous", "copy", "detach", "_to_copy", "to", "type_as")
@rule("alpha_dropout", "dropout", "feature_alpha_dropout", "feature_dropout")
@rule("hardswish", "log_sigmoid", "mish", "relu6")
@rule("fill", "floor_divide", "rsub", "true_divide", "where", "zero")
def elementwise(labels: Labels, call: Call) -> Tensor:
    """Label an operation whose output at a position depends on the operands there alone."""
    return align(labels, call.tensors)


@rule("glu")
def gated(labels: Labels, call: Call) -> Tensor:
    """Label one half of the values times a gate from the other."""
    return align(labels, list(call.tensors[0].chunk(2, call.arguments["dim"])))


def align(labels: Labels, tensors: list[Tensor]) -> Tensor:
    """Make operands hold the same unit at each position; return the ids of the result."""
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    moving = [t for t in tensors if labels.may_move(t)]
    if not moving:
        known = [t for t in tensors if t.numel() > 1]
        if not any(bool(labels.find(t).any()) for t in known):
            return torch.zeros(shape, dtype=torch.int64)
        return functools.reduce(labels.combine, known).expand(shape)
    result = moving[0].expand(shape)
    for ids in moving[1:]:
        labels.unify(result, ids)
    varying = {d - len(shape) for d in labels.varying(result)}
    for ids in tensors:
        # A value that is the same for all units (a mean, a gate, a scalar) lets them move; one for
        # each position does not.
        if labels.may_move(ids):
            continue
        alike = set(range(-ids.dim(), 0)) - {d - ids.dim() for d in labels.varying(ids)}
        if not labels.find(ids).all():
            alike = set()
        if any(d not in alike and ids.shape[d] > 1 for d in varying if -d <= ids.dim()):
            labels.because("combines them with values that differ by position")
            labels.fix(result)
    return result
