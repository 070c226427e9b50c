"""The table of rules: operation name -> what it does to unit ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from lotperm.science.graphs import node_shape, operation_name
from lotperm.science.labels import NO_RULE, Labels, fixed_outputs


@dataclass(frozen=True)
class Matrix:
    """Weights that are labelled by their axes: a rule names the units that lie on each of them.

    Attributes
    ----------
    parts : tuple
        The parameters from which they are computed, value by value, each with its own axis for
        each axis of the weights; None where the parameter is one and the same along it.
    shape : tuple of int
        Of the weights.
    part : tuple of int or None
        Which rows of the parameters' first axis they are computed from, if not all.
    """

    parts: tuple[tuple[str, tuple[int | None, ...]], ...]
    shape: tuple[int, ...]
    part: tuple[int, int] | None = None

    @classmethod
    def of(cls, name: str, shape: Sequence[int]) -> Matrix:
        """Make the label of a parameter itself."""
        axes = tuple(d if size > 1 else None for d, size in enumerate(shape))
        return cls(((name, axes),), tuple(shape))

    @classmethod
    def together(cls, operands: Sequence[Matrix], shape: tuple[int, ...]) -> Matrix | None:
        """Combine weights value by value, with broadcasting; None if they are other rows."""
        if len({operand.part for operand in operands}) > 1:
            return None
        parts = [
            (name, (*[None] * (len(shape) - len(axes)), *axes))
            for operand in operands
            for name, axes in operand.parts
        ]
        return cls(tuple(dict.fromkeys(parts)), shape, operands[0].part)

    @property
    def name(self) -> str:
        """Name of the parameter, or of the first of them."""
        return self.parts[0][0]

    def lie_on(
        self, labels: Labels, axis: int, ids: Tensor, rows: tuple[int, int] | None = None
    ) -> Tensor:
        """Note that ids lie along an axis, as `Labels.lie_on`."""
        if self.part is not None and rows is not None:
            labels.fix(ids)  # blocks of a part
            rows = None
        rows = rows or self.part
        for name, axes in self.parts:
            own = axes[axis]
            if own is not None and self.part is not None:
                labels.lie_on(name, own, ids, rows)
            elif own is not None:
                blocked = rows if axes[0] == 0 else None
                if blocked is None and rows is not None and own == axes[0]:
                    labels.fix(ids)  # blocks of rows that don't lie along the first axis
                    continue
                labels.lie_on(name, own, ids, blocked)
        return labels.find(ids)

    def produce(
        self, labels: Labels, axis: int, n: int, rows: tuple[int, int] | None = None
    ) -> Tensor:
        """Give out new ids for the units that an axis makes, as `Labels.produce`."""
        for name, axes in self.parts:
            own = axes[axis]
            if own is not None and (rows is None or axes[0] == 0):
                ids = labels.produce(name, own, n, rows or self.part)
                return self.lie_on(labels, axis, ids, rows)
        return self.lie_on(labels, axis, torch.zeros(n, dtype=torch.int64), rows)

    def rearranged(self, order: Sequence[int]) -> Matrix:
        """Return the weights with their axes in another order."""
        parts = tuple((name, tuple(axes[d] for d in order)) for name, axes in self.parts)
        return Matrix(parts, tuple(self.shape[d] for d in order), self.part)

    def sliced(self, dim: int, start: int, stop: int) -> Matrix | None:
        """Return weights in some rows of the parameters' first axis; None for another axis."""
        dim %= len(self.shape)
        if any(axes[dim] != 0 for _, axes in self.parts):
            return None
        first = self.part[0] if self.part else 0
        shape = (*self.shape[:dim], stop - start, *self.shape[dim + 1 :])
        return Matrix(self.parts, shape, (first + start, first + stop))

    def reshaped(self, shape: tuple[int, ...]) -> Matrix | None:
        """Return the weights with axes of size 1 added, removed or expanded; None if by more."""
        mine = [d for d, size in enumerate(self.shape) if size > 1]
        free = iter(mine)
        source: list[int | None] = []
        left = next(free, None)
        for size in shape:
            if left is not None and size == self.shape[left]:
                source.append(left)
                left = next(free, None)
            else:
                source.append(None)
        if left is not None or (len(shape) != len(self.shape) and _expands(shape, source)):
            return None
        if len(shape) == len(self.shape) and any(
            d is not None and d != i for i, d in enumerate(source)
        ):
            return None
        parts = tuple(
            (name, tuple(None if d is None else axes[d] for d in source))
            for name, axes in self.parts
        )
        return Matrix(parts, shape, self.part)

    def reduced(self, dims: Sequence[int], shape: tuple[int, ...]) -> Matrix:
        """Return a statistic of the weights over axes, which are kept at size 1 or dropped."""
        keep = len(shape) == len(self.shape)
        parts = tuple(
            (
                name,
                tuple(
                    None if d in dims else a for d, a in enumerate(axes) if keep or d not in dims
                ),
            )
            for name, axes in self.parts
        )
        return Matrix(parts, shape, self.part)


def _expands(shape: Sequence[int], source: Sequence[int | None]) -> bool:
    """Return whether some axis was expanded, beside new ones of size 1."""
    return any(size > 1 and d is None for size, d in zip(shape, source, strict=True))


@dataclass(frozen=True)
class Call:
    """One operation of a graph, with unit ids where its tensors were.

    Attributes
    ----------
    node : fx.Node
        The operation.
    args, kwargs : tuple, dict
        Its arguments: ids (int64 Tensors) for activations and parameters, a `Matrix` for a
        parameter that is labelled by axes, everything else as it is.
    """

    node: fx.Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @cached_property
    def name(self) -> str:
        """Name of the ATen operation, as "linear" or "conv2d"; empty if it isn't one."""
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


# Ids of the output (of each of them, if there are several) from those of the arguments.
Rule = Callable[[Labels, Call], Any]


RULES: dict[str, Rule] = {}


# Operation -> the places among its arguments of weights that its rule labels by axes.
MATRIX_ARGUMENT: dict[str, tuple[int, ...]] = {}


def rule(*names: str, matrix: int | tuple[int, ...] | None = None) -> Callable[[Rule], Rule]:
    """Register a function as the rule of some operations.

    Parameters
    ----------
    *names : str
        Names of ATen operations, without overload and without the underscore of in-place variants.
    matrix : int or tuple of int, optional
        Places of arguments that the rule takes as a `Matrix`. A parameter comes as one if all its
        uses lead to such arguments, else as ids of its single values.
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
    """Label an operation without a rule: the units that pass it stay where they are."""
    labels.because(NO_RULE)
    for leaf in pytree.tree_leaves((call.args, call.kwargs)):
        if isinstance(leaf, Matrix):
            for axis, size in enumerate(leaf.shape):
                labels.fix(leaf.produce(labels, axis, size))
        elif isinstance(leaf, Tensor) and labels.may_move(leaf):
            labels.fix(leaf)
    return fixed_outputs(call.node)
