"""Networks as graphs of ATen operations: how they are exported, cut, compiled and run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from lotperm.errors import ParameterError, UnsupportedModelError


@dataclass(frozen=True, eq=False)
class TracedNetwork:
    """What a network computes, apart from its weights.

    Attributes
    ----------
    graph : fx.Graph
        ATen operations from one input to the outputs, for any batch size. A ``get_attr`` node
        reads the parameter, buffer or constant that its target names.
    constants : dict
        Name -> Tensor that the graph reads but no state dict holds.
    """

    graph: fx.Graph = field(default_factory=fx.Graph)
    constants: dict[str, Tensor] = field(default_factory=dict)

    def run(self, weights: Mapping[str, Tensor], inputs: Tensor) -> list[Any]:
        """Compute the outputs, as a flat list.

        Parameters
        ----------
        weights : mapping
            A full state dict. The network may write into its tensors, and into `inputs`.
        inputs : Tensor, shape (B, ...)
            One batch.
        """
        network = compile_graph(self.graph, {**self.constants, **weights})
        return pytree.tree_leaves(network(inputs))


def named_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the parameters and buffers of a state dict, and the first name of each tensor.

    Returns
    -------
    state : dict
        Name -> Tensor; a tensor that several modules share (weight tying) is there under each of
        its names.
    names : dict
        Name -> the first name of the same tensor.
    """
    state: dict[str, Tensor] = {}
    state.update(model.named_parameters(remove_duplicate=False))
    kept = model.state_dict()
    # What isn't in a state dict can't be permuted: to the network that is a constant.
    state.update((n, b) for n, b in model.named_buffers(remove_duplicate=False) if n in kept)
    first: dict[int, str] = {}
    return state, {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def export_graph(model: nn.Module, batch: Tensor) -> fx.GraphModule:
    """Export a copy of a network, in evaluation mode, as a graph of ATen operations.

    Parameters
    ----------
    model : nn.Module
        The network; it stays as it is.
    batch : Tensor, shape (B, ...)
        An input with B >= 2. The graph takes any batch size.

    Raises
    ------
    UnsupportedModelError
        `torch.export` fails.
    """
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
            f"{tuple(batch.shape)} with a variable batch size: {reason} Check that the network "
            "runs on this input, that its control flow doesn't depend on values, and that it reads "
            "the batch size as x.shape[0] (len(x) fixes it)."
        ) from error
    assert isinstance(program, fx.GraphModule)
    # Modules in the graph are checks of the input's shape, which would fix the batch size.
    for node in [n for n in program.graph.nodes if n.op == "call_module"]:
        program.graph.erase_node(node)
    return program


def cut_graph(graph: fx.Graph, nodes: tuple[str, ...]) -> fx.Graph:
    """Return the part of a graph that computes some of its nodes, with these as outputs."""
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


def compile_graph(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> Callable[[Tensor], Any]:
    """Turn a graph and the tensors that it reads into a Python function of the input.

    Parameters
    ----------
    graph : fx.Graph
        As `TracedNetwork` or `cut_graph` give it.
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
    # `forward` itself: calling the module would print the source of a line that fails.
    return fx.GraphModule(dict(tensors), graph).forward


def operation_name(node: fx.Node) -> str:
    """Return the name of an ATen operation, without overload and in-place underscore.

    It is empty for other nodes.
    """
    if not isinstance(node.target, OpOverload):
        return ""
    name = node.target._schema.name.partition("::")[2]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def node_shape(node: fx.Node) -> torch.Size:
    """Return the shape of a node's output for the example input."""
    return concrete_shape(node.meta["val"])


def concrete_shape(value: Tensor) -> torch.Size:
    """Return the shape of an exported value, the batch size as in the example input."""
    return torch.Size(d if isinstance(d, int) else d.node.hint for d in value.shape)
