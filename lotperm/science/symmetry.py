"""Which axes of which tensors share a permutation of units, found by tracing any network.

A *unit* is a hidden neuron or channel. Reordering the units of a layer, together with every tensor
axis that they touch, leaves the function of a network unchanged: ``f(permute(A)) == f(A)``.
`PermutationSpec.trace` exports the network to a graph of ATen operations and carries an integer
array of unit ids along with every activation. Layers give fresh ids, operations that combine
tensors make ids equal, and operations that only move values around (reshape, concatenate, slice)
are run on the ids themselves. Units that occur in the same way everywhere form one group, and any
permutation inside a group is allowed.

Where the rules have a choice they take the safe side: a unit too few moves, never one too many. So
these symmetries are left out: exchanging whole blocks of a grouped convolution, or whole groups of
a group norm. There is no rule for attention, nor for embeddings: such a network is refused. Every
spec is checked once, by a forward pass with a random permutation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from lotperm.errors import ParameterError, unknown_name
from lotperm.science.graphs import cut_graph, run_graph
from lotperm.types import Int64, Num

Permutation = dict[str, Int64[Tensor, " _"]]


@dataclass(frozen=True)
class Role:
    """Where groups act on one tensor: axes ``first..last`` taken as one, of the rows ``rows``
    of axis 0.
    """

    first: int
    last: int
    rows: slice
    positions: dict[str, Tensor]  # group -> (n, k): the k places of each unit along the axes

    def apply(self, tensor: Tensor, moves: Mapping[str, Tensor]) -> Tensor:
        """Reorder the units of the groups in `moves` (all of them on the CPU)."""
        here = [group for group in self.positions if group in moves]
        if not here:
            return tensor
        part = tensor[self.rows]
        index = torch.arange(part.shape[self.first : self.last + 1].numel())
        for group in here:
            index[self.positions[group]] = self.positions[group][moves[group]]
        flat = part.flatten(self.first, self.last)
        moved = flat.index_select(self.first, index.to(tensor.device)).reshape(part.shape)
        if self.rows == slice(None):
            return moved
        tensor = tensor.clone()
        tensor[self.rows] = moved
        return tensor


@dataclass(frozen=True, repr=False, eq=False)
class PermutationSpec:
    """The permutation symmetries of one network; make it with `PermutationSpec.trace`.

    Attributes
    ----------
    sizes : dict
        Group name -> number of its units n, in order of execution. A group is named after the
        layer that produces its units first; a residual stream after its first producer. Units of
        one layer that are used in different ways (sliced, or in blocks of a grouped convolution)
        get a group each: ``name/0``, ...
    points : dict
        Group name -> names of graph nodes whose output holds each unit of the group exactly once
        as a channel, in order of execution: the candidates for activation matching. They are
        outputs of nonlinearities (post-ReLU activations, as in the paper); for a group without
        any, the last node that carries it. The last one is the default for matching. Nodes without
        spatial extent (gates of squeeze-and-excitation) are left out where others have one.
    axes : dict
        Tensor name -> for each axis the group that permutes it (several joined by ``", "``), or
        None.
    """

    sizes: dict[str, int]
    points: dict[str, tuple[str, ...]]
    axes: dict[str, tuple[str | None, ...]]
    _shapes: dict[str, torch.Size] = field(default_factory=dict)
    _roles: dict[str, tuple[Role, ...]] = field(default_factory=dict)
    _channels: dict[tuple[str, str], tuple[int, Tensor]] = field(default_factory=dict)
    _graph: fx.Graph = field(default_factory=fx.Graph)
    _constants: dict[str, Tensor] = field(default_factory=dict)
    _extractors: dict[tuple[str, ...], fx.Graph] = field(default_factory=dict)

    @classmethod
    def trace(cls, model: nn.Module, example_input: Tensor) -> PermutationSpec:
        """Find the permutation symmetries of a network.

        The network is exported in evaluation mode, from a copy: its weights, mode and gradients
        are untouched.

        Parameters
        ----------
        model : nn.Module
            Any network that maps one batch to tensors and that `torch.export` can export.
        example_input : Tensor
            Tensor, shape (B, ...) A batch as the network takes it, on the device of the network. B
            may be 1. The spec also serves other batch sizes.

        Returns
        -------
        PermutationSpec

        Raises
        ------
        UnsupportedModelError
            The network can't be exported, has an operation on units for which there is no rule, or
            fails the final check f(permute(A)) == f(A).
        """
        from lotperm.science.tracing import trace  # which makes specs, so it imports this module

        return trace(model, example_input)

    def identity(self) -> Permutation:
        """The permutation that moves nothing."""
        return {group: torch.arange(n) for group, n in self.sizes.items()}

    def random(self, generator: torch.Generator) -> Permutation:
        """A uniformly random permutation of every group, from a generator on the CPU."""
        return {group: torch.randperm(n, generator=generator) for group, n in self.sizes.items()}

    @torch.no_grad()
    def activations(
        self, weights: Mapping[str, Tensor], inputs: Tensor, points: Mapping[str, str]
    ) -> dict[str, Tensor]:
        """Activations of groups of units, from one forward pass in evaluation mode.

        The pass ends at the last point; what lies behind it is not computed.

        Parameters
        ----------
        weights : mapping
            A full state dict: every parameter and buffer that the pass needs.
        inputs : Tensor
            Tensor, shape (B, ...)
        points : mapping
            Group name -> node name, one of ``self.points[group]``.

        Returns
        -------
        dict
            Group name -> Tensor of shape (B, n, *spatial), units in the order of the group.
        """
        for group, node in points.items():
            if group not in self.sizes:
                raise unknown_name("permutation group", group, self.sizes)
            if node not in self.points[group]:
                raise unknown_name(f"activation point of group {group!r}", node, self.points[group])
        if not points:
            return {}
        nodes = tuple(dict.fromkeys(points.values()))
        if nodes not in self._extractors:
            self._extractors[nodes] = cut_graph(self._graph, nodes)
        # Copies, as a network may write into its input and its buffers.
        tensors = {
            name: tensor.detach().clone() for name, tensor in {**self._constants, **weights}.items()
        }
        values = run_graph(self._extractors[nodes], tensors, inputs.clone())
        outputs = dict(zip(nodes, values, strict=True))
        result = {}
        for group, node in points.items():
            dim, units = self._channels[group, node]
            moved = outputs[node].movedim(dim, 1)
            whole = len(units) == moved.shape[1] and torch.equal(units, torch.arange(len(units)))
            result[group] = moved if whole else moved.index_select(1, units.to(moved.device))
        return result

    def unit_weights(
        self, tensors: Mapping[str, Tensor], group: str
    ) -> Iterator[tuple[str, Num[Tensor, "n _"]]]:
        """For each tensor axis that a group permutes, the values that belong to each of its units.

        Parameters
        ----------
        tensors : mapping
            Tensor name -> Tensor; names that the group doesn't touch are skipped.
        group : str
            str.

        Yields
        ------
        name : str
            Name of the tensor. It comes twice where the group permutes two of its axes.
        values : Tensor, shape (n, F)
            Row i holds the values of unit i. Rows are comparable between networks once all other
            groups are aligned.
        """
        if group not in self.sizes:
            raise unknown_name("permutation group", group, self.sizes)
        for name in tensors:
            for role in self._roles.get(name, ()):
                if group in role.positions:
                    flat = (
                        tensors[name][role.rows]
                        .flatten(role.first, role.last)
                        .movedim(role.first, 0)
                    )
                    yield name, flat[role.positions[group].to(flat.device)].flatten(1)

    def __repr__(self) -> str:
        lines = [f"PermutationSpec: {len(self.sizes)} groups, {sum(self.sizes.values())} units"]
        places: dict[str, list[str]] = {group: [] for group in self.sizes}
        for name, axes in self.axes.items():
            for axis, groups in enumerate(axes):
                for group in groups.split(", ") if groups else ():
                    places[group].append(f"{name}[{axis}]")
        for group, n in self.sizes.items():
            more = f", ... ({len(places[group])} axes)" if len(places[group]) > 6 else ""
            lines.append(f"  {group}: {n} units on {', '.join(places[group][:6])}{more}")
        return "\n".join(lines)


def permute(
    tensors: Mapping[str, Tensor], spec: PermutationSpec, permutation: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Reorder the units of a network: ``new = old[p]`` on every axis of a group.

    Parameters
    ----------
    tensors : mapping
        A state dict or a mask, whole or in part, of any dtype and on any device.
    spec : PermutationSpec
        Of the network that the tensors belong to.
    permutation : mapping
        Group name -> int64 Tensor of shape (n,); ``p[i]`` is the unit that moves to position i.
        Groups that are not named stay as they are.

    Returns
    -------
    dict
        The same names, each tensor a new one if its units move.

    Raises
    ------
    ParameterError
        An unknown group or tensor, a tensor of another shape, or a p that is no permutation of
        0..n-1.
    """
    moves = {group: _validated(spec, group, p) for group, p in permutation.items()}
    moves = {group: p for group, p in moves.items() if not torch.equal(p, torch.arange(len(p)))}
    result = {}
    for name, tensor in tensors.items():
        if name not in spec._shapes:
            raise unknown_name("tensor of the traced network", name, spec._shapes)
        if tensor.shape != spec._shapes[name]:
            raise ParameterError(
                f"tensor {name!r} has shape {tuple(tensor.shape)}, but the traced network has "
                f"{tuple(spec._shapes[name])}; trace the network that these tensors belong to."
            )
        for role in spec._roles.get(name, ()):
            tensor = role.apply(tensor, moves)
        result[name] = tensor
    return result


def invert(permutation: Mapping[str, Int64[Tensor, " _"]]) -> Permutation:
    """The permutation that undoes `permutation`."""
    return {group: p.argsort() for group, p in permutation.items()}


def compose(
    outer: Mapping[str, Int64[Tensor, " _"]], inner: Mapping[str, Int64[Tensor, " _"]]
) -> Permutation:
    """The permutation that does `inner`, then `outer`; a group that only one of them names is
    taken from it.
    """
    both = {
        group: p[outer[group].to(p.device)] if group in outer else p for group, p in inner.items()
    }
    return {**outer, **both}


def _validated(spec: PermutationSpec, group: str, p: Tensor) -> Tensor:
    """The permutation of one group, on the CPU, if it is one."""
    if group not in spec.sizes:
        raise unknown_name("permutation group", group, spec.sizes)
    n = spec.sizes[group]
    if not isinstance(p, Tensor) or p.dtype != torch.int64 or p.shape != (n,):
        got = f"{p.dtype} of shape {tuple(p.shape)}" if isinstance(p, Tensor) else type(p).__name__
        raise ParameterError(
            f"the permutation of {group!r} must be an int64 tensor of shape ({n},), got {got}."
        )
    p = p.cpu()
    if not torch.equal(p.sort().values, torch.arange(n)):
        raise ParameterError(
            f"the permutation of {group!r} must hold each of 0..{n - 1} exactly once."
        )
    return p
