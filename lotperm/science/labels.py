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


# Values that no unit holds are told apart up to this many of them.
LARGE = 2**20


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


# Why an operation without a rule fixes units.
NO_RULE = "has no rule, so it may use them by their position"


class Cause(NamedTuple):
    """Why units are fixed: an operation, and what it does to them."""

    node: fx.Node
    reason: str


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
    relations : list of Relation
        Which units belong to which others.
    produced : dict
        `Place` -> new ids that a layer gave out there, not as they became.
    unruled : dict
        Tensor name -> an operation without a rule that takes it.
    causes : list of Cause
        The operations that made ids equal, in order of execution.
    """

    def __init__(self, shapes: dict[str, torch.Size], names: dict[str, str]) -> None:
        self.shapes, self.names = shapes, names
        self.matrix_roles: dict[Place, Tensor] = {}
        self.element_roles: dict[Place, Tensor] = {}
        self.carried: dict[str, Tensor] = {}
        self.together: list[Tensor] = []
        self.relations: list[Relation] = []
        self.produced: dict[Place, Tensor] = {}
        self.unruled: dict[str, fx.Node] = {}
        self.causes: list[Cause] = []
        self._parent = torch.zeros(1, dtype=torch.int64)
        # Ids of values that no unit holds, but of which equal ids have equal values.
        self._constant = torch.ones(1, dtype=torch.bool)
        # Ids of units without weights, which all have one value.
        self._blank = torch.zeros(1, dtype=torch.bool)
        # Ids of pairs of a unit and a mixture of positions.
        self._mixed = torch.zeros(1, dtype=torch.bool)
        # Of an id that isn't a root any more: by which of the causes.
        self._cause = torch.full((1,), -1)
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._consumed: list[Tensor] = []
        self._inner: set[int] = set()

    def __len__(self) -> int:
        """Return how many ids were given out, `FIXED` included."""
        return len(self._parent)

    def fresh(self, n: int) -> Tensor:
        """Return new ids for n units; a single one has nothing to change places with."""
        return self._new(n, constant=False) if n > 1 else torch.zeros(1, dtype=torch.int64)

    def blank(self, n: int) -> Tensor:
        """Return new ids for n units without weights, which all have one value."""
        ids = self.fresh(n)
        self._blank[ids[ids > 0]] = True
        return ids

    def is_blank(self, ids: Tensor) -> bool:
        """Return whether all of these are units without weights."""
        return bool(self._blank[thin(self.find(ids))].all())

    def _new(self, n: int, *, constant: bool) -> Tensor:
        ids = torch.arange(len(self._parent), len(self._parent) + n)
        self._parent = torch.cat([self._parent, ids])
        self._constant = torch.cat([self._constant, torch.full((n,), constant)])
        none = torch.zeros(n, dtype=torch.bool)
        self._blank, self._mixed = torch.cat([self._blank, none]), torch.cat([self._mixed, none])
        self._cause = torch.cat([self._cause, torch.full((n,), -1)])
        return ids

    def constants(self, ids: Tensor) -> Tensor:
        """Return ids for values that no unit holds, a new one for each that isn't known apart.

        Where such an id is repeated along a dimension, the value is the same for all units there,
        and lets them move.
        """
        if self.may_move(ids) or self.find(ids).any() or ids.numel() > LARGE:
            return ids
        return self._new(ids.numel(), constant=True).view(ids.shape)

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ids for a function of two values that no unit holds, position by position."""
        a, b = torch.broadcast_tensors(self.constants(a), self.constants(b))
        a, b = self.find(a), self.find(b)
        if not (a.all() and b.all()) or a.numel() > LARGE:
            return torch.zeros(a.shape, dtype=torch.int64)
        pairs, inverse = (a * len(self) + b).unique(return_inverse=True)
        return self._new(len(pairs), constant=True)[inverse]

    def constant(self, roots: Tensor) -> Tensor:
        """Return which roots stay: `FIXED`, and those of values that no unit holds."""
        return self._constant[roots]

    def roots(self) -> int:
        """Return how many ids are still apart."""
        return int((self._parent == torch.arange(len(self))).sum())

    def is_constant(self, root: int) -> bool:
        """Return whether a root is that of values that no unit holds."""
        return bool(self._constant[root])

    def settle(self, ids: Tensor) -> Tensor:
        """Return ids for values that may differ where constants didn't."""
        roots = self.find(ids)
        constant = self._constant[roots]
        return torch.where(constant, FIXED, roots) if constant.any() and roots.any() else ids

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
            a, b = torch.maximum(a[differ], b[differ]), torch.minimum(a[differ], b[differ])
            # A unit that meets a constant is fixed, and so is what was known of the constant.
            self._blank[b[~self._blank[a]]] = False
            fixed = self._constant[a] | self._constant[b]
            b, low = torch.where(fixed, FIXED, b), b[fixed]
            a, b = torch.cat([a, low]), torch.cat([b, torch.zeros_like(low)])
            self._parent.scatter_reduce_(0, a, b, "amin")
            self._cause[a[a > 0]] = len(self.causes) - 1

    def fix(self, ids: Tensor) -> None:
        """Let none of these units move."""
        self.unify(ids, torch.tensor(FIXED))

    def may_move(self, ids: Tensor) -> bool:
        """Return whether any of these units may move."""
        return not bool(self._constant[thin(self.find(ids))].all())

    def varying(self, ids: Tensor) -> list[int]:
        """Return the dimensions along which the ids differ."""
        roots = thin(self.find(ids))
        return [d for d in range(ids.dim()) if bool((roots != roots.narrow(d, 0, 1)).any())]

    def compact(self, ids: Tensor) -> Tensor:
        """Return the root of each id, with stride 0 along dimensions where they are constant."""
        roots = thin(self.find(ids))
        for d in range(roots.dim()):
            if roots.shape[d] > 1 and bool((roots == roots.narrow(d, 0, 1)).all()):
                roots = roots.narrow(d, 0, 1)
        return roots.expand(ids.shape)

    def crosses(self, ids: Tensor, dim: int) -> bool:
        """Return whether units lie along other dimensions than this one, which holds positions."""
        varying = self.varying(ids) if self.may_move(ids) else []
        return bool(varying) and dim % ids.dim() not in varying

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
        whole = (0, self.shapes[name][0])
        if axis == 0 and rows not in (None, whole):
            # Along the first axis itself, rows are a part of the units.
            place = Place(name, 0, 0, *whole)
            if place not in self.matrix_roles:
                self.matrix_roles[place] = self._new(whole[1], constant=False)
            self.unify(self.matrix_roles[place][slice(*rows)], ids)
            return self.find(ids)
        place = Place(name, axis, axis, *(rows or whole))
        self.unify(self.matrix_roles.setdefault(place, ids), ids)
        return self.find(ids)

    def produce(
        self, tensor: str, axis: int, n: int, rows: tuple[int, int] | None = None
    ) -> Tensor:
        """Give out new ids for the units that an axis of a matrix makes; return their roots."""
        ids = self.fresh(n)
        name = self.names[tensor]
        place = Place(name, axis, axis, *(rows or (0, self.shapes[name][0])))
        roots = self.lie_on(tensor, axis, ids, rows)
        if roots.any():  # else the layer is tied to one whose units are inputs
            self.produced.setdefault(place, ids)
        return roots

    def settle_places(self) -> None:
        """Fix what lies on some rows of a matrix, and otherwise on others that share a row."""
        for place, ids in self.matrix_roles.items():
            for other, more in self.matrix_roles.items():
                same = place[:3] == other[:3] and place != other
                if same and place.start < other.stop and other.start < place.stop:
                    self.fix(ids)
                    self.fix(more)

    def consume(self, ids: Tensor) -> None:
        """Note that a layer takes these units in."""
        self._consumed.append(thin(ids).flatten())

    def begin(self, node: fx.Node) -> None:
        """Note that what becomes equal from now on does so by this operation."""
        if node.op == "output":
            self._inner = {root for ids in self._consumed for root in self.find(ids).tolist()}
        self.causes.append(Cause(node, "uses them by their position"))

    def because(self, reason: str) -> None:
        """Say why the current operation fixes units."""
        if self.causes:
            self.causes[-1] = Cause(self.causes[-1].node, reason)

    def fixed_by(self, unit: int) -> Cause | None:
        """Return what fixed a unit, or made it equal to others; None for a mere output."""
        unit = self._path(unit)[-2]
        cause = self.causes[int(self._cause[unit])]
        return None if cause.node.op == "output" and unit not in self._inner else cause

    def joined_by(self, one: int, other: int) -> Cause:
        """Return what made two units equal."""
        paths = [self._path(unit) for unit in (one, other)]
        shared = set(paths[0]) & set(paths[1])
        steps = [int(self._cause[unit]) for path in paths for unit in path if unit not in shared]
        return self.causes[max(steps)]

    def _path(self, unit: int) -> list[int]:
        """Return a unit and all ids that it was made equal to, up to its root."""
        path = [unit]
        while (above := int(self._parent[path[-1]])) != path[-1]:
            path.append(above)
        return path

    def values_of(self, tensor: str) -> Tensor:
        """Return an id for each value of a parameter or buffer, the same ones at each use."""
        name = self.names[tensor]
        shape = self.shapes[name]
        place = Place(name, 0, max(len(shape) - 1, 0), 0, shape[0] if shape else 0)
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


def distinct_pairs(a: Tensor, b: Tensor) -> Tensor:
    """Return the distinct pairs of two vectors, in order: int64 of shape (2, n)."""
    base = int(b.max()) + 1 if len(b) else 1
    codes = (a * base + b).unique()  # many times faster than to sort columns
    return torch.stack([codes // base, codes % base])


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
