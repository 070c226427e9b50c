"""PyTorch operations that a compiled step computes in another way, as this suits CPUs better.

The compiler makes loops of what an operation is made of. Each function here gives the same values
as the operation that it stands for, up to rounding, in fewer or shorter loops; gradients aren't
affected, since the step is rewritten after they were taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _product_then_bias(
    bias: Tensor, x: Tensor, weight: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """Compute `torch.baddbmm` as a product and a sum.

    The compiler fuses the sum with what follows into one loop. As a single operation, PyTorch would
    first copy the bias into the result, which takes a twentieth of a step of 8 MLPs.
    """
    product = alpha * torch.bmm(x, weight)
    return product if beta == 0 else product + beta * bias


def _once(channels: Tensor) -> Tensor:
    """Have a number for each channel computed in a loop of its own.

    Else the compiler puts its computation into every loop that reads it: a division and a square
    root for every activation, which take longer than all the rest.
    """
    # Imported here because it loads the compiler, which most commands don't need.
    from torch._inductor.inductor_prims import force_stride_order

    ordered: Tensor = force_stride_order(channels, channels.stride())
    return ordered


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `torch.native_batch_norm` in one pass for the statistics and one for the result.

    PyTorch's own rewriting takes the variance by Welford's recurrence, in which every number waits
    for a division by the one before. Here it is E[d²] − E[d]², which has no such chain, where d is
    the distance from the channel's first value: of a mean far from zero, no digits are lost (Chan,
    Golub and LeVeque, 1983).
    """
    if not training or weight is None or bias is None:
        return NotImplemented
    if running_mean is None or running_var is None:
        return NotImplemented
    shape, others = _around(x)
    values = _exact(x)
    count = x.numel() // x.shape[1]
    first = values[0]
    while first.dim() > 1:
        first = first[..., 0]
    distance = values - first.view(shape)
    offset = distance.sum(others) / count
    variance = (distance.square().sum(others) / count - offset.square()).clamp_min(0)
    mean, inverse = _once(first + offset), _once((variance + eps).rsqrt())
    # As in PyTorch: normalize by the biased variance, average the unbiased one.
    for running, now in ((running_mean, mean), (running_var, variance * (count / (count - 1)))):
        running.copy_(momentum * now + (1 - momentum) * running)
    scale = _once(weight * inverse)
    shift = _once(bias - mean * scale)
    return (values * scale.view(shape) + shift.view(shape)).to(x.dtype), mean, inverse


def _batch_norm_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor | None,
    inverse: Tensor | None,
    training: bool,
    eps: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `torch.native_batch_norm_backward` in one pass for sums and one for the result.

    The gradient with respect to x is linear in the gradient of the output and in x, with factors
    that are the same for all values of a channel.
    """
    if not training or weight is None or mean is None or inverse is None:
        return NotImplemented
    shape, others = _around(x)
    count = x.numel() // x.shape[1]
    upstream, values = _exact(gradient), _exact(x)
    total = upstream.sum(others)
    along = (upstream * (values - mean.view(shape))).sum(others) * inverse
    scale = _once(weight * inverse)
    slope = _once(-scale * inverse * along / count)
    shift = _once(-scale * total / count - slope * mean)
    result = upstream * scale.view(shape) + values * slope.view(shape) + shift.view(shape)
    return result.to(x.dtype), along, total


def _around(x: Tensor) -> tuple[tuple[int, ...], list[int]]:
    """Return the shape of a number for each channel beside x, and the dimensions of the rest."""
    return (1, -1, *[1] * (x.dim() - 2)), [0, *range(2, x.dim())]


def _exact(x: Tensor) -> Tensor:
    """Return x in the precision in which statistics are taken."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


ON_ANY_DEVICE: dict[Any, Callable[..., Any]] = {torch.ops.aten.baddbmm.default: _product_then_bias}
"""PyTorch operations -> what the compiler gets in their place."""

ON_CPU: dict[Any, Callable[..., Any]] = ON_ANY_DEVICE | {
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.native_batch_norm_backward.default: _batch_norm_backward,
}
"""The same for CPUs. A GPU's loops wait for memory, so that what is computed in them is free."""
