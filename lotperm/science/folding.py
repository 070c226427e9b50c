"""Batch norms folded into the convolutions before them: the same function, one pass fewer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx

from lotperm.science.graphs import copy_graph

_CONVOLUTIONS = tuple(getattr(torch.ops.aten, f"conv{d}d").default for d in (1, 2, 3))


def fold_batch_norms(
    graph: fx.Graph, tensors: Mapping[str, Tensor], keep: Collection[str]
) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Fold each batch norm of a graph into the convolution right before it, for evaluation mode.

    With gamma, beta, mean, variance and epsilon of the norm, the kernel becomes
    ``w * s`` and the bias ``beta + s * (b - mean)``, where ``s = gamma / sqrt(variance + epsilon)``.
    Both are computed in float64. The convolution takes the name of the norm's node.

    Parameters
    ----------
    graph : fx.Graph
        The graph; it is not changed.
    tensors : mapping
        Name -> Tensor that the graph reads. A norm that lacks one of its tensors is not folded.
    keep : collection of str
        Names of nodes that must still be there afterwards. A convolution among them is left
        alone, as is one whose output has another reader, and a norm that takes the statistics of
        the batch.

    Returns
    -------
    fx.Graph
        The graph with fewer nodes.
    dict
        `tensors`, plus the folded kernels and biases in the dtype of the original kernels.
    """
    folded = copy_graph(graph)
    found = dict(tensors)
    for norm in list(folded.nodes):
        conv = norm.args[0] if norm.target is torch.ops.aten.batch_norm.default else None
        if not isinstance(conv, fx.Node) or conv.target not in _CONVOLUTIONS:
            continue
        if len(conv.users) > 1 or conv.name in keep:
            continue
        if norm.args[5] or None in norm.args[3:5]:  # it takes the statistics of the batch
            continue
        x, kernel, bias, *rest = (*conv.args, None) if len(conv.args) == 2 else conv.args
        sources: list[Any] = [kernel, bias, *norm.args[1:5]]
        if any(n and (n.op != "get_attr" or n.target not in tensors) for n in sources):
            continue
        zero, epsilon = torch.zeros(()), cast(float, norm.args[7])
        w, b, gamma, beta, mean, var = (tensors[n.target].double() if n else zero for n in sources)
        scale = (var + epsilon).rsqrt() * (gamma if sources[2] else 1)
        parts = {
            f"_folded_{norm.name}_weight": w * scale.view(-1, *[1] * (w.ndim - 1)),
            f"_folded_{norm.name}_bias": beta + scale * (b - mean),
        }
        dtype = tensors[sources[0].target].dtype
        found |= {name: part.to(dtype) for name, part in parts.items()}
        with folded.inserting_before(norm):
            norm.args = (x, *(folded.get_attr(name) for name in parts), *rest)
        # The node of the norm, and so its name, lives on as the convolution.
        norm.target = conv.target
        folded.erase_node(conv)
    return folded, found
