"""Function transforms inside a network, such as `torch.vmap`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx
from torch._C import _functorch

# The functions that `torch.vmap` becomes in a graph.
MAPPED = (
    *("_vmap_increment_nesting", "_vmap_decrement_nesting", "lazy_load_decompositions"),
    *("_add_batch_dim", "_remove_batch_dim"),
)

# The module of the functions into which PyTorch's exporter turns transforms such as `torch.vmap`.
_TRANSFORMS = "torch._functorch.predispatch"


def is_transform(node: fx.Node) -> bool:
    """Return whether a node belongs to a function transform, such as `torch.vmap`."""
    return getattr(node.target, "__module__", None) == _TRANSFORMS


def transformed(graph: fx.Graph) -> Iterator[fx.Node]:
    """Yield the nodes inside transforms, where examples have no dimension of their own."""
    depth = 0
    for node in graph.nodes:
        if is_transform(node):
            name = node.target.__name__
            depth += (name == "_vmap_increment_nesting") - (name == "_vmap_decrement_nesting")
            if depth == 1 and name == "_remove_batch_dim":
                continue  # its output has all examples again
        if depth:
            yield node


def closing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that it leaves a transform even if it fails inside."""

    @functools.wraps(function)
    def closed(*args: Any) -> Any:
        depth = _functorch.get_dynamic_layer_stack_depth()
        try:
            return function(*args)
        finally:
            if _functorch.get_dynamic_layer_stack_depth() > depth:
                _functorch.pop_dynamic_layer_stack_and_undo_to_depth(depth)

    return closed
