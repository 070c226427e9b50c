"""Products with a parameter, which take units as input and produce new ones."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lotperm.science.labels import LARGE, Labels, spread
from lotperm.science.matrices import Joined, Matrix
from lotperm.science.rules.contractions import batched, contract
from lotperm.science.rules.elementwise import align
from lotperm.science.rules.reductions import statistic
from lotperm.science.rules.registry import Call, rule, unknown


class _Axes(NamedTuple):
    """The parameter's output and input axes, and the dimension of the activation's units.

    A kernel has an axis for each dimension of the activation.
    """

    output: int
    input: int
    units: int
    kernel: bool = False


@rule("linear", matrix=1)
def linear(labels: Labels, call: Call) -> Any:
    """Label ``x @ w.T + b``, w of shape (out, in), which may be computed from activations."""
    x, weight = call.args[:2]
    if isinstance(x, Tensor) and isinstance(weight, Tensor) and min(x.dim(), weight.dim()) > 1:
        out, bias = contract(labels, x, weight.transpose(-1, -2)), call.arguments["bias"]
        return out if bias is None else align(labels, [out, bias])
    return _product(labels, call, _Axes(output=0, input=1, units=-1))


@rule("dot", "matmul", "mm", "mv", matrix=(0, 1))
def matmul(labels: Labels, call: Call) -> Any:
    """Label ``x @ w`` or ``w @ x``, w of shape (in, out) or (out, in)."""
    x, weight = (
        w.values(labels) if isinstance(w, Matrix) and len(w.shape) == 1 else w for w in call.args
    )
    if isinstance(x, Tensor) and isinstance(weight, Tensor):
        return contract(labels, x, weight)
    if any(isinstance(w, Matrix) and len(w.shape) > 2 for w in call.args):
        return batched(labels, call)
    if isinstance(x, Matrix):
        if not isinstance(weight, Tensor) or weight.dim() < 2:
            return unknown(labels, call)
        return _multiply(labels, call, weight, x, _Axes(output=0, input=1, units=-2))
    return _product(labels, call, _Axes(output=1, input=0, units=-1))


@rule("bmm", matrix=(0, 1))
def batched_matmul(labels: Labels, call: Call) -> Any:
    """Label ``x @ y`` of two batches of matrices, one of which may be weights."""
    return matmul(labels, call)


@rule("baddbmm", matrix=(1, 2))
def added_matmul(labels: Labels, call: Call) -> Any:
    """Label ``a + x @ y``, as in attention scores with a mask, or in a layer of several networks."""
    added, x, y = call.args[:3]
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        product = contract(labels, x, y)
    else:
        product = batched(labels, dataclasses.replace(call, args=(x, y)))
    return align(labels, [product, added])


@rule("addmm", matrix=2)
def addmm(labels: Labels, call: Call) -> Any:
    """Label ``b + x @ w``, w of shape (in, out)."""
    bias, x, weight = call.args
    if not isinstance(weight, Matrix) or not isinstance(x, Tensor):
        return unknown(labels, call)
    return align(
        labels, [_multiply(labels, call, x, weight, _Axes(output=1, input=0, units=-1)), bias]
    )


@rule("conv1d", "conv2d", "conv3d", matrix=1)
def convolution(labels: Labels, call: Call) -> Any:
    """Label a convolution with a kernel of shape ``(out, in / groups, *spatial)``."""
    if isinstance(call.args[0], Tensor) and isinstance(call.args[1], Tensor):
        return _of_activations(labels, call)
    whole = _over_all_units(labels, call)
    if whole is not None:
        return whole
    return _product(labels, call, _Axes(output=0, input=1, units=1, kernel=True))


@rule("deform_conv2d", matrix=1)
def deformable_convolution(labels: Labels, call: Call) -> Any:
    """Label a convolution whose places are moved, and weighed, by other activations."""
    out = _product(labels, call, _Axes(output=0, input=1, units=1, kernel=True))
    labels.because("uses them as places")
    for places in (call.args[2], call.arguments["mask"]):
        labels.fix(places)
    if call.arguments["offset_groups"] > 1:  # each block of channels has places of its own
        labels.fix(call.args[0])
    return out


def _of_activations(labels: Labels, call: Call) -> Any:
    """Label a convolution whose kernel is computed from activations, such as one for each example.

    The examples are then its groups.
    """
    x, weight = call.args[:2]
    groups, dims = call.arguments["groups"], list(range(1, weight.dim()))
    space = (1,) * (weight.dim() - 2)
    if x.dim() != weight.dim() or not set(labels.varying(x)) <= {1}:
        return unknown(labels, call)
    for ids in (x, weight):
        if labels.may_move(ids):
            labels.consume(ids)
    # The places in a kernel have an order: a unit is all values at them.
    first = weight.flatten(2)[..., :1].unflatten(2, space)
    labels.unify(weight, first.expand(weight.shape))
    kernels = labels.find(first).unflatten(0, (groups, -1))
    channels = x[0].flatten(1)[:, 0].view(groups, 1, -1, *space)
    if not {0} & {*labels.varying(channels), *labels.varying(kernels)}:
        channels, kernels = channels[:1], kernels[:1]  # the same units in each
    sums = [
        statistic(labels, align(labels, [units, kernel]), dims, "scores")
        for units, kernel in zip(channels, kernels, strict=True)
    ]
    out = torch.cat([ids.flatten(1)[:, 0] for ids in sums])
    out = out.repeat(call.shape[1] // len(out))
    if call.arguments.get("bias") is not None:
        out = align(labels, [out, call.arguments["bias"]])
    return spread(out, call.shape, 1)


def _over_all_units(labels: Labels, call: Call) -> Tensor | None:
    """Label a convolution over tokens whose kernel spans the whole dimension of their units.

    Return None for any other convolution.
    """
    x, weight = call.args[:2]
    if not isinstance(x, Tensor) or not isinstance(weight, Matrix) or not labels.may_move(x):
        return None
    varying, padding = labels.varying(x), call.arguments["padding"]
    if call.arguments["groups"] > 1 or len(varying) != 1 or varying[0] < 2:
        return None
    (dim,) = varying
    if isinstance(padding, str):
        padding = [int(padding != "valid")]
    padded = padding[dim - 2] if len(padding) > 1 else padding[0]
    if padded or weight.shape[dim] != x.shape[dim]:
        return None
    units = labels.along(x, dim)
    labels.consume(units)
    weight.lie_on(labels, dim, units)
    weight.lie_on(labels, 1, torch.zeros(weight.shape[1], dtype=torch.int64))
    out = weight.produce(labels, 0, weight.shape[0])
    _lie_on_bias(labels, call, out)
    return spread(out, call.shape, 1)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", matrix=1)
def transposed_convolution(labels: Labels, call: Call) -> Any:
    """Label a transposed convolution with a kernel of shape ``(in, out / groups, *spatial)``."""
    return _product(labels, call, _Axes(output=1, input=0, units=1, kernel=True))


def _product(labels: Labels, call: Call, axes: _Axes) -> Any:
    x, weight = call.args[:2]
    if not isinstance(weight, Matrix) or not isinstance(x, Tensor):
        return unknown(labels, call)
    return _multiply(labels, call, x, weight, axes)


def _multiply(labels: Labels, call: Call, x: Tensor, weight: Matrix, axes: _Axes) -> Any:
    shape, groups = weight.shape, call.arguments.get("groups", 1)
    dims = x.dim() if axes.kernel else 2
    if len(shape) != dims:
        return unknown(labels, call)
    if labels.is_blank(x):  # equal values can be units along any dimension
        x = spread(labels.blank(x.shape[axes.units]), x.shape, axes.units)
    # A kernel larger than 1 uses the order of positions, and mixtures of them have no order.
    if labels.is_mixed(x) and axes.kernel and set(shape[2:]) != {1}:
        labels.unmix(x)
    varying = labels.varying(x)
    several = labels.is_mixed(x) and len(varying) > 1 and axes.units % x.dim() in varying
    if several or _mixes_positions(labels, call, x, weight, axes):
        return _mixed(labels, call, x, weight, axes)
    # From here on, this is the usual product over units, the same at every position.
    units = labels.along(x, axes.units)
    labels.consume(units)
    if 1 < groups < len(units) and (blocks := _blocks(labels, weight, units, groups)) is not None:
        out = _in_blocks(labels, weight, units.view(groups, -1), blocks, axes)
    elif groups > 1 and axes.output == 1:
        out = _transposed_in_blocks(labels, weight, units, groups)
    elif groups > 1 and shape[0] == groups == len(units):  # depthwise: no new units
        out = weight.lie_on(labels, axes.output, units)
    elif 1 < groups == len(units) and labels.may_move(units):
        out = _of_channels(labels, weight.produce(labels, axes.output, shape[0]), units)
    else:
        # Each block of inputs has its own output rows.
        height = shape[axes.output] // groups
        for i, block in enumerate(units.chunk(groups)):
            rows = (i * height, (i + 1) * height) if groups > 1 else None
            weight.lie_on(labels, axes.input, block, rows)
        out = weight.produce(labels, axes.output, shape[axes.output])
        # A unit that left its block would see other inputs.
        labels.keep_together(out.chunk(groups) if groups > 1 else ())
    _lie_on_bias(labels, call, out)
    return spread(out, call.shape, axes.units)


def _lie_on_bias(labels: Labels, call: Call, units: Tensor) -> None:
    """Record that the units that a product makes lie on its bias, if it has one."""
    if call.arguments.get("bias") is not None:
        labels.unify(call.arguments["bias"], units)


def _of_channels(labels: Labels, out: Tensor, units: Tensor) -> Tensor:
    """Label the filters of each channel, which move with it and may trade places within it."""
    filters, moving = out.view(len(units), -1), ~labels.constant(labels.find(units))
    labels.keep_together(filters[~moving])
    labels.relate(filters[moving], units[moving, None].expand_as(filters[moving]), "weighed")
    return out


def _blocks(labels: Labels, weight: Matrix, units: Tensor, groups: int) -> Tensor | None:
    """Return an id for each block of inputs, or None if they can't trade places as wholes."""
    known = all(axes[0] == (0,) and axes[1] in ((1,), ()) for _, axes in weight.parts)
    if not known or weight.part is not None or isinstance(weight, Joined):
        return None
    if math.prod(weight.shape[:2]) > LARGE:  # each single weight needs an id
        return None
    blocks = labels.derive(units.view(groups, -1))
    return blocks if labels.may_move(blocks) else None


def _in_blocks(
    labels: Labels, weight: Matrix, units: Tensor, blocks: Tensor, axes: _Axes
) -> Tensor:
    """Label a grouped convolution whose blocks, inputs with their outputs, may trade places.

    Where a single weight goes depends on both of its units: along the second axis, the same place
    means another unit in each block. So weights have ids of their own, which belong to the units.
    """
    height = weight.shape[0] // len(blocks) if axes.output == 0 else weight.shape[1]
    out = labels.fresh(len(blocks) * height).view(len(blocks), -1)
    labels.relate(out, blocks[:, None].expand_as(out), "inside")
    rows, columns = (out, units) if axes.output == 0 else (units, out)
    values = labels.pair(rows[:, :, None], columns[:, None], "weight").flatten()
    own = {name for name, along in weight.parts if along[1]}
    for name, along in weight.parts:
        if along[1]:
            labels.lie_on(name, (0, 1), values)
        elif name not in own:  # such as the lengths of the rows, which go where these go
            labels.lie_on(name, 0, rows.flatten())
    # Units lie on no axis of such weights, but these are what makes them.
    labels.made_by(weight.name, out.flatten())
    return labels.find(out.flatten())


def _transposed_in_blocks(labels: Labels, weight: Matrix, units: Tensor, groups: int) -> Tensor:
    """Label a grouped transposed convolution with a kernel like `transposed_convolution`'s."""
    width, height = weight.shape[1], len(units) // groups
    if height == 1 < width and labels.may_move(units):
        # A unit is a place along both axes, so it moves with its row.
        return _of_channels(labels, weight.produce(labels, (0, 1), len(units) * width), units)
    weight.lie_on(labels, 0, units)
    if height == width == 1:  # depthwise: no new units
        return units
    labels.keep_together(units.chunk(groups))
    blocks = [
        weight.produce(labels, 1, width, (i * height, (i + 1) * height)) for i in range(groups)
    ]
    labels.keep_together(blocks)
    return torch.cat(blocks)


def _mixes_positions(labels: Labels, call: Call, x: Tensor, weight: Matrix, axes: _Axes) -> bool:
    """Return whether a product sums over positions, with units along another dimension."""
    if not labels.crosses(x, axes.units):
        return False
    # A kernel larger than 1 along the units mixes them too.
    spatial = [d - 2 for d in labels.varying(x) if d > 1] if axes.kernel else []
    kernel = weight.shape[2:]
    same = x.shape[2:] == call.shape[2:]
    return all(kernel[d] == 1 and same for d in spatial)


def _mixed(labels: Labels, call: Call, x: Tensor, weight: Matrix, axes: _Axes) -> Tensor:
    """Label a product over positions: units may still move, and each output is another mixture.

    Positions of the input can't move, but mixtures may, until they meet positions again.
    """
    dim = axes.units % x.dim()
    shape, groups = weight.shape, call.arguments.get("groups", 1)
    if labels.is_mixed(x) and groups == 1 and dim in labels.varying(x):
        mixtures = labels.fresh(shape[axes.input])
        weight.lie_on(labels, axes.input, mixtures)
        labels.consume(mixtures)
        aligned = mixtures.view([-1 if d == dim else 1 for d in range(x.dim())])
        units = statistic(labels, align(labels, [x, aligned]), [dim], "scores")
    else:
        positions = torch.zeros(shape[axes.input], dtype=torch.int64)
        height = shape[0] // groups
        for i in range(groups if axes.input == 1 else 1):
            rows = (i * height, (i + 1) * height) if groups > 1 and axes.input == 1 else None
            weight.lie_on(labels, axes.input, positions, rows)
        if labels.is_mixed(x):
            labels.fix(x)
        units = x.narrow(dim, 0, 1)
    labels.because("mixes positions, along another axis than the units that pass it")
    out = weight.produce(labels, axes.output, shape[axes.output])
    _lie_on_bias(labels, call, out)
    once = tuple(slice(None) if d in labels.varying(units) else slice(1) for d in range(x.dim()))
    # Each pair of a unit and a mixture needs an id.
    few = units[once].numel() * len(out) <= LARGE
    if groups > 1 or not few or not labels.may_move(units) or not labels.may_move(out):
        labels.fix(out)
        return units.expand(call.shape)
    mixture = out.view([-1 if d == dim else 1 for d in range(x.dim())])
    return labels.pair(units[once], mixture, "mixed").expand(call.shape)
