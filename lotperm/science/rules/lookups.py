"""Values that are looked up by index: embeddings, indices, code books, experts.

An index may select one of several units, such as the nearest word of a code book (`Labels.choice`).
If it only serves to look up the same unit's values elsewhere, the units may move.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lotperm.science.graphs import concrete_shape
from lotperm.science.labels import LARGE, Labels, fixed_outputs, spread
from lotperm.science.matrices import Matrix
from lotperm.science.rules.creation import equal_values
from lotperm.science.rules.elementwise import align
from lotperm.science.rules.registry import Call, rule, unknown


def choice(labels: Labels, ids: Tensor, dims: list[int]) -> Tensor | None:
    """Return the id of indices that choose among the units along a dimension, or None."""
    if not labels.may_move(ids) or labels.varying(ids) != dims:
        return None
    return labels.choice(labels.along(ids, dims[0]))


def picked(labels: Labels, values: Tensor, dim: int, units: Tensor) -> Tensor | None:
    """Label values that are taken along a dimension at the place of a chosen unit.

    Returns
    -------
    Tensor or None
        Ids with that dimension at size 1. If no unit lies there, None, and nothing is recorded.
    """
    along = labels.varying(values)
    if dim not in along or values.shape[dim] != len(units):
        return None
    shape = [1 if d == dim else size for d, size in enumerate(values.shape)]
    if along == [dim]:
        labels.unify(labels.along(values, dim), units)
        labels.keep_together([units])
        return torch.zeros(shape, dtype=torch.int64)
    once = values[tuple(slice(None) if d in along else slice(1) for d in range(values.dim()))]
    if once.numel() > LARGE // 8:  # each of them would be a unit
        return None
    rows = once.movedim(dim, -1)
    labels.relate(rows, units.expand(rows.shape), "weighed")
    found = labels.derive(rows.reshape(-1, len(units))).view(rows.shape[:-1])
    return found.unsqueeze(dim).expand(shape)


@rule("one_hot")
def one_hot(labels: Labels, call: Call) -> Any:
    """Label a one for the chosen unit, and zeros for the others."""
    units = labels.chosen(call.args[0])
    if units is None or call.shape[-1] != len(units):
        return unknown(labels, call)
    return spread(units, call.shape, -1)


@rule("embedding", matrix=0)
def embedding(labels: Labels, call: Call) -> Any:
    """Label rows that are looked up: new units; words are fixed unless units choose them."""
    weight, index = call.args[:2]
    words = labels.chosen(index)
    if words is not None and len(words) != weight.shape[0]:
        words = None
    if words is None and labels.chooses(index):
        return unknown(labels, call)
    if isinstance(weight, Matrix):
        still = torch.zeros(weight.shape[0], dtype=torch.int64)
        weight.lie_on(labels, 0, still if words is None else words)
        return spread(weight.produce(labels, 1, weight.shape[1]), call.shape, -1)
    row = None if words is None else picked(labels, weight, 0, words)
    if row is None:
        labels.disregard(index)
        row = labels.along(weight, 1)
    return spread(row.flatten(), call.shape, -1)


@rule("embedding_bag", matrix=0)
def embedding_bag(labels: Labels, call: Call) -> Any:
    """Label sums, means or maxima of rows that are looked up."""
    weight = call.args[0]
    weighing = [ids for ids in call.tensors if labels.may_move(ids)]
    if not isinstance(weight, Matrix) or weighing:
        return unknown(labels, call)
    weight.lie_on(labels, 0, torch.zeros(weight.shape[0], dtype=torch.int64))
    units = weight.produce(labels, 1, weight.shape[1])
    values = call.node.meta["val"]
    return [spread(units, concrete_shape(values[0]), -1), *list(fixed_outputs(call.node))[1:]]


@rule("index")
def index(labels: Labels, call: Call) -> Any:
    """Label values taken along dimensions of positions, such as biases by relative position.

    Along dimensions of units, the indices must be known constants or chosen by units.
    """
    ids, indices = call.args[:2]
    if not isinstance(ids, Tensor) or any(isinstance(i, Matrix) for i in indices):
        return unknown(labels, call)
    taken = [d for d, i in enumerate(indices) if i is not None]
    nodes: Any = call.node.args[1]
    known = [None if node is None else labels.known_value(node) for node in nodes]
    if all(known[d] is not None for d in taken) and not set(taken).isdisjoint(labels.varying(ids)):
        return torch.ops.aten.index(ids, known)
    units = labels.chosen(indices[taken[0]]) if len(taken) == 1 else None
    first = None if units is None else picked(labels, ids, taken[0], units)
    if first is None:
        labels.disregard(*(indices[d] for d in taken))
        if any(labels.chooses(indices[d]) for d in taken):
            return unknown(labels, call)
        for dim in taken:
            labels.unify(ids, ids.narrow(dim, 0, 1))
        ids = labels.find(ids)
        first = ids[tuple(slice(1) if d in taken else slice(None) for d in range(ids.dim()))]
    inserted = len(call.shape) - (ids.dim() - len(taken))
    # Indexing puts its result in the place of adjacent dimensions, or first if they aren't.
    start = taken[0] if taken == list(range(taken[0], taken[-1] + 1)) else 0
    kept = [d for d in range(ids.dim()) if d not in taken]
    first = first.permute([*taken, *kept]).flatten(0, len(taken) - 1)[0]
    shape = [*first.shape[:start], *[1] * inserted, *first.shape[start:]]
    return first.reshape(shape).expand(call.shape)


@rule("index_select")
def index_select(labels: Labels, call: Call) -> Any:
    """Label values taken along one dimension."""
    ids, dim = call.tensors[0], call.args[1] % call.tensors[0].dim()
    if labels.is_blank(ids):
        same = equal_values(labels, call.shape)
        return ids.narrow(dim, 0, 1).expand(call.shape) if same is None else same
    known, units = labels.known_value(call.node.args[2]), labels.chosen(call.args[2])
    if known is not None:
        return ids.index_select(dim, known)
    row = None if units is None else picked(labels, ids, dim, units)
    if row is None:
        labels.disregard(call.args[2])
        if labels.chooses(call.args[2]) or (labels.may_move(ids) and not labels.crosses(ids, dim)):
            return unknown(labels, call)
        row = ids.narrow(dim, 0, 1)
    return row.expand(call.shape)


@rule("index_put")
def index_put(labels: Labels, call: Call) -> Any:
    """Label values that were replaced in part, where a mask is true or at known indices."""
    ids, indices, values = call.args[:3]
    nodes: Any = call.node.args[1]
    masks = [node.meta["val"].dtype == torch.bool for node in nodes if node is not None]
    if masks == [True] and nodes[0] is not None and values.numel() == 1:
        (mask,) = indices
        return align(labels, [ids, mask[(..., *[None] * (ids.dim() - mask.dim()))], values])
    known = [None if node is None else labels.known_value(node) for node in nodes]
    if any(place is None and node is not None for place, node in zip(known, nodes, strict=True)):
        return unknown(labels, call)
    if not labels.may_move(values):
        values = torch.ops.aten.index(align(labels, [ids, values]), known)
        labels.keep_together([values.unique()])
    return torch.ops.aten.index_put(ids, known, values)


@rule("gather", "index_add", "scatter", "scatter_add", "scatter_reduce", "take_along_dim")
def at_places(labels: Labels, call: Call) -> Any:
    """Label values that are taken from, or added at, indices along one dimension.

    Units that lie along other dimensions may still move.
    """
    ids, *others = call.tensors
    along = call.name == "take_along_dim"  # sizes of 1 are as large as needed
    taken, index = along or call.name == "gather", call.arguments["indices" if along else "index"]
    others = [other for other in others if other is not index]
    dim, units = call.arguments["dim"], labels.chosen(index)
    if dim is None:  # places in the flattened tensor
        ids, index, dim = ids.flatten(), index.flatten(), 0
    dim %= ids.dim()
    if units is not None:
        if taken and (row := picked(labels, ids, dim, units)) is not None:
            return row.expand(call.shape)
        same = labels.is_blank(ids) and not any(labels.varying(other) for other in others)
        if call.name in ("scatter", "scatter_add") and same and call.shape[dim] == len(units):
            return spread(units, call.shape, dim)
        labels.disregard(index)
    if taken and len(labels.varying(ids)) > 1:
        labels.unify(ids, ids.narrow(dim, 0, 1))
        ids = labels.find(ids)
    sources = [source for source in (ids, *others) if not labels.is_blank(source)] or [ids, *others]
    if any(labels.may_move(source) and not labels.crosses(source, dim) for source in sources):
        return unknown(labels, call)
    of_all = [*sources, index] if index.dim() == ids.dim() else sources
    rows = [source.narrow(dim, 0, 1) for source in of_all]
    alike = along or len({row.shape for row in rows}) == 1
    if not alike or (index.dim() < ids.dim() and labels.may_move(index)):
        return unknown(labels, call)
    return align(labels, rows).expand(call.shape)
