"""Which axes of which tensors share a permutation of units, found by tracing any network.

A *unit* is a hidden neuron or channel. Reordering the units of a layer, together with every tensor axis that
they touch, leaves the function of a network unchanged: ``f(permute(A)) == f(A)``. `PermutationSpec.trace`
exports the network to a graph of ATen operations and carries an integer array of unit ids along with every
activation. Layers give fresh ids, operations that combine tensors make ids equal, and operations that only
move values around (reshape, concatenate, slice) are run on the ids themselves. Units that occur in the same
way everywhere form one group, and any permutation inside a group is allowed.

Where the rules have a choice they take the safe side: a unit too few moves, never one too many. So these
symmetries are left out: exchanging whole blocks of a grouped convolution, or whole groups of a group norm. There is no
rule for attention, nor for embeddings: such a network is refused. Every spec is checked once, by a forward pass with a
random permutation.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from lotperm.errors import ParameterError, UnsupportedModelError, unknown_name
from lotperm.shapes import Int64, Num

Permutation = dict[str, Int64[Tensor, " _"]]

_FIXED = 0  # the id of what must not move: the network's inputs and outputs, constants, statistics over units


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Run on the ids as they are: they move, copy or drop values and change none.
_MOVES = _names(
    """cat chunk concat expand expand_as flatten flip hstack movedim mT narrow permute pixel_shuffle
    pixel_unshuffle repeat reshape reshape_as roll select slice split split_with_sizes squeeze stack swapaxes
    t tensor_split tile transpose unbind unflatten unsqueeze view view_as vstack"""
)
# Value by value, though not all of their overloads have ATen's tag `pointwise`.
_POINTWISE = _names(
    """_to_copy alias alpha_dropout clone contiguous copy detach dropout feature_alpha_dropout feature_dropout
    fill floor_divide hardswish log_sigmoid mish relu6 rsub to true_divide type_as where zero"""
)
_NONLINEARITIES = _names(
    """celu elu gelu hardsigmoid hardswish hardtanh leaky_relu log_sigmoid mish prelu relu relu6 rrelu selu
    sigmoid silu softplus tanh threshold"""
)
_REDUCTIONS = _names(
    "_softmax amax amin log_softmax logsumexp linalg_vector_norm mean norm prod softmax std sum var"
)
_CONSTANTS = _names("full full_like new_full new_ones new_zeros ones ones_like zeros zeros_like")
# Products with a parameter: the parameter's output and input axis, the dimension of the activation's units.
_CONTRACTIONS = {
    "conv1d": (0, 1, 1),
    "conv2d": (0, 1, 1),
    "conv3d": (0, 1, 1),
    "conv_transpose1d": (1, 0, 1),
    "conv_transpose2d": (1, 0, 1),
    "conv_transpose3d": (1, 0, 1),
    "linear": (0, 1, -1),
    "matmul": (1, 0, -1),
}
_POOLS = ("max_pool", "avg_pool", "adaptive_", "upsample_")


@dataclass(frozen=True)
class _Role:
    """Where groups act on one tensor: axes ``first..last`` taken as one, of the rows ``rows`` of axis 0."""

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
        Group name -> number of its units n, in order of execution. A group is named after the layer that
        produces its units first; a residual stream after its first producer. Units of one layer that are used
        in different ways (sliced, or in blocks of a grouped convolution) get a group each: ``name/0``, ...
    points : dict
        Group name -> names of graph nodes whose output holds each unit of the group exactly once as a channel,
        in order of execution: the candidates for activation matching. They are outputs of nonlinearities
        (post-ReLU activations, as in the paper); for a group without any, the last node that carries it.
        The last one is the default for matching. Nodes without spatial extent (gates of squeeze-and-excitation)
        are left out where others have one.
    axes : dict
        Tensor name -> for each axis the group that permutes it (several joined by ``", "``), or None.
    """

    sizes: dict[str, int]
    points: dict[str, tuple[str, ...]]
    axes: dict[str, tuple[str | None, ...]]
    _shapes: dict[str, torch.Size] = field(default_factory=dict)
    _roles: dict[str, tuple[_Role, ...]] = field(default_factory=dict)
    _channels: dict[tuple[str, str], tuple[int, Tensor]] = field(default_factory=dict)
    _graph: fx.Graph = field(default_factory=fx.Graph)
    _constants: dict[str, Tensor] = field(default_factory=dict)
    _extractors: dict[tuple[str, ...], fx.Graph] = field(default_factory=dict)

    @classmethod
    def trace(cls, model: nn.Module, example_input: Tensor) -> PermutationSpec:
        """Find the permutation symmetries of a network.

        The network is exported in evaluation mode, from a copy: its weights, mode and gradients are untouched.

        Parameters
        ----------
        model : nn.Module
            Any network that maps one batch to tensors and that `torch.export` can export.
        example_input : Tensor, shape (B, ...)
            A batch as the network takes it, on the device of the network. B may be 1. The spec also serves
            other batch sizes.

        Returns
        -------
        PermutationSpec

        Raises
        ------
        UnsupportedModelError
            The network can't be exported, has an operation on units for which there is no rule, or fails the
            final check f(permute(A)) == f(A).
        """
        if example_input.dim() == 0 or len(example_input) == 0:
            raise ParameterError(
                f"example_input must be a batch of at least one example, got {tuple(example_input.shape)}."
            )
        batch = example_input if len(example_input) > 1 else torch.cat([example_input, example_input])
        state, names = _tensors(model)
        for name, tensor in state.items():
            if tensor.numel() == 0:
                raise UnsupportedModelError(
                    f"{name} has shape {tuple(tensor.shape)}, so no values: a layer has no units."
                )
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ParameterError(f"weights of {name} are not finite; trace the network with others.")
        program = _export(model, batch)
        graph = fx.Graph()  # without the module, which holds a copy of the weights
        graph.output(graph.graph_copy(program.graph, {}))
        constants = {
            str(n.target): operator.attrgetter(str(n.target))(program)
            for n in graph.nodes
            if n.op == "get_attr" and n.target not in state
        }
        labels = _Labeller(program, {name: tensor.shape for name, tensor in state.items()}, names)
        labels.run(batch)
        spec = _assemble(labels, graph, labels.shapes, constants)
        _check(spec, state, names, batch)
        return spec

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
        inputs : Tensor, shape (B, ...)
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
            self._extractors[nodes] = _cut(self._graph, nodes)
        # Copies, as a network may write into its input and its buffers.
        tensors = {name: tensor.detach().clone() for name, tensor in {**self._constants, **weights}.items()}
        values = _run(self._extractors[nodes], tensors, inputs.clone())
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

        Yields
        ------
        name : str
            Name of the tensor. It comes twice where the group permutes two of its axes.
        values : Tensor, shape (n, F)
            Row i holds the values of unit i. Rows are comparable between networks once all other groups are
            aligned.
        """
        if group not in self.sizes:
            raise unknown_name("permutation group", group, self.sizes)
        for name in tensors:
            for role in self._roles.get(name, ()):
                if group in role.positions:
                    flat = tensors[name][role.rows].flatten(role.first, role.last).movedim(role.first, 0)
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
        Group name -> int64 Tensor of shape (n,); ``p[i]`` is the unit that moves to position i. Groups that are
        not named stay as they are.

    Returns
    -------
    dict
        The same names, each tensor a new one if its units move.

    Raises
    ------
    ParameterError
        An unknown group or tensor, a tensor of another shape, or a p that is no permutation of 0..n-1.
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
    """The permutation that does `inner`, then `outer`; a group that only one of them names is taken from it."""
    both = {group: p[outer[group].to(p.device)] if group in outer else p for group, p in inner.items()}
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
        raise ParameterError(f"the permutation of {group!r} must hold each of 0..{n - 1} exactly once.")
    return p


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All parameters and buffers of a state dict; for each name the first one of the same tensor (weight tying)."""
    state: dict[str, Tensor] = {}
    state.update(model.named_parameters(remove_duplicate=False))
    kept = model.state_dict()
    # What isn't in a state dict can't be permuted: to the network that is a constant.
    state.update((n, b) for n, b in model.named_buffers(remove_duplicate=False) if n in kept)
    first: dict[int, str] = {}
    return state, {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def _export(model: nn.Module, batch: Tensor) -> fx.GraphModule:
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
    for node in [n for n in program.graph.nodes if n.op == "call_module"]:  # checks of the input's shape
        program.graph.erase_node(node)
    return program


def _cut(graph: fx.Graph, nodes: tuple[str, ...]) -> fx.Graph:
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


def _lacking(name: str) -> ParameterError:
    return ParameterError(f"the weights lack {name!r} of the traced network; give a full state dict.")


class _Runner(fx.Interpreter):
    """Runs a graph with given parameters, buffers and constants."""

    def __init__(self, graph: fx.Graph, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(nn.Module(), graph=graph)
        self.extra_traceback = False
        self.tensors = tensors

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Tensor:
        if target not in self.tensors:
            raise _lacking(target)
        return self.tensors[target]


def _run(graph: fx.Graph, tensors: Mapping[str, Tensor], inputs: Tensor) -> list[Any]:
    """The outputs of a graph, flat."""
    return pytree.tree_leaves(_Runner(graph, tensors).run(inputs, enable_io_processing=False))


class _Labeller(fx.Interpreter):
    """Runs a graph on unit ids in place of values.

    An activation is an int64 tensor of the activation's own shape. Ids are made equal by a union-find over
    `parent`, in which the smallest id of a class is its root, so that _FIXED wins. Dimensions along which an
    id is constant mostly have stride 0, which `_thin` uses to do the work once.
    """

    def __init__(self, program: fx.GraphModule, shapes: dict[str, torch.Size], names: dict[str, str]) -> None:
        super().__init__(program)
        self.extra_traceback = False
        self.shapes, self.names = shapes, names
        self.parent = torch.zeros(1, dtype=torch.int64)
        self.matrix_roles: dict[tuple[str, int, int, int, int], Tensor] = {}  # name, first, last, start, stop
        self.element_roles: dict[tuple[str, int, int, int, int], Tensor] = {}
        self.carried: dict[str, Tensor] = {}  # node name -> ids of its output
        self.together: list[Tensor] = []  # ids that enter one statistic and must stay in it
        self.matrices = {
            node
            for node in program.graph.nodes
            if node.op == "get_attr"
            and node.target in names
            and all(_base(user) in _CONTRACTIONS and user.args[1] is node for user in node.users)
        }

    # ------------------------------------------------------------------ union-find
    def fresh(self, n: int) -> Tensor:
        """New ids for n units; a single one has nothing to change places with."""
        if n == 1:
            return torch.zeros(1, dtype=torch.int64)
        ids = torch.arange(len(self.parent), len(self.parent) + n)
        self.parent = torch.cat([self.parent, ids])
        return ids

    def find(self, ids: Tensor) -> Tensor:
        """The root of each id."""
        roots = _thin(ids)
        while not torch.equal(above := self.parent[roots], roots):
            roots = above
        return roots.expand(ids.shape)

    def unify(self, a: Tensor, b: Tensor) -> None:
        """Make ids equal, position by position, with broadcasting."""
        a, b = torch.broadcast_tensors(a, b)
        strides = zip(a.stride(), b.stride(), strict=True)
        once = tuple(slice(1) if s == t == 0 else slice(None) for s, t in strides)
        a, b = a[once].flatten(), b[once].flatten()
        while True:
            a, b = self.find(a), self.find(b)
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            self.parent.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")

    def varying(self, ids: Tensor) -> list[int]:
        """The dimensions along which the ids differ."""
        roots = _thin(self.find(ids))
        return [d for d in range(ids.dim()) if bool((roots != roots.narrow(d, 0, 1)).any())]

    def along(self, ids: Tensor, dim: int) -> Tensor:
        """One id per index of `dim`, made equal over all other dimensions."""
        rows = _thin(ids).movedim(dim, 0).flatten(1)
        self.unify(rows, rows[:, :1])
        return self.find(rows[:, 0].expand(ids.shape[dim]))

    def role(self, name: str, axis: int, ids: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
        """Note that the ids lie along an axis of a matrix; a matrix that is used twice makes them equal."""
        name = self.names[name]
        key = (name, axis, axis, *(rows or (0, self.shapes[name][0])))
        self.unify(self.matrix_roles.setdefault(key, ids), ids)
        return self.find(ids)

    # ------------------------------------------------------------------ rules
    def run_node(self, n: fx.Node) -> Any:
        if n.op == "placeholder":
            return torch.zeros(_shape(n), dtype=torch.int64)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "get_attr":
            return self.parameter(n)
        if n.op == "output":
            for ids in pytree.tree_leaves(args):
                if isinstance(ids, Tensor):
                    self.unify(ids, torch.tensor(_FIXED))
            return None
        result = self.operation(n, args, kwargs)
        if isinstance(result, Tensor):
            self.carried[n.name] = result = self.find(result)
        return result

    def parameter(self, n: fx.Node) -> Tensor | None:
        """Ids of a parameter or buffer by value; None for a matrix, which `contraction` labels by axes."""
        if n in self.matrices:
            return None
        if n.target not in self.names or not n.meta["val"].is_floating_point():
            return _fixed(n)
        name = self.names[str(n.target)]
        shape = self.shapes[name]
        key = (name, 0, max(len(shape) - 1, 0), 0, shape[0] if shape else 0)
        if key not in self.element_roles:
            self.element_roles[key] = self.fresh(shape.numel())
        return self.element_roles[key].view(shape)

    def operation(self, n: fx.Node, args: Any, kwargs: Any) -> Any:
        base, target = _base(n), n.target
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if base == "sym_size":
            return args[0].shape[args[1]]
        if not isinstance(target, OpOverload):
            if callable(target) and (target is operator.getitem or not tensors):
                return target(*args, **kwargs)  # arithmetic on sizes, one of several outputs
            raise _no_rule(n)
        named: dict[str, Any] = {
            a.name: a.default_value for a in target._schema.arguments if a.has_default_value()
        }
        named |= dict(zip((a.name for a in target._schema.arguments), args, strict=False)) | kwargs
        if base in _CONTRACTIONS and n.args[1] in self.matrices:
            return self.contraction(n, named, args[0])
        if base in _MOVES:
            return getattr(torch.ops.aten, "reshape" if base == "view" else base)(*args, **kwargs)
        if base in _POINTWISE or torch.Tag.pointwise in target.tags:
            return self.pointwise(tensors)
        if base in ("batch_norm", "instance_norm", "group_norm", "prelu"):
            return self.per_channel(tensors[0], tensors[1:], named.get("num_groups"))
        if base == "layer_norm":
            self.reduce(tensors[0], list(range(-len(named["normalized_shape"]), 0)))
            return self.pointwise(tensors)
        if base in _REDUCTIONS:
            dims = named.get("dim")
            dims = [dims] if isinstance(dims, int) else dims or list(range(tensors[0].dim()))
            reduced = self.reduce(tensors[0], dims)
            return tensors[0] if "softmax" in base else reduced.reshape(_shape(n))
        if base.startswith(_POOLS):
            units = self.along(tensors[0], 1)  # some give the places of the maxima too
            return pytree.tree_map_only(Tensor, lambda v: _spread(units, _sizes(v), 1), n.meta["val"])
        if base in ("pad", "constant_pad_nd"):
            return self.pad(n, tensors[0], named)
        if base in _CONSTANTS:
            shape = _shape(n)
            return _spread(self.fresh(shape[1]), shape, 1) if len(shape) > 1 else _fixed(n)
        if n.meta.get("val") is not None and any(self.find(ids).any() for ids in tensors):
            raise _no_rule(n)
        return _fixed(n)

    def pointwise(self, tensors: list[Tensor]) -> Tensor:
        """Operands of one position hold the same unit."""
        shape = torch.broadcast_shapes(*(t.shape for t in tensors))
        moving = [t for t in tensors if self.find(t).any()]
        if not moving:
            return torch.zeros(shape, dtype=torch.int64)
        result = moving[0].expand(shape)
        for ids in moving[1:]:
            self.unify(result, ids)
        varying = {d - len(shape) for d in self.varying(result)}
        for ids in tensors:
            # A value that is the same for all units (a mean, a gate, a scalar) lets them move.
            if any(ids.shape[d] > 1 for d in varying if -d <= ids.dim()) and not self.find(ids).any():
                self.unify(result, torch.tensor(_FIXED))
        return result

    def reduce(self, ids: Tensor, dims: list[int]) -> Tensor:
        """Ids of a statistic over `dims` (kept, with size 1): the unit's, or fixed if over several units."""
        dims = [d % ids.dim() for d in dims]
        roots = _thin(self.find(ids))
        kept = [d for d in range(ids.dim()) if d not in dims]
        rows = roots.permute(kept + dims).reshape(*(roots.shape[d] for d in kept), -1)
        of_one = (rows == rows[..., :1]).all(-1)
        if not of_one.all():
            self.together += list(rows[~of_one].unique(dim=0))
        out = torch.where(of_one, rows[..., 0], _FIXED)
        for d in sorted(dims):
            out = out.unsqueeze(d)
        return out.expand([1 if d in dims else ids.shape[d] for d in range(ids.dim())])

    def per_channel(self, x: Tensor, parameters: list[Tensor], blocks: int | None) -> Tensor:
        """An operation with parameters per channel, and statistics per block of channels or per channel."""
        channels = self.along(x, 1)
        for ids in parameters:
            if ids.numel() > 1:  # PReLU may have one slope for all
                self.unify(ids, channels)
        if blocks is not None:
            self.together += channels.chunk(blocks)
        return x

    def contraction(self, n: fx.Node, named: dict[str, Any], x: Tensor) -> Tensor:
        """Convolution or matrix product with a parameter: units in, new units out."""
        out_axis, in_axis, dim = _CONTRACTIONS[_base(n)]
        name = self.names[str(n.all_input_nodes[1].target)]
        shape, groups = self.shapes[name], named.get("groups", 1)
        if len(shape) != (x.dim() if dim == 1 else 2) or (groups > 1 and out_axis == 1):
            raise _no_rule(n)
        units = self.along(x, dim)
        if 1 < groups == len(units):  # depthwise: no new units
            out = self.role(name, out_axis, units.repeat_interleave(shape[0] // groups))
        else:
            height = shape[out_axis] // groups
            for i, block in enumerate(units.chunk(groups)):
                self.role(name, in_axis, block, (i * height, (i + 1) * height) if groups > 1 else None)
            out = self.role(name, out_axis, self.fresh(shape[out_axis]))
            self.together += out.chunk(groups) if groups > 1 else ()
        if named.get("bias") is not None:
            self.unify(named["bias"], out)
        return _spread(out, _shape(n), dim)

    def pad(self, n: fx.Node, ids: Tensor, named: dict[str, Any]) -> Tensor:
        """Padding of space, or of channels with a constant: these are new units without weights."""
        for i, (before, after) in enumerate(zip(named["pad"][::2], named["pad"][1::2], strict=True)):
            dim = ids.dim() - 1 - i
            size = ids.shape[dim] + before + after
            if dim not in self.varying(ids):
                ids = ids.narrow(dim, 0, 1).expand(*ids.shape[:dim], size, *ids.shape[dim + 1 :])
                continue
            if named.get("mode", "constant") != "constant":
                raise _no_rule(n)
            start, stop = max(-before, 0), ids.shape[dim] - max(-after, 0)
            parts = [ids.narrow(dim, start, stop - start)]
            if before > 0:
                parts.insert(0, self.new_units(ids, dim, before))
            if after > 0:
                parts.append(self.new_units(ids, dim, after))
            ids = torch.cat(parts, dim)
        return ids

    def new_units(self, like: Tensor, dim: int, count: int) -> Tensor:
        shape = list(like.shape)
        shape[dim] = count
        return _spread(self.fresh(count), torch.Size(shape), dim)


def _base(node: fx.Node) -> str:
    """Name of an ATen operation without overload and without the underscore of the in-place variant."""
    if not isinstance(node.target, OpOverload):
        return ""
    name = node.target._schema.name.partition("::")[2]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _shape(node: fx.Node) -> torch.Size:
    """Shape of a node's output for the example input."""
    return _sizes(node.meta["val"])


def _sizes(value: Tensor) -> torch.Size:
    return torch.Size(d if isinstance(d, int) else d.node.hint for d in value.shape)


def _fixed(node: fx.Node) -> Any:
    """Ids for outputs that don't move."""
    none = torch.tensor(_FIXED)
    return pytree.tree_map_only(Tensor, lambda value: none.expand(_sizes(value)), node.meta.get("val"))


def _thin(ids: Tensor) -> Tensor:
    """Ids without their repetitions: dimensions of stride 0 get size 1."""
    return ids[tuple(slice(1) if stride == 0 else slice(None) for stride in ids.stride())]


def _spread(ids: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """Ids of one dimension, constant along all others."""
    return ids.view([-1 if d == dim % len(shape) else 1 for d in range(len(shape))]).expand(shape)


def _no_rule(node: fx.Node) -> UnsupportedModelError:
    modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if "File " in line]
    where = (f", in module {modules[-1]!r}" if modules else "") + (f", {lines[-1]}" if lines else "")
    return UnsupportedModelError(
        f"no permutation rule for the operation {node.target} on hidden units (graph node {node.name!r}{where}); "
        "write it with linear, convolution, normalization and pooling layers, value-by-value functions, sums, "
        "products, reductions, concatenation, slicing and reshaping."
    )


def _assemble(
    labels: _Labeller, graph: fx.Graph, shapes: dict[str, torch.Size], constants: dict[str, Tensor]
) -> PermutationSpec:
    """Groups of units that occur in the same way everywhere, and where they lie in each tensor."""
    total = len(labels.parent)
    roles = {**labels.matrix_roles, **labels.element_roles}
    # A 64-bit fingerprint of each class's occurrences: a random number for each place, summed.
    kind = torch.zeros(total, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for ids in [*roles.values(), *labels.carried.values(), *labels.together]:
        roots = labels.find(_thin(ids)).flatten()
        kind.index_add_(
            0, roots, torch.randint(-(2**63), 2**63 - 1, (1,), generator=generator).expand(len(roots))
        )

    # Groups in order of execution, their units in the order of the first axis that holds them.
    members: dict[int, list[int]] = {}
    base: dict[int, str] = {}
    seen, kinds = {_FIXED}, kind.tolist()
    for (name, *_), ids in roles.items():
        new = [root for root in dict.fromkeys(labels.find(ids).flatten().tolist()) if root not in seen]
        seen.update(new)
        for root in new:
            key = kinds[root]
            base.setdefault(key, name.removesuffix(".weight"))
            members.setdefault(key, []).append(root)
    members = {key: units for key, units in members.items() if len(units) > 1}
    group_of = torch.full((total,), -1)
    unit_of = torch.zeros(total, dtype=torch.int64)
    groups: list[str] = []
    for key, units in members.items():
        alike = [other for other in members if base[other] == base[key]]
        group_of[units] = len(groups)
        unit_of[units] = torch.arange(len(units))
        groups.append(base[key] if len(alike) == 1 else f"{base[key]}/{alike.index(key)}")
    sizes = {group: len(units) for group, units in zip(groups, members.values(), strict=True)}

    def places(ids: Tensor) -> dict[str, Tensor]:
        """Group -> (n, k): the positions in `ids` of each of its units."""
        roots = labels.find(ids).flatten()
        result = {}
        for g in group_of[roots].unique().tolist():
            if g >= 0:
                here = (group_of[roots] == g).nonzero().flatten()
                order = unit_of[roots[here]].argsort(stable=True)
                result[groups[g]] = here[order].view(sizes[groups[g]], -1)
        return result

    found: dict[str, list[_Role]] = {}
    axes: dict[str, list[list[str]]] = {name: [[] for _ in shape] for name, shape in shapes.items()}
    for (name, first, last, *rows), ids in roles.items():
        here = places(ids)
        if here:
            whole = rows == [0, shapes[name][0]]
            role = _Role(first, last, slice(None) if whole else slice(*rows), here)
            found.setdefault(name, []).append(role)
            for axis in labels.varying(ids.view(shapes[name])) if last > first else [first]:
                axes[name][axis] += [group for group in here if group not in axes[name][axis]]
    names = labels.names
    points, channels = _points(labels, graph, sizes, places)
    return PermutationSpec(
        sizes=sizes,
        points=points,
        axes={name: tuple(", ".join(groups) or None for groups in axes[names[name]]) for name in names},
        _shapes={name: shapes[names[name]] for name in names},
        _roles={name: tuple(found[names[name]]) for name in names if names[name] in found},
        _channels=channels,
        _graph=graph,
        _constants=constants,
    )


def _points(
    labels: _Labeller, graph: fx.Graph, sizes: dict[str, int], places: Callable[[Tensor], dict[str, Tensor]]
) -> tuple[dict[str, tuple[str, ...]], dict[tuple[str, str], tuple[int, Tensor]]]:
    """Candidates for activation matching, and in which dimension and where there the units lie."""
    channels: dict[tuple[str, str], tuple[int, Tensor]] = {}
    carriers: dict[str, list[tuple[str, bool, bool]]] = {group: [] for group in sizes}
    activations: set[fx.Node] = (
        set()
    )  # what depends on the input: a function of weights alone says nothing of a unit
    for node in graph.nodes:
        if node.op == "placeholder" or not activations.isdisjoint(node.all_input_nodes):
            activations.add(node)
        varying = labels.varying(labels.carried[node.name]) if node.name in labels.carried else []
        if node in activations and len(varying) == 1 and varying[0] > 0:  # samples come first
            ids, dim = labels.carried[node.name], varying[0]
            spatial = ids.numel() > ids.shape[0] * ids.shape[dim]
            for group, where in places(_thin(ids).movedim(dim, 0).flatten(1)[:, 0]).items():
                if where.shape[1] == 1:
                    channels[group, node.name] = dim, where.flatten()
                    carriers[group].append((node.name, spatial, _base(node) in _NONLINEARITIES))
    points = {}
    for group, nodes in carriers.items():
        nonlinear = [node for node in nodes if node[2]]
        best = [node for node in nonlinear or nodes if node[1]] or nonlinear or nodes
        points[group] = tuple(name for name, *_ in (best if nonlinear else best[-1:]))
    return points, {key: value for key, value in channels.items() if key[1] in points[key[0]]}


def _check(
    spec: PermutationSpec, state: Mapping[str, Tensor], names: Mapping[str, str], batch: Tensor
) -> None:
    """Refuse a spec with which a random permutation changes what the network computes."""
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

    def deviation(dtype: torch.dtype | None) -> float:
        inputs = noisy(torch.ones_like(batch), dtype) if batch.is_floating_point() else batch
        first = {name: noisy(state[name], dtype) for name in state if names[name] == name}
        before = {name: first[names[name]] for name in state}
        after = permute(before, spec, spec.random(generator))
        a, b = (
            torch.cat([value.double().flatten() for value in outputs if isinstance(value, Tensor)])
            for outputs in (
                _run(spec._graph, {**spec._constants, **w}, inputs.clone()) for w in (before, after)
            )
        )
        return float((a - b).norm() / a.norm().clamp_min(1e-30))

    with torch.no_grad():
        try:
            worst, allowed = deviation(torch.float64), 1e-6
        except RuntimeError:  # a network that casts to a type of its own
            worst, allowed = deviation(None), 1e-2
    if not worst <= allowed:
        raise UnsupportedModelError(
            f"a random permutation of the hidden units changes the output of this network by {worst:.1e} of its "
            "norm (expected: rounding), so it uses units in a way that the rules don't see; rewrite the layers that "
            "treat units by their position."
        )
