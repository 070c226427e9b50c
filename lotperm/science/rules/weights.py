"""Weights that are computed from parameters before they are used: masks, norms, transposes.

A parameter that is used only by such operations and by products is labelled by its axes throughout.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from lotperm.science.graphs import concrete_shape, node_shape, operation_name
from lotperm.science.labels import Labels
from lotperm.science.matrices import Joined, Matrix
from lotperm.science.rules.creation import creation
from lotperm.science.rules.elementwise import COPIES, elementwise
from lotperm.science.rules.registry import RULES, Call, unknown

_COPIES = (*COPIES, "type_as")
_TRANSPOSES = ("mT", "movedim", "numpy_T", "permute", "swapaxes", "t", "transpose")
RESHAPES = (
    "flatten",
    "reshape",
    "reshape_as",
    "squeeze",
    "unflatten",
    "unsqueeze",
    "view",
    "view_as",
)
_REPETITIONS = ("broadcast_to", "expand", "expand_as")
_SLICES = ("chunk", "narrow", "slice", "split", "split_with_sizes", "tensor_split")
_ROWS = ("select", "unbind")
_PRODUCTS = ("dot", "matmul", "mm", "mv", "vdot")
_STATISTICS = ("amax", "amin", "linalg_vector_norm", "mean", "norm", "prod", "std", "sum", "var")
# Statistics that return two results.
_PAIRS = ("kthvalue", "max", "median", "min", "mode", "std_mean", "var_mean")
_NORMS = ("_softmax", "log_softmax", "renorm", "softmax", "_weight_norm", "batch_norm")
_ORDERED = ("cumsum", "flip")
_JOINTS = ("cat", "stack")
_LIKE = ("full_like", "ones_like", "zeros_like")


def keeps_axes(node: fx.Node) -> bool:
    """Return whether an operation on weights labelled by their axes can return such weights."""
    name, target = operation_name(node), node.target
    if target is operator.getitem:
        source, values = operation_name(node.all_input_nodes[0]), node.args[1] == 0
        return source in (*_SLICES, "unbind", "std_mean", "var_mean") or values is True
    if not isinstance(target, OpOverload):
        return False
    if name == "unbind":
        return _dim(node, 1) == 0
    if name in _ORDERED:  # only along the spatial axes of a kernel, where no units lie
        dims, count = node.args[1:2], len(node_shape(node))
        return all(d % count > 1 for d in pytree.tree_leaves(dims)) and bool(dims)
    moved = (*_COPIES, *_TRANSPOSES, *RESHAPES, *_REPETITIONS, *_SLICES, *_ORDERED, *_JOINTS)
    # Products here are those of two weights; `products` labels those with an activation.
    others = ("copy", "outer", "pad", "select")
    known = (*moved, *others, *_STATISTICS, *_PAIRS, *_NORMS, *_PRODUCTS, *_LIKE)
    return name in known or torch.Tag.pointwise in target.tags or RULES.get(name) is elementwise


def is_constant(node: fx.Node) -> bool:
    """Return whether an operation fills a tensor with one value, without reading any tensor."""
    return RULES.get(operation_name(node)) is creation and not node.all_input_nodes


def _dim(node: fx.Node, place: int) -> int:
    """Return the axis along which an operation works, given the position of that argument."""
    dim = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
    source = node.all_input_nodes[0].meta.get("val")
    return dim % source.dim() if isinstance(dim, int) and isinstance(source, Tensor) else -1


def computed_weight(labels: Labels, call: Call) -> Any:
    """Label an operation on parameters alone by a `Matrix`, if it keeps their axes."""
    if call.name in _SLICES:
        return _sliced(labels, call)
    if call.name == "unbind":
        rows = [call.args[0].selected(0, i) for i in range(call.args[0].shape[0])]
        return unknown(labels, call) if None in rows else rows
    if call.name in _PAIRS:
        return _pair(labels, call)
    matrix = _contracted(labels, call) if call.name in _PRODUCTS else _computed(labels, call)
    if matrix is None or matrix.shape != tuple(call.shape):
        return unknown(labels, call)
    return matrix


def _contracted(labels: Labels, call: Call) -> Matrix | None:
    """Label a product of two weights, as in low-rank updates, or of a weight and a vector.

    The sum is over one axis of each, along which the same units lie.
    """
    left, right = call.args[:2]
    if not (isinstance(left, Matrix) and isinstance(right, Matrix)):
        return None
    joined = isinstance(left, Joined) or isinstance(right, Joined)
    if max(len(left.shape), len(right.shape)) > 2 or left.part or right.part or joined:
        return None
    inner, n = len(left.shape) - 1, right.shape[0]
    # A vector produces no units, it only moves with those of the other factor.
    vector = len(right.shape) == 1
    units = right.lie_on(labels, 0, labels.fresh(n)) if vector else right.produce(labels, 0, n)
    left.lie_on(labels, inner, units)
    rows, columns = ((),) * (len(left.shape) - 1), ((),) * (len(right.shape) - 1)
    parts = [(name, (*axes[:inner], *columns)) for name, axes in left.parts]
    parts += [(name, (*rows, *axes[1:])) for name, axes in right.parts]
    return Matrix(tuple(dict.fromkeys(parts)), tuple(call.shape))


def _sliced(labels: Labels, call: Call) -> Any:
    """Label some rows of weights, or all rows split into parts."""
    whole: Matrix = call.args[0]
    dim = call.arguments["dim"] % len(whole.shape)
    # Running the operation on row numbers shows which rows it takes.
    numbers = torch.arange(whole.shape[dim]).view(
        [-1 if d == dim else 1 for d in range(len(whole.shape))]
    )
    rows = getattr(torch.ops.aten, call.name)(numbers, *call.args[1:], **call.kwargs)
    parts: list[Matrix | None] = []
    for part in rows if isinstance(rows, (list, tuple)) else [rows]:
        found = part.flatten().tolist()
        if found == list(range(whole.shape[dim])):
            parts.append(whole)
            continue
        first_axis = all(axes[dim] == (0,) for _, axes in whole.parts)
        if found and first_axis and found == list(range(found[0], found[-1] + 1)):
            parts.append(whole.sliced(dim, found[0], found[-1] + 1))
        else:
            shape = (*whole.shape[:dim], len(found), *whole.shape[dim + 1 :])
            parts.append(whole.stay(labels, [dim], shape) if found else None)
    if any(part is None for part in parts):
        return unknown(labels, call)
    return parts if isinstance(rows, (list, tuple)) else parts[0]


def _computed(labels: Labels, call: Call) -> Matrix | None:
    leaves = pytree.tree_leaves((call.args, call.kwargs))
    operands = [leaf for leaf in leaves if isinstance(leaf, Matrix)]
    if any(isinstance(leaf, Tensor) and leaf.numel() > 1 for leaf in leaves):
        return None
    if not operands:
        return Matrix((), tuple(call.shape))
    first, shape = operands[0], tuple(call.shape)
    if call.name == "copy":  # nothing is left of the weights that are overwritten
        return operands[-1] if len(operands) == 2 and operands[-1].shape == shape else None
    if call.name in _JOINTS:
        return _joined(labels, call, operands)
    if call.name in _TRANSPOSES:
        # Transposing a tensor of sizes 1, 2, 3, ... shows the new order of axes.
        order = torch.empty([d + 1 for d in range(len(first.shape))], device="meta")
        moved = getattr(torch.ops.aten, call.name)(order, *call.args[1:], **call.kwargs)
        return first.rearranged([size - 1 for size in moved.shape])
    if call.name in RESHAPES:
        return first.reshaped(shape, labels.shapes)
    if call.name in _REPETITIONS:
        return first.expanded(shape)
    if call.name in _LIKE:
        return first.reduced(range(len(shape)), shape)
    if call.name == "pad":
        widths = call.args[1]
        padded = [len(shape) - 1 - i for i in range(len(widths) // 2) if any(widths[2 * i :][:2])]
        return first.stay(labels, padded, shape)
    if call.name == "batch_norm":
        ones = (1,) * (len(shape) - 2)
        own = [vector.reshaped((*vector.shape, *ones), labels.shapes) for vector in operands[1:]]
        return Matrix.together([first, *(vector for vector in own if vector)], shape)
    if call.name == "outer":
        column = first.reshaped((*first.shape, 1), labels.shapes)
        return Matrix.together([column, operands[-1]], shape) if column else None
    if call.name in _STATISTICS:
        dims = call.arguments.get("dim")
        dims = [dims] if isinstance(dims, int) else dims or list(range(len(first.shape)))
        return first.reduced([d % len(first.shape) for d in dims], shape)
    if call.name == "select":
        return _selected(labels, call, first)
    if call.name in _ORDERED:
        dims = call.arguments.get("dims", call.arguments.get("dim"))
        dims = [dims] if isinstance(dims, int) else dims or list(range(len(first.shape)))
        return first.stay(labels, [d % len(first.shape) for d in dims], shape)
    return Matrix.together(operands, shape)


def _pair(labels: Labels, call: Call) -> Any:
    """Label two statistics, or one and the indices of its values, which nothing uses."""
    operands = [leaf for leaf in call.args if isinstance(leaf, Matrix)]
    values = call.node.meta["val"]
    if len(operands) > 1:  # the larger of two
        return Matrix.together(operands, tuple(call.shape)) or unknown(labels, call)
    dims = call.arguments.get("dim")
    count = len(operands[0].shape)
    dims = [dims] if isinstance(dims, int) else dims or list(range(count))
    dims = [d % count for d in dims]
    if isinstance(operands[0], Joined):
        return unknown(labels, call)
    return pytree.tree_map_only(
        Tensor, lambda value: operands[0].reduced(dims, tuple(concrete_shape(value))), values
    )


def _selected(labels: Labels, call: Call, whole: Matrix) -> Matrix | None:
    """Label weights at one place along an axis."""
    dim, index = call.args[1] % len(whole.shape), call.args[2]
    if not isinstance(index, int):
        return None
    if all(axes[dim] == (0,) for _, axes in whole.parts):
        return whole.selected(dim, index % whole.shape[dim])
    one = (*whole.shape[:dim], 1, *whole.shape[dim + 1 :])
    return whole.stay(labels, [dim], one).reduced([dim], tuple(call.shape))


def _joined(labels: Labels, call: Call, pieces: list[Matrix]) -> Matrix | None:
    """Label weights that are concatenated along an axis, which may be a new one."""
    dim = call.arguments["dim"] % len(call.shape)
    if call.name == "stack":
        one = (*pieces[0].shape[:dim], 1, *pieces[0].shape[dim:])
        new = [piece.reshaped(one, labels.shapes) for piece in pieces]
        pieces = [piece for piece in new if piece is not None]
        if len(pieces) < len(new):
            return None
    if any(isinstance(piece, Joined) for piece in pieces):
        return None
    return Joined.of_pieces(pieces, dim)
