"""Unit ids: which units of a network must move together, and where they lie."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from lotperm.science.graphs import operation_name
from lotperm.science.ids import (
    FIXED,
    LARGE,
    LOSSES_OF_CLASSES,
    LOSSES_OF_PAIRS,
    NO_RULE,
    POSITIONS,
    Cause,
    Ids,
    distinct_pairs,
    fixed_outputs,
    spread,
    thin,
)
from lotperm.science.related import RelatedIds, Relation

__all__ = [
    "FIXED",
    "LARGE",
    "LOSSES_OF_CLASSES",
    "LOSSES_OF_PAIRS",
    "NO_RULE",
    "POSITIONS",
    "Axes",
    "Cause",
    "Ids",
    "Labels",
    "Place",
    "Relation",
    "Rows",
    "distinct_pairs",
    "fixed_outputs",
    "several",
    "spread",
    "thin",
]


Axes = int | tuple[int, ...]
"""An axis, or several that are treated as one."""

Rows = tuple[int, int] | None
"""A range of rows of axis 0, its end excluded; None for all."""


def several(axes: Axes) -> tuple[int, ...]:
    """Return axes as a tuple, even a single one."""
    return (axes,) if isinstance(axes, int) else axes


class Place(NamedTuple):
    """Part of a parameter or buffer along which ids lie: some axes of some rows.

    Attributes
    ----------
    tensor : str
        The first of its names.
    axes : tuple of int
        Axes, in ascending order, treated as one.
    start, stop : int
        The range of rows of axis 0.
    """

    tensor: str
    axes: tuple[int, ...]
    start: int
    stop: int


class Labels(RelatedIds):
    """What is known about a network's units while its operations are labelled.

    Every position of an activation carries an id (`Ids`), and units may belong to others
    (`RelatedIds`).

    Parameters
    ----------
    shapes : dict
        Tensor name -> shape of each parameter and buffer.
    names : dict
        Tensor name -> the first name of the same tensor (weight tying).
    buffers : collection of str, optional
        The names of tensors that aren't trained.

    Attributes
    ----------
    matrix_roles, element_roles : dict
        `Place` -> the ids that lie there. In a matrix, whole axes are labelled (a unit is a row or
        a column); in any other tensor, single values.
    carried : dict
        Node name -> ids of its output.
    produced : dict
        `Place` -> the new ids that a layer gave out there, not their later roots.
    unruled : dict
        Tensor name -> an operation that reads it and has no rule.
    known : dict
        Node name -> the value of a constant.
    """

    def __init__(
        self, shapes: dict[str, torch.Size], names: dict[str, str], buffers: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.shapes, self.names, self.buffers = shapes, names, buffers
        self.matrix_roles: dict[Place, Tensor] = {}
        self.element_roles: dict[Place, Tensor] = {}
        self.carried: dict[str, Tensor] = {}
        self.produced: dict[Place, Tensor] = {}
        self.unruled: dict[str, fx.Node] = {}
        self.known: dict[str, Tensor] = {}

    def lie_on(self, tensor: str, axes: Axes, ids: Tensor, rows: Rows = None) -> Tensor:
        """Record that ids lie along axes of a matrix, treated as one, in some or all of its rows.

        Returns
        -------
        Tensor
            The roots of the ids. A matrix that is used twice makes the ids of both uses equal.
        """
        name = self.names[tensor]
        axes = several(axes)
        # A `Place` has its axes in ascending order, so the ids are put in that order.
        if len(axes) > 1 and list(axes) != sorted(axes):
            order = sorted(range(len(axes)), key=axes.__getitem__)
            sorted_ids = ids.reshape([self.shapes[name][d] for d in axes]).permute(order)
            self.lie_on(tensor, tuple(sorted(axes)), sorted_ids.flatten(), rows)
            return self.find(ids)
        whole = (0, self.shapes[name][0])
        # Grouped convolutions and stacked projections use ranges of rows separately.
        if axes[0] == 0 and rows not in (None, whole):
            if len(axes) > 1:
                self.fix(ids)
                for axis in axes:
                    self.lie_on(tensor, axis, torch.zeros(self.shapes[name][axis]).long())
                return self.find(ids)
            # Along the first axis itself, a range of rows is a part of the units.
            place = Place(name, (0,), *whole)
            if place not in self.matrix_roles:
                self.matrix_roles[place] = self._new(whole[1], constant=False)
            self.unify(self.matrix_roles[place][slice(*rows)], ids)
            return self.find(ids)
        place = Place(name, axes, *(rows or whole))
        self.unify(self.matrix_roles.setdefault(place, ids), ids)
        return self.find(ids)

    def produce(self, tensor: str, axes: Axes, n: int, rows: Rows = None) -> Tensor:
        """Give new ids to the units that a matrix produces along some axes; return their roots."""
        ids = self.fresh(n)
        name = self.names[tensor]
        axes = several(axes)
        place = Place(name, axes, *(rows or (0, self.shapes[name][0])))
        roots = self.lie_on(tensor, axes, ids, rows)
        if roots.any():  # else the layer is tied to one whose units are inputs
            self.produced.setdefault(place, ids)
        return roots

    def made_by(self, tensor: str, ids: Tensor) -> None:
        """Record that a matrix produces units that lie on none of its axes."""
        name = self.names[tensor]
        self.produced.setdefault(Place(name, (0,), 0, len(ids)), ids)

    def values_of(self, tensor: str) -> Tensor:
        """Return an id for each value of a parameter or buffer, the same ones at each use."""
        name = self.names[tensor]
        shape = self.shapes[name]
        place = Place(name, tuple(range(max(len(shape), 1))), 0, shape[0] if shape else 0)
        if place not in self.element_roles:
            self.element_roles[place] = self.fresh(shape.numel())
        return self.element_roles[place].view(shape)

    def known_value(self, node: Any) -> Tensor | None:
        """Return the value of a node that copies a constant; None for others."""
        while operation_name(node) in ("_to_copy", "alias", "clone", "detach", "lift_fresh_copy"):
            node = node.args[0]
        return self.known.get(node.name)
