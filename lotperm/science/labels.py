"""Unit ids: which units of a network must move together, and where they lie."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, fx

from lotperm.science.ids import (
    FIXED,
    LARGE,
    NO_RULE,
    Cause,
    Ids,
    distinct_pairs,
    fixed_outputs,
    spread,
    thin,
)

__all__ = [
    "FIXED",
    "LARGE",
    "NO_RULE",
    "Cause",
    "Ids",
    "Labels",
    "Place",
    "Relation",
    "distinct_pairs",
    "fixed_outputs",
    "spread",
    "thin",
]


class Place(NamedTuple):
    """Part of a parameter or buffer along which ids lie: some axes of some rows.

    Attributes
    ----------
    tensor : str
        The first of its names.
    axes : tuple of int
        Axes, in ascending order, taken as one.
    start, stop : int
        Rows of axis 0.
    """

    tensor: str
    axes: tuple[int, ...]
    start: int
    stop: int


class Relation(NamedTuple):
    """Units that belong to others, as those inside a head of attention to the head.

    A permutation that moves a unit must move what it belongs to likewise.

    Attributes
    ----------
    children, parents : Tensor, int64, shape (n,)
        Id i of the one belongs to id i of the other.
    node : fx.Node or None
        The operation by which they do.
    kind : str
        "inside": the parent is a function of all its children; "scores": a sum of their products.
        "weighed": it is a factor of each. "copy": each child has its value. "mixed": the child is
        a unit at a mixture of positions, with the unit and the mixture for parents.
    pinned : bool
        Whether the children of each parent were told to stay among themselves.
    """

    children: Tensor
    parents: Tensor
    node: fx.Node | None
    kind: str
    pinned: bool = False


class Labels(Ids):
    """What is known of a network's units while its operations are labelled.

    Every position of an activation carries an id (`Ids`).

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
    relations : list of Relation
        Which units belong to which others.
    produced : dict
        `Place` -> new ids that a layer gave out there, not as they became.
    unruled : dict
        Tensor name -> an operation without a rule that takes it.
    """

    def __init__(self, shapes: dict[str, torch.Size], names: dict[str, str]) -> None:
        super().__init__()
        self.shapes, self.names = shapes, names
        self.matrix_roles: dict[Place, Tensor] = {}
        self.element_roles: dict[Place, Tensor] = {}
        self.carried: dict[str, Tensor] = {}
        self.together: list[Tensor] = []
        self.relations: list[Relation] = []
        self.produced: dict[Place, Tensor] = {}
        self.unruled: dict[str, fx.Node] = {}
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def lie_on(
        self,
        tensor: str,
        axes: int | tuple[int, ...],
        ids: Tensor,
        rows: tuple[int, int] | None = None,
    ) -> Tensor:
        """Note that ids lie along axes of a matrix, taken as one, in some or all of its rows.

        Returns
        -------
        Tensor
            Their roots. A matrix that is used twice makes the ids of both uses equal.
        """
        name = self.names[tensor]
        axes = (axes,) if isinstance(axes, int) else axes
        if len(axes) > 1 and list(axes) != sorted(axes):
            order = sorted(range(len(axes)), key=axes.__getitem__)
            sorted_ids = ids.reshape([self.shapes[name][d] for d in axes]).permute(order)
            self.lie_on(tensor, tuple(sorted(axes)), sorted_ids.flatten(), rows)
            return self.find(ids)
        whole = (0, self.shapes[name][0])
        if axes[0] == 0 and rows not in (None, whole):
            if len(axes) > 1:
                self.fix(ids)
                for axis in axes:
                    self.lie_on(tensor, axis, torch.zeros(self.shapes[name][axis]).long())
                return self.find(ids)
            # Along the first axis itself, rows are a part of the units.
            place = Place(name, (0,), *whole)
            if place not in self.matrix_roles:
                self.matrix_roles[place] = self._new(whole[1], constant=False)
            self.unify(self.matrix_roles[place][slice(*rows)], ids)
            return self.find(ids)
        place = Place(name, axes, *(rows or whole))
        self.unify(self.matrix_roles.setdefault(place, ids), ids)
        return self.find(ids)

    def produce(
        self,
        tensor: str,
        axes: int | tuple[int, ...],
        n: int,
        rows: tuple[int, int] | None = None,
    ) -> Tensor:
        """Give out new ids for the units that axes of a matrix make; return their roots."""
        ids = self.fresh(n)
        name = self.names[tensor]
        axes = (axes,) if isinstance(axes, int) else axes
        place = Place(name, axes, *(rows or (0, self.shapes[name][0])))
        roots = self.lie_on(tensor, axes, ids, rows)
        if roots.any():  # else the layer is tied to one whose units are inputs
            self.produced.setdefault(place, ids)
        return roots

    def settle_places(self) -> None:
        """Make the ids consistent that lie on the same axes of a tensor in several ways.

        What lies on some rows, and otherwise on others that share a row, is fixed. Where ids lie
        along several axes taken as one, and along one of these alone, those of the others are
        positions: the former become constant along them, and aren't needed any more.
        """
        by_tensor: dict[str, dict[Place, Tensor]] = {}
        for place, ids in (self.matrix_roles | self.element_roles).items():
            by_tensor.setdefault(place.tensor, {})[place] = ids
        for places in by_tensor.values():
            for place, ids in places.items():
                others = [other for other in places if other != place and _meet(place, other)]
                inner = [other for other in others if set(other.axes) < set(place.axes)]
                for other in others:
                    if other in inner:
                        self._nest(place, ids, other, places[other])
                    elif not set(place.axes) < set(other.axes):
                        self.fix(ids)
                        self.fix(places[other])
                if inner:
                    for axes in {other.axes for other in inner}:
                        rows = sum(
                            other.stop - other.start for other in inner if other.axes == axes
                        )
                        if rows < place.stop - place.start:
                            self.fix(ids)  # in the other rows they would be missed
                    self.matrix_roles.pop(place, None)
                    self.element_roles.pop(place, None)

    def _nest(self, place: Place, ids: Tensor, other: Place, inner: Tensor) -> None:
        """Make ids along several axes those along some of these."""
        shape = self.shapes[place.tensor]
        if 0 in place.axes and (place.start, place.stop) != (other.start, other.stop):
            self.fix(ids)
            self.fix(inner)
            return
        view = inner.reshape([shape[d] if d in other.axes else 1 for d in place.axes])
        self.unify(ids.reshape([shape[d] for d in place.axes]), view)

    def settle_unused(self) -> None:
        """Let values of parameters that this pass didn't use go with those that it used.

        These are rows for positions behind the last one, or the rest of a causal mask. A value is
        unused if it occurs in one tensor alone and stands in no relation. It goes with the used
        ones that have its place along all axes but one, if these are one unit; else it stays.
        """
        places = {**self.matrix_roles, **self.element_roles}
        count = torch.zeros(len(self), dtype=torch.int64)
        for ids in places.values():
            count[self.find(ids).unique()] += 1
        for ids in (*self.matrix_roles.values(), *self.together):
            count[self.find(ids)] = 2
        for relation in self.relations:
            count[self.find(relation.children)] = count[self.find(relation.parents)] = 2
        count[self._constant] = 2
        for place, ids in self.element_roles.items():
            shape = self.shapes[place.tensor]
            roots = self.find(ids).reshape(shape)
            used = count[roots] > 1
            if used.all():
                continue
            for dim in range(len(shape)):
                low = torch.where(used, roots, len(count)).amin(dim, keepdim=True)
                high = torch.where(used, roots, -1).amax(dim, keepdim=True)
                known = ((low == high) & ~used).expand(shape)
                self.unify(roots[known], low.expand(shape)[known])
                used = used | known
            self.fix(roots[~used])

    def values_of(self, tensor: str) -> Tensor:
        """Return an id for each value of a parameter or buffer, the same ones at each use."""
        name = self.names[tensor]
        shape = self.shapes[name]
        place = Place(name, tuple(range(max(len(shape), 1))), 0, shape[0] if shape else 0)
        if place not in self.element_roles:
            self.element_roles[place] = self.fresh(shape.numel())
        return self.element_roles[place].view(shape)

    def relate(self, children: Tensor, parents: Tensor, kind: str) -> None:
        """Note which units belong to which others, id by id."""
        children, parents = distinct_pairs(
            self.find(children).flatten(), self.find(parents).flatten()
        )
        node = self.causes[-1].node if self.causes else None
        self.relations.append(Relation(children, parents, node, kind))

    def derive(self, sets: Tensor, kind: str = "inside") -> Tensor:
        """Return an id for a function of each set of units that doesn't depend on their order.

        Parameters
        ----------
        sets : Tensor, shape (m, k)
            Ids, a row for each set.
        kind : str
            Of the `Relation`.

        Returns
        -------
        Tensor, shape (m,)
            A new id for each set, to which its units belong, so that whole sets may change places.
            `FIXED`, and the units stay in their sets, where that can't be: there is but one set,
            or some overlap or hold what doesn't move.
        """
        roots = self.find(sets)
        units, inverse = roots.unique(return_inverse=True)
        owner = torch.arange(len(roots))[:, None].expand_as(inverse).flatten()
        low, high = (
            torch.zeros(len(units), dtype=torch.int64).scatter_reduce_(
                0, inverse.flatten(), owner, how, include_self=False
            )
            for how in ("amin", "amax")
        )
        apart = bool((low == high).all()) and not bool(self._constant[units].any())
        if len(roots) < 2 or not apart:
            self.keep_together(roots)
            return torch.zeros(len(roots), dtype=torch.int64)
        ids = self._new(len(roots), constant=False)
        self.relate(roots, ids[:, None].expand_as(roots), kind)
        return ids

    def pair(self, a: Tensor, b: Tensor, kind: str = "weighed") -> Tensor:
        """Return ids for a function of two units, a new one for each pair that meets."""
        a, b = torch.broadcast_tensors(self.find(a), self.find(b))
        codes, inverse = (a * len(self) + b).unique(return_inverse=True)
        size, ids = len(self), self._new(len(codes), constant=False)
        self.relate(ids, codes // size, kind)
        self.relate(ids, codes % size, kind)
        if kind == "mixed":
            self._mixed[ids] = True
            self._pairs.append((ids, codes // size, codes % size))
        return ids[inverse]

    def unmix(self, ids: Tensor) -> None:
        """Fix mixtures of positions, so that the units there are as they are elsewhere."""
        roots = self.find(thin(ids)).unique()
        for mixed, units, mixtures in self._pairs:
            here = torch.isin(self.find(mixed), roots)
            if here.any():
                self.because("mixes positions, or uses mixtures of them by their position")
                self.fix(mixtures)
                self.unify(mixed, units)

    def is_mixed(self, ids: Tensor) -> bool:
        """Return whether each of these is a unit at a mixture of positions, which may move too."""
        return bool(self._mixed[thin(self.find(ids))].all())

    def copies(self, ids: Tensor, count: int) -> Tensor:
        """Return ids for `count` copies of each unit, along a new last dimension.

        What doesn't move is not told apart.
        """
        thinned = thin(self.find(ids))
        roots, inverse = thinned.unique(return_inverse=True)
        new = roots[:, None].repeat(1, count)
        moving = ~self._constant[roots]
        if count > 1 and moving.any():
            new[moving] = self._new(int(moving.sum()) * count, constant=False).view(-1, count)
            self.relate(new[moving], roots[moving, None].expand(-1, count), "copy")
        return new[inverse].expand(*ids.shape, count)

    def keep_together(self, groups: Iterable[Tensor]) -> None:
        """Note that the ids of each of these vectors must stay among themselves."""
        self.together += groups


def _meet(one: Place, other: Place) -> bool:
    """Return whether two places of a tensor share an axis and a row."""
    return bool(set(one.axes) & set(other.axes)) and (
        one.start < other.stop and other.start < one.stop
    )
