"""Split stacked recurrent layers into one operation per layer, so that each shows its units."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

_KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def unstack_recurrence(graph: fx.Graph) -> None:
    """Split each operation that computes several recurrent layers into one per layer."""
    for node in list(graph.nodes):
        if not isinstance(node.target, OpOverload):
            continue
        kind, _, overload = str(node.target).removeprefix("aten.").partition(".")
        if kind in _KINDS and overload == "input" and _layers(node) > 1:
            with graph.inserting_before(node):
                _unstack(graph, node)


def _layers(node: fx.Node) -> int:
    layers = node.args[4]
    assert isinstance(layers, int)
    return layers


def _unstack(graph: fx.Graph, node: fx.Node) -> None:
    arguments: Any = node.args
    x, state, params, biases, layers, _, train, both, batch_first = arguments
    states = list(state) if isinstance(state, (list, tuple)) else [state]
    # Weights are listed layer after layer; in states the directions of a layer are neighbours.
    directions = 2 if both else 1
    per = len(params) // layers
    outer = node.meta["val"]

    def call(target: Any, args: tuple[Any, ...], val: Any) -> fx.Node:
        new = graph.call_function(target, args)
        new.meta = {**node.meta, "val": val}
        return new

    lasts: list[list[fx.Node]] = [[] for _ in states]
    for layer in range(layers):
        rows = (layer * directions, (layer + 1) * directions)
        own = []
        for initial in states:
            value = initial.meta["val"][rows[0] : rows[1]]
            own.append(call(torch.ops.aten.slice.Tensor, (initial, 0, *rows), value))
        values = (outer[0], *(last[rows[0] : rows[1]] for last in outer[1:]))
        hx = own if isinstance(state, (list, tuple)) else own[0]
        weights = list(params[layer * per : (layer + 1) * per])
        # A single layer has no dropout after it, and in evaluation mode there is none anyway.
        args = (x, hx, weights, biases, 1, 0.0, train, both, batch_first)
        result = call(node.target, args, values)
        x = call(operator.getitem, (result, 0), values[0])
        for number, found in enumerate(lasts, 1):
            found.append(call(operator.getitem, (result, number), values[number]))
    joined = [
        x,
        *(
            call(torch.ops.aten.cat.default, (parts, 0), value)
            for parts, value in zip(lasts, outer[1:], strict=True)
        ),
    ]
    for user in list(node.users):
        position: Any = user.args[1]
        user.replace_all_uses_with(joined[position])  # each takes one of the outputs
        graph.erase_node(user)
    graph.erase_node(node)
