"""Unit ids: which units of a network must move together, and where they lie."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lotperm.science.graphs import concrete_shape

# The id of what must not move: the network's inputs and outputs, constants, statistics over units.
FIXED = 0


class Place(NamedTuple):
    """Part of a parameter or buffer along which ids lie: some axes of some rows.

    Attributes
    ----------
    tensor : str
        The first of its names.
    first, last : int
        The axes ``first..last``, taken as one.
    start, stop : int
        Rows of axis 0.
    """

    tensor: str
    first: int
    last: int
    start: int
    stop: int


class Labels:
    """What is known of a network's units while its operations are labelled.

    Every position of an activation carries an id. Ids that must move together are made equal, by a
    union-find in which the smallest id of a class is its root, so that `FIXED` wins. Ids are int64
    tensors of the activation's own shape; dimensions along which they are constant mostly have
    stride 0, which lets `thin` do the work once.

    Parameters
    ----------
    shapes : dict
        Tensor name -> shape of each parameter and buffer.
    names : dict
        Tensor name -> the first name of the same tensor (weight tying).

    Attributes
    ----------
    matrix_roles, element_roles : dict
        `Place` -> ids that lie there. Of a matrix whole axes are labelled (a unit is a row or a
        column), of any other tensor single values.
    carried : dict
        Node name -> ids of its output.
    together : list of Tensor
        Ids that enter one statistic, and must stay in it.
    """

    def __init__(self, shapes: dict[str, torch.Size], names: dict[str, str]) -> None:
        self.shapes, self.names = shapes, names
        self.matrix_roles: dict[Place, Tensor] = {}
        self.element_roles: dict[Place, Tensor] = {}
        self.carried: dict[str, Tensor] = {}
        self.together: list[Tensor] = []
        self._parent = torch.zeros(1, dtype=torch.int64)

    def __len__(self) -> int:
        """Return how many ids were given out, `FIXED` included."""
        return len(self._parent)

    def fresh(self, n: int) -> Tensor:
        """Return new ids for n units; a single one has nothing to change places with."""
        if n == 1:
            return torch.zeros(1, dtype=torch.int64)
        ids = torch.arange(len(self._parent), len(self._parent) + n)
        self._parent = torch.cat([self._parent, ids])
        return ids

    def find(self, ids: Tensor) -> Tensor:
        """Return the root of each id."""
        roots = thin(ids)
        while not torch.equal(above := self._parent[roots], roots):
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
            self._parent.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")

    def fix(self, ids: Tensor) -> None:
        """Let none of these units move."""
        self.unify(ids, torch.tensor(FIXED))

    def may_move(self, ids: Tensor) -> bool:
        """Return whether any of these units may move."""
        return bool(self.find(ids).any())

    def varying(self, ids: Tensor) -> list[int]:
        """Return the dimensions along which the ids differ."""
        roots = thin(self.find(ids))
        return [d for d in range(ids.dim()) if bool((roots != roots.narrow(d, 0, 1)).any())]

    def along(self, ids: Tensor, dim: int) -> Tensor:
        """Return one id for each index of `dim`, made equal over all other dimensions."""
        rows = thin(ids).movedim(dim, 0).flatten(1)
        self.unify(rows, rows[:, :1])
        return self.find(rows[:, 0].expand(ids.shape[dim]))

    def lie_on(
        self, tensor: str, axis: int, ids: Tensor, rows: tuple[int, int] | None = None
    ) -> Tensor:
        """Note that ids lie along an axis of a matrix, in some or all of its rows.

        Returns
        -------
        Tensor
            Their roots. A matrix that is used twice makes the ids of both uses equal.
        """
        name = self.names[tensor]
        place = Place(name, axis, axis, *(rows or (0, self.shapes[name][0])))
        self.unify(self.matrix_roles.setdefault(place, ids), ids)
        return self.find(ids)

    def values_of(self, tensor: str) -> Tensor:
        """Return an id for each value of a parameter or buffer, the same ones at each use."""
        name = self.names[tensor]
        shape = self.shapes[name]
        place = Place(name, 0, max(len(shape) - 1, 0), 0, shape[0] if shape else 0)
        if place not in self.element_roles:
            self.element_roles[place] = self.fresh(shape.numel())
        return self.element_roles[place].view(shape)

    def keep_together(self, groups: Iterable[Tensor]) -> None:
        """Note that the ids of each of these vectors must stay among themselves."""
        self.together += groups


def thin(ids: Tensor) -> Tensor:
    """Return ids without their repetitions: dimensions of stride 0 get size 1."""
    return ids[tuple(slice(1) if stride == 0 else slice(None) for stride in ids.stride())]


def spread(ids: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """Return ids of one dimension in a tensor of `shape`, constant along all others."""
    return ids.view([-1 if d == dim % len(shape) else 1 for d in range(len(shape))]).expand(shape)


def fixed_outputs(node: fx.Node) -> Any:
    """Return ids for the outputs of a node that hold no unit that moves."""
    none = torch.tensor(FIXED)
    return pytree.tree_map_only(
        Tensor, lambda value: none.expand(concrete_shape(value)), node.meta.get("val")
    )
