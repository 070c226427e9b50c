"""Weights that are computed from parameters before they are used: masks, norms, transposes.

A parameter that only such operations and products take is labelled by its axes all along.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from lotperm.science.graphs import node_shape, operation_name
from lotperm.science.labels import Labels
from lotperm.science.rules.registry import Call, Matrix, unknown

_COPIES = ("alias", "clone", "contiguous", "detach", "_to_copy", "to", "type_as")
_TRANSPOSES = ("mT", "numpy_T", "permute", "swapaxes", "t", "transpose")
_RESHAPES = ("expand", "expand_as", "flatten", "reshape", "squeeze", "unsqueeze", "view")
_SLICES = ("chunk", "narrow", "slice", "split", "split_with_sizes", "tensor_split")
_PRODUCTS = ("dot", "matmul", "mm", "mv", "vdot")
_STATISTICS = ("amax", "amin", "linalg_vector_norm", "mean", "norm", "std", "sum", "var")


def keeps_axes(node: fx.Node) -> bool:
    """Return whether an operation may take weights by their axes, and give such."""
    name, target = operation_name(node), node.target
    if target is operator.getitem:
        return operation_name(node.all_input_nodes[0]) in _SLICES
    if not isinstance(target, OpOverload) or target._schema.is_mutable:
        return False
    if name in _SLICES and _slice_dim(node) != 0:
        return False
    if name == "flatten":  # as spectral norm calls it; where it merges axes, values are told apart
        return node_shape(node) == node_shape(node.all_input_nodes[0])
    of_axes = (*_COPIES, *_TRANSPOSES, *_RESHAPES, *_SLICES, *_STATISTICS, "_weight_norm")
    # Of two weights; with an activation they are what `products` labels.
    known = (*of_axes, *_PRODUCTS)
    return name in known or torch.Tag.pointwise in target.tags


def _slice_dim(node: fx.Node) -> int:
    """Return the axis along which an operation takes a part."""
    dim = node.kwargs.get("dim", 0)
    place = 1 if operation_name(node) in ("narrow", "slice") else 2
    if len(node.args) > place:
        dim = node.args[place]
    source = node.all_input_nodes[0].meta.get("val")
    return dim % source.dim() if isinstance(dim, int) and isinstance(source, Tensor) else -1


def computed_weight(labels: Labels, call: Call) -> Any:
    """Label an operation on nothing but parameters: a `Matrix`, if it keeps their axes."""
    if call.name in _SLICES:
        return _sliced(labels, call)
    matrix = _contracted(labels, call) if call.name in _PRODUCTS else _computed(call)
    if matrix is None or matrix.shape != tuple(call.shape):
        return unknown(labels, call)
    return matrix


def _contracted(labels: Labels, call: Call) -> Matrix | None:
    """Label a product of two weights, as of low-rank updates, or of a weight and a vector.

    What is summed over is one axis of both, along which the same units lie.
    """
    left, right = call.args[:2]
    if not (isinstance(left, Matrix) and isinstance(right, Matrix)):
        return None
    if max(len(left.shape), len(right.shape)) > 2 or left.part or right.part:
        return None
    inner, n = len(left.shape) - 1, right.shape[0]
    # A vector makes no units, it only goes with those of the other factor.
    vector = len(right.shape) == 1
    units = right.lie_on(labels, 0, labels.fresh(n)) if vector else right.produce(labels, 0, n)
    left.lie_on(labels, inner, units)
    rows, columns = (None,) * (len(left.shape) - 1), (None,) * (len(right.shape) - 1)
    parts = [(name, (*axes[:inner], *columns)) for name, axes in left.parts]
    parts += [(name, (*rows, *axes[1:])) for name, axes in right.parts]
    return Matrix(tuple(dict.fromkeys(parts)), tuple(call.shape))


def _sliced(labels: Labels, call: Call) -> Any:
    """Label some rows of weights, or all of them in parts."""
    whole, dim = call.args[0], call.arguments["dim"]
    # The operation itself says which rows, when it is run on their numbers.
    numbers = torch.arange(whole.shape[dim]).view(
        [-1 if d == dim % len(whole.shape) else 1 for d in range(len(whole.shape))]
    )
    rows = getattr(torch.ops.aten, call.name)(numbers, *call.args[1:], **call.kwargs)
    parts = []
    for part in rows if isinstance(rows, (list, tuple)) else [rows]:
        found = part.flatten().tolist()
        if not found or found != list(range(found[0], found[-1] + 1)):
            return unknown(labels, call)
        parts.append(whole.sliced(dim, found[0], found[-1] + 1))
    if any(part is None for part in parts):
        return unknown(labels, call)
    return parts if isinstance(rows, (list, tuple)) else parts[0]


def _computed(call: Call) -> Matrix | None:
    leaves = pytree.tree_leaves((call.args, call.kwargs))
    operands = [leaf for leaf in leaves if isinstance(leaf, Matrix)]
    if any(isinstance(leaf, Tensor) and leaf.numel() > 1 for leaf in leaves):
        return None
    first = operands[0]
    if call.name in _TRANSPOSES:
        # The transpose of a tensor that has as many values along an axis as its number, plus 1.
        order = torch.empty([d + 1 for d in range(len(first.shape))], device="meta")
        moved = getattr(torch.ops.aten, call.name)(order, *call.args[1:], **call.kwargs)
        return first.rearranged([size - 1 for size in moved.shape])
    if call.name in _RESHAPES:
        return first.reshaped(tuple(call.shape))
    if call.name in _STATISTICS:
        dims = call.arguments.get("dim")
        dims = [dims] if isinstance(dims, int) else dims or list(range(len(first.shape)))
        return first.reduced([d % len(first.shape) for d in dims], tuple(call.shape))
    return Matrix.together(operands, tuple(call.shape))
