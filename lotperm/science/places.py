"""Make ids consistent where several lie on the same axes of a tensor or some are never used."""

from __future__ import annotations

import torch
from torch import Tensor

from lotperm.science.labels import Labels, Place


def settle_places(labels: Labels) -> None:
    """Make ids consistent that lie on the same axes of a tensor in several ways.

    Ids that lie on overlapping but different ranges of rows are fixed. Where some ids lie along
    several merged axes, and others along only some of these, the remaining axes are positions: the
    former ids are made constant along those, and are then no longer needed.
    """
    for place in labels.matrix_roles.keys() & labels.element_roles.keys():
        labels.unify(labels.matrix_roles[place], labels.element_roles[place])
    by_tensor: dict[str, dict[Place, Tensor]] = {}
    for place, ids in (labels.matrix_roles | labels.element_roles).items():
        by_tensor.setdefault(place.tensor, {})[place] = ids
    for places in by_tensor.values():
        for place, ids in places.items():
            others = [other for other in places if other != place and _meet(place, other)]
            inner = [other for other in others if set(other.axes) < set(place.axes)]
            for other in others:
                if other in inner:
                    _nest(labels, place, ids, other, places[other])
                elif not set(place.axes) < set(other.axes):
                    # They cross: the order along one can't follow that along the other.
                    labels.fix(ids)
                    labels.fix(places[other])
            if inner:
                for axes in {other.axes for other in inner}:
                    rows = sum(other.stop - other.start for other in inner if other.axes == axes)
                    if rows < place.stop - place.start:
                        labels.fix(ids)  # they would be missing from the other rows
                labels.matrix_roles.pop(place, None)
                labels.element_roles.pop(place, None)


def _nest(labels: Labels, place: Place, ids: Tensor, other: Place, inner: Tensor) -> None:
    """Unite ids along several axes with those along some of these axes."""
    shape = labels.shapes[place.tensor]
    if 0 in place.axes and (place.start, place.stop) != (other.start, other.stop):
        labels.fix(ids)
        labels.fix(inner)
        return
    view = inner.reshape([shape[d] if d in other.axes else 1 for d in place.axes])
    labels.unify(ids.reshape([shape[d] for d in place.axes]), view)


def _meet(one: Place, other: Place) -> bool:
    """Return whether two places of a tensor share an axis and a row."""
    return bool(set(one.axes) & set(other.axes)) and (
        one.start < other.stop and other.start < one.stop
    )


def settle_unused(labels: Labels) -> None:
    """Unite values of parameters that the traced pass didn't use with values that it used.

    Examples are rows for positions after the last one, and the rest of a causal mask. A value is
    unused if it occurs in only one tensor and in no relation. It is united with the used values
    that share its index on all axes but one, if these are a single unit; else it is fixed.
    """
    places = {**labels.matrix_roles, **labels.element_roles}
    count = torch.zeros(len(labels), dtype=torch.int64)
    for ids in places.values():
        count[labels.find(ids).unique()] += 1
    # A count of two means used, as the following ids are in any case.
    for ids in (*labels.matrix_roles.values(), *labels.together):
        count[labels.find(ids)] = 2
    for relation in labels.relations:
        count[labels.find(relation.children)] = count[labels.find(relation.parents)] = 2
    count[labels.constant(torch.arange(len(labels)))] = 2
    for place, ids in labels.element_roles.items():
        shape = labels.shapes[place.tensor]
        roots = labels.find(ids).reshape(shape)
        used = count[roots] > 1
        if used.all():
            continue
        for dim in range(len(shape)):
            low = torch.where(used, roots, len(count)).amin(dim, keepdim=True)
            high = torch.where(used, roots, -1).amax(dim, keepdim=True)
            # If the used values of a row are one unit, the rest of the row is united with it.
            known = ((low == high) & ~used).expand(shape)
            labels.unify(roots[known], low.expand(shape)[known])
            used = used | known
        labels.fix(roots[~used])
