"""Elementwise operations: sums, products, nonlinearities, dropout, copies."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lotperm.science.graphs import operation_name
from lotperm.science.labels import LARGE, POSITIONS, Labels, distinct_pairs
from lotperm.science.rules.registry import Call, rule

# Activations are matched at the outputs of these.
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


COPIES = ("_to_copy", "alias", "clone", "contiguous", "detach", "to")


# Some overloads of these lack ATen's tag `pointwise`; operations with that tag use this rule too.
@rule(*COPIES, "type_as")
@rule("alpha_dropout", "dropout", "feature_alpha_dropout", "feature_dropout")
@rule("hardswish", "log_sigmoid", "mish", "relu6", "real", "imag", "complex", "polar")
@rule("fill", "floor_divide", "masked_fill", "rsub", "where")
@rule("fake_quantize_per_tensor_affine", "isclose", "isreal", "lift", "lift_fresh", "pin_memory")
@rule(
    "conj", "resolve_conj", "resolve_neg", "special_gammainc", "special_gammaincc", "special_ndtr"
)
def elementwise(labels: Labels, call: Call) -> Tensor:
    """Label an operation whose output at a position depends only on the operands there."""
    nodes = [n for n in pytree.tree_leaves((call.node.args, call.node.kwargs)) if _is_tensor(n)]
    return align(
        labels,
        [
            _before_expansion(labels, node, ids)
            for node, ids in zip(nodes, call.tensors, strict=True)
        ],
    )


def _is_tensor(node: object) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)


def _before_expansion(labels: Labels, node: fx.Node, ids: Tensor) -> Tensor:
    """Return ids as they were before an expansion, which show where values are equal."""
    if operation_name(node) in ("broadcast_to", "expand", "expand_as"):
        source = labels.carried.get(node.all_input_nodes[0].name)
        if source is not None and labels.may_move(source):
            return source
    return ids


@rule("bucketize", "isin", "searchsorted")
def compared(labels: Labels, call: Call) -> Tensor:
    """Label values that are each compared with the same others, which stay."""
    others, values = call.args[1], call.args[0]
    if call.name == "searchsorted":
        others, values = values, others
    if not isinstance(values, Tensor):  # a single number
        values = torch.zeros(call.shape, dtype=torch.int64)
    if isinstance(others, Tensor):
        labels.because("compares them all with the same values")
        labels.fix(others)
    return values.expand(call.shape)


@rule("glu")
def gated(labels: Labels, call: Call) -> Tensor:
    """Label one half of the values times a gate from the other."""
    return align(labels, list(call.tensors[0].chunk(2, call.arguments["dim"])))


def align(labels: Labels, tensors: list[Tensor]) -> Tensor:
    """Make operands hold the same unit at each position, and return the ids of the result."""
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    moving = [t for t in tensors if labels.may_move(t)]
    # Zeros are the same for all units that they meet.
    moving = [t for t in moving if not labels.is_blank(t)] or moving
    if not moving:
        known = [t for t in tensors if t.numel() > 1]
        if not any(bool(labels.find(t).any()) for t in known):
            return torch.zeros(shape, dtype=torch.int64)
        return functools.reduce(labels.combine, known).expand(shape)
    result = functools.reduce(lambda a, b: _meet(labels, a, b), moving).expand(shape)
    for ids in tensors:
        # If a value is the same for all units (a mean, a gate, a scalar), they may still move, but
        # not if it differs by position.
        if not labels.may_move(ids):
            _tell_apart(labels, result, ids)
    return result


def _meet(labels: Labels, a: Tensor, b: Tensor) -> Tensor:
    """Label a function of two values that units hold, position by position.

    Mostly the two units at a position become one. If one of them meets several units of the other
    operand, these belong to it, as the units of a head belong to the head.
    """
    dims = max(a.dim(), b.dim())
    a, b = (t[(None,) * (dims - t.dim())] for t in (a, b))
    along = [set(labels.varying(t)) for t in (a, b)]
    if along[0] != along[1]:
        for ids, other, extra in ((a, b, along[0] - along[1]), (b, a, along[1] - along[0])):
            for dim in extra:
                # The other operand holds one unit, but with a value for each position.
                if other.shape[dim] > 1:
                    labels.unify(ids, ids.narrow(dim, 0, 1))
        along = [set(labels.varying(t)) for t in (a, b)]
    for ids, other, mine in ((a, b, along[0]), (b, a, along[1])):
        if not mine and all(ids.shape[dim] == 1 for dim in labels.varying(other)):
            labels.because(POSITIONS)
            labels.fix(ids)  # a single unit, which stays while the others may move
            return other
    if along[0] == along[1]:
        labels.unify(a, b)
        return a
    shape = torch.broadcast_shapes(a.shape, b.shape)
    x, y = (_once(t.expand(shape), along[0] | along[1]) for t in (a, b))
    if not (along[0] < along[1] or along[1] < along[0]):
        if x.numel() > LARGE:
            labels.fix(a)
            labels.fix(b)
            return a
        return labels.pair(x, y).expand(shape)
    child, parent = (x, y) if along[1] < along[0] else (y, x)
    pairs = distinct_pairs(labels.find(child).flatten(), labels.find(parent).flatten())
    if pairs.shape[1] > len(pairs[0].unique()):
        labels.unify(a, b)
    else:
        labels.relate(child, parent, "weighed")
    return child.expand(shape)


def _once(ids: Tensor, dims: set[int]) -> Tensor:
    """Return ids at the first index of all dimensions except these."""
    return ids[tuple(slice(None) if d in dims else slice(1) for d in range(ids.dim()))]


def _tell_apart(labels: Labels, result: Tensor, ids: Tensor) -> None:
    """Distinguish units that meet values which differ by position."""
    alike = set(range(-ids.dim(), 0)) - {d - ids.dim() for d in labels.varying(ids)}
    known = bool(labels.find(ids).all())
    if not known:
        alike = set()
    varying = [d - result.dim() for d in labels.varying(result)]
    differ = [d for d in varying if d not in alike and -d <= ids.dim() and ids.shape[d] > 1]
    if not differ or (known and _meet_alike(labels, result, ids)):
        return
    rest = [d for d in varying if d not in differ]
    rows = _once(result, {d + result.dim() for d in varying})
    rows = rows.permute(
        [d for d in range(result.dim()) if d - result.dim() not in varying]
        + [d + result.dim() for d in (*differ, *rest)]
    )
    rows = labels.find(rows).reshape(math.prod(result.shape[d] for d in differ), -1)
    if rows.shape[1] == 1 or bool((rows == rows[:, :1]).all()):
        labels.because("combines them with values that differ by position")
        labels.fix(result)
    else:
        labels.keep_together(rows.unique(dim=0))


def _meet_alike(labels: Labels, result: Tensor, ids: Tensor) -> bool:
    """Return whether each unit meets the same values in the same order, as heads meet a mask."""
    varying = {*labels.varying(result)} | {
        d + result.dim() - ids.dim() for d in labels.varying(ids)
    }
    units, values = (_once(t.expand(result.shape), varying) for t in (result, ids))
    if units.numel() > LARGE:
        return False
    units, values = labels.find(units).flatten(), labels.find(values).flatten()
    order = units.argsort(stable=True)
    counts = units[order].unique_consecutive(return_counts=True)[1]
    if bool((counts != counts[0]).any()):
        return False
    met = values[order].view(len(counts), -1)
    return bool((met == met[:1]).all())
