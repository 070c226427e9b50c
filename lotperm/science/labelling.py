"""Run a network on unit ids instead of values, by the rules of `lotperm.science.rules`."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from lotperm.science.graphs import concrete_shape, operation_name
from lotperm.science.labels import Labels, fixed_outputs
from lotperm.science.matrices import Matrix
from lotperm.science.rules import MATRIX_ARGUMENT, RULES, Call, unknown
from lotperm.science.rules.attention import attention
from lotperm.science.rules.creation import OF_A_TYPE
from lotperm.science.rules.elementwise import COPIES, elementwise, gated
from lotperm.science.rules.layout import mapped, move
from lotperm.science.rules.lookups import at_places, embedding, index, index_select, one_hot
from lotperm.science.rules.normalization import batch_norm, layer_norm
from lotperm.science.rules.products import batched_matmul, convolution, linear, matmul
from lotperm.science.rules.reductions import reduction, softmax
from lotperm.science.rules.weights import RESHAPES, computed_weight, is_constant, keeps_axes

# Rules that can handle units at mixtures of positions, which lie along two dimensions.
_WITH_MIXTURES = (
    *(elementwise, move, reduction, softmax, batch_norm, layer_norm, gated),
    *(linear, matmul, batched_matmul, convolution, attention),
)

# Rules that can handle numbers by which units are chosen.
_OF_NUMBERS = (move, embedding, index, index_select, at_places, one_hot)


class Labeller(fx.Interpreter):
    """Interpreter of a graph that fills in its `Labels`.

    Parameters
    ----------
    program : fx.GraphModule
        As `export_graph` returns it.
    labels : Labels
        The labels of the network's parameters and buffers; each operation adds to them.
    """

    def __init__(self, program: fx.GraphModule, labels: Labels) -> None:
        super().__init__(program)
        self.extra_traceback = False
        self.labels = labels
        self.matrices: set[fx.Node] = set()
        of_weights: set[fx.Node] = set()
        for node in program.graph.nodes:
            sources = [source for source in node.all_input_nodes if _is_tensor(source)]
            computed = sources and of_weights.issuperset(sources) and keeps_axes(node)
            if (
                computed
                or is_constant(node)
                or (node.op == "get_attr" and node.target in labels.names)
            ):
                of_weights.add(node)
        # Backwards: whether axes are enough depends on what uses the weights.
        for node in reversed(program.graph.nodes):
            if node in of_weights and self._by_axes(node):
                self.matrices.add(node)
        self._leave_mixed()

    def _by_axes(self, node: fx.Node) -> bool:
        """Return whether all operations that use some weights label them by their axes."""
        taken = [
            _takes_as_matrix(u, node) or u in self.matrices or operation_name(u) in OF_A_TYPE
            for u in node.users
        ]
        return all(taken) or _is_vector(node, some=any(taken))

    def _leave_mixed(self) -> None:
        """Discard what is computed from weights that aren't all labelled by their axes."""
        before = -1
        while before != len(self.matrices):
            before = len(self.matrices)
            for node in list(self.matrices):
                sources = [source for source in node.all_input_nodes if _is_tensor(source)]
                if not (self.matrices.issuperset(sources) and self._by_axes(node)):
                    self.matrices.discard(node)

    def run_node(self, n: fx.Node) -> Any:
        """Label one node, and record the ids of its output."""
        if n.op == "placeholder":
            return fixed_outputs(n)  # besides tensors, inputs may be numbers or None
        if n.op == "get_attr":
            return self.parameter(n)
        self.labels.begin(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n not in self.matrices:
            places = MATRIX_ARGUMENT.get(operation_name(n), ())
            leaves, structure = pytree.tree_flatten(args)
            of_a_type = operation_name(n) in OF_A_TYPE
            args = pytree.tree_unflatten(
                [
                    leaf.values(self.labels)
                    if isinstance(leaf, Matrix) and i not in places and not of_a_type
                    else leaf
                    for i, leaf in enumerate(leaves)
                ],
                structure,
            )
        if n.op == "output":
            self.labels.because("is where they leave the network")
            for ids in pytree.tree_leaves(args):
                if isinstance(ids, Tensor):
                    self.labels.disregard(ids)
                    self.labels.fix(ids)
            return None
        if operation_name(n) == "arange" and not n.all_input_nodes:
            self.labels.known[n.name] = n.target(*n.args, **n.kwargs)  # type: ignore[operator]
        result = self.operation(Call(n, args, kwargs))
        if isinstance(result, Tensor):
            self.labels.carried[n.name] = result = self.labels.compact(result)
        return result

    def parameter(self, n: fx.Node) -> Matrix | Tensor:
        """Label a parameter, buffer or constant."""
        if n in self.matrices:
            return Matrix.of(str(n.target), self.labels.shapes[str(n.target)])
        value = n.meta.get("val")  # None for a subprogram
        if n.target not in self.labels.names and isinstance(value, Tensor):
            self.labels.known[n.name] = operator.attrgetter(str(n.target))(self.module)
        if n.target not in self.labels.names or value is None or value.numel() == 0:
            return fixed_outputs(n)
        if not (value.is_floating_point() or value.is_complex() or _is_gate(n)):
            return fixed_outputs(n)
        unruled = [user for user in n.users if not _has_rule(user)]
        if value.dim() > 1 and unruled:
            # Its values needn't be told apart, and an embedding has very many.
            self.labels.unruled[str(n.target)] = unruled[0]
            return fixed_outputs(n)
        return self.labels.values_of(str(n.target))

    def operation(self, call: Call) -> Any:
        """Label an operation by its rule."""
        target = call.node.target
        if call.name == "sym_size":
            return call.args[0].shape[call.args[1]]
        if not isinstance(target, OpOverload):
            if callable(target) and (
                target is operator.getitem or (_is_arithmetic(target) and not call.tensors)
            ):
                # Arithmetic on sizes, or one of several outputs.
                return target(*call.args, **call.kwargs)
            return mapped(self.labels, call)
        if call.node in self.matrices:
            return computed_weight(self.labels, call)
        rule = RULES.get(call.name)
        if rule is None:
            rule = elementwise if torch.Tag.pointwise in target.tags else unknown
        if rule not in _WITH_MIXTURES:
            for ids in call.tensors:
                if self.labels.is_mixed(ids):
                    self.labels.unmix(ids)
        if rule not in _OF_NUMBERS and call.name not in COPIES:
            self.labels.disregard(*call.tensors)
        result = rule(self.labels, call)
        if rule in (elementwise, move, reduction, softmax):
            return result
        return pytree.tree_map_only(Tensor, self.labels.settle, result)


def _is_arithmetic(target: Any) -> bool:
    """Return whether a function is mere arithmetic on numbers, without side effects."""
    of_torch = str(getattr(target, "__name__", "")).startswith("sym_")
    return of_torch or getattr(target, "__module__", "") in ("_operator", "builtins", "math")


def _takes_as_matrix(user: fx.Node, parameter: fx.Node) -> bool:
    """Return whether the rule of `user` labels this argument by its axes."""
    places = MATRIX_ARGUMENT.get(operation_name(user), ())
    leaves = pytree.tree_leaves(user.args)
    taken = any(leaves[i] is parameter for i in places if i < len(leaves))
    return taken and [n for n in user.all_input_nodes if _is_tensor(n)] != [parameter]


def _is_vector(node: fx.Node, *, some: bool) -> bool:
    """Return whether weights have a single axis, by which their values are labelled too.

    This holds only if they are computed from weights with several axes, or `some` of their users
    label them by their axis.
    """

    def is_vector(of: fx.Node) -> bool:
        value = of.meta.get("val")
        parts = value if isinstance(value, (list, tuple)) else [value]
        shapes = [concrete_shape(part) for part in parts if isinstance(part, Tensor)]
        return bool(shapes) and all(s.numel() == max(s, default=1) for s in shapes)

    value = node.meta.get("val")
    if not is_vector(node) or (isinstance(value, Tensor) and not value.is_floating_point()):
        return False  # indices of positions
    sources = [n for n in node.all_input_nodes if _is_tensor(n)]
    return some or not all(map(is_vector, sources))


def _is_gate(node: fx.Node) -> bool:
    """Return whether integers or booleans, one for each unit, serve to keep or drop values.

    If so, they move with the units; indices of positions don't.
    """
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not node.users:
        return False
    if value.is_floating_point():
        return True
    shape = concrete_shape(value)
    known = all(
        operation_name(user) in (*COPIES, *RESHAPES)
        or (isinstance(user.target, OpOverload) and torch.Tag.pointwise in user.target.tags)
        or operation_name(user) in ("masked_fill", "where")
        for user in node.users
    )
    return known and 1 < shape.numel() == max(shape) and all(map(_is_gate, node.users))


def _is_tensor(node: fx.Node) -> bool:
    """Return whether a node's value isn't a number, such as the batch size."""
    return not isinstance(node.meta.get("val"), (int, torch.SymInt))


def _has_rule(user: fx.Node) -> bool:
    """Return whether there is a rule for how an operation treats units."""
    pointwise = isinstance(user.target, OpOverload) and torch.Tag.pointwise in user.target.tags
    return pointwise or operation_name(user) in RULES
