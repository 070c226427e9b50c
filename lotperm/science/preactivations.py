"""Units observed before their nonlinearity instead of after it."""

from __future__ import annotations

import dataclasses

from lotperm.science.graphs import operation_name
from lotperm.science.rules.elementwise import NONLINEARITIES
from lotperm.science.symmetry import PermutationSpec


def before_nonlinearities(spec: PermutationSpec) -> PermutationSpec:
    """Observe every group at the input of its nonlinearity; the symmetries stay the same.

    A ReLU maps all negative values to 0, so after it two units that differ only there look alike.
    Before it, at the output of the batch norm if there is one, they don't.

    Parameters
    ----------
    spec : PermutationSpec
        As traced, with ``points`` after nonlinearities.

    Returns
    -------
    PermutationSpec
        The same with other ``points``, for
        `lotperm.science.matching.activations.match_activations`. A point that isn't the output of
        a nonlinearity with a single input stays.
    """
    nodes = {node.name: node for node in spec.network.graph.nodes}

    def moved(name: str) -> str:
        node = nodes[name]
        if operation_name(node) not in NONLINEARITIES or len(node.all_input_nodes) != 1:
            return name
        return node.all_input_nodes[0].name

    points = {group: tuple(map(moved, names)) for group, names in spec.points.items()}
    # Nonlinearities act value by value, so units lie in the same places before and after.
    channels = {
        (group, moved(name)): spec.channels[group, name]
        for group, names in spec.points.items()
        for name in names
    }
    return dataclasses.replace(spec, points=points, channels=channels)
