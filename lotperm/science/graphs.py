"""Networks as graphs of ATen operations: how they are exported, cut, compiled and run."""

from __future__ import annotations

import copy
import dataclasses
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from lotperm.errors import LotpermError, ParameterError, UnsupportedModelError
from lotperm.science.inputs import InputForm, describe
from lotperm.science.recurrence import unstack_recurrence
from lotperm.science.writes import name_what_is_written

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

# Operations that may give a view or a copy, by how values lie in memory.
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
        """Make the error for inputs of other shapes than the network was traced with, if any is."""
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
                # Batches come in parts.
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
        """Whether images may be channels-last in memory though they weren't for the network.

        Not so where the network takes a `view`, which needs values that lie in order, or writes
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


def export_graph(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> fx.GraphModule:
    """Export a copy of a network, in evaluation mode, as a graph of ATen operations.

    Parameters
    ----------
    model : nn.Module
        The network; it stays as it is.
    args, kwargs : tuple, mapping
        Its inputs. Tensors whose first dimension is as long as the first tensor's, B >= 2, may
        have another batch size in the graph, if the network takes any.

    Raises
    ------
    UnsupportedModelError
        The network doesn't run on these inputs, or `torch.export` fails.
    """
    leaves, structure = pytree.tree_flatten((args, dict(kwargs)))
    size = next(len(leaf) for leaf in leaves if isinstance(leaf, Tensor))
    try:
        program = _export(model, leaves, structure, size)
    except UnsupportedModelError:
        check_that_it_runs(model, args, kwargs)
        raise
    unstack_recurrence(program.graph)
    name_what_is_written(program.graph)
    # Modules in the graph are checks of the input's shape, which would fix the batch size.
    checks = ("_assert_async", "_assert_scalar", "_assert_tensor_metadata")
    for node in [
        n for n in program.graph.nodes if n.op == "call_module" or operation_name(n) in checks
    ]:
        program.graph.erase_node(node)
    return program


def is_variable(value: Tensor) -> bool:
    """Return whether the first size of an exported tensor is free."""
    return value.dim() > 0 and not isinstance(value.shape[0], int)


def check_that_it_runs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise an error if a network doesn't run on its inputs.

    Raises
    ------
    UnsupportedModelError
        With what the network raised.
    """
    leaves, structure = pytree.tree_flatten((args, dict(kwargs)))
    try:
        with torch.no_grad():
            # On copies, as a network may write into its buffers and inputs.
            _flat_copy(model, structure)(*copy.deepcopy(leaves))
    except LotpermError:
        raise
    except Exception as error:  # whatever user code raises
        given = args[0] if len(args) == 1 and not kwargs else kwargs or args
        raise UnsupportedModelError(
            f"{type(model).__name__} fails on the example input, which is {describe(given)}: "
            f"{type(error).__name__}: {_first_line(error)} Give inputs that it runs on in "
            "evaluation mode."
        ) from error


def _export(
    model: nn.Module, leaves: list[Any], structure: pytree.TreeSpec, size: int
) -> fx.GraphModule:
    """Export a network for batches of any size, or of this one if it takes no other."""
    first: Exception | None = None
    # Recurrent layers may have time first, of which they unroll each step.
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    for dim in (0, 1, None) if recurrent else (0, None):
        variable = torch.export.Dim("batch")
        dynamic = tuple(
            {dim: variable}
            if dim is not None and is_batched(leaf, size) and leaf.dim() > dim
            else None
            for leaf in leaves
        )
        try:
            with warnings.catch_warnings(), _quiet():
                warnings.filterwarnings("ignore", "The tensor attributes? .*assigned during export")
                program = torch.export.export(
                    _flat_copy(model, structure),
                    tuple(leaves),
                    dynamic_shapes=(dynamic,),
                    strict=False,
                ).module()
        except LotpermError:
            raise
        except Exception as error:  # whatever the exporter raises
            first = first or error
            continue
        assert isinstance(program, fx.GraphModule)
        return program
    assert first is not None
    raise UnsupportedModelError(
        f"torch.export can't turn {type(model).__name__} into a graph for an input of shape "
        f"{_shapes(leaves)} with a variable batch size: {_first_line(first)} Check "
        "that its control flow doesn't depend on values, and that it reads the batch size as "
        "x.shape[0] (len(x) fixes it)."
    ) from first


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from writing down a failure, with the graph so far; it raises it too."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        log.disabled = before


def is_batched(value: Any, size: int) -> bool:
    """Return whether a value is a tensor whose first dimension is that of the examples."""
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == size


def _flat_copy(model: nn.Module, structure: pytree.TreeSpec) -> nn.Module:
    """Return a copy of a network, in evaluation mode, with flat inputs and outputs.

    Its inputs are the leaves of `(args, kwargs)`, its output is a tensor or a tuple of them.
    """
    # Weights that hooks compute before each call (pruning, weight norm) are no leaves of
    # autograd, which refuse to be copied.
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    twin = copy.deepcopy(model, computed).eval()
    forward = twin.forward

    def flat(*leaves: Any) -> Any:
        args, kwargs = pytree.tree_unflatten(leaves, structure)
        outputs = forward(*args, **kwargs)
        if isinstance(outputs, Tensor):
            return outputs
        tensors = tuple(_tensors_in(outputs))
        if not tensors:
            raise UnsupportedModelError(
                f"{type(model).__name__} returns {describe(outputs)}, expected a tensor, or a "
                "tuple, dict or object that holds tensors."
            )
        return tensors

    twin.forward = flat
    return twin


def _tensors_in(outputs: Any) -> list[Tensor]:
    """Return the tensors that outputs of any form hold, in their order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        parts = list(outputs.values())
    elif isinstance(outputs, (list, tuple)):
        parts = list(outputs)
    elif dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        parts = [getattr(outputs, part.name) for part in dataclasses.fields(outputs)]
    else:
        parts = list(getattr(outputs, "__dict__", {}).values())
    return [tensor for part in parts for tensor in _tensors_in(part)]


def _shapes(inputs: Sequence[Any]) -> str:
    """Return the shapes of those inputs that are tensors."""
    return ", ".join(str(tuple(value.shape)) for value in inputs if isinstance(value, Tensor))


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, with a full stop."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if line.endswith((".", "!", "?")) else f"{line}."


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


def compile_graph(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> Callable[..., Any]:
    """Turn a graph and the tensors that it reads into a Python function of the inputs.

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


def node_place(node: fx.Node) -> tuple[str, str | None, int | None]:
    """Return the module, file and line that a node comes from, where they are known.

    Of a layer of PyTorch's it is the line that calls it.
    """
    modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    found = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    inside = os.path.dirname(torch.__file__)
    found = [place for place in found if not place[0].startswith(inside)] or found
    file, line = (found[-1][0], int(found[-1][1])) if found else (None, None)
    return modules[-1] if modules else "", file, line


def describe_node(node: fx.Node) -> str:
    """Say which operation a node is, and where it stands in the source of the network."""
    module, file, line = node_place(node)
    where = f" in module {module!r}" if module else ""
    where += f" ({file}:{line})" if file else ""
    return f"{node.target}{where}"


def node_shape(node: fx.Node) -> torch.Size:
    """Return the shape of a node's output for the example input."""
    return concrete_shape(node.meta["val"])


def concrete_shape(value: Tensor) -> torch.Size:
    """Return the shape of an exported value, the batch size as in the example input."""
    return torch.Size(d if isinstance(d, int) else d.node.hint for d in value.shape)
