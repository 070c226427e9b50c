"""The permutation symmetries of a network: which axes of which tensors share one.

A *unit* is a hidden neuron or channel. Reordering the units of a layer, together with every tensor
axis that they touch, leaves the function of a network unchanged, ``f(permute(A)) == f(A)``
(Hecht-Nielsen 1990; Entezari et al. 2022). `PermutationSpec.trace` finds these symmetries: it
exports the network to a graph of ATen operations and carries an integer array of unit ids along
with every activation. Layers give fresh ids, operations that combine tensors make ids equal, and
operations that only move values around (reshape, concatenate, slice) are run on the ids themselves.
Units that occur in the same way everywhere form one group, and any permutation inside a group is
allowed. The rule of each operation is in `lotperm.science.rules`.

Attention has units in blocks: heads change places as a whole, and units inside each head, those of
queries with those of keys, those of values with the inputs of the output projection. Its other
symmetries aren't permutations: any invertible matrix M between queries and keys, ``q M`` and
``k M^-T``, or between values and the output projection, leaves the function as it is. A mask can't
follow those, as they make each new weight from all old ones of a head: where some were zero, none
is. Permutations (and signs, which leave masks where they are) alone take zeros to zeros.

Where the rules have a choice they take the safe side: a unit too few moves, never one too many. So
these symmetries are left out: exchanging whole blocks of a grouped convolution, or whole groups of
a group norm. An operation without a rule fixes the units that pass it, as an input or output does.
Where units meet a product over another axis (token mixing), the units are free, and so are mixtures
of positions until they meet positions again. `PermutationSpec.fixed` lists what is fixed and why.
Every spec is checked once, by a forward pass with a random permutation; a network that is random
in evaluation mode is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lotperm.errors import ParameterError, unknown_name
from lotperm.science.blocks import Inside, complete, draw
from lotperm.science.folding import fold_batch_norms
from lotperm.science.graphs import TracedNetwork, compile_graph, cut_graph
from lotperm.science.inputs import Batch
from lotperm.science.roles import Channels, Fixed, Role
from lotperm.science.state_dicts import (
    as_dense,
    dict_like,
    match_names,
    read_weights,
    state_dict_of,
)
from lotperm.types import Int64, Num

__all__ = [
    "Channels",
    "Fixed",
    "Permutation",
    "PermutationSpec",
    "Role",
    "compose",
    "invert",
    "permute",
]

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
    shapes : dict
        Tensor name -> its shape.
    roles : dict
        Tensor name -> how groups act on it; a tensor that no group touches is not there.
    channels : dict
        (Group name, one of its points) -> where its units lie in that output.
    network : TracedNetwork
        The graph that was traced.
    tied : dict
        Name of a tensor -> the first name of the same tensor, where several modules share one.
    fixed : tuple of Fixed
        The hidden units that no permutation moves, and why. The last layer's, which nothing but
        the output takes, aren't listed.
    inside : dict
        Group name -> to which units of which other groups its units belong, for those in blocks.
        A permutation of the group takes each unit to where the permutation of the other group
        takes what it belongs to. The units of ``attn/qk`` and ``attn/v`` belong to the heads,
        ``attn/heads``. `random` and the matching functions heed that, `permute` checks it.
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
            Any network that maps a batch to one or more tensors, in whatever container, and that
            `torch.export` can export.
        example_input : Tensor, sequence or mapping
            A batch as the network takes it, on the device of the network: a tensor of shape
            (B, ...), a tuple of several inputs, or a dict of them by the names that `forward`
            has. As from a data loader, labels may follow. B may be 1. The spec also serves other
            batch sizes.

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
            All units of some layer are fixed, so that nothing moves there; it names them.
        """
        from lotperm.science.tracing import trace  # which makes specs, so it imports this module

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
        """Compute activations of groups of units, by one forward pass in evaluation mode.

        The pass ends at the last point; what lies behind it is not computed.

        Parameters
        ----------
        weights : mapping
            A full state dict: every parameter and buffer that the pass needs.
        inputs : Tensor, sequence or mapping
            One batch, of the form that the network was traced with.
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
        """Return the weights, by the network's names, and the constants that it reads beside them.

        Weights are taken in any form that `read_weights` reads.
        """
        return {**self.network.constants, **self.read(weights)}

    def read(
        self, weights: Mapping[str, Any] | nn.Module, what: str = "the weights"
    ) -> dict[str, Tensor]:
        """Return weights in any form that `read_weights` reads, by the network's names.

        Tied weights may be there under one of their names, as safetensors keeps them.
        """
        state = read_weights(weights, self.shapes, what)
        for name, first in self.tied.items():
            if name in state:
                state.setdefault(first, state[name])
        return state | {n: state[f] for n, f in self.tied.items() if n not in state and f in state}

    def extractor(
        self, tensors: Mapping[str, Tensor], points: Mapping[str, str], *, fold: bool = False
    ) -> Callable[..., dict[str, Tensor]]:
        """Make a function from a batch of inputs to activations of groups, for weights that stay.

        Parameters
        ----------
        tensors : mapping
            As `tensors` gives them, converted to the device and dtype of the pass. They are
            not copied, and a network that counts its calls writes into them.
        points : mapping
            Group name -> node name, one of ``self.points[group]``.
        fold : bool, optional
            Fold batch norms into convolutions: faster, equal but for rounding.

        Returns
        -------
        callable
            What `activations` returns, from the inputs as `InputForm.leaves` gives them, one
            argument each. The network may write into them.

        Raises
        ------
        ParameterError
            An unknown group or point, or a tensor that is missing.
        """
        for group, node in points.items():
            if group not in self.sizes:
                raise unknown_name("permutation group", group, self.sizes)
            if node not in self.points[group]:
                raise unknown_name(f"activation point of group {group!r}", node, self.points[group])
        graph = self.network.graph
        if fold:
            candidates = {node for nodes in self.points.values() for node in nodes}
            graph, tensors = fold_batch_norms(graph, tensors, keep=candidates)
        nodes = tuple(dict.fromkeys(points.values()))
        network = compile_graph(cut_graph(graph, nodes), tensors)

        def extract(*inputs: Any) -> dict[str, Tensor]:
            try:
                values = network(*inputs)
            except (IndexError, RuntimeError) as error:
                other = self.network.unlike(inputs)
                if other is None:
                    raise
                raise other from error
            outputs = dict(zip(nodes, values, strict=True))
            return {
                group: self.channels[group, node].select(outputs[node])
                for group, node in points.items()
            }

        return extract

    def unit_weights(
        self, tensors: Mapping[str, Tensor], group: str
    ) -> Iterator[tuple[str, Num[Tensor, "n _"]]]:
        """For each tensor axis that a group permutes, yield the values of each of its units.

        Parameters
        ----------
        tensors : mapping
            Tensor name -> Tensor; names that the group doesn't touch are skipped.
        group : str
            Name of the group.

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


def permute(
    tensors: Mapping[str, Any] | nn.Module,
    spec: PermutationSpec,
    permutation: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Reorder the units of a network: ``new = old[p]`` on every axis of a group.

    Parameters
    ----------
    tensors : mapping or nn.Module
        A state dict or a mask, whole or in part, of any dtype and on any device; or a module, for
        its state dict. Names may have the prefixes of wrappers (``module.``, ``_orig_mod.``) and
        the endings of `torch.nn.utils.prune` (``_orig``, ``_mask``).
    spec : PermutationSpec
        Of the network that the tensors belong to.
    permutation : mapping
        Group name -> int64 Tensor of shape (n,), or a list or array of as many whole numbers;
        ``p[i]`` is the unit that moves to position i.
        Groups that are not named stay as they are, but for blocks that a named one moves.

    Returns
    -------
    dict
        The same names in the same order, each tensor a new one if its units move. `load_state_dict`
        takes it where it took `tensors`: PyTorch's metadata are kept.

    Raises
    ------
    ParameterError
        An unknown group or tensor, a tensor of another shape, a p that is no permutation of
        0..n-1, or one that tears blocks apart (`PermutationSpec.inside`).
    """
    moves = {group: _validated(spec, group, p) for group, p in permutation.items()}
    moves = complete(moves, spec.sizes, spec.inside)
    moves = {group: p for group, p in moves.items() if not torch.equal(p, torch.arange(len(p)))}
    state = state_dict_of(tensors)
    names = match_names(state, spec.shapes)
    result = {}
    for name, tensor in state.items():
        if name not in names:
            raise unknown_name("tensor of the traced network", name, spec.shapes)
        own = names[name]
        if tensor.shape != spec.shapes[own]:
            raise ParameterError(
                f"tensor {name!r} has shape {tuple(tensor.shape)}, but the traced network has "
                f"{tuple(spec.shapes[own])}; trace the network that these tensors belong to."
            )
        layout, dense = tensor.layout, as_dense(tensor)
        for role in spec.roles.get(own, ()):
            dense = role.apply(dense, moves)
        result[name] = dense if layout == torch.strided else dense.to_sparse(layout=layout)
    return dict_like(state, result)


def invert(permutation: Mapping[str, Int64[Tensor, " _"]]) -> Permutation:
    """Return the permutation that undoes `permutation`."""
    return {group: p.argsort() for group, p in permutation.items()}


def compose(
    outer: Mapping[str, Int64[Tensor, " _"]], inner: Mapping[str, Int64[Tensor, " _"]]
) -> Permutation:
    """Return the permutation that does `inner`, then `outer`.

    A group that only one of them names is taken from it.
    """
    both = {
        group: p[outer[group].to(p.device)] if group in outer else p for group, p in inner.items()
    }
    return {**outer, **both}


def _validated(spec: PermutationSpec, group: str, p: Any) -> Tensor:
    """Return the permutation of one group, on the CPU, if it is one."""
    if group not in spec.sizes:
        raise unknown_name("permutation group", group, spec.sizes)
    n = spec.sizes[group]
    p = _whole_numbers(p)
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


def _whole_numbers(p: Any) -> Any:
    """Return a list or array of whole numbers as an int64 tensor, and everything else as it is."""
    if isinstance(p, Tensor):
        return p
    try:
        found = torch.as_tensor(p)
    except (TypeError, ValueError, RuntimeError):
        return p
    whole = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    return found.to(torch.int64) if found.dtype in whole else p
