"""Products with a parameter: units in, new units out."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from lotperm.science.labels import Labels, spread
from lotperm.science.rules.registry import Call, Matrix, no_rule, rule, unknown


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
    """Label a transposed convolution of one group, kernel of shape ``(in, out, *spatial)``."""
    return _product(labels, call, _Axes(output=1, input=0, units=1))


def _product(labels: Labels, call: Call, axes: _Axes) -> Any:
    x, weight = call.args[:2]
    if not isinstance(weight, Matrix) or not isinstance(x, Tensor):
        return unknown(labels, call)
    shape, groups = labels.shapes[weight.name], call.arguments.get("groups", 1)
    dims = x.dim() if axes.units == 1 else 2
    if len(shape) != dims or (groups > 1 and axes.output == 1):
        raise no_rule(call.node)
    units = labels.along(x, axes.units)
    if 1 < groups == len(units):  # depthwise: no new units
        repeated = units.repeat_interleave(shape[0] // groups)
        out = labels.lie_on(weight.name, axes.output, repeated)
    else:
        height = shape[axes.output] // groups
        for i, block in enumerate(units.chunk(groups)):
            rows = (i * height, (i + 1) * height) if groups > 1 else None
            labels.lie_on(weight.name, axes.input, block, rows)
        out = labels.lie_on(weight.name, axes.output, labels.fresh(shape[axes.output]))
        # A unit that left its block would see other inputs.
        labels.keep_together(out.chunk(groups) if groups > 1 else ())
    if call.arguments.get("bias") is not None:
        labels.unify(call.arguments["bias"], out)
    return spread(out, call.shape, axes.units)
