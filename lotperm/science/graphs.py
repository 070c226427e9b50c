"""A network as a graph of ATen operations: how it is exported, cut and run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from lotperm.errors import ParameterError, UnsupportedModelError


def named_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All parameters and buffers of a state dict; for each name the first one of the same
    tensor (weight tying).
    """
    state: dict[str, Tensor] = {}
    state.update(model.named_parameters(remove_duplicate=False))
    kept = model.state_dict()
    # What isn't in a state dict can't be permuted: to the network that is a constant.
    state.update((n, b) for n, b in model.named_buffers(remove_duplicate=False) if n in kept)
    first: dict[int, str] = {}
    return state, {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def export_graph(model: nn.Module, batch: Tensor) -> fx.GraphModule:
    """The network in evaluation mode as a graph of ATen operations, for any batch size."""
    dynamic = ({0: torch.export.Dim("batch")},)
    try:
        exported = torch.export.export(
            copy.deepcopy(model).eval(), (batch,), dynamic_shapes=dynamic, strict=False
        )
        program = exported.module()
    except Exception as error:  # whatever user code or the exporter raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnsupportedModelError(
            f"torch.export can't turn {type(model).__name__} into a graph for an input of shape "
            f"{tuple(batch.shape)} with a variable batch size: {reason} Check that the network runs on this "
            "input, that its control flow doesn't depend on values, and that it reads the batch size as x.shape[0] "
            "(len(x) fixes it)."
        ) from error
    assert isinstance(program, fx.GraphModule)
    for node in [
        n for n in program.graph.nodes if n.op == "call_module"
    ]:  # checks of the input's shape
        program.graph.erase_node(node)
    return program


def cut_graph(graph: fx.Graph, nodes: tuple[str, ...]) -> fx.Graph:
    """The part of a graph that computes some nodes, with these as outputs."""
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


def lacking_tensor(name: str) -> ParameterError:
    return ParameterError(
        f"the weights lack {name!r} of the traced network; give a full state dict."
    )


class _Runner(fx.Interpreter):
    """Runs a graph with given parameters, buffers and constants."""

    def __init__(self, graph: fx.Graph, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(nn.Module(), graph=graph)
        self.extra_traceback = False
        self.tensors = tensors

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Tensor:
        if target not in self.tensors:
            raise lacking_tensor(target)
        return self.tensors[target]


def run_graph(graph: fx.Graph, tensors: Mapping[str, Tensor], inputs: Tensor) -> list[Any]:
    """The outputs of a graph, flat."""
    return pytree.tree_leaves(_Runner(graph, tensors).run(inputs, enable_io_processing=False))


def operation_name(node: fx.Node) -> str:
    """Name of an ATen operation without overload and without the underscore of the in-place
    variant.
    """
    if not isinstance(node.target, OpOverload):
        return ""
    name = node.target._schema.name.partition("::")[2]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def node_shape(node: fx.Node) -> torch.Size:
    """Shape of a node's output for the example input."""
    return concrete_sizes(node.meta["val"])


def concrete_sizes(value: Tensor) -> torch.Size:
    return torch.Size(d if isinstance(d, int) else d.node.hint for d in value.shape)
