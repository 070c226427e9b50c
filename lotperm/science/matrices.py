"""Weights that are labelled by their axes, including those that are computed from parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lotperm.science.labels import Axes, Labels, Rows, several, spread

# The axes of a parameter that lie along one axis of the weights; empty if it is constant there. In
# a merged axis, −n stands for n places along which it is constant.
_Along = tuple[int, ...]

# Instead of axes: the weights are used by position along this axis, so units on it stay.
STAYS: _Along = (-1,)


@dataclass(frozen=True)
class Matrix:
    """Weights that are labelled by their axes: rules say which units lie on each axis.

    Attributes
    ----------
    parts : tuple
        The parameters from which the weights are computed, value by value, each with those of its
        axes that lie along each axis of the weights: mostly one; several that are merged, as by
        `flatten`; none if the parameter is constant along it.
    shape : tuple of int
        The shape of the weights.
    part : tuple of int or None
        Which rows of the parameters' first axis they are computed from, if not all.
    """

    parts: tuple[tuple[str, tuple[_Along, ...]], ...]
    shape: tuple[int, ...]
    part: Rows = None

    @classmethod
    def of(cls, name: str, shape: Sequence[int]) -> Matrix:
        """Make the label of a parameter itself."""
        axes = tuple((d,) if size > 1 else () for d, size in enumerate(shape))
        return cls(((name, axes),), tuple(shape))

    @classmethod
    def together(cls, operands: Sequence[Matrix], shape: tuple[int, ...]) -> Matrix | None:
        """Combine weights value by value, with broadcasting; None if their rows differ."""
        if len({operand.part for operand in operands}) > 1:
            return None
        if any(isinstance(operand, Joined) for operand in operands):
            return operands[0] if len(operands) == 1 else None
        parts = [
            (name, (*[()] * (len(shape) - len(axes)), *axes))
            for operand in operands
            for name, axes in operand.parts
        ]
        return cls(tuple(dict.fromkeys(parts)), shape, operands[0].part)

    @property
    def name(self) -> str:
        """Name of the parameter, or of the first if there are several."""
        return self.parts[0][0]

    def lie_on(self, labels: Labels, axis: Axes, ids: Tensor, rows: Rows = None) -> Tensor:
        """Record that ids lie along an axis, or several merged ones, as `Labels.lie_on` does."""
        wanted = several(axis)
        if self.part is not None and rows is not None:
            labels.fix(ids)  # blocks of a part
            rows = None
        rows = rows or self.part
        for name, axes in self.parts:
            if any(axes[d] == STAYS for d in wanted):
                labels.fix(ids)
            atoms = [atom for d in wanted for atom in self._atoms(d, axes[d], labels.shapes[name])]
            view = ids.reshape([size for size, _ in atoms])
            for place, (_, along) in enumerate(atoms):
                if not along and len(atoms) > 1:
                    # The parameter is constant along this axis, so the units there are one.
                    labels.unify(view, view.narrow(place, 0, 1))
                    view = labels.find(view.narrow(place, 0, 1))
            own: _Along = sum((along for _, along in atoms if along != STAYS), ())
            if not own or any(axes[d] == STAYS for d in wanted):
                continue
            # A range of rows has a meaning only if the weights' first axis is the parameter's.
            blocked = rows if axes[0] == (0,) or self.part is not None else None
            if blocked is None and rows is not None and set(own) & set(axes[0]):
                labels.fix(ids)  # blocks of rows that don't lie along the first axis
                continue
            labels.lie_on(name, own, view.flatten(), blocked)
        return labels.find(ids)

    def produce(self, labels: Labels, axis: Axes, n: int, rows: Rows = None) -> Tensor:
        """Give new ids to the units that axes produce, as `Labels.produce` does."""
        wanted = several(axis)
        # The first parameter that has all these axes gives out the ids; the others take them.
        for name, axes in self.parts:
            known = all((axes[d] and min(axes[d]) >= 0) or self.shape[d] == 1 for d in wanted)
            own = sum((axes[d] for d in wanted), ()) if known else ()
            if own and (rows is None or axes[0] == (0,)):
                ids = labels.produce(name, own, n, rows or self.part)
                return self.lie_on(labels, axis, ids, rows)
        return self.lie_on(labels, axis, torch.zeros(n, dtype=torch.int64), rows)

    def values(self, labels: Labels) -> Tensor:
        """Return ids for the values of weights that have a single axis, such as a bias."""
        along = [d for d, size in enumerate(self.shape) if size > 1]
        if not along:
            return torch.zeros(self.shape, dtype=torch.int64)
        ids = self.lie_on(labels, along[0], labels.fresh(self.shape[along[0]]))
        return spread(ids, torch.Size(self.shape), along[0])

    def rearranged(self, order: Sequence[int]) -> Matrix:
        """Return the weights with their axes in another order."""
        parts = tuple((name, tuple(axes[d] for d in order)) for name, axes in self.parts)
        return Matrix(parts, tuple(self.shape[d] for d in order), self.part)

    def sliced(self, dim: int, start: int, stop: int) -> Matrix | None:
        """Return weights in some rows of the parameters' first axis; None for another axis."""
        dim %= len(self.shape)
        if any(axes[dim] != (0,) for _, axes in self.parts):
            return None
        first = self.part[0] if self.part else 0
        shape = (*self.shape[:dim], stop - start, *self.shape[dim + 1 :])
        return Matrix(self.parts, shape, (first + start, first + stop))

    def selected(self, dim: int, index: int) -> Matrix | None:
        """Return the weights in one row of the parameters' first axis; None for another axis."""
        row = self.sliced(dim, index, index + 1)
        if row is None:
            return None
        parts = tuple(
            (name, tuple(a for d, a in enumerate(axes) if d != dim)) for name, axes in row.parts
        )
        return Matrix(parts, tuple(n for d, n in enumerate(self.shape) if d != dim), row.part)

    def reshaped(
        self, shape: tuple[int, ...], shapes: Mapping[str, Sequence[int]]
    ) -> Matrix | None:
        """Return the weights with axes merged or split again; None for any other reshape."""
        parts = []
        for name, axes in self.parts:
            # Merged axes are split first, then gathered into the new shape.
            atoms = [
                atom
                for d, own in enumerate(axes)
                if self.shape[d] > 1
                for atom in self._atoms(d, own, shapes[name])
            ]
            found = _regrouped(atoms, shape)
            if found is None:
                return None
            parts.append((name, found))
        return Matrix(tuple(parts), shape, self.part)

    def _atoms(self, d: int, own: _Along, shape: Sequence[int]) -> list[tuple[int, _Along]]:
        """Split an axis into those of a parameter that are merged in it, each with its size."""
        if len(own) < 2:
            return [(self.shape[d], own)]
        rows = shape[0] if self.part is None else self.part[1] - self.part[0]
        sizes = (rows, *shape[1:])
        return [(-axis, ()) if axis < 0 else (sizes[axis], (axis,)) for axis in own]

    def expanded(self, shape: tuple[int, ...]) -> Matrix:
        """Return the weights repeated along new axes, and along those of size 1."""
        more = len(shape) - len(self.shape)
        parts = tuple((name, (*[()] * more, *axes)) for name, axes in self.parts)
        return Matrix(parts, shape, self.part)

    def reduced(self, dims: Sequence[int], shape: tuple[int, ...]) -> Matrix | None:
        """Return a statistic of the weights over axes, which are kept at size 1 or dropped."""
        keep = len(shape) == len(self.shape)
        parts = tuple(
            (
                name,
                tuple(() if d in dims else a for d, a in enumerate(axes) if keep or d not in dims),
            )
            for name, axes in self.parts
        )
        return Matrix(parts, shape, self.part)

    def stay(self, labels: Labels, dims: Sequence[int], shape: tuple[int, ...]) -> Matrix:
        """Return weights of the given shape that are used by position along some axes.

        Units on these axes are fixed.
        """
        for d in dims:
            self.lie_on(labels, d, torch.zeros(self.shape[d], dtype=torch.int64))
        parts = tuple(
            (name, tuple(STAYS if d in dims else a for d, a in enumerate(axes)))
            for name, axes in self.parts
        )
        return Matrix(parts, tuple(shape), self.part)


@dataclass(frozen=True)
class Joined(Matrix):
    """Several weights that are concatenated along an axis.

    Attributes
    ----------
    pieces : tuple of Matrix
    dim : int
        The axis.
    """

    pieces: tuple[Matrix, ...] = ()
    dim: int = 0

    @classmethod
    def of_pieces(cls, pieces: Sequence[Matrix], dim: int) -> Joined:
        """Concatenate weights whose shapes are equal except along one axis."""
        dim %= len(pieces[0].shape)
        size = sum(piece.shape[dim] for piece in pieces)
        shape = (*pieces[0].shape[:dim], size, *pieces[0].shape[dim + 1 :])
        parts = tuple(part for piece in pieces for part in piece.parts)
        return cls(parts, shape, None, tuple(pieces), dim)

    def lie_on(self, labels: Labels, axis: Axes, ids: Tensor, rows: Rows = None) -> Tensor:
        """Record that ids lie along an axis; along the joined one, each piece has its own ids."""
        wanted = several(axis)
        across = self.dim in wanted
        if rows is not None or (across and len(wanted) > 1):
            labels.fix(ids)
            rows = None
        sizes = [piece.shape[self.dim] for piece in self.pieces]
        whole = ids.split(sizes) if wanted == (self.dim,) else [ids] * len(sizes)
        if across and len(wanted) > 1:
            # All ids are fixed by now, so any will do.
            whole = [ids[:1].expand(math.prod(p.shape[d] for d in wanted)) for p in self.pieces]
        for piece, own in zip(self.pieces, whole, strict=True):
            if wanted == (self.dim,) and all(axes[self.dim] == () for _, axes in piece.parts):
                labels.fix(own)  # a single unit, which stays in its place
            piece.lie_on(labels, axis, own)
        return labels.find(ids)

    def produce(self, labels: Labels, axis: Axes, n: int, rows: Rows = None) -> Tensor:
        """Give new ids to the units that an axis produces, separately for each piece."""
        wanted = several(axis)
        if rows is None and wanted == (self.dim,):
            made = [p.produce(labels, self.dim, p.shape[self.dim]) for p in self.pieces]
            return labels.find(torch.cat(made))
        if rows is not None or self.dim in wanted:
            return self.lie_on(labels, axis, torch.zeros(n, dtype=torch.int64), rows)
        return self.lie_on(labels, axis, self.pieces[0].produce(labels, axis, n))

    def rearranged(self, order: Sequence[int]) -> Matrix:
        """Return the weights with their axes in another order."""
        pieces = [piece.rearranged(order) for piece in self.pieces]
        return Joined.of_pieces(pieces, list(order).index(self.dim))

    def sliced(self, dim: int, start: int, stop: int) -> Matrix | None:
        """Return None: parts of joined weights aren't followed."""
        return None

    def reshaped(
        self, shape: tuple[int, ...], shapes: Mapping[str, Sequence[int]]
    ) -> Matrix | None:
        """Return the weights if the shape stays the same, else None."""
        return self if shape == self.shape else None

    def reduced(self, dims: Sequence[int], shape: tuple[int, ...]) -> Matrix | None:
        """Return a statistic across equal pieces of size 1, as a function of them all, or None."""
        same = len({piece.shape for piece in self.pieces}) == 1
        if list(dims) != [self.dim] or not same or self.pieces[0].shape[self.dim] > 1:
            return None
        return Matrix.together([p for x in self.pieces if (p := x.reduced(dims, shape))], shape)


def _regrouped(atoms: list[tuple[int, _Along]], shape: Sequence[int]) -> tuple[_Along, ...] | None:
    """Merge consecutive axes into those of a shape; None if the sizes don't fit."""
    left = list(atoms)
    result = []
    for size in shape:
        group: list[tuple[int, _Along]] = []
        have = 1
        while have < size and left:
            n, own = left.pop(0)
            rest = size // have
            if own == () and n > rest and n % rest == 0:  # a constant axis can be split
                left.insert(0, (n // rest, ()))
                n = rest
            group.append((n, own))
            have *= n
        # Merged into one axis, units couldn't be told from what stays there.
        if have != size or (len(group) > 1 and any(own == STAYS for _, own in group)):
            return None
        constant = not any(own for _, own in group)
        result.append(() if constant else sum((own or (-n,) for n, own in group), ()))
    return None if left else tuple(result)
