"""The table of rules: operation name -> what it does to unit ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from lotperm.science.graphs import node_shape, operation_name
from lotperm.science.labels import NO_RULE, Labels, fixed_outputs
from lotperm.science.matrices import Matrix


@dataclass(frozen=True)
class Call:
    """One operation of a graph, with unit ids in place of its tensors.

    Attributes
    ----------
    node : fx.Node
        The operation.
    args, kwargs : tuple, dict
        Its arguments: ids (int64 Tensors) for activations and parameters, a `Matrix` for a
        parameter that is labelled by axes; everything else is unchanged.
    """

    node: fx.Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @cached_property
    def name(self) -> str:
        """Name of the ATen operation, such as "linear" or "conv2d"; empty if it isn't one."""
        return operation_name(self.node)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """Ids of all tensor arguments, in their order."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The arguments by their names in the ATen schema, with defaults."""
        assert isinstance(self.node.target, OpOverload)
        schema = self.node.target._schema.arguments
        defaults = {a.name: a.default_value for a in schema if a.has_default_value()}
        return defaults | dict(zip((a.name for a in schema), self.args, strict=False)) | self.kwargs

    @cached_property
    def shape(self) -> torch.Size:
        """Shape of the output, for an operation with one."""
        return node_shape(self.node)


# Maps the ids of the arguments to those of the output, or of each output if there are several.
Rule = Callable[[Labels, Call], Any]


RULES: dict[str, Rule] = {}


# Operation -> the positions of those arguments that are weights its rule labels by axes.
MATRIX_ARGUMENT: dict[str, tuple[int, ...]] = {}


def rule(*names: str, matrix: int | tuple[int, ...] | None = None) -> Callable[[Rule], Rule]:
    """Register a function as the rule of some operations.

    Parameters
    ----------
    *names : str
        Names of ATen operations, without overload and without the underscore of in-place variants.
    matrix : int or tuple of int, optional
        Positions of arguments that the rule takes as a `Matrix`. A parameter is passed as one if
        all its uses lead to such arguments, otherwise as ids of its single values.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"operation {name!r} has two rules; remove one.")
            RULES[name] = function
            if matrix is not None:
                MATRIX_ARGUMENT[name] = (matrix,) if isinstance(matrix, int) else matrix
        return function

    return register


def unknown(labels: Labels, call: Call) -> Any:
    """Label an operation without a rule by fixing all units that pass it."""
    labels.because(NO_RULE)
    labels.disregard(*call.tensors)
    for leaf in pytree.tree_leaves((call.args, call.kwargs)):
        if isinstance(leaf, Matrix):
            for axis, size in enumerate(leaf.shape):
                labels.fix(leaf.produce(labels, axis, size))
        elif isinstance(leaf, Tensor) and labels.may_move(leaf):
            labels.fix(leaf)
    return fixed_outputs(call.node)
