"""Units observed before their nonlinearity, in place of behind it."""

from __future__ import annotations

import dataclasses

from lotperm.science.graphs import operation_name
from lotperm.science.rules.elementwise import NONLINEARITIES
from lotperm.science.symmetry import PermutationSpec


def before_nonlinearities(spec: PermutationSpec) -> PermutationSpec:
    """Observe every group at what goes into its nonlinearity; the symmetries stay as they are.

    A ReLU puts out 0 for all that is negative, so behind it two units that differ only there look
    alike. Before it, at what a batch norm puts out if there is one, they don't.

    Parameters
    ----------
    spec : PermutationSpec
        As traced, with ``points`` behind nonlinearities.

    Returns
    -------
    PermutationSpec
        The same with other ``points``, for
        `lotperm.science.matching.activations.match_activations`. A point that isn't the output of
        a nonlinearity of one value stays.
    """
    nodes = {node.name: node for node in spec.network.graph.nodes}

    def moved(name: str) -> str:
        node = nodes[name]
        if operation_name(node) not in NONLINEARITIES or len(node.all_input_nodes) != 1:
            return name
        return node.all_input_nodes[0].name

    points = {group: tuple(map(moved, names)) for group, names in spec.points.items()}
    # Value by value: units lie where they lie behind it.
    channels = {
        (group, moved(name)): spec.channels[group, name]
        for group, names in spec.points.items()
        for name in names
    }
    return dataclasses.replace(spec, points=points, channels=channels)
