"""Find out whether a network mixes the examples of a batch, so that it can't be cut into chunks."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from lotperm.science.graphs import concrete_shape, cut_graph, is_variable, operation_name
from lotperm.science.symmetry import PermutationSpec

# Operations that treat each example separately, whatever their arguments are.
_APART = {
    *(f"conv{d}d" for d in (1, 2, 3)),
    *(f"{kind}_pool{d}d" for kind in ("max", "avg") for d in (1, 2, 3)),
    *(f"adaptive_{kind}_pool{d}d" for kind in ("max", "avg") for d in (1, 2, 3)),
    "linear",
    "layer_norm",
    "group_norm",
    "dropout",
}


def mixes_examples(
    spec: PermutationSpec, weights: Mapping[str, Tensor], points: Mapping[str, str] | None
) -> bool:
    """Return whether activations of an example depend on the other examples of its batch.

    A network of well-known operations is judged by these. Any other is run on three random
    examples, together and one by one, in float64 if it can be.

    Parameters
    ----------
    spec : PermutationSpec
        The permutation symmetries of the network.
    weights : Mapping[str, Tensor]
        A full state dict.
    points : Mapping[str, str] | None
        Group -> the graph node at which it is observed. None asks about the network's outputs, and
        so about everything before them.
    """
    graph = spec.network.graph
    if points is not None:
        graph = cut_graph(graph, tuple(dict.fromkeys(points.values())))
    inputs = [node.meta["val"] for node in graph.nodes if node.op == "placeholder"]
    if not any(map(_has_batch, inputs)):
        return True  # traced for batches of one size only
    if all(_keeps_apart(node) for node in graph.nodes):
        return False
    values = [node.meta["val"] for node in graph.nodes if node.op == "placeholder"]
    for dtype, allowed in ((torch.float64, 1e-6), (torch.float32, 1e-2)):
        generator = torch.Generator().manual_seed(0)
        inputs = [_random(value, dtype, generator) for value in values]
        try:
            batched = [_has_batch(value) for value in values]
            return _deviation(spec, weights, points, inputs, batched, dtype) > allowed
        except (RuntimeError, IndexError):  # a network that insists on a dtype
            continue
    return True


def _has_batch(value: Any) -> bool:
    """Return whether the first dimension of an exported input may have any size."""
    return isinstance(value, Tensor) and is_variable(value)


def _random(value: Any, dtype: torch.dtype, generator: torch.Generator) -> Any:
    """Draw an input like an exported one, of three examples if it has a batch."""
    if not isinstance(value, Tensor):
        return value
    shape = concrete_shape(value)
    if _has_batch(value):
        shape = torch.Size((3, *shape[1:]))
    if value.is_floating_point():
        return torch.randn(shape, generator=generator, dtype=dtype)
    return torch.randint(0, 2, shape, generator=generator).to(value.dtype)


def _keeps_apart(node: fx.Node) -> bool:
    if not isinstance(node.target, OpOverload):
        return True  # inputs, weights, and arithmetic on sizes
    name = operation_name(node)
    if name == "batch_norm":
        return node.args[5] is False  # otherwise it uses the statistics of the batch
    if name == "flatten":
        return len(node.args) > 1 and isinstance(node.args[1], int) and node.args[1] >= 1
    return name in _APART or name == "clone" or torch.Tag.pointwise in node.target.tags


def _deviation(
    spec: PermutationSpec,
    weights: Mapping[str, Tensor],
    points: Mapping[str, str] | None,
    inputs: Sequence[Any],
    batched: Sequence[bool],
    dtype: torch.dtype,
) -> float:
    """Return the largest relative difference between examples run together and one by one."""

    def run(rows: slice) -> list[Tensor]:
        part = [
            value[rows].clone() if cut else copy.copy(value)
            for value, cut in zip(inputs, batched, strict=True)
        ]
        # Copies, as a network may write into its buffers.
        state = {
            name: tensor.detach().cpu().to(dtype, copy=True)
            if tensor.is_floating_point()
            else tensor.detach().cpu().clone()
            for name, tensor in spec.tensors(weights).items()
        }
        if points is None:
            return [output.double() for output in spec.network.run(state, *part)]
        found = spec.extractor(state, points)(*part)
        return [found[group].double() for group in points]

    with torch.no_grad():
        together = run(slice(3))
        alone = [run(slice(row, row + 1)) for row in range(3)]
        apart = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    differences = [(a - b).abs().max() for a, b in zip(together, apart, strict=True)]
    largest = float(torch.stack(differences).max())
    scale = float(torch.stack([values.abs().max() for values in together]).max())
    # Batch statistics of one example may not be finite, which counts as a difference.
    return largest / max(scale, 1e-30) if math.isfinite(largest) else math.inf
