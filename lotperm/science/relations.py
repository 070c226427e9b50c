"""Units that belong to others: what follows from it, and which units it leaves alike."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from lotperm.science.labels import Cause, Labels, Relation, distinct_pairs

# Why blocks stay, by the kind of the relation.
_REASONS = {
    "": "uses it together with units that stay, or in several ways",
    "mixed": "mixes positions, along another axis than the units that pass it",
}


class Belonging(NamedTuple):
    """What is left of a relation: for each child, one parent.

    Attributes
    ----------
    children, parents : Tensor, int64, shape (n,)
        Roots, each child once.
    kind : str
        As that of the `Relation`.
    """

    children: Tensor
    parents: Tensor
    kind: str


def settle_relations(labels: Labels) -> list[Belonging]:
    """Draw the consequences of all relations, until there are no more.

    What is fixed or made one fixes what belongs to it, or to what it belongs. A child and a parent
    that stand for each other are one. Of two parents of the same children one may belong to the
    other; else both may belong to a third, as keys, and the heads of several queries on them, to
    the head of the keys.

    Returns
    -------
    list of Belonging
        Each child has the same parents under permutations that respect these.
    """
    done: set[tuple[bytes, bytes]] = set()
    while True:
        before = (labels.roots(), len(labels), len(labels.relations))
        found = [now for i in range(before[2]) if (now := _now(labels, i))]
        for belonging in found:
            if len(belonging.parents.unique()) == len(belonging.children):
                labels.unify(belonging.children, belonging.parents)
        # Ids that became one change what the relations read so far say.
        if labels.roots() != before[0]:
            continue
        found = _several_parents(labels, found, done)
        if (labels.roots(), len(labels), len(labels.relations)) == before:
            return found


def _now(labels: Labels, index: int) -> Belonging | None:
    """Return a relation among roots, or fix what it can't describe any more."""
    relation = _without_fixed(labels, index)
    children, parents = labels.find(relation.children), labels.find(relation.parents)
    # Parents that became one, or stay, no longer tell their children apart; a child that stays, or
    # has two parents, keeps its parents from moving.
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
    children, parents = pairs[:, pairs[0] != pairs[1]]  # what has become one
    if len(children) == 0:
        return None
    # A single parent has nothing to change places with.
    if len(parents.unique()) == 1:
        if not relation.pinned:
            labels.keep_together([children, parents[:1]])
            labels.relations[index] = relation._replace(pinned=True)
        return None
    return Belonging(children, parents, relation.kind)


def _without_fixed(labels: Labels, index: int) -> Relation:
    """Leave those out that belong to what is fixed, if not all do; they stay where they belong."""
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
            elif n == a:  # the one belongs to the other, and its children do so with it
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
                    labels.relate(pairs[0], whole, "scores")
                    labels.relate(pairs[1], whole, "scores")
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
    """Return the number of the connected part that each of these edges is in."""
    # One numbering for both ends, the second behind the first.
    nodes = torch.cat([pairs[0], pairs[1] + pairs.max() + 1])
    part = nodes.unique(return_inverse=True)[1].view(2, -1)
    # Each end takes the least number that its edges bring, until nothing changes.
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
    """Tell ids apart further, by what they belong to and what belongs to them.

    Parameters
    ----------
    kinds : Tensor, int64
        A number for each id; those with different ones are told apart already.
    found : list of Belonging

    Returns
    -------
    Tensor, int64
        Equal where neither an id, nor its parents and children, nor theirs, tell them apart.
    """
    generator = torch.Generator().manual_seed(1)
    # Odd factors: multiplied by these, different 64-bit numbers stay different.
    numbers = torch.randint(-(2**62), 2**62, (len(found) + 1, 2), generator=generator) | 1
    involved = torch.cat([torch.cat(b[:2]) for b in found]).unique() if found else kinds[:0]
    # As the colours of a graph are refined: each number takes in those of its neighbours, until no
    # class of equals falls apart any more.
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
    """Scramble 64-bit numbers, so that sums of them are equal by chance alone."""
    numbers = numbers ^ (numbers >> 31)
    numbers = numbers * 0x3C6EF372FE94F82B
    return numbers ^ (numbers >> 29)
