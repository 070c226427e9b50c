"""The assignment of units in blocks, from the outermost blocks inwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lotperm.science.assignment import assign
from lotperm.science.blocks import parents_first
from lotperm.science.pairs import Blocks, Inside, Similarities, code, is_determined
from lotperm.types import Int64

MANY_PAIRS = 256
"""For more pairs of blocks than this, what is inside a pair is first assigned group by group."""

AT_ONCE = 2**20
"""The number of pairs of units that are looked up at once."""


def assign_blocks(
    similarities: Mapping[str, Similarities], inside: Blocks
) -> dict[str, Int64[Tensor, " _"]]:
    """Find the permutations of a family of groups that maximize the sum of their similarities.

    Blocks are assigned by what the best order inside them would reach: the entry for a pair of
    blocks is their own similarity plus the optimum of assigning the units inside, and so on for
    blocks of blocks. That is exact, except where units belong to two others: then the assignments
    of the two are improved in turn, and if there are more than `MANY_PAIRS` pairs of blocks, only
    inside the pairs that were chosen. Units that belong to two of the same group aren't considered.

    Parameters
    ----------
    similarities : Mapping[str, Tensor | Products]
        Group -> float64 (n, n), unit of B (row) by unit of A, zeros where nothing is known.
    inside : Mapping[str, Sequence[Inside]]
        Group -> what its units belong to.

    Returns
    -------
    dict
        Group -> permutation.
    """
    everything = {group: torch.arange(len(matrix)) for group, matrix in similarities.items()}
    sizes = {group: len(matrix) for group, matrix in similarities.items()}
    order = parents_first(sizes, inside)
    solver = _Solver(similarities, {g: tuple(inside.get(g, ())) for g in order}, order)
    above = {a.group for group in order for a in inside.get(group, ())}
    follow = [
        g for g in order if g not in above and _follows(similarities[g], inside.get(g, ()), sizes)
    ]
    found = solver.solve([g for g in order if g not in follow], everything, everything)[1]
    for group in follow:
        rows = everything[group]
        found[group] = solver.determined(group, rows, rows, found)
    return {group: found[group] for group in similarities}


def _follows(similarity: Similarities, above: Sequence[Inside], sizes: Mapping[str, int]) -> bool:
    """Return whether units aren't considered when the groups that they belong to are assigned.

    Of some nothing is known. Others belong to two units of the same group, as a weight does from a
    channel to another of its block; what they say would be quadratic in that group's permutation.
    """
    if len({a.group for a in above}) < len(above):
        return True
    return is_determined(above, sizes) and not similarity.any()


Inner = Callable[[int, int], Mapping[str, Tensor]]
"""What is inside a pair of blocks: maps their places to an assignment, as `_Solver.solve` does."""


class _Solver:
    """Assignments of units in blocks, from the outermost blocks inwards."""

    def __init__(
        self,
        similarities: Mapping[str, Similarities],
        inside: Mapping[str, tuple[Inside, ...]],
        order: list[str],
    ) -> None:
        self.similarities, self.inside = similarities, inside
        # Group -> each group that it is inside, at any depth -> the unit that each unit belongs to.
        self.above: dict[str, dict[str, Tensor]] = {}
        for group in order:
            self.above[group] = {}
            for parent, unit in inside[group]:
                self.above[group][parent] = unit
                for further, deeper in self.above[parent].items():
                    self.above[group].setdefault(further, deeper[unit])

    def solve(
        self, groups: list[str], rows: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> tuple[float, dict[str, Tensor]]:
        """Assign the given columns of each group to its given rows.

        Returns
        -------
        float
            The sum of the similarities.
        dict
            Group -> a tensor of the group's size: the column of each given row, -1 elsewhere.
        """
        roots = [g for g in groups if not any(a in groups for a in self.above[g])]
        owners = {g: [r for r in roots if r == g or r in self.above[g]] for g in groups}
        shared = [g for g in groups if len(owners[g]) > 1]
        own = {r: [g for g in groups if owners[g] == [r] and g != r] for r in roots}
        trees = {r: self._tree(r, own[r], rows, columns) for r in roots}
        found: dict[str, Tensor] = {}
        # Units that belong to two roots couple them: each root is assigned with the others fixed.
        for turn in range(4 if shared else 1):
            before = {g: p.clone() for g, p in found.items()}
            # First the roots for which some similarity is known.
            for root in sorted(roots, key=lambda r: not self.similarities[r].any()):
                matrix, inner = trees[root]
                matrix = matrix + self._extra(root, shared, rows, columns, found, matrix)
                p = assign(matrix)
                found |= self._read(root, own[root], p, inner, rows, columns)
            if turn and all(torch.equal(before[g], found[g]) for g in before):
                break
        for group in shared:
            found[group] = self.determined(group, rows[group], columns[group], found)
        value = 0.0
        for group in groups:
            here = rows[group]
            value += float(self.similarities[group][here, found[group][here]].sum())
        return value, found

    def _tree(
        self,
        root: str,
        groups: list[str],
        rows: Mapping[str, Tensor],
        columns: Mapping[str, Tensor],
    ) -> tuple[Tensor, Inner]:
        """Return the best sum for each pair of units of a root, and what is inside such a pair."""
        matrix = self.similarities[root][rows[root]][:, columns[root]]
        if not groups:
            return matrix, lambda i, j: {}
        matrix = matrix.clone()
        # What is inside each unit of the root, in B (rows) and in A (columns).
        parts = [
            [{g: u[g][self.above[g][root][u[g]] == unit] for g in groups} for unit in u[root]]
            for u in (rows, columns)
        ]
        solved: dict[tuple[int, int], dict[str, Tensor]] = {}
        many = matrix.numel() > MANY_PAIRS
        for i, mine in enumerate(parts[0]):
            for j, theirs in enumerate(parts[1]):
                if many:
                    matrix[i, j] += self._apart(groups, mine, theirs)
                else:
                    value, solved[i, j] = self.solve(groups, mine, theirs)
                    matrix[i, j] += value

        def inner(i: int, j: int) -> dict[str, Tensor]:
            if (i, j) not in solved:
                solved[i, j] = self.solve(groups, parts[0][i], parts[1][j])[1]
            return solved[i, j]

        return matrix, inner

    def _apart(
        self, groups: list[str], rows: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> float:
        """Return the sum that is reached if no group is assigned with regard to another."""
        # Imported here because it loads much of SciPy, and most commands match nothing.
        from scipy.optimize import linear_sum_assignment

        couple = [g for g in groups if sum(a.group in groups for a in self.inside[g]) > 1]
        alone = [g for g in groups if g not in couple]
        # Blocks of blocks.
        if any(above in alone for group in alone for above in self.above[group]):
            return self.solve(groups, rows, columns)[0]
        value, found = 0.0, {}
        for group in alone:
            here, there = rows[group], columns[group]
            part = self.similarities[group][here][:, there].numpy()
            # Not `assign`: only the value counts here, and it doesn't depend on the order of ties.
            p = linear_sum_assignment(part, maximize=True)
            value += float(part[p].sum())
            found[group] = torch.full((len(self.similarities[group]),), -1)
            found[group][here] = there[torch.from_numpy(p[1])]
        for group in couple:
            here = rows[group]
            found[group] = self.determined(group, here, columns[group], found)
            value += float(self.similarities[group][here, found[group][here]].sum())
        return value

    def _read(
        self,
        root: str,
        groups: list[str],
        p: Tensor,
        inner: Inner,
        rows: Mapping[str, Tensor],
        columns: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Return the assignment of a root and of everything inside it."""
        found = {g: torch.full((len(self.similarities[g]),), -1) for g in (root, *groups)}
        found[root][rows[root]] = columns[root][p]
        for i, j in enumerate(p.tolist()):
            for group, inside in inner(i, j).items():
                # Each pair of blocks fills its own rows; all others are -1 there.
                found[group] = torch.maximum(found[group], inside)
        return found

    def _extra(
        self,
        root: str,
        shared: list[str],
        rows: Mapping[str, Tensor],
        columns: Mapping[str, Tensor],
        found: Mapping[str, Tensor],
        like: Tensor,
    ) -> Tensor:
        """Return what is added by units that also belong to roots that are assigned already."""
        extra = torch.zeros_like(like)
        place = torch.full((len(self.similarities[root]),), -1)
        place[rows[root]] = torch.arange(len(rows[root]))
        for group in shared:
            above = self.inside[group]
            others = [a for a in above if a.group != root]
            if len(others) == len(above) or any(a.group not in found for a in others):
                continue
            sizes = [len(self.similarities[a.group]) for a in above]
            # A unit of A that has these parents, by one number for all of them; -1 for none.
            table = torch.full((int(torch.tensor(sizes).prod()),), -1)
            table[code([a.unit for a in above], sizes)] = torch.arange(len(above[0].unit))
            here, there = rows[group], columns[root]
            mine = place[next(a.unit for a in above if a.group == root)[here]]
            # Not all columns at once, as there may be very many rows.
            for some in torch.arange(len(there)).split(max(1, AT_ONCE // max(1, len(here)))):
                # If a column came to a row's root unit, this unit of A would come to the row.
                units = [
                    there[some].expand(len(here), -1)
                    if a.group == root
                    else found[a.group][a.unit[here], None].expand(-1, len(some))
                    for a in above
                ]
                source = table[code(units, sizes)]
                values = self.similarities[group][here[:, None], source.clamp_min(0)]
                values = torch.where(source < 0, torch.zeros_like(values), values)
                extra[:, some] = extra[:, some].index_add(0, mine, values.to(extra))
        return extra

    def determined(
        self, group: str, rows: Tensor, columns: Tensor, found: Mapping[str, Tensor]
    ) -> Tensor:
        """Assign units that belong to two others, which are assigned already."""
        above = self.inside[group]
        sizes = [len(self.similarities[a.group]) for a in above]
        wanted = code([found[a.group][a.unit[rows]] for a in above], sizes)
        given = code([a.unit[columns] for a in above], sizes)
        result = torch.full((len(self.similarities[group]),), -1)
        if len(wanted.unique()) == len(wanted):
            result[rows[wanted.argsort()]] = columns[given.argsort()]
            return result
        # Several units may have the same parents: these get their best order.
        for key in wanted.unique():
            i, j = rows[wanted == key], columns[given == key]
            result[i] = j[assign(self.similarities[group][i][:, j])]
        return result
