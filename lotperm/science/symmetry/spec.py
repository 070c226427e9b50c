"""The symmetries of a network: its groups of units, and the axes that each of them permutes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from lotperm.errors import unknown_name
from lotperm.science.blocks import draw
from lotperm.science.folding import fold_batch_norms
from lotperm.science.graphs import TracedNetwork, compile_graph, cut_graph
from lotperm.science.inputs import Batch
from lotperm.science.pairs import Inside
from lotperm.science.roles import Channels, Fixed, Role
from lotperm.science.state_dicts import read_weights
from lotperm.types import Int64, Num

Permutation = dict[str, Int64[Tensor, " _"]]


@dataclass(frozen=True, repr=False, eq=False)
class PermutationSpec:
    """The permutation symmetries of one network; make it with `PermutationSpec.trace`.

    Attributes
    ----------
    sizes : dict
        Group name -> number of its units n, in order of execution. A group is named after the
        layer that produces its units first; a residual stream after its first producer. Units of
        one layer that are used in different ways (sliced, or in blocks of a grouped convolution)
        form separate groups: ``name/0``, ...
    points : dict
        Group name -> names of graph nodes whose output holds each unit of the group exactly once
        as a channel, in order of execution: the candidates for activation matching. They are
        outputs of nonlinearities (post-ReLU activations, as in the paper); for a group without
        any, the last node that carries it. The last one is the default for matching. Nodes without
        spatial extent (squeeze-and-excitation gates) are left out if there are others with one.
    axes : dict
        Tensor name -> for each axis the group that permutes it (several joined by ``", "``), or
        None.
    shapes : dict
        Tensor name -> its shape.
    roles : dict
        Tensor name -> how groups act on it; tensors that no group touches are left out.
    channels : dict
        (Group name, one of its points) -> where its units lie in that output.
    network : TracedNetwork
        The graph that was traced.
    tied : dict
        Name of a tensor -> the first name of the same tensor, where several modules share one.
    fixed : tuple of Fixed
        The hidden units that no permutation moves, and why. The last layer's units, which are only
        outputs, aren't listed.
    inside : dict
        Group name -> which units of which other groups its units belong to, for groups in blocks.
        A permutation must move each unit along with the units that it belongs to. For example, the
        units of ``attn/qk`` and ``attn/v`` belong to the heads, ``attn/heads``.
        `random` and the matching functions respect that; `permute` checks it.
    """

    sizes: dict[str, int]
    points: dict[str, tuple[str, ...]]
    axes: dict[str, tuple[str | None, ...]]
    shapes: dict[str, torch.Size] = field(default_factory=dict)
    roles: dict[str, tuple[Role, ...]] = field(default_factory=dict)
    channels: dict[tuple[str, str], Channels] = field(default_factory=dict)
    network: TracedNetwork = field(default_factory=TracedNetwork)
    tied: dict[str, str] = field(default_factory=dict)
    fixed: tuple[Fixed, ...] = ()
    inside: dict[str, tuple[Inside, ...]] = field(default_factory=dict)

    @classmethod
    def trace(cls, model: nn.Module, example_input: Batch) -> PermutationSpec:
        """Find the permutation symmetries of a network.

        The network is exported in evaluation mode, from a copy: its weights, mode and gradients
        are untouched.

        Parameters
        ----------
        model : nn.Module
            Any network that maps a batch to one or more tensors, in any container, and that
            `torch.export` can export.
        example_input : Tensor, sequence or mapping
            A batch as the network takes it, on the network's device: a tensor of shape (B, ...), a
            tuple of several inputs, or a dict of them by the names of `forward`'s parameters.
            Labels may follow, as from a data loader. B may be 1. The spec is valid for other batch
            sizes, too.

        Returns
        -------
        PermutationSpec

        Raises
        ------
        UnsupportedModelError
            The network can't be exported, is random in evaluation mode, or fails the final check
            f(permute(A)) == f(A).

        Warns
        -----
        UserWarning
            All units of some layers are fixed, so that nothing moves there; it names the layers.
        """
        from lotperm.science.tracing import trace  # here, since it imports this module

        return trace(model, example_input)

    def identity(self) -> Permutation:
        """Return the permutation that moves nothing."""
        return {group: torch.arange(n) for group, n in self.sizes.items()}

    def random(self, generator: torch.Generator) -> Permutation:
        """Draw a uniformly random permutation of every group, from a generator on the CPU."""
        return draw(self.sizes, self.inside, generator)

    @torch.no_grad()
    def activations(
        self, weights: Mapping[str, Tensor], inputs: Batch, points: Mapping[str, str]
    ) -> dict[str, Tensor]:
        """Compute activations of groups of units in one forward pass in evaluation mode.

        The pass ends at the last point; nothing after it is computed.

        Parameters
        ----------
        weights : mapping
            A full state dict: every parameter and buffer that the pass needs.
        inputs : Tensor, sequence or mapping
            One batch, in the form that the network was traced with.
        points : mapping
            Group name -> node name, one of ``self.points[group]``.

        Returns
        -------
        dict
            Group name -> Tensor of shape ``(B, n, *spatial)``, units in the order of the group.

        Raises
        ------
        ParameterError
            An unknown group or point, or a weight that is missing.
        """
        # Copies, as a network may write into its input and its buffers.
        tensors = {name: tensor.detach().clone() for name, tensor in self.tensors(weights).items()}
        leaves = self.network.form.leaves(inputs)
        return self.extractor(tensors, points)(*copy.deepcopy(leaves))

    def tensors(self, weights: Mapping[str, Any] | nn.Module) -> dict[str, Tensor]:
        """Return weights under the network's names, and the constants that the graph also reads.

        Weights are taken in any form that `read_weights` reads.
        """
        return {**self.network.constants, **self.read(weights)}

    def read(
        self, weights: Mapping[str, Any] | nn.Module, what: str = "the weights"
    ) -> dict[str, Tensor]:
        """Read weights, in any form that `read_weights` takes, under the network's names.

        Tied weights may be given under only one of their names, as in safetensors files.
        """
        state = read_weights(weights, self.shapes, what)
        for name, first in self.tied.items():
            if name in state:
                state.setdefault(first, state[name])
        return state | {n: state[f] for n, f in self.tied.items() if n not in state and f in state}

    def extractor(
        self, tensors: Mapping[str, Tensor], points: Mapping[str, str], *, fold: bool = False
    ) -> Callable[..., dict[str, Tensor]]:
        """Make a function from a batch of inputs to activations of groups, for fixed weights.

        Parameters
        ----------
        tensors : mapping
            As `tensors` returns them, converted to the device and dtype of the pass. They are
            not copied, and a network that counts its calls writes into them.
        points : mapping
            Group name -> node name, one of ``self.points[group]``.
        fold : bool, optional
            Fold batch norms into convolutions, which is faster, and equal up to rounding.

        Returns
        -------
        callable
            Takes the inputs as `InputForm.leaves` returns them, one argument each, and returns
            what `activations` does. The network may write into the inputs.

        Raises
        ------
        ParameterError
            An unknown group or point, or a tensor that is missing.
        """
        run = runner(self, tensors, points, cut_graph, fold=fold)

        def extract(*inputs: Any) -> dict[str, Tensor]:
            return select_units(self, run(*inputs), points)

        return extract

    def unit_weights(
        self, tensors: Mapping[str, Tensor], group: str
    ) -> Iterator[tuple[str, Num[Tensor, "n _"]]]:
        """Yield, for each tensor axis that a group permutes, the values of each of its units.

        Parameters
        ----------
        tensors : mapping
            Tensor name -> Tensor; names that the group doesn't touch are skipped.
        group : str
            Name of the group.

        Yields
        ------
        name : str
            Name of the tensor. It occurs twice if the group permutes two of its axes.
        values : Tensor, shape (n, F)
            Row i holds the values of unit i. Rows are comparable between networks once all other
            groups are aligned.
        """
        if group not in self.sizes:
            raise unknown_name("permutation group", group, self.sizes)
        for name in tensors:
            for role in self.roles.get(name, ()):
                if group in role.positions:
                    yield name, role.values_of_units(tensors[name], group)

    def __repr__(self) -> str:
        lines = [f"PermutationSpec: {len(self.sizes)} groups, {sum(self.sizes.values())} units"]
        places: dict[str, list[str]] = {group: [] for group in self.sizes}
        for name, axes in self.axes.items():
            for axis, groups in enumerate(axes):
                for group in groups.split(", ") if groups else ():
                    places[group].append(f"{name}[{axis}]")
        for group, n in self.sizes.items():
            more = f", ... ({len(places[group])} axes)" if len(places[group]) > 6 else ""
            within = " and of ".join(above.group for above in self.inside.get(group, ()))
            within = f", in blocks of {within}" if within else ""
            on = f" on {', '.join(places[group][:6])}{more}" if places[group] else ""
            lines.append(f"  {group}: {n} units{on}{within}")
        return "\n".join([*lines, *(f"  ({fixed})" for fixed in self.fixed)])


def runner(
    spec: PermutationSpec,
    tensors: Mapping[str, Tensor],
    points: Mapping[str, str],
    change: Callable[[fx.Graph, tuple[str, ...]], fx.Graph],
    *,
    fold: bool = False,
) -> Callable[..., Any]:
    """Make a function that runs a network's graph after `change`, for example cut at some nodes.

    `change` gets the graph and the points' nodes, each once, in the order in which `select_units`
    expects their values. Everything else is as in `PermutationSpec.extractor`.
    """
    for group, node in points.items():
        if group not in spec.sizes:
            raise unknown_name("permutation group", group, spec.sizes)
        if node not in spec.points[group]:
            raise unknown_name(f"activation point of group {group!r}", node, spec.points[group])
    graph = spec.network.graph
    if fold:
        candidates = {node for nodes in spec.points.values() for node in nodes}
        graph, tensors = fold_batch_norms(graph, tensors, keep=candidates)
    network = compile_graph(change(graph, tuple(dict.fromkeys(points.values()))), tensors)

    def run(*inputs: Any) -> Any:
        try:
            return network(*inputs)
        except (IndexError, RuntimeError) as error:
            other = spec.network.unlike(inputs)
            if other is None:
                raise
            raise other from error

    return run


def select_units(
    spec: PermutationSpec, values: Iterable[Tensor], points: Mapping[str, str]
) -> dict[str, Tensor]:
    """Select each group's units, ``(B, n, *spatial)``, from the values of the points' nodes."""
    of_node = dict(zip(dict.fromkeys(points.values()), values, strict=True))
    return {
        group: spec.channels[group, node].select(of_node[node]) for group, node in points.items()
    }
