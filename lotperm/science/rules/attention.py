"""Attention and embeddings: heads that may change places, and units inside each of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lotperm.science.graphs import concrete_shape
from lotperm.science.labels import Labels, fixed_outputs, spread
from lotperm.science.matrices import Matrix
from lotperm.science.rules.contractions import contract
from lotperm.science.rules.elementwise import align
from lotperm.science.rules.registry import Call, rule, unknown


@rule("scaled_dot_product_attention")
def attention(labels: Labels, call: Call) -> Any:
    """Label ``softmax(q @ k.T + mask) @ v``, heads along dimension -3."""
    q, k, v = (call.arguments[name] for name in ("query", "key", "value"))
    if q.dim() < 2 or not all(isinstance(ids, Tensor) for ids in (q, k, v)):
        return unknown(labels, call)
    if call.arguments.get("enable_gqa") and q.dim() > 2:
        k, v = (_per_query(labels, ids, q.shape[-3] // ids.shape[-3]) for ids in (k, v))
    scores = contract(labels, q, k.transpose(-1, -2))
    mask = call.arguments.get("attn_mask")
    if isinstance(mask, Tensor):
        scores = align(labels, [scores, mask])
    return contract(labels, scores, v)


def _per_query(labels: Labels, ids: Tensor, count: int) -> Tensor:
    """Return keys or values with a head for each head of the queries."""
    return labels.copies(ids, count).movedim(-1, -3).flatten(-4, -3)


@rule("embedding", matrix=0)
def embedding(labels: Labels, call: Call) -> Any:
    """Label rows that are looked up: the words stay, the units are new."""
    weight, index = call.args[:2]
    if labels.chooses(index):
        return unknown(labels, call)
    if not isinstance(weight, Matrix):
        return spread(labels.along(weight, 1), call.shape, -1)
    weight.lie_on(labels, 0, torch.zeros(weight.shape[0], dtype=torch.int64))
    return spread(weight.produce(labels, 1, weight.shape[1]), call.shape, -1)


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
    """Label values taken along dimensions that hold positions, as biases of relative positions."""
    ids, indices = call.args[:2]
    if not isinstance(ids, Tensor) or any(isinstance(i, Matrix) for i in indices):
        return unknown(labels, call)
    taken = [d for d, i in enumerate(indices) if i is not None]
    if any(labels.chooses(indices[d]) for d in taken):
        return unknown(labels, call)
    for dim in taken:
        labels.unify(ids, ids.narrow(dim, 0, 1))
    ids = labels.find(ids)
    first = ids[tuple(slice(1) if d in taken else slice(None) for d in range(ids.dim()))]
    # Indexing leaves its result where neighbouring dimensions were, and else puts it first.
    if taken == list(range(taken[0], taken[-1] + 1)):
        start, inserted = taken[0], len(call.shape) - (ids.dim() - len(taken))
    else:
        start, inserted = 0, len(call.shape) - (ids.dim() - len(taken))
    kept = [d for d in range(ids.dim()) if d not in taken]
    first = first.permute([*taken, *kept]).flatten(0, len(taken) - 1)[0]
    shape = [*first.shape[:start], *[1] * inserted, *first.shape[start:]]
    return first.reshape(shape).expand(call.shape)
