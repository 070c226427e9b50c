"""Ids of units: a union-find, and what is known about each id."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lotperm.science.graphs import concrete_shape, operation_name

# The id of what must not move: the network's inputs and outputs, constants, statistics over units.
FIXED = 0

# Up to this many values that no unit holds get an id each.
LARGE = 2**20

# Why an operation without a rule fixes units.
NO_RULE = "has no rule, so it may use them by their position"

# Why values that differ by position, and so aren't units, stay in place.
POSITIONS = "has a value for each position, the same for all units"

# Losses, at which a network ends as it does at its outputs.
LOSSES_OF_PAIRS = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
)
LOSSES_OF_CLASSES = (
    "cross_entropy_loss",
    "ctc_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "nll_loss",
    "nll_loss2d",
    "nll_loss_nd",
)
_LOSSES = frozenset(LOSSES_OF_PAIRS + LOSSES_OF_CLASSES)


class Cause(NamedTuple):
    """Why units are fixed: an operation, and what it does to them."""

    node: fx.Node
    reason: str


class Ids:
    """Ids that are made equal where units must move together.

    A union-find in which the smallest id of a class is its root, so that `FIXED` wins. Ids are
    int64 tensors of an activation's own shape. Dimensions along which they are constant mostly have
    stride 0; `thin` drops these repetitions.

    Attributes
    ----------
    causes : list of Cause
        The operations that made ids equal, in order of execution.
    """

    def __init__(self) -> None:
        self.causes: list[Cause] = []
        self._parent = torch.zeros(1, dtype=torch.int64)
        # Ids of values that no unit holds; equal ids mean equal values.
        self._constant = torch.ones(1, dtype=torch.bool)
        # Ids of units without weights, which all have the same value.
        self._blank = torch.zeros(1, dtype=torch.bool)
        # Ids of pairs of a unit and a mixture of positions (a weighted sum, as in token mixing).
        self._mixed = torch.zeros(1, dtype=torch.bool)
        # For each id that is no longer a root, the index of the cause in `causes`.
        self._cause = torch.full((1,), -1)
        self._consumed: list[Tensor] = []
        self._inner: set[int] = set()

    def __len__(self) -> int:
        """Return how many ids have been given out, including `FIXED`."""
        return len(self._parent)

    def fresh(self, n: int) -> Tensor:
        """Return new ids for n units, or `FIXED` for a single one, which can't trade places."""
        return self._new(n, constant=False) if n > 1 else torch.zeros(1, dtype=torch.int64)

    def blank(self, n: int) -> Tensor:
        """Return new ids for n units without weights, which all have the same value."""
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
        """Return ids for values that no unit holds, new ones if all of them were `FIXED` so far.

        Where such an id is repeated along a dimension, the value is the same for all units there,
        so they may still move.
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
        """Return which roots can't move: `FIXED`, and those of values that no unit holds."""
        return self._constant[roots]

    def roots(self) -> int:
        """Return how many classes of equal ids there are."""
        return int((self._parent == torch.arange(len(self))).sum())

    def is_constant(self, root: int) -> bool:
        """Return whether a root is `FIXED` or that of values that no unit holds."""
        return bool(self._constant[root])

    def settle(self, ids: Tensor) -> Tensor:
        """Return ids with constants as `FIXED`, as values computed from equal ones may differ."""
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
        # Where both repeat along a dimension, one index represents all.
        once = tuple(slice(1) if s == t == 0 else slice(None) for s, t in strides)
        a, b = a[once].flatten(), b[once].flatten()
        while True:
            a, b = self.find(a), self.find(b)
            differ = a != b
            if not differ.any():
                return
            a, b = torch.maximum(a[differ], b[differ]), torch.minimum(a[differ], b[differ])
            # A unit that meets a constant is fixed, and so is everything equal to that constant.
            self._blank[b[~self._blank[a]]] = False
            fixed = self._constant[a] | self._constant[b]
            b, low = torch.where(fixed, FIXED, b), b[fixed]
            a, b = torch.cat([a, low]), torch.cat([b, torch.zeros_like(low)])
            # An id may meet several here: it takes the smallest; the next round joins the rest.
            self._parent.scatter_reduce_(0, a, b, "amin")
            self._cause[a[a > 0]] = len(self.causes) - 1

    def fix(self, ids: Tensor) -> None:
        """Forbid all of these units to move."""
        self.unify(ids, torch.tensor(FIXED))

    def may_move(self, ids: Tensor) -> bool:
        """Return whether any of these units may move."""
        return not bool(self._constant[thin(self.find(ids))].all())

    def chooses(self, index: Tensor) -> bool:
        """Return whether an index depends on units that may move and don't all have one value."""
        return self.may_move(index) and not self.is_blank(index)

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
        """Return whether units lie along other dimensions but not along this one."""
        varying = self.varying(ids) if self.may_move(ids) else []
        return bool(varying) and dim % ids.dim() not in varying

    def along(self, ids: Tensor, dim: int) -> Tensor:
        """Return one id for each index of `dim`, made equal over all other dimensions."""
        rows = thin(ids).movedim(dim, 0)
        rows = rows.reshape(len(rows), -1)
        self.unify(rows, rows[:, :1])
        return self.find(rows[:, 0].expand(ids.shape[dim]))

    def consume(self, ids: Tensor) -> None:
        """Record that a layer takes these units as its input."""
        self._consumed.append(thin(ids).flatten())

    def begin(self, node: fx.Node) -> None:
        """Make an operation the cause of everything that becomes equal from now on."""
        if _ends(node):
            self._inner |= {root for ids in self._consumed for root in self.find(ids).tolist()}
        self.causes.append(Cause(node, "uses them by their position"))

    def because(self, reason: str) -> None:
        """Say why the current operation fixes units."""
        if self.causes:
            self.causes[-1] = Cause(self.causes[-1].node, reason)

    def fixed_by(self, unit: int) -> Cause | None:
        """Return what fixed a unit or made it equal to others; None for a mere output."""
        unit = self._path(unit)[-2]
        cause = self.causes[int(self._cause[unit])]
        return None if _ends(cause.node) and unit not in self._inner else cause

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


def _ends(node: fx.Node) -> bool:
    """Return whether a node is where values leave a network."""
    return node.op == "output" or operation_name(node) in _LOSSES


def distinct_pairs(a: Tensor, b: Tensor) -> Tensor:
    """Return the distinct pairs of two vectors, in order: int64 of shape (2, n)."""
    base = int(b.max()) + 1 if len(b) else 1
    codes = (a * base + b).unique()  # many times faster than sorting columns
    return torch.stack([codes // base, codes % base])


def thin(ids: Tensor) -> Tensor:
    """Return ids without repetitions: dimensions of stride 0 get size 1."""
    return ids[tuple(slice(1) if stride == 0 else slice(None) for stride in ids.stride())]


def spread(ids: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """Return a vector of ids as a tensor of `shape`, along `dim` and constant along the others."""
    return ids.view([-1 if d == dim % len(shape) else 1 for d in range(len(shape))]).expand(shape)


def fixed_outputs(node: fx.Node) -> Any:
    """Return ids for the outputs of a node in which no unit may move."""
    none = torch.tensor(FIXED)
    return pytree.tree_map_only(
        Tensor, lambda value: none.expand(concrete_shape(value)), node.meta.get("val")
    )
