"""Attention: heads that may trade places, and the units inside each of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lotperm.science.labels import Labels
from lotperm.science.rules.contractions import contract
from lotperm.science.rules.elementwise import align
from lotperm.science.rules.registry import Call, rule, unknown


@rule("scaled_dot_product_attention")
def attention(labels: Labels, call: Call) -> Any:
    """Label ``softmax(q @ k.T + mask) @ v``, with heads along dimension -3."""
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
    """Repeat keys or values so that there is a head for each head of the queries."""
    return labels.copies(ids, count).movedim(-1, -3).flatten(-4, -3)
