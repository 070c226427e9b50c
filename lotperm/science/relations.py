"""What follows from relations between units, and which units they leave alike."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from lotperm.science.labels import Cause, Labels, Relation, distinct_pairs

# Why blocks are fixed, by the kind of the relation.
_REASONS = {
    "": "uses it together with units that stay, or in several ways",
    "mixed": "mixes positions, along another axis than the units that pass it",
}


class Belonging(NamedTuple):
    """A relation once it is settled: one parent for each child.

    Attributes
    ----------
    children, parents : Tensor, int64, shape (n,)
        Roots, each child once.
    kind : str
        As in `Relation`.
    """

    children: Tensor
    parents: Tensor
    kind: str


def settle_relations(labels: Labels) -> list[Belonging]:
    """Draw the consequences of all relations, until there are no further ones.

    Parents are fixed if some of them were united, or if a child was fixed or has several of them;
    their children then stay in their sets, as do those of parents that were fixed. A parent and its
    only child are united. If children belong to two kinds of parents, one of these may belong to
    the other; otherwise both may belong to a third, as keys and the heads of several queries on
    them belong to the head of the keys.

    Returns
    -------
    list of Belonging
        The relations that permutations must respect.
    """
    done: set[tuple[bytes, bytes]] = set()
    while True:
        before = (labels.roots(), len(labels), len(labels.relations))
        found = [now for i in range(before[2]) if (now := _now(labels, i))]
        for belonging in found:
            if len(belonging.parents.unique()) == len(belonging.children):
                labels.unify(belonging.children, belonging.parents)
        # Uniting ids changes the relations that were read before.
        if labels.roots() != before[0]:
            continue
        found = _several_parents(labels, found, done)
        if (labels.roots(), len(labels), len(labels.relations)) == before:
            return found


def _now(labels: Labels, index: int) -> Belonging | None:
    """Return a relation among roots, or None after fixing parents that it no longer describes."""
    relation = _without_fixed(labels, index)
    children, parents = labels.find(relation.children), labels.find(relation.parents)
    # Parents that were united or fixed no longer tell their children apart; a child that is fixed,
    # or has two parents, keeps its parents from moving.
    originals = distinct_pairs(parents, relation.parents)[0]
    merged = len(originals.unique()) < len(originals) or bool(labels.constant(parents).any())
    pairs = distinct_pairs(children, parents)
    several = len(pairs[0].unique()) < len(pairs[0]) or bool(labels.constant(children).any())
    if merged or several:
        if labels.may_move(parents):
            if relation.node is not None:
                reason = _REASONS.get(relation.kind, _REASONS[""])
                labels.causes.append(Cause(relation.node, reason))
            labels.fix(parents)
        if not relation.pinned:
            # What is left of the relation: no unit leaves its set.
            for parent in relation.parents.unique():
                labels.keep_together([relation.children[relation.parents == parent]])
            labels.relations[index] = relation._replace(pinned=True)
        return None
    children, parents = pairs[:, pairs[0] != pairs[1]]  # without those that were united
    if len(children) == 0:
        return None
    # A single parent has nothing to trade places with.
    if len(parents.unique()) == 1:
        if not relation.pinned:
            labels.keep_together([children, parents[:1]])
            labels.relations[index] = relation._replace(pinned=True)
        return None
    return Belonging(children, parents, relation.kind)


def _without_fixed(labels: Labels, index: int) -> Relation:
    """Remove the children of fixed parents, unless all are fixed; they stay in their sets."""
    relation = labels.relations[index]
    fixed = labels.constant(labels.find(relation.parents))
    if fixed.any() and not fixed.all():
        for parent in relation.parents[fixed].unique():
            labels.keep_together([relation.children[relation.parents == parent]])
        relation = relation._replace(
            children=relation.children[~fixed], parents=relation.parents[~fixed]
        )
        labels.relations[index] = relation
    return relation


def _several_parents(
    labels: Labels, found: list[Belonging], done: set[tuple[bytes, bytes]]
) -> list[Belonging]:
    """Relate the parents of the same children to each other."""
    by_children: dict[bytes, list[Belonging]] = {}
    for belonging in found:
        by_children.setdefault(belonging.children.numpy().tobytes(), []).append(belonging)
    result = []
    for same in by_children.values():
        same.sort(key=lambda belonging: belonging.kind == "scores")  # the last of equals is kept
        left = list({belonging.parents.numpy().tobytes(): belonging for belonging in same}.values())
        for one, other in combinations(left, 2):
            pairs = distinct_pairs(one.parents, other.parents)
            n, (a, b) = pairs.shape[1], (len(row.unique()) for row in pairs)
            if n == a == b:
                labels.unify(*pairs)
            elif n == a:  # `one` belongs to `other`, and the children do so through it
                _add(labels, done, pairs[0], pairs[1], other.kind)
                left = [belonging for belonging in left if belonging is not other]
            elif n == b:
                _add(labels, done, pairs[1], pairs[0], one.kind)
                left = [belonging for belonging in left if belonging is not one]
            elif (parts := _connected(pairs)).max() > 0:
                # Neither belongs to the other: both belong to the part that their pairs connect.
                key = (pairs[0].numpy().tobytes(), pairs[1].numpy().tobytes())
                if key not in done:
                    done.add(key)
                    whole = labels.fresh(int(parts.max()) + 1)[parts]
                    kind = "inside" if one.kind == "weight" else "scores"
                    labels.relate(pairs[0], whole, kind)
                    labels.relate(pairs[1], whole, kind)
        result += left
    return result


def _add(
    labels: Labels, done: set[tuple[bytes, bytes]], children: Tensor, parents: Tensor, kind: str
) -> None:
    key = (children.numpy().tobytes(), parents.numpy().tobytes())
    if key not in done:
        done.add(key)
        labels.relate(children, parents, kind)


def _connected(pairs: Tensor) -> Tensor:
    """Return the number of the connected component of each edge."""
    # Number both ends together, the second ones after the first ones.
    nodes = torch.cat([pairs[0], pairs[1] + pairs.max() + 1])
    part = nodes.unique(return_inverse=True)[1].view(2, -1)
    # Each node takes the smallest number among its edges, until nothing changes.
    label = torch.arange(int(part.max()) + 1)
    while True:
        low = label[part].amin(0)
        new = label.clone()
        for end in part:
            new.scatter_reduce_(0, end, low, "amin")
        if torch.equal(new, label):
            return label[part[0]].unique(return_inverse=True)[1]
        label = new


def refine(kinds: Tensor, found: list[Belonging]) -> Tensor:
    """Distinguish ids further, by what they belong to and what belongs to them.

    Parameters
    ----------
    kinds : Tensor, int64
        A number for each id; ids with different numbers are already distinguished.
    found : list of Belonging

    Returns
    -------
    Tensor, int64
        Equal for ids that neither their own numbers, nor those of their parents and children, nor
        of theirs and so on, distinguish.
    """
    generator = torch.Generator().manual_seed(1)
    # The factors are odd, so that different 64-bit numbers stay different.
    numbers = torch.randint(-(2**62), 2**62, (len(found) + 1, 2), generator=generator) | 1
    involved = torch.cat([torch.cat(b[:2]) for b in found]).unique() if found else kinds[:0]
    # As in colour refinement of graphs: each number takes in those of its neighbours, until no
    # class of equals splits any more.
    classes = 0
    while len(kinds[involved].unique()) > classes:
        classes = len(kinds[involved].unique())
        new = _mixed(kinds * numbers[-1, 0])
        for (children, parents, _), (up, down) in zip(found, numbers, strict=False):
            new.index_add_(0, children, _mixed(kinds[parents] * up))
            new.index_add_(0, parents, _mixed(kinds[children] * down))
        kinds = kinds.clone()
        kinds[involved] = new[involved]
    return kinds


def _mixed(numbers: Tensor) -> Tensor:
    """Scramble 64-bit numbers, so that sums of them are equal only by chance."""
    numbers = numbers ^ (numbers >> 31)
    numbers = numbers * 0x3C6EF372FE94F82B
    return numbers ^ (numbers >> 29)
