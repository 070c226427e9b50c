"""Networks as graphs of ATen operations: how they are cut, compiled, run and read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from lotperm.errors import ParameterError
from lotperm.science.attributes import restore_names, stand_ins
from lotperm.science.inputs import InputForm
from lotperm.science.transforms import closing, is_transform

# Operations whose success or result depends on how values lie in memory.
_LAYOUT = (
    "as_strided",
    "view",
    "view_as",
    "view_as_complex",
    "_unsafe_view",
    "_reshape_alias",
    "stride",
    "sym_stride",
)

# Operations that give a view or a copy, depending on how values lie in memory.
_PERHAPS_VIEWS = ("contiguous", "flatten", "reshape", "reshape_as", "to")


@dataclass(frozen=True, eq=False)
class TracedNetwork:
    """What a network computes, apart from its weights.

    Attributes
    ----------
    graph : fx.Graph
        ATen operations from the inputs to the outputs, for any batch size. A ``get_attr`` node
        reads the parameter, buffer or constant that its target names.
    constants : dict
        Name -> Tensor that the graph reads but no state dict holds.
    form : InputForm
        How the inputs are taken from a batch.
    """

    graph: fx.Graph = field(default_factory=fx.Graph)
    constants: dict[str, Tensor] = field(default_factory=dict)

    form: InputForm = field(default_factory=InputForm)

    def run(self, weights: Mapping[str, Tensor], *inputs: Any) -> list[Any]:
        """Compute the outputs, as a flat list.

        Parameters
        ----------
        weights : mapping
            A full state dict. The network may write into its tensors, and into `inputs`.
        *inputs : Tensor, shape (B, ...)
            One batch, as `InputForm.leaves` gives it.
        """
        network = compile_graph(self.graph, {**self.constants, **weights})
        return pytree.tree_leaves(network(*inputs))

    def unlike(self, inputs: Sequence[Any]) -> ParameterError | None:
        """Return an error if an input's shape isn't the one that was traced, else None."""
        nodes = [node for node in self.graph.nodes if node.op == "placeholder"]
        for node, given in zip(nodes, inputs, strict=False):
            value = node.meta.get("val")
            if not isinstance(value, Tensor) or not isinstance(given, Tensor):
                continue
            expected = tuple(d if isinstance(d, int) else "B" for d in value.shape)
            fits = len(expected) == given.dim() and all(
                d in ("B", n) for d, n in zip(expected, given.shape, strict=True)
            )
            if not fits:
                # Without the batch size: the batch may be one part of the user's.
                got = ("B", *given.shape[1:]) if is_variable(value) else tuple(given.shape)
                shapes = [str(shape).replace("'", "") for shape in (got, expected)]
                return ParameterError(
                    f"a batch has shape {shapes[0]}, but the network was traced with {shapes[1]}; "
                    "give batches of that shape."
                )
        return None

    @cached_property
    def writes(self) -> bool:
        """Whether the network may write into its weights or inputs."""
        return any(
            isinstance(node.target, OpOverload) and node.target._schema.is_mutable
            for node in self.graph.nodes
        )

    @cached_property
    def any_layout(self) -> bool:
        """Whether images may be made channels-last in memory without changing the outputs.

        They may not if the network takes a `view`, which needs values that lie in order, or writes
        into what would then be a copy instead of a view.
        """
        for node in self.graph.nodes:
            if operation_name(node) in _LAYOUT:
                return False
            source = node.args[0] if node.args else None
            if isinstance(node.target, OpOverload) and isinstance(source, fx.Node):
                writes = node.target._schema.is_mutable
                if writes and operation_name(source) in _PERHAPS_VIEWS:
                    return False
        return True


def is_variable(value: Tensor) -> bool:
    """Return whether the first dimension of an exported tensor may have any size."""
    return value.dim() > 0 and not isinstance(value.shape[0], int)


def is_batched(value: Any, size: int) -> bool:
    """Return whether a value is a tensor whose first dimension has the batch's size."""
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == size


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """Return a copy of a graph, without the module that it may belong to."""
    copied = fx.Graph()
    copied.output(copied.graph_copy(graph, {}))
    return copied


def cut_graph(graph: fx.Graph, nodes: tuple[str, ...]) -> fx.Graph:
    """Return the part of a graph that computes the given nodes, with these as its outputs."""
    cut = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    outputs: dict[str, fx.Node] = {}
    for node in graph.nodes:
        copies[node] = cut.node_copy(node, copies.__getitem__)
        if node.name in nodes:  # cloned, since a later operation may write into it
            outputs[node.name] = cut.call_function(torch.ops.aten.clone.default, (copies[node],))
        if len(outputs) == len(nodes):
            break
    cut.output(tuple(outputs[name] for name in nodes))
    return cut


def compile_graph(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> Callable[..., Any]:
    """Turn a graph and the tensors that it reads into a Python function of the inputs.

    Parameters
    ----------
    graph : fx.Graph
        From a `TracedNetwork` or `cut_graph`.
    tensors : mapping
        Name -> Tensor, read at each call and, if the network does so, written into.

    Raises
    ------
    ParameterError
        A tensor is missing.
    """
    for node in graph.nodes:
        if node.op == "get_attr" and node.target not in tensors:
            raise ParameterError(
                f"the weights lack {node.target!r} of the traced network; give a full state dict."
            )
    names = stand_ins(tensors)
    if names:
        graph = copy_graph(graph)
        restore_names(graph, names)
    held = {names.get(name, name): tensor for name, tensor in tensors.items()}
    # `forward` itself: calling the module would print the source of a line that fails.
    forward = fx.GraphModule(held, graph).forward
    return closing(forward) if any(map(is_transform, graph.nodes)) else forward


def operation_name(node: fx.Node) -> str:
    """Return the name of an ATen operation, without overload and in-place underscore.

    It is empty for other nodes.
    """
    if not isinstance(node.target, OpOverload):
        return ""
    name = node.target._schema.name.partition("::")[2]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def node_place(node: fx.Node) -> tuple[str, str | None, int | None]:
    """Return the module, file and line that a node comes from, where they are known.

    For a PyTorch layer, this is the line that calls it.
    """
    modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    found = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    inside = os.path.dirname(torch.__file__)
    found = [place for place in found if not place[0].startswith(inside)] or found
    file, line = (found[-1][0], int(found[-1][1])) if found else (None, None)
    return modules[-1] if modules else "", file, line


def describe_node(node: fx.Node) -> str:
    """Say which operation a node is, and where it occurs in the source of the network."""
    module, file, line = node_place(node)
    where = f" in module {module!r}" if module else ""
    where += f" ({file}:{line})" if file else ""
    return f"{target_name(node)}{where}"


def target_name(node: fx.Node) -> str:
    """Return the name of the operation that a node calls, as messages have it."""
    own = isinstance(node.target, (OpOverload, str))
    return str(node.target if own else getattr(node.target, "__name__", node.target))


def node_shape(node: fx.Node) -> torch.Size:
    """Return the shape of a node's output for the example input."""
    return concrete_shape(node.meta["val"])


def concrete_shape(value: Tensor) -> torch.Size:
    """Return the shape of an exported value, the batch size as in the example input."""
    return torch.Size(d if isinstance(d, int) else d.node.hint for d in value.shape)
