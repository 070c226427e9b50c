"""From a network to its `PermutationSpec`: export it, label its units, check the result."""

from __future__ import annotations

import copy
import math
import operator
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from lotperm.errors import ParameterError, UnsupportedModelError
from lotperm.science.exporting import (
    export_graph,
    first_line,
    named_tensors,
    run_copy,
)
from lotperm.science.graphs import (
    TracedNetwork,
    copy_graph,
    describe_node,
    is_batched,
    is_variable,
    operation_name,
)
from lotperm.science.grouping import assemble_spec
from lotperm.science.inputs import Batch, batch_size, call_arguments, describe
from lotperm.science.labelling import Labeller
from lotperm.science.labels import Labels
from lotperm.science.symmetry import Permutation, PermutationSpec, permute


def trace(model: nn.Module, example_input: Batch) -> PermutationSpec:
    """Find the permutation symmetries of a network; see `PermutationSpec.trace`."""
    _refuse_kinds(model)
    args, kwargs, form = call_arguments(model, example_input)
    inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    size = batch_size(inputs)
    if size == 0:
        got = tuple(inputs[0].shape) if inputs else describe(example_input)
        raise ParameterError(f"example_input must be a batch of at least one example, got {got}.")
    state, names = named_tensors(model)
    buffers = state.keys() - dict(model.named_parameters(remove_duplicate=False))
    _refuse_values(state, buffers)
    try:
        single = size == 1  # torch.export treats a dimension of size 1 as constant
        calls = _doubled((args, kwargs)) if single else (args, kwargs)
        program = export_graph(model, *calls)
        args, kwargs = calls
    except UnsupportedModelError:
        if not single:
            raise
        program = export_graph(model, args, kwargs)  # the network may take only one example
    _refuse_shapes(program.graph)
    graph = copy_graph(program.graph)  # without the module, which holds a copy of the weights
    constants = {
        str(n.target): operator.attrgetter(str(n.target))(program)
        for n in graph.nodes
        if n.op == "get_attr" and n.target not in state
    }
    network, leaves = TracedNetwork(graph, constants, form), pytree.tree_leaves((args, kwargs))
    check_graph(model, args, kwargs, network, state)
    labels = Labels({name: tensor.shape for name, tensor in state.items()}, names, buffers)
    # Inputs and outputs of any form are flat in the graph.
    Labeller(program, labels).run(enable_io_processing=False)
    spec = assemble_spec(labels, network)
    # If the graph takes any number, two examples are enough, or one image. Not one sequence: the
    # first dimension may be time, and attention over a single step shows nothing.
    values = [n.meta["val"] for n in graph.nodes if n.op == "placeholder"]
    few = [
        leaf[: 1 if leaf.dim() > 3 else 2]
        if isinstance(value, Tensor) and is_variable(value)
        else leaf
        for leaf, value in zip(leaves, values, strict=True)
    ]
    try:
        check_spec(spec, state, names, few, leaves)
    except UnsupportedModelError:
        if not spec.inside:
            raise
        for relation in labels.relations:  # without blocks, as their order may matter after all
            labels.fix(relation.parents)
        spec = assemble_spec(labels, network)
        check_spec(spec, state, names, few, leaves)
    still = [fixed for fixed in spec.fixed if len(fixed.units) == fixed.total]
    if still:
        more = f" and {len(still) - 3} more layers" if len(still) > 3 else ""
        warnings.warn(
            f"no unit moves in {'; '.join(map(str, still[:3]))}{more}. There, permuting a mask "
            "changes nothing; spec.fixed lists all fixed units.",
            stacklevel=3,
        )
    return spec


# Modules of layers that keep their weights packed, as integers.
_PACKED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def _refuse_kinds(model: nn.Module) -> None:
    """Raise an error if a network has modules that can't be turned into a graph."""
    for name, module in model.named_modules():
        kind, where = type(module), f"{name or 'the network'} is a {type(module).__name__}"
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                f"{where} of TorchScript, which can't be traced; give the module that it was made "
                "from."
            )
        if kind.__module__.startswith(_PACKED) and hasattr(module, "_packed_params"):
            raise UnsupportedModelError(
                f"{where} of {kind.__module__}, whose weights are packed integers; trace the "
                "network as it was before it was quantized."
            )


def _refuse_values(state: Mapping[str, Tensor], buffers: Collection[str]) -> None:
    """Raise an error if a tensor of a network has no values, or values that mustn't be."""
    for name, tensor in state.items():
        if is_lazy(tensor):
            raise ParameterError(
                f"{name} has no shape yet, as its layer is lazy; call the network on a batch "
                "once, then trace it."
            )
        if tensor.is_meta:
            raise ParameterError(
                f"{name} is on the meta device, so it has no values; load the weights first."
            )
        if tensor.numel() == 0 and name not in buffers:
            raise UnsupportedModelError(
                f"{name} has shape {tuple(tensor.shape)}, so no values: a layer has no units."
            )
        # A buffer may be infinite on purpose, as an attention mask is.
        mask = name in buffers and not name.endswith(("running_mean", "running_var"))
        if tensor.is_floating_point() and bool(
            tensor.isnan().any() if mask else not tensor.isfinite().all()
        ):
            raise ParameterError(
                f"weights of {name} are not finite; trace the network with finite ones."
            )


def _refuse_shapes(graph: fx.Graph) -> None:
    """Raise an error if a graph has shapes that depend on values, as ids have no values."""
    for node in graph.nodes:
        for value in pytree.tree_leaves(node.meta.get("val")):
            sizes = value.shape if isinstance(value, Tensor) else ()
            if any(not isinstance(size, int) and size.node.hint is None for size in sizes):
                raise UnsupportedModelError(
                    f"the shape of what {describe_node(node)} gives depends on values, so units "
                    "can't be followed; multiply by a mask instead of choosing."
                )


def _doubled(call: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return arguments with two examples instead of one."""

    def twice(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if is_batched(leaf, 1) else leaf

    doubled: tuple[Any, ...] = pytree.tree_map(twice, call)
    return doubled


# These read other memory if a box names an image that isn't in the batch.
_OF_BOXES = ("ps_roi_align", "ps_roi_pool", "roi_align", "roi_pool")


def check_graph(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    network: TracedNetwork,
    state: Mapping[str, Tensor],
) -> None:
    """Raise an error if the graph of a network computes something else than the network.

    Parameters
    ----------
    model : nn.Module
        The network.
    args, kwargs : tuple, mapping
        The example input.
    network : TracedNetwork
        The graph.
    state : mapping
        The network's tensors, as `named_tensors` returns them.

    Raises
    ------
    UnsupportedModelError
        The outputs differ by more than rounding.
    """
    leaves = pytree.tree_leaves((args, kwargs))
    expected = run_copy(model, args, kwargs)
    with torch.no_grad():
        try:
            values = _run(network, state, leaves)
        except Exception as error:
            raise UnsupportedModelError(
                f"the graph of {type(model).__name__} doesn't run: {first_line(error)} Give a "
                "network and inputs of one type, such as float32."
            ) from error
        if max(map(_apart, expected, values), default=0.0) <= 1:
            return
        again = run_copy(model, args, kwargs), _run(network, state, leaves)
    if any(max(map(_apart, *pair)) > 0 for pair in zip(again, (expected, values), strict=True)):
        raise _random(network)
    raise UnsupportedModelError(
        f"the graph that torch.export makes of {type(model).__name__} computes something else than "
        "the network itself. It doesn't record all that the network does, such as an attribute "
        "that is set; compute with operations on tensors alone."
    )


def _apart(a: Tensor, b: Tensor) -> float:
    """Return how far values are from others, in units of the largest difference by rounding."""
    if not a.is_floating_point():  # rounding may choose another index
        return 0.0
    x, y = (value.double().nan_to_num() for value in (a, b))
    # Inside of autocast, the network computes in lower precision than the graph.
    allowed = max(0.05, 30 * torch.finfo(a.dtype).eps)
    return float((x - y).norm() / x.norm().clamp_min(1e-30)) / allowed


def _run(network: TracedNetwork, weights: Mapping[str, Tensor], batch: Sequence[Any]) -> list[Any]:
    """Run a graph; weights and batch stay as they are."""
    given = (dict(weights), *batch)
    return network.run(*(copy.deepcopy(given) if network.writes else given))


def check_spec(
    spec: PermutationSpec,
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    inputs: Sequence[Any],
    whole: Sequence[Any],
) -> None:
    """Raise an error if a random permutation of a spec changes what the network computes.

    Parameters
    ----------
    spec : PermutationSpec
        The spec to check.
    state, names : mapping
        As `named_tensors` returns them.
    inputs : sequence
        A few examples, in the order of the graph. Values matter only where they aren't floats.
    whole : sequence
        All examples that there are, for a network that runs on neither noise nor a few of them.

    Raises
    ------
    UnsupportedModelError
        The outputs differ by more than rounding, or the network is random.
    """
    generator = torch.Generator().manual_seed(0)
    boxes = any(operation_name(node) in _OF_BOXES for node in spec.network.graph.nodes)

    def noisy(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
        tensor = tensor.clone()  # a network may write into its buffers
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.to(dtype or tensor.dtype)
        if tensor.dim() > 1 and tensor.min() < tensor.max():
            return tensor
        # Norms and scales of a new network are all 0 or all 1, which would hide a wrong order.
        return tensor + 0.5 * torch.rand(tensor.shape, generator=generator).to(tensor)

    def outputs(weights: Mapping[str, Tensor], batch: Sequence[Any]) -> Tensor:
        values = _run(spec.network, weights, batch)
        return torch.cat([v.double().flatten() for v in values if isinstance(v, Tensor)])

    def deviation(dtype: torch.dtype | None) -> tuple[float, bool]:
        """Return how far the outputs differ, and whether they do so even without a permutation."""
        noise = [
            noisy(torch.ones_like(value), dtype)
            if isinstance(value, Tensor) and value.is_floating_point()
            else value
            for value in inputs
        ]
        first = {name: noisy(state[name], dtype) for name in state if names[name] == name}
        before = {name: first[names[name]] for name in state}
        after = permute(before, spec, _moving(spec, generator))
        # The network may not be made for noise, or for fewer examples than there are.
        for values in (whole,) if boxes else (noise, inputs, whole):
            batch = [_as(value, dtype) for value in values]
            try:
                a, b = (outputs(weights, batch) for weights in (before, after))
            except Exception:
                if values is whole:
                    raise
                continue
            known = a.isfinite()
            random = not torch.equal(a, b) and known.all() and not a.equal(outputs(before, batch))
            if known.all() and not random:
                break
        if not known.any():
            raise UnsupportedModelError(
                "no output of this network on the example input is finite, so nothing can be "
                "checked; give another example."
            )
        apart = float((a - b)[known].norm() / a[known].norm().clamp_min(1e-30))
        return apart if torch.equal(known, b.isfinite()) else math.inf, bool(random)

    with torch.no_grad():
        single = all(t.dtype == torch.float32 for t in state.values() if t.is_floating_point())
        if single and deviation(None)[0] <= 1e-5:  # half the time and memory, if there is no doubt
            return
        try:
            (worst, random), allowed = deviation(torch.float64), 1e-6
        except RuntimeError:  # a network that insists on a dtype
            (worst, random), allowed = deviation(None), 1e-2
    if worst <= allowed:
        return
    if random:
        raise _random(spec.network)
    raise UnsupportedModelError(
        "a random permutation of the hidden units changes the output of this network by "
        f"{worst:.1e} of its norm (expected: rounding), so it uses units in a way that the "
        "rules don't see; rewrite the layers that treat units by their position."
    )


def _as(value: Any, dtype: torch.dtype | None) -> Any:
    """Return a copy of an input, in another floating-point type if one is given."""
    if not isinstance(value, Tensor):
        return value
    return value.to(dtype, copy=True) if dtype and value.is_floating_point() else value.clone()


def _moving(spec: PermutationSpec, generator: torch.Generator) -> Permutation:
    """Draw a permutation that moves nearly all units; a single draw may not, in small groups."""

    def still(p: Permutation) -> int:
        return sum(int((order == torch.arange(len(order))).sum()) for order in p.values())

    draws = []
    for _ in range(8):
        draws.append(spec.random(generator))
        if still(draws[-1]) == 0:
            break
    return min(draws, key=still)


def _random(network: TracedNetwork) -> UnsupportedModelError:
    """Make the error for a random network, and name the operation that draws, if one is known to."""
    draws = ""
    for node in network.graph.nodes:
        if isinstance(node.target, OpOverload):
            drawn = torch.Tag.nondeterministic_seeded in node.target.tags
            switched_off = "dropout" in str(node.target) and node.args[2:3] == (False,)
            if drawn and not switched_off:
                draws = f", by {describe_node(node)}"
                break
    return UnsupportedModelError(
        "two passes of this network over the same input in evaluation mode differ, so it is "
        f"random{draws}; switch its randomness off in evaluation mode, as in F.dropout(x, "
        "training=self.training)."
    )
