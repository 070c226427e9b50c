"""Run a network on unit ids in place of values, with the rules of `lotperm.science.rules`."""

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
from lotperm.science.rules.elementwise import elementwise, gated
from lotperm.science.rules.layout import move
from lotperm.science.rules.normalization import batch_norm, layer_norm
from lotperm.science.rules.products import batched_matmul, convolution, linear, matmul
from lotperm.science.rules.reductions import reduction, softmax
from lotperm.science.rules.weights import computed_weight, is_constant, keeps_axes

# Rules that know units at mixtures of positions, which lie along two dimensions.
_WITH_MIXTURES = (
    *(elementwise, move, reduction, softmax, batch_norm, layer_norm, gated),
    *(linear, matmul, batched_matmul, convolution, attention),
)


class Labeller(fx.Interpreter):
    """Interpreter of a graph that fills in its `Labels`.

    Parameters
    ----------
    program : fx.GraphModule
        As `export_graph` gives it.
    labels : Labels
        Of the network's parameters and buffers; grows with each operation.
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
        # Backwards: whether axes are enough depends on who uses the weights.
        for node in reversed(program.graph.nodes):
            taken = [_takes_as_matrix(u, node) or u in self.matrices for u in node.users]
            if node in of_weights and (all(taken) or _is_vector(node, some=any(taken))):
                self.matrices.add(node)

    def run_node(self, n: fx.Node) -> Any:
        """Label one node, and note the ids of its output."""
        if n.op == "placeholder":
            return fixed_outputs(n)  # beside tensors, inputs may be numbers or None
        if n.op == "get_attr":
            return self.parameter(n)
        self.labels.begin(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n not in self.matrices:
            places = MATRIX_ARGUMENT.get(operation_name(n), ())
            leaves, structure = pytree.tree_flatten(args)
            args = pytree.tree_unflatten(
                [
                    leaf.values(self.labels)
                    if isinstance(leaf, Matrix) and i not in places
                    else leaf
                    for i, leaf in enumerate(leaves)
                ],
                structure,
            )
        if n.op == "output":
            self.labels.because("is where they leave the network")
            for ids in pytree.tree_leaves(args):
                if isinstance(ids, Tensor):
                    self.labels.fix(ids)
            return None
        result = self.operation(Call(n, args, kwargs))
        if isinstance(result, Tensor):
            self.labels.carried[n.name] = result = self.labels.compact(result)
        return result

    def parameter(self, n: fx.Node) -> Matrix | Tensor:
        """Label a parameter, buffer or constant."""
        if n in self.matrices:
            return Matrix.of(str(n.target), self.labels.shapes[str(n.target)])
        value = n.meta.get("val")  # a part of the program has none
        if n.target not in self.labels.names or value is None or not value.is_floating_point():
            return fixed_outputs(n)
        unruled = [user for user in n.users if not _has_rule(user)]
        if value.dim() > 1 and unruled:
            # Its values needn't be told apart, of which an embedding has many.
            self.labels.unruled[str(n.target)] = unruled[0]
            return fixed_outputs(n)
        return self.labels.values_of(str(n.target))

    def operation(self, call: Call) -> Any:
        """Label an operation by its rule."""
        target = call.node.target
        if call.name == "sym_size":
            return call.args[0].shape[call.args[1]]
        if not isinstance(target, OpOverload):
            if callable(target) and (target is operator.getitem or not call.tensors):
                # Arithmetic on sizes, or one of several outputs.
                return target(*call.args, **call.kwargs)
            return unknown(self.labels, call)
        if call.node in self.matrices:
            return computed_weight(self.labels, call)
        rule = RULES.get(call.name)
        if rule is None:
            rule = elementwise if torch.Tag.pointwise in target.tags else unknown
        if rule not in _WITH_MIXTURES:
            for ids in call.tensors:
                if self.labels.is_mixed(ids):
                    self.labels.unmix(ids)
        result = rule(self.labels, call)
        if rule in (elementwise, move, reduction, softmax):
            return result
        return pytree.tree_map_only(Tensor, self.labels.settle, result)


def _takes_as_matrix(user: fx.Node, parameter: fx.Node) -> bool:
    """Return whether the rule of `user` labels this argument by its axes."""
    places = MATRIX_ARGUMENT.get(operation_name(user), ())
    leaves = pytree.tree_leaves(user.args)
    taken = any(leaves[i] is parameter for i in places if i < len(leaves))
    return taken and [n for n in user.all_input_nodes if _is_tensor(n)] != [parameter]


def _is_vector(node: fx.Node, *, some: bool) -> bool:
    """Return whether weights have one axis, so that their values are labelled by it too.

    Such are computed from weights with several axes, or `some` of their users label them by it.
    """

    def is_vector(of: fx.Node) -> bool:
        value = of.meta.get("val")
        parts = value if isinstance(value, (list, tuple)) else [value]
        shapes = [concrete_shape(part) for part in parts if isinstance(part, Tensor)]
        return bool(shapes) and all(s.numel() == max(s, default=1) for s in shapes)

    value = node.meta.get("val")
    if not is_vector(node) or (isinstance(value, Tensor) and not value.is_floating_point()):
        return False  # numbers of positions
    sources = [n for n in node.all_input_nodes if _is_tensor(n)]
    return some or not all(map(is_vector, sources))


def _is_tensor(node: fx.Node) -> bool:
    """Return whether a node is no size of a batch."""
    return not isinstance(node.meta.get("val"), (int, torch.SymInt))


def _has_rule(user: fx.Node) -> bool:
    """Return whether units may pass an operation."""
    pointwise = isinstance(user.target, OpOverload) and torch.Tag.pointwise in user.target.tags
    return pointwise or operation_name(user) in RULES
