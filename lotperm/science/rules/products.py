"""Products with a parameter: units in, new units out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lotperm.science.labels import Labels, spread
from lotperm.science.rules.registry import Call, Matrix, rule, unknown


class _Axes(NamedTuple):
    """Output and input axis of the parameter, and the dimension of the activation's units."""

    output: int
    input: int
    units: int


@rule("linear", matrix=1)
def linear(labels: Labels, call: Call) -> Any:
    """Label ``x @ w.T + b``, w of shape (out, in)."""
    return _product(labels, call, _Axes(output=0, input=1, units=-1))


@rule("matmul", matrix=1)
def matmul(labels: Labels, call: Call) -> Any:
    """Label ``x @ w``, w a parameter of shape (in, out)."""
    return _product(labels, call, _Axes(output=1, input=0, units=-1))


@rule("conv1d", "conv2d", "conv3d", matrix=1)
def convolution(labels: Labels, call: Call) -> Any:
    """Label a convolution, kernel of shape ``(out, in / groups, *spatial)``."""
    return _product(labels, call, _Axes(output=0, input=1, units=1))


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", matrix=1)
def transposed_convolution(labels: Labels, call: Call) -> Any:
    """Label a transposed convolution, kernel of shape ``(in, out / groups, *spatial)``."""
    return _product(labels, call, _Axes(output=1, input=0, units=1))


def _product(labels: Labels, call: Call, axes: _Axes) -> Any:
    x, weight = call.args[:2]
    if not isinstance(weight, Matrix) or not isinstance(x, Tensor):
        return unknown(labels, call)
    shape, groups = labels.shapes[weight.name], call.arguments.get("groups", 1)
    dims = x.dim() if axes.units == 1 else 2
    if len(shape) != dims:
        return unknown(labels, call)
    if _mixes_positions(labels, call, x, axes):
        return _mixed(labels, call, x, axes)
    units = labels.along(x, axes.units)
    labels.consume(units)
    if groups > 1 and axes.output == 1:
        out = _transposed_in_blocks(labels, weight.name, units, groups)
    elif 1 < groups == len(units):  # depthwise: no new units
        repeated = units.repeat_interleave(shape[0] // groups)
        out = labels.lie_on(weight.name, axes.output, repeated)
    else:
        height = shape[axes.output] // groups
        for i, block in enumerate(units.chunk(groups)):
            rows = (i * height, (i + 1) * height) if groups > 1 else None
            labels.lie_on(weight.name, axes.input, block, rows)
        out = labels.produce(weight.name, axes.output, shape[axes.output])
        # A unit that left its block would see other inputs.
        labels.keep_together(out.chunk(groups) if groups > 1 else ())
    if call.arguments.get("bias") is not None:
        labels.unify(call.arguments["bias"], out)
    return spread(out, call.shape, axes.units)


def _transposed_in_blocks(labels: Labels, weight: str, units: Tensor, groups: int) -> Tensor:
    """Label a grouped transposed convolution, kernel of shape ``(in, out / groups, *spatial)``."""
    labels.lie_on(weight, 0, units)
    width, height = labels.shapes[weight][1], len(units) // groups
    if height == 1:  # depthwise: no new units
        return units.repeat_interleave(width)
    labels.keep_together(units.chunk(groups))
    blocks = [
        labels.produce(weight, 1, width, (i * height, (i + 1) * height)) for i in range(groups)
    ]
    labels.keep_together(blocks)
    return torch.cat(blocks)


def _mixes_positions(labels: Labels, call: Call, x: Tensor, axes: _Axes) -> bool:
    """Return whether a product is over positions of units that lie along another dimension."""
    if not labels.crosses(x, axes.units):
        return False
    # A kernel that has an extent along the units mixes them too.
    spatial = [d - 2 for d in labels.varying(x) if d > 1] if axes.units == 1 else []
    kernel = labels.shapes[call.args[1].name][2:]
    same = x.shape[2:] == call.shape[2:]
    return all(kernel[d] == 1 and same for d in spatial)


def _mixed(labels: Labels, call: Call, x: Tensor, axes: _Axes) -> Tensor:
    """Label a product over positions: the units stay free, the positions don't."""
    labels.because("mixes positions, along another axis than the units that pass it")
    weight, dim = call.args[1].name, axes.units % x.dim()
    shape, groups = labels.shapes[weight], call.arguments.get("groups", 1)
    positions = torch.zeros(shape[axes.input], dtype=torch.int64)
    height = shape[0] // groups
    for i in range(groups if axes.input == 1 else 1):
        rows = (i * height, (i + 1) * height) if groups > 1 and axes.input == 1 else None
        labels.lie_on(weight, axes.input, positions, rows)
    out = labels.produce(weight, axes.output, shape[axes.output])
    labels.fix(out)
    if call.arguments.get("bias") is not None:
        labels.fix(call.arguments["bias"])
    return x.narrow(dim, 0, 1).expand(call.shape)
