"""Units that come in blocks, such as those inside attention heads, and how they may be permuted.

A unit may belong to a unit of another group, its block, and then goes where the block goes: the
permutations of the two groups must agree. The units inside a block, and the blocks themselves, may
be in any order. A unit may belong to two others, as a query does to its head and to a unit of the
keys; these then determine where it goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lotperm.errors import ParameterError
from lotperm.science.pairs import Blocks, Inside, code
from lotperm.types import Int64


def parents_first(sizes: Mapping[str, int], inside: Blocks) -> list[str]:
    """Return the groups in their order, except that each comes after the groups of its blocks.

    Raises
    ------
    ValueError
        If some group is inside itself.
    """
    order: dict[str, None] = {}

    def add(group: str, below: tuple[str, ...]) -> None:
        if group in below:
            raise ValueError(f"group {group!r} is inside itself")
        for above in inside.get(group, ()):
            add(above.group, (*below, group))
        order[group] = None

    for group in sizes:
        add(group, ())
    return list(order)


def draw(
    sizes: Mapping[str, int], inside: Blocks, generator: torch.Generator
) -> dict[str, Int64[Tensor, " _"]]:
    """Draw a uniformly random permutation of every group that keeps blocks together.

    Raises
    ------
    ValueError
        If blocks of different sizes would have to trade places.
    """
    found: dict[str, Tensor] = {}
    for group in parents_first(sizes, inside):
        shuffled = torch.randperm(sizes[group], generator=generator)
        found[group] = shuffled
        if inside.get(group):
            own, wanted = _keys(inside[group], found)
            # Both are sorted by block: each place gets a unit of the block that moves there, namely
            # the next one in shuffled order.
            source = shuffled[own[shuffled].argsort(stable=True)]
            target = wanted.argsort(stable=True)
            if not torch.equal(own[source], wanted[target]):
                raise ValueError(f"blocks of group {group!r} differ in size")
            found[group] = torch.empty_like(source)
            found[group][target] = source
    return {group: found[group] for group in sizes}


def undrawable(sizes: Mapping[str, int], inside: Blocks) -> str | None:
    """Return a group whose blocks can't be permuted because their sizes differ, or None."""
    for group in inside:
        above: dict[str, None] = {group: None}
        for name in above.copy():
            _ancestors(name, inside, above)
        part = {name: sizes[name] for name in sizes if name in above}
        # A single draw may happen to exchange only blocks of equal size, which shows nothing.
        for seed in range(3):
            try:
                draw(part, inside, torch.Generator().manual_seed(seed))
            except (ValueError, RecursionError):
                return group
    return None


def _ancestors(group: str, inside: Blocks, found: dict[str, None]) -> None:
    for above in inside.get(group, ()):
        if above.group not in found:
            found[above.group] = None
            _ancestors(above.group, inside, found)


def _keys(
    above: Sequence[Inside], permutation: Mapping[str, Tensor]
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Number the blocks of each unit, and those that the unit moving to its place must have."""
    orders = [permutation[a.group] for a in above]
    sizes = [len(p) for p in orders]
    wanted = [p[a.unit] for p, a in zip(orders, above, strict=True)]
    return code([a.unit for a in above], sizes), code(wanted, sizes)


def complete(
    permutation: Mapping[str, Tensor], sizes: Mapping[str, int], inside: Blocks
) -> dict[str, Tensor]:
    """Check that permutations agree on blocks, and add the missing permutations of blocks.

    Parameters
    ----------
    permutation : Mapping[str, Tensor]
        Group -> permutation; a group that is missing stays as it is, unless its units are blocks
        that must move.
    sizes : Mapping[str, int]
        Group -> number of its units.
    inside : Mapping[str, Sequence[Inside]]
        Group -> what its units belong to.

    Returns
    -------
    dict
        The given permutations, and those of blocks that follow from the permutations of what is
        inside.

    Raises
    ------
    ParameterError
        If units would leave their block or stay behind when it moves.
    """
    found = dict(permutation)
    # Children first: the permutation of their blocks may in turn determine that of outer blocks.
    for group in reversed(parents_first(sizes, inside)):
        for above, unit in inside.get(group, ()):
            if group in found and above not in found:
                moved = torch.arange(sizes[above])
                moved[unit] = unit[found[group]]
                if not torch.equal(moved.sort().values, torch.arange(sizes[above])):
                    raise _torn(group, above)
                found[above] = moved
    for group, belongs in inside.items():
        for above, unit in belongs:
            if group not in found and above not in found:
                continue
            p = found.get(group, torch.arange(sizes[group]))
            q = found.get(above, torch.arange(sizes[above]))
            if not torch.equal(unit[p], q[unit]):
                raise _torn(group, above)
    return found


def _torn(group: str, above: str) -> ParameterError:
    return ParameterError(
        f"the permutation of {group!r} takes units out of their blocks, or doesn't move whole "
        f"blocks as that of {above!r} does; move units only inside their block, and blocks as a "
        f"whole (spec.inside[{group!r}])."
    )


def families(sizes: Mapping[str, int], inside: Blocks) -> list[list[str]]:
    """Return the sets of groups that must be matched together, in order; most hold one group."""
    family = {group: {group} for group in sizes}
    for group, belongs in inside.items():
        for above, _ in belongs:
            joined = family[group] | family[above]
            for member in joined:
                family[member] = joined
    result: dict[int, list[str]] = {}
    for group in sizes:
        result.setdefault(id(family[group]), []).append(group)
    return list(result.values())
