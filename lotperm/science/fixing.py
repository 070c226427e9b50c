"""Units that no permutation moves, and the operations that keep them in place."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from lotperm.science.graphs import node_place, operation_name, target_name
from lotperm.science.labels import FIXED, NO_RULE, POSITIONS, Cause, Labels, thin
from lotperm.science.naming import layer_of
from lotperm.science.roles import Fixed


def fixed_units(labels: Labels, group_of: Tensor) -> Iterator[Fixed]:
    """Find the units that are in no group, and what keeps each of them in place.

    Parameters
    ----------
    labels : Labels
        The labels of all operations.
    group_of : Tensor, int64
        For each root of the labels, the number of its group, -1 if it has none.
    """
    for place, ids in labels.produced.items():
        yield from _fixed_outputs(labels, group_of, layer_of(place.tensor), ids.flatten())
    # Parameters that are used value by value.
    for place, ids in labels.element_roles.items():
        shape, trained = labels.shapes[place.tensor], place.tensor not in labels.buffers
        if trained and len(shape) > 1 and shape[0] > 1 and not labels.may_move(ids):
            cause = labels.fixed_by(int(ids[-1]))
            if cause is not None and cause.reason != POSITIONS:
                yield _described(layer_of(place.tensor), range(shape[0]), shape[0], cause)
    for name, node in labels.unruled.items():
        shape = labels.shapes[name]
        total = shape[-1] if "embedding" in operation_name(node) else shape[0]
        yield _described(layer_of(name), range(total), total, Cause(node, NO_RULE))


def _fixed_outputs(labels: Labels, group_of: Tensor, layer: str, ids: Tensor) -> Iterator[Fixed]:
    """Find the output units of a layer that are in no group, and what keeps them in place."""
    roots = labels.find(ids)
    blamed: dict[Cause | None, list[int]] = {}
    for i in ((group_of[roots] < 0) & (ids != FIXED)).nonzero().flatten().tolist():
        # Either it was fixed, or united with others of its layer, or no other is used alike.
        if roots[i] == FIXED:
            cause = labels.fixed_by(int(ids[i]))
            if cause is None:  # it is merely an output of the network
                continue
        elif len(together := ids[roots == roots[i]]) > 1:
            joined = labels.joined_by(int(together[0]), int(together[-1]))
            cause = Cause(joined.node, "uses several of them as one")
        elif _enters_outputs(labels, int(roots[i])):
            continue
        else:
            cause = _telling_apart(labels, roots)
        blamed.setdefault(cause, []).append(i)
    for cause, units in blamed.items():
        if cause is None:
            reason = "no other unit is used in the same way"
            yield Fixed(layer, tuple(units), len(ids), "", reason)
        else:
            yield _described(layer, units, len(ids), cause)


def _enters_outputs(labels: Labels, unit: int) -> bool:
    """Return whether a unit is an output of the network in all but a statistic, such as a mean."""
    of = [
        parent
        for relation in labels.relations
        if relation.kind in ("inside", "scores")
        for parent in relation.parents[labels.find(relation.children) == unit].tolist()
    ]
    return bool(of) and all(
        labels.find(torch.tensor(parent)) == FIXED and labels.fixed_by(parent) is None
        for parent in of
    )


def _described(layer: str, units: Iterable[int], total: int, cause: Cause) -> Fixed:
    """Describe units of a layer that an operation fixed."""
    node = cause.node
    if node.target is operator.getitem:  # it picks an output of the operation itself
        node = node.all_input_nodes[0]
    operation = "output" if node.op == "output" else target_name(node)
    return Fixed(layer, tuple(units), total, operation, cause.reason, *node_place(node))


def _telling_apart(labels: Labels, roots: Tensor) -> Cause | None:
    """Return the first operation that uses some of these units more often than others."""
    nodes = {cause.node.name: cause.node for cause in labels.causes}
    for name, ids in labels.carried.items():
        found = labels.find(thin(ids)).flatten()
        counts = torch.bincount(found, minlength=len(labels))[roots]
        if name in nodes and 0 < counts.max() != counts.min():
            return Cause(nodes[name], "uses each of them in a different way")
    return None
