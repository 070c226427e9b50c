"""From unit ids to permutation groups: which units may trade places, and where to observe them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from lotperm.science.blocks import undrawable
from lotperm.science.fixing import fixed_units
from lotperm.science.graphs import TracedNetwork, operation_name
from lotperm.science.labels import (
    FIXED,
    Labels,
    Place,
    distinct_pairs,
    thin,
)
from lotperm.science.naming import OF_BLOCKS, group_name, layer_of
from lotperm.science.pairs import Inside, has_no_choice
from lotperm.science.places import settle_places, settle_unused
from lotperm.science.relations import Belonging, refine, settle_relations
from lotperm.science.roles import Channels, Role
from lotperm.science.rules.elementwise import NONLINEARITIES
from lotperm.science.symmetry import PermutationSpec
from lotperm.science.transforms import transformed

# Kind of a relation -> what tells the group of its children from others of the same layer.
_SUFFIXES = {"scores": "qk", "weighed": "v", "weight": "weights"}


@dataclass(frozen=True)
class _Groups:
    """Groups of units, such that all units of a group occur in the same way everywhere.

    Attributes
    ----------
    sizes : dict
        Group name -> number of its units, in order of execution.
    group_of, unit_of : Tensor, int64
        For each root of the labels, the number of its group (-1: it doesn't move), and its place
        in that group.
    inside : dict
        As in `PermutationSpec`.
    """

    labels: Labels
    sizes: dict[str, int]
    group_of: Tensor
    unit_of: Tensor
    inside: dict[str, tuple[Inside, ...]]

    def positions(self, ids: Tensor) -> dict[str, Tensor]:
        """Map each group to the places (n, k) of its units in `ids`, taken as a vector."""
        roots = self.labels.find(ids).flatten()
        groups, result = list(self.sizes), {}
        for number in self.group_of[roots].unique().tolist():
            if number >= 0:
                here = (self.group_of[roots] == number).nonzero().flatten()
                order = self.unit_of[roots[here]].argsort(stable=True)
                result[groups[number]] = here[order].view(self.sizes[groups[number]], -1)
        return result


def assemble_spec(labels: Labels, network: TracedNetwork) -> PermutationSpec:
    """Make a network's `PermutationSpec` from the labels of all its operations."""
    settle_places(labels)
    settle_unused(labels)
    # Joining or fixing units may leave others alike, or alone, so that they are grouped anew.
    while True:
        belonging = settle_relations(labels)
        places = {**labels.matrix_roles, **labels.element_roles}
        groups = _group(labels, places, belonging)
        if _join_alone(labels, groups, belonging):
            continue
        odd = undrawable(groups.sizes, groups.inside)
        if odd is None:
            break
        # These blocks differ in size, so they can't trade places after all.
        for relation in belonging:
            if (groups.group_of[relation.children] == list(groups.sizes).index(odd)).any():
                labels.fix(relation.parents)
    roles, axes = _roles(labels, groups, places)
    points, channels = _points(labels, groups, belonging, network.graph)
    first = labels.names
    return PermutationSpec(
        sizes=groups.sizes,
        points=points,
        axes={
            name: tuple(", ".join(on_axis) or None for on_axis in axes[first[name]])
            for name in first
        },
        shapes={name: labels.shapes[first[name]] for name in first},
        roles={name: tuple(roles[first[name]]) for name in first if first[name] in roles},
        channels=channels,
        network=network,
        tied={name: first[name] for name in first if first[name] != name},
        fixed=tuple(fixed_units(labels, groups.group_of)),
        inside=groups.inside,
    )


def _join_alone(labels: Labels, groups: _Groups, found: list[Belonging]) -> bool:
    """Unite units with those that they belong to, if each is the only one of its group there.

    This unites the units of branches that are stacked and averaged; heads aren't united with their
    units. Return whether any units were united.
    """
    before = labels.roots()
    for children, parents, kind in found:
        if kind == "scores":
            continue
        for number in groups.group_of[children].unique().tolist():
            here = groups.group_of[children] == number
            if number >= 0 and len(parents[here].unique()) == int(here.sum()):
                labels.unify(children[here], parents[here])
    return labels.roots() < before


def _fingerprints(labels: Labels, occurrences: Iterable[Tensor]) -> Tensor:
    """Return a 64-bit number for each id, equal where units occur in the same way.

    It is a sum of random numbers, one for each vector of ids that a unit occurs in; units that
    occur differently get the same number with probability 2**-64.
    """
    found = torch.zeros(len(labels), dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for ids in occurrences:
        roots = labels.find(thin(ids)).flatten()
        number = torch.randint(-(2**63), 2**63 - 1, (1,), generator=generator)
        found.index_add_(0, roots, number.expand(len(roots)))
    return found


def _group(labels: Labels, places: dict[Place, Tensor], found: list[Belonging]) -> _Groups:
    """Gather units into groups, in order of execution.

    The units of a group are in the order of the first axis that holds them.
    """
    colors = _fingerprints(labels, [*places.values(), *labels.carried.values(), *labels.together])
    colors = refine(colors, found)
    kinds: list[int] = colors.tolist()
    members: dict[int, list[int]] = {}
    layer: dict[int, str] = {}
    seen = {FIXED}
    for place, ids in _with_products(labels, places):
        roots = dict.fromkeys(labels.find(ids).flatten().tolist())
        new = [root for root in roots if root not in seen and not labels.is_constant(root)]
        seen.update(new)
        for root in new:
            layer.setdefault(kinds[root], layer_of(place.tensor))
            members.setdefault(kinds[root], []).append(root)
    made = {kinds[root] for ids in labels.produced.values() for root in labels.find(ids).tolist()}
    suffixes = _add_blocks(colors, members, layer, found, made)
    # A unit that is alone in its group has nothing to trade places with.
    members = {kind: units for kind, units in members.items() if len(units) > 1}

    group_of = torch.full((len(labels),), -1)
    unit_of = torch.zeros(len(labels), dtype=torch.int64)
    sizes: dict[str, int] = {}
    for kind, units in members.items():
        group_of[units] = len(sizes)
        unit_of[units] = torch.arange(len(units))
        sizes[group_name(kind, members, layer, suffixes)] = len(units)
    names = list(sizes)
    inside: dict[str, list[Inside]] = {}
    for children, parents, _ in found:
        for number in group_of[children].unique().tolist():
            here = group_of[children] == number
            above = int(group_of[parents[here]][0])
            if number < 0 or above < 0:
                continue
            index = torch.empty(sizes[names[number]], dtype=torch.int64)
            index[unit_of[children[here]]] = unit_of[parents[here]]
            inside.setdefault(names[number], []).append(Inside(names[above], index))
    return _Groups(
        labels, sizes, group_of, unit_of, {name: tuple(above) for name, above in inside.items()}
    )


def _with_products(labels: Labels, places: dict[Place, Tensor]) -> Iterator[tuple[Place, Tensor]]:
    """Yield places with their ids, and after its weights what a matrix makes on none of its axes."""
    others = {p.tensor: (p, ids) for p, ids in labels.produced.items() if p not in places}
    for place, ids in places.items():
        yield place, ids
        if place.tensor in others:
            yield others.pop(place.tensor)


def _add_blocks(
    kinds: Tensor,
    members: dict[int, list[int]],
    layer: dict[int, str],
    found: list[Belonging],
    made: set[int],
) -> dict[int, str]:
    """Add groups of whole blocks, such as heads, each right before the group of its units.

    Blocks that are themselves units `made` by a layer keep the layer's name.

    Returns
    -------
    dict
        Kind -> the suffix that tells its group from others of the same layer.
    """
    suffixes: dict[int, str] = {}
    values, number = kinds.unique(return_inverse=True)
    done: set[tuple[int, int]] = set()
    while True:
        before = len(done)
        for children, parents, what in found:
            pairs = distinct_pairs(number[children], number[parents])
            for kind, above in values[pairs].T.tolist():
                if kind not in members or (kind, above) in done:
                    continue
                done.add((kind, above))
                # Where each unit has a single weight, that is the unit.
                one = what == "weight" and kind in made
                suffixes.setdefault(kind, "" if one else _SUFFIXES.get(what, ""))
                if above not in members:
                    every = torch.cat([belonging.parents for belonging in found])
                    members[above] = every[kinds[every] == above].unique().tolist()
                elif what != "scores" and (what != "inside" or above in made):
                    continue
                if suffixes.get(above) not in OF_BLOCKS:
                    suffixes[above] = "blocks" if what == "inside" else "heads"
                    layer[above] = layer[kind]
                    # Dictionaries keep the order of insertion, so to put an item in the middle,
                    # all are inserted anew.
                    order = {k: units for k, units in members.items() if k != above}
                    at = list(order).index(kind)
                    items = list(order.items())
                    items.insert(at, (above, members[above]))
                    members.clear()
                    members.update(items)
        if len(done) == before:
            return suffixes


def _roles(
    labels: Labels, groups: _Groups, places: dict[Place, Tensor]
) -> tuple[dict[str, list[Role]], dict[str, list[list[str]]]]:
    """Return how groups act on each tensor, and the names of the groups on each of its axes."""
    roles: dict[str, list[Role]] = {}
    axes: dict[str, list[list[str]]] = {
        name: [[] for _ in shape] for name, shape in labels.shapes.items()
    }
    for (name, of_axes, start, stop), ids in places.items():
        positions = groups.positions(ids)
        if not positions:
            continue
        shape = labels.shapes[name]
        whole = (start, stop) == (0, shape[0])
        rows = slice(None) if whole else slice(start, stop)
        roles.setdefault(name, []).append(Role(of_axes, rows, positions))
        along = [0]
        if len(of_axes) > 1:
            along = labels.varying(ids.reshape([shape[d] for d in of_axes]))
        for axis in (of_axes[d] for d in along):
            axes[name][axis] += [group for group in positions if group not in axes[name][axis]]
    return roles, axes


def _points(
    labels: Labels, groups: _Groups, belonging: list[Belonging], graph: fx.Graph
) -> tuple[dict[str, tuple[str, ...]], dict[tuple[str, str], Channels]]:
    """Find the candidates for activation matching, and where the units lie there."""
    channels: dict[tuple[str, str], Channels] = {}
    # A node's name, and whether it has positions, is a nonlinearity's output, has each unit once.
    carriers: dict[str, list[tuple[str, bool, bool, bool]]] = {g: [] for g in groups.sizes}
    # Nodes that depend on the input: a function of weights alone says nothing about a unit.
    activations: set[fx.Node] = set()
    inside = set(transformed(graph))
    for node in graph.nodes:
        if node.op == "placeholder" or not activations.isdisjoint(node.all_input_nodes):
            activations.add(node)
        if node not in activations or node in inside or node.name not in labels.carried:
            continue
        nonlinear = operation_name(node) in NONLINEARITIES
        whole = labels.carried[node.name]
        for ids in _views(labels, belonging, whole):
            varying = labels.varying(ids)
            if not varying or varying[0] == 0:  # dimension 0 is that of the samples
                continue
            # There are more values than samples times units, so there must be positions.
            spatial = ids.numel() > ids.shape[0] * math.prod(ids.shape[d] for d in varying)
            along = thin(ids).movedim(varying, list(range(len(varying)))).flatten(len(varying))
            along = along.reshape(math.prod(along.shape[: len(varying)]), -1)[:, 0]
            for group, positions in groups.positions(along).items():
                others = tuple(d for d in labels.varying(whole) if d not in varying)
                once = len(varying) == 1 and positions.shape[1] == 1 and not others
                places = positions.flatten() if positions.shape[1] == 1 else positions
                channels[group, node.name] = Channels(tuple(varying), places, others)
                carriers[group].append((node.name, spatial, nonlinear, once))
    points = {}
    for group, found in carriers.items():
        if has_no_choice(group, groups.sizes, groups.inside):
            found.clear()
        # Prefer nodes in which units have a dimension of their own, if there are any.
        nodes = [node for node in found if node[3]] or found[-1:]
        best = [node for node in nodes if node[1]] or nodes
        outputs = [node for node in best if node[2]]
        points[group] = tuple(name for name, *_ in (outputs or best[-1:]))
    return points, {key: value for key, value in channels.items() if key[1] in points[key[0]]}


def _views(labels: Labels, found: list[Belonging], ids: Tensor) -> list[Tensor]:
    """Return ids as they are, or, if units are at mixtures, those of the units and the mixtures."""
    if not labels.is_mixed(ids):
        return [ids]
    roots = labels.find(ids)
    views = []
    for children, parents, _ in found:
        above = torch.full((len(labels),), -1)
        above[children] = parents
        if (view := above[roots]).min() >= 0:
            views.append(view)
    return views
