"""From a network to its `PermutationSpec`: export it, label its units, check the result."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from lotperm.errors import ParameterError, UnsupportedModelError
from lotperm.science.graphs import TracedNetwork, export_graph, named_tensors
from lotperm.science.grouping import assemble_spec
from lotperm.science.labelling import Labeller
from lotperm.science.labels import Labels
from lotperm.science.symmetry import PermutationSpec, permute


def trace(model: nn.Module, example_input: Tensor) -> PermutationSpec:
    """Find the permutation symmetries of a network, as `PermutationSpec.trace`."""
    if example_input.dim() == 0 or len(example_input) == 0:
        raise ParameterError(
            "example_input must be a batch of at least one example, got "
            f"{tuple(example_input.shape)}."
        )
    # torch.export takes a dimension of size 1 for a constant.
    batch = example_input if len(example_input) > 1 else torch.cat([example_input, example_input])
    state, names = named_tensors(model)
    for name, tensor in state.items():
        if tensor.numel() == 0:
            raise UnsupportedModelError(
                f"{name} has shape {tuple(tensor.shape)}, so no values: a layer has no units."
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ParameterError(
                f"weights of {name} are not finite; trace the network with others."
            )
    program = export_graph(model, batch)
    graph = fx.Graph()  # without the module, which holds a copy of the weights
    graph.output(graph.graph_copy(program.graph, {}))
    constants = {
        str(n.target): operator.attrgetter(str(n.target))(program)
        for n in graph.nodes
        if n.op == "get_attr" and n.target not in state
    }
    labels = Labels({name: tensor.shape for name, tensor in state.items()}, names)
    Labeller(program, labels).run(batch)
    spec = assemble_spec(labels, TracedNetwork(graph, constants))
    check_spec(spec, state, names, batch)
    return spec


def check_spec(
    spec: PermutationSpec, state: Mapping[str, Tensor], names: Mapping[str, str], batch: Tensor
) -> None:
    """Refuse a spec with which a random permutation changes what the network computes.

    Parameters
    ----------
    spec : PermutationSpec
        To be checked.
    state, names : mapping
        As `named_tensors` gives them.
    batch : Tensor, shape (B, ...)
        An input, whose values matter only if they are integers.

    Raises
    ------
    UnsupportedModelError
        The outputs differ by more than rounding.
    """
    generator = torch.Generator().manual_seed(0)

    def noisy(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
        tensor = tensor.clone()  # a network may write into its buffers
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.to(dtype or tensor.dtype)
        if tensor.dim() > 1 and tensor.min() < tensor.max():
            return tensor
        # Norms and scales of a fresh network are all 0 or all 1, which would hide a wrong order.
        return tensor + 0.5 * torch.rand(tensor.shape, generator=generator).to(tensor)

    def outputs(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        values = spec.network.run(weights, inputs.clone())
        return torch.cat([v.double().flatten() for v in values if isinstance(v, Tensor)])

    def deviation(dtype: torch.dtype | None) -> float:
        inputs = noisy(torch.ones_like(batch), dtype) if batch.is_floating_point() else batch
        first = {name: noisy(state[name], dtype) for name in state if names[name] == name}
        before = {name: first[names[name]] for name in state}
        after = permute(before, spec, spec.random(generator))
        a, b = (outputs(weights, inputs) for weights in (before, after))
        return float((a - b).norm() / a.norm().clamp_min(1e-30))

    with torch.no_grad():
        try:
            worst, allowed = deviation(torch.float64), 1e-6
        except RuntimeError:  # a network that casts to a type of its own
            worst, allowed = deviation(None), 1e-2
    if not worst <= allowed:
        raise UnsupportedModelError(
            "a random permutation of the hidden units changes the output of this network by "
            f"{worst:.1e} of its norm (expected: rounding), so it uses units in a way that the "
            "rules don't see; rewrite the layers that treat units by their position."
        )
