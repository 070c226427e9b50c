"""Operations that move, copy, drop or add values without changing any."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lotperm.science.graphs import operation_name
from lotperm.science.labels import Labels, spread
from lotperm.science.rules.elementwise import align
from lotperm.science.rules.registry import Call, rule, unknown

_REPETITIONS = (
    "broadcast_tensors",
    "broadcast_to",
    "expand",
    "expand_as",
    "repeat",
    "repeat_interleave",
    "tile",
)


@rule("flatten", "reshape", "reshape_as", "squeeze", "unflatten", "unsqueeze", "view", "view_as")
@rule(
    "adjoint",
    "matrix_H",
    "mT",
    "numpy_T",
    "movedim",
    "permute",
    "pixel_shuffle",
    "pixel_unshuffle",
    "swapaxes",
    "swapdims",
    "t",
    "transpose",
)
@rule("column_stack", "cat", "dstack", "hstack", "stack", "vstack")
@rule("chunk", "narrow", "select", "slice", "split", "split_with_sizes", "tensor_split", "unbind")
@rule("dsplit", "hsplit", "vsplit")
@rule("broadcast_tensors", "broadcast_to", "expand", "expand_as", "repeat", "repeat_interleave")
@rule("channel_shuffle", "flip", "native_channel_shuffle", "roll", "rot90", "tile", "unfold")
@rule("atleast_1d", "atleast_2d", "atleast_3d", "diagonal", "fft_fftshift", "fft_ifftshift")
@rule("fliplr", "flipud", "linalg_diagonal", "ravel")
def move(labels: Labels, call: Call) -> Any:
    """Run the operation on the ids themselves."""
    # Ids may lie in memory differently from the values, so that a view isn't possible.
    name = "reshape" if call.name == "view" else call.name
    args = call.args
    copied = _copies(labels, call)
    if copied is not None:
        return copied
    if name in ("cat", "column_stack", "dstack", "hstack", "stack", "vstack"):
        # A value may be repeated by concatenating it with itself.
        nodes = pytree.tree_leaves(call.node.args[0])
        known = {
            node: labels.constants(ids)
            for node, ids in zip(nodes, args[0], strict=True)
            if nodes.count(node) > 1
        }
        parts = [known.get(node, ids) for node, ids in zip(nodes, args[0], strict=True)]
        if name == "cat":
            parts = _padded(labels, parts, call.arguments["dim"])
        args = (parts, *args[1:])
    elif name in _REPETITIONS:
        known_ids = pytree.tree_map_only(Tensor, labels.constants, args[0])
        args = (known_ids, *args[1:])
    return getattr(torch.ops.aten, name)(*args, **call.kwargs)


def _padded(labels: Labels, parts: list[Tensor], dim: int) -> list[Tensor]:
    """Treat equal values joined to units as new units, or as the same if joined across them."""
    units = [p for p in parts if labels.may_move(p) and not labels.is_blank(p)]
    if not units or any(p.dim() != units[0].dim() for p in parts):
        return parts
    crosses, row = labels.crosses(units[0], dim), units[0].narrow(dim, 0, 1)

    def padded(p: Tensor) -> Tensor:
        if crosses:
            return row.expand(p.shape)
        return spread(labels.blank(p.shape[dim]), p.shape, dim)

    return [padded(p) if labels.may_move(p) and labels.is_blank(p) else p for p in parts]


def _copies(labels: Labels, call: Call) -> Tensor | None:
    """Label units in blocks that are each repeated, as keys are for several queries.

    Return None if the operation does something else.
    """
    if call.name == "repeat_interleave":
        ids, count, dim = call.args[0], call.args[1], call.arguments.get("dim")
        if not isinstance(count, int) or dim is None or not isinstance(ids, Tensor):
            return None
        if call.node.all_input_nodes[0].op == "get_attr":  # single weights aren't blocks
            return None
        dim %= ids.dim()
        if not _in_blocks(labels, ids, dim):
            return None
        return labels.copies(ids, count).movedim(-1, dim + 1).flatten(dim, dim + 1)
    if call.name in ("broadcast_to", "expand", "expand_as", "repeat"):
        return _one_for_all(labels, call)
    if call.name not in ("flatten", "reshape", "view", "_unsafe_view"):
        return None
    # When written by hand, such a repetition is an `expand` along a new axis, then a reshape.
    node = call.node.all_input_nodes[0]
    while operation_name(node) in ("clone", "contiguous"):
        node = node.all_input_nodes[0]
    if operation_name(node) != "expand" or node.all_input_nodes[0].name not in labels.carried:
        return None
    ids, shape = labels.carried[node.all_input_nodes[0].name], call.args[0].shape
    new = [d for d in range(len(shape)) if ids.dim() == len(shape) and ids.shape[d] != shape[d]]
    if len(new) != 1 or new[0] < 2 or not _in_blocks(labels, ids, new[0] - 1):
        return None
    (dim,) = new
    if call.shape != (*shape[: dim - 1], shape[dim - 1] * shape[dim], *shape[dim + 1 :]):
        return None
    return labels.copies(ids.squeeze(dim), shape[dim]).movedim(-1, dim).flatten(dim - 1, dim)


def _in_blocks(labels: Labels, ids: Tensor, dim: int) -> bool:
    """Return whether blocks of units lie along a dimension, and the units along another."""
    varying = labels.varying(ids)
    # A single block may be repeated for all queries.
    single = ids.dim() > 3 and ids.shape[dim] == 1 and varying == [ids.dim() - 1]
    return labels.may_move(ids) and (single or (dim in varying and len(varying) > 1))


def _one_for_all(labels: Labels, call: Call) -> Tensor | None:
    """Label units along the last of four or more dimensions, repeated as a key for all queries."""
    ids, shape = call.args[0], call.shape
    if ids.dim() < 4 or ids.dim() != len(shape) or not labels.may_move(ids):
        return None
    grown = [d for d in range(len(shape)) if ids.shape[d] != shape[d]]
    known = labels.varying(ids) == [len(shape) - 1]
    if not known or len(grown) != 1 or grown[0] == 0 or ids.shape[grown[0]] != 1:
        return None
    (dim,) = grown
    return labels.copies(ids.squeeze(dim), shape[dim]).movedim(-1, dim)


@rule("copy")
def copy(labels: Labels, call: Call) -> Tensor:
    """Label values that are overwritten by others."""
    old, new = call.tensors[:2]
    return new.expand(old.shape) if labels.may_move(new) else align(labels, [old, new])


@rule("slice_scatter", "select_scatter")
def replaced(labels: Labels, call: Call) -> Tensor:
    """Label a tensor of which a part was replaced by another tensor's values."""
    whole, part = call.tensors[:2]
    dim = call.arguments["dim"]
    if call.name == "select_scatter":
        rows = torch.tensor([call.arguments["index"]])
        part = part.unsqueeze(dim)
    else:
        start, stop, step = (call.arguments[name] for name in ("start", "end", "step"))
        rows = torch.arange(whole.shape[dim])[start:stop:step]
    if len(rows) == whole.shape[dim]:
        return part.expand(whole.shape)
    along = labels.varying(part)
    if labels.is_blank(whole) and len(along) == 1 and dim % whole.dim() not in along:
        # What isn't replaced yet may hold other units later.
        whole = spread(labels.blank(part.shape[along[0]]), whole.shape, along[0])
    else:
        whole, part = _padded(labels, [whole, part], dim)
    return whole.index_copy(dim, rows % whole.shape[dim], part)


@rule("pad", "constant_pad_nd")
def pad(labels: Labels, call: Call) -> Any:
    """Label padding of space, or of channels by a constant, which adds units without weights."""
    ids, widths = call.tensors[0], call.arguments["pad"]
    for i, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        dim = ids.dim() - 1 - i
        size = ids.shape[dim] + before + after
        if dim not in labels.varying(ids):
            ids = ids.narrow(dim, 0, 1).expand(*ids.shape[:dim], size, *ids.shape[dim + 1 :])
            continue
        if call.arguments.get("mode", "constant") != "constant":
            return unknown(labels, call)
        start, stop = max(-before, 0), ids.shape[dim] - max(-after, 0)
        parts = [ids.narrow(dim, start, stop - start)]
        if before > 0:
            parts.insert(0, _new_units(labels, ids, dim, before))
        if after > 0:
            parts.append(_new_units(labels, ids, dim, after))
        ids = torch.cat(parts, dim)
    return ids


def _new_units(labels: Labels, like: Tensor, dim: int, count: int) -> Tensor:
    """Return ids of `count` new units along `dim`, otherwise shaped like `like`."""
    shape = list(like.shape)
    shape[dim] = count
    return spread(labels.fresh(count), torch.Size(shape), dim)


@rule("view_as_complex")
def view_as_complex(labels: Labels, call: Call) -> Tensor:
    """Label complex numbers, whose real and imaginary parts become one unit."""
    ids = call.tensors[0]
    labels.unify(ids, ids[..., :1])
    return labels.find(ids[..., 0])


@rule("view_as_real")
def view_as_real(labels: Labels, call: Call) -> Tensor:
    """Label the two parts of complex numbers."""
    return call.tensors[0].unsqueeze(-1).expand(call.shape)


def mapped(labels: Labels, call: Call) -> Any:
    """Label the entry or exit of `torch.vmap`, which hides the mapped dimension in between."""
    name = getattr(call.node.target, "__name__", "")
    if name not in ("_add_batch_dim", "_remove_batch_dim"):
        return unknown(labels, call)
    ids, dim = call.args[0], call.args[1 if name == "_add_batch_dim" else 3]
    if not isinstance(ids, Tensor):
        return unknown(labels, call)
    if name == "_remove_batch_dim":
        return ids.unsqueeze(dim).expand(call.shape)
    return ids.select(dim, 0) if dim not in labels.varying(ids) else unknown(labels, call)
