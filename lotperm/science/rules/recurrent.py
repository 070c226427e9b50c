"""Recurrent layers, whose gates and states move with their units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lotperm.science.graphs import concrete_shape
from lotperm.science.labels import Labels, spread
from lotperm.science.matrices import Matrix
from lotperm.science.rules.registry import Call, rule, unknown

# Kind -> number of gates, in each of which a unit has a row.
_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule(*_GATES, *(f"packed_{kind}" for kind in _GATES), matrix=tuple(range(1, 64)))
def recurrent(labels: Labels, call: Call) -> Any:
    """Label a recurrent layer of one or two directions.

    Each unit has a row in every gate, and a column in the weights that the gates apply to the
    previous state. An LSTM with projections has cells and, separately, projected units.
    """
    arguments = call.arguments
    x, params = arguments.get("input"), arguments.get("params")
    if not isinstance(x, Tensor) or params is None or arguments.get("num_layers") != 1:
        return unknown(labels, call)
    gates = _GATES[call.name.removeprefix("packed_")]
    state = [arguments["hx"]] if isinstance(arguments["hx"], (Tensor, Matrix)) else arguments["hx"]
    directions = 2 if arguments["bidirectional"] else 1
    per = len(params) // directions
    units: list[Tensor] = []
    cells: list[Tensor] = []
    inputs = labels.along(x, -1)
    labels.consume(inputs)
    for direction in range(directions):
        own = params[direction * per : (direction + 1) * per]
        if not all(isinstance(w, Matrix) for w in own):
            return unknown(labels, call)
        # In PyTorch's order: `rest` holds two biases or none, and a projection or none.
        w_ih, w_hh, *rest = own
        size = w_ih.shape[0] // gates
        cell = _gates(labels, w_ih.produce(labels, 0, w_ih.shape[0]), size)
        w_hh.lie_on(labels, 0, cell.repeat(gates))
        w_ih.lie_on(labels, 1, inputs)
        hidden = cell
        if len(rest) % 2:  # the projection
            rest[-1].lie_on(labels, 1, cell)
            hidden = rest.pop().produce(labels, 0, w_hh.shape[1])
        w_hh.lie_on(labels, 1, hidden)
        labels.consume(hidden)
        for bias in rest:
            bias.lie_on(labels, 0, cell.repeat(gates))
        units.append(hidden)
        cells.append(cell)
    for initial, ids in zip(state, (units, cells), strict=False):
        for number, unit in enumerate(ids):
            if isinstance(initial, Matrix):
                _learned(labels, initial, number, unit)
            elif not labels.is_blank(initial[number]):  # zeros are the same for all units
                labels.unify(initial[number], unit)
    values = pytree.tree_leaves(call.node.meta["val"])
    output = spread(labels.find(torch.cat(units)), concrete_shape(values[0]), -1)
    last = [
        labels.find(torch.stack(ids))[:, None].expand(concrete_shape(value))
        for ids, value in zip((units, cells), values[1:], strict=False)
    ]
    return (output, *last)


def _learned(labels: Labels, state: Matrix, direction: int, units: Tensor) -> None:
    """Label an initial state that is a parameter, equal for all examples."""
    own = state.selected(0, direction) if state.shape[0] > 1 else state
    if own is None:
        labels.fix(units)
    else:
        own.lie_on(labels, len(own.shape) - 1, units)


def _gates(labels: Labels, rows: Tensor, size: int) -> Tensor:
    """Unite the rows of each unit in all gates, and return the units' ids."""
    rows = rows.view(-1, size)
    labels.unify(rows, rows[:1])
    return labels.find(rows[0])


@rule(*(f"{kind}_cell" for kind in _GATES), matrix=tuple(range(1, 8)))
def cell(labels: Labels, call: Call) -> Any:
    """Label a single step of a recurrent layer, like `recurrent`."""
    arguments = call.arguments
    x, kind = arguments["input"], call.name.removesuffix("_cell")
    weights: list[Any] = [arguments.get(name) for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    if not isinstance(x, Tensor) or any(isinstance(w, Tensor) for w in weights):
        return unknown(labels, call)
    w_ih, w_hh, *biases = weights
    inputs = labels.along(x, -1)
    labels.consume(inputs)
    size = w_ih.shape[0] // _GATES[kind]
    units = _gates(labels, w_ih.produce(labels, 0, w_ih.shape[0]), size)
    rows = units.repeat(_GATES[kind])
    w_hh.lie_on(labels, 0, rows)
    w_ih.lie_on(labels, 1, inputs)
    w_hh.lie_on(labels, 1, units)
    labels.consume(units)
    for bias in biases:
        if bias is not None:
            bias.lie_on(labels, 0, rows)
    state = arguments["hx"]
    for initial in [state] if isinstance(state, (Tensor, Matrix)) else state:
        if isinstance(initial, Matrix):
            initial.lie_on(labels, len(initial.shape) - 1, units)
        elif not labels.is_blank(initial):
            labels.unify(initial, units)
    return pytree.tree_map_only(
        Tensor,
        lambda value: spread(labels.find(units), concrete_shape(value), -1),
        call.node.meta["val"],
    )
