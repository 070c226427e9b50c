"""Ids of units that belong to others: to heads, sets, pairs, or what they were copied from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from lotperm.science.ids import FIXED, Cause, Ids, distinct_pairs, thin


class Relation(NamedTuple):
    """Units that belong to others, as the units inside an attention head belong to the head.

    A permutation that moves a unit must move what it belongs to likewise.

    Attributes
    ----------
    children, parents : Tensor, int64, shape (n,)
        Each child belongs to the parent at the same index.
    node : fx.Node or None
        The operation that made the relation.
    kind : str
        "inside": the parent is a function of all its children. "scores": it is a sum of products
        of its children. "weighed": it is a factor of each child. "copy": each child has its value.
        "weight": the child is a single weight, from one of its parents to the other. "mixed": the
        child is a unit at a mixture of positions; its parents are the unit and the mixture.
    pinned : bool
        Whether the children of each parent have been told to stay among themselves.
    """

    children: Tensor
    parents: Tensor
    node: fx.Node | None
    kind: str
    pinned: bool = False


class RelatedIds(Ids):
    """Ids together with relations between units that belong to others.

    Attributes
    ----------
    together : list of Tensor
        Vectors of ids that enter one statistic, and must stay in it.
    relations : list of Relation
        Which units belong to which others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.together: list[Tensor] = []
        self.relations: list[Relation] = []
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._choices: dict[int, tuple[Tensor, fx.Node | None]] = {}

    def relate(self, children: Tensor, parents: Tensor, kind: str) -> None:
        """Record which units belong to which others, id by id."""
        children, parents = distinct_pairs(
            self.find(children).flatten(), self.find(parents).flatten()
        )
        node = self.causes[-1].node if self.causes else None
        self.relations.append(Relation(children, parents, node, kind))

    def keep_together(self, groups: Iterable[Tensor]) -> None:
        """Record that the ids of each vector must stay among themselves."""
        self.together += groups

    def derive(self, sets: Tensor, kind: str = "inside") -> Tensor:
        """Return an id for a function of each set of units that doesn't depend on their order.

        Parameters
        ----------
        sets : Tensor, shape (m, k)
            Ids, a row for each set.
        kind : str
            The kind of the `Relation`.

        Returns
        -------
        Tensor, shape (m,)
            A new id for each set, to which its units belong, so that whole sets may trade places.
            If there is only one set, or some overlap or contain fixed units, this isn't possible:
            then `FIXED`, and the units stay in their sets.
        """
        roots = self.find(sets)
        units, inverse = roots.unique(return_inverse=True)
        owner = torch.arange(len(roots))[:, None].expand_as(inverse).flatten()
        # The first and the last set that each unit is in; they differ where sets overlap.
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
        """Return ids for a function of two units, a new one for each distinct pair."""
        a, b = torch.broadcast_tensors(self.find(a), self.find(b))
        # A pair that occurs at several positions has one id.
        codes, inverse = (a * len(self) + b).unique(return_inverse=True)
        size, ids = len(self), self._new(len(codes), constant=False)
        self.relate(ids, codes // size, kind)
        self.relate(ids, codes % size, kind)
        if kind == "mixed":
            self._mixed[ids] = True
            self._pairs.append((ids, codes // size, codes % size))
        return ids[inverse]

    def choice(self, units: Tensor) -> Tensor:
        """Return an id, shape (1,), for numbers that select one of these units."""
        ids = self._new(1, constant=False)
        self._choices[int(ids)] = units, self.causes[-1].node if self.causes else None
        return ids

    def chosen(self, numbers: Any) -> Tensor | None:
        """Return the units, in order, among which numbers choose; None if they don't choose."""
        if not self._choices or not isinstance(numbers, Tensor):
            return None
        found = [self._choices.get(root) for root in self.find(thin(numbers)).unique().tolist()]
        units = [None if of is None else self.find(of[0]) for of in found]
        first = units[0]
        same = first is not None and all(of is not None and torch.equal(of, first) for of in units)
        return first if same else None

    def disregard(self, *values: Any) -> None:
        """Fix the units among which values choose, as they are used for more than a look-up."""
        for ids in values if self._choices else ():
            roots = self.find(thin(ids)).unique().tolist() if isinstance(ids, Tensor) else []
            for units, node in [self._choices[root] for root in roots if root in self._choices]:
                if node is not None:
                    self.causes.append(
                        Cause(node, "gives numbers of them that aren't only looked up")
                    )
                self.fix(units)
                if node is not None:
                    self.causes.append(self.causes[-2])
            self.fix(torch.tensor([root for root in roots if root in self._choices] or [FIXED]))

    def unmix(self, ids: Tensor) -> None:
        """Fix mixtures of positions, so that units at a mixture become the units themselves."""
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

        Copies of what doesn't move get the same id.
        """
        thinned = thin(self.find(ids))
        roots, inverse = thinned.unique(return_inverse=True)
        new = roots[:, None].repeat(1, count)
        moving = ~self._constant[roots]
        if count > 1 and moving.any():
            new[moving] = self._new(int(moving.sum()) * count, constant=False).view(-1, count)
            self.relate(new[moving], roots[moving, None].expand(-1, count), "copy")
        return new[inverse].expand(*ids.shape, count)
