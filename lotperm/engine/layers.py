"""Layers of M networks, run as one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lotperm.parallel import distributed

_ALIGNMENT = 16
"""Matrix products are fastest if sizes are multiples of this, a cache line of float32 or the tile
of a tensor core.
"""


def nested(root: nn.Module, path: str) -> nn.Module:
    """Return the submodule at a dotted path, creating missing ones as plain modules."""
    for part in path.split(".") if path else ():
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root


def _stacked(
    layer: nn.Linear | nn.Conv1d | nn.Conv2d, members: int
) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Return zero parameters for the weights and biases of M layers, members first."""

    def room(parameter: Tensor) -> nn.Parameter:
        # Zeros: `StackedNetworks` fills in the members' weights by name.
        return nn.Parameter(parameter.new_zeros(members, *parameter.shape))

    return room(layer.weight), None if layer.bias is None else room(layer.bias)


class StackedLinear(nn.Module):
    """M linear layers: (M, B, ..., n_in) -> (M, B, ..., n_out)."""

    def __init__(self, layer: nn.Linear, members: int) -> None:
        super().__init__()
        self.weight, self.bias = _stacked(layer, members)

    def forward(self, x: Tensor) -> Tensor:
        """Map (M, B, ..., n_in) to (M, B, ..., n_out)."""
        if x.dim() > 3:
            # To a linear layer, examples and positions alike are rows.
            return self(x.flatten(1, -2)).unflatten(1, x.shape[1:-1])
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        units = weight.shape[1]
        # Matrix products with, say, 10 columns are slower than with 16, so a classifier gets idle
        # units for the moment.
        idle = -units % _ALIGNMENT
        if idle:
            weight = F.pad(weight, (0, 0, 0, idle))
            bias = None if bias is None else F.pad(bias, (0, idle))
        weight = weight.transpose(1, 2)
        # One operation for all members: each member's B rows are multiplied by its own matrix.
        y = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)
        return y[..., :units] if idle else y


def _in_2d(size: Any, other: int = 1) -> tuple[Any, ...]:
    """Turn a size for signals into one for images of height 1; keep sizes for images."""
    sizes = size if isinstance(size, tuple) else (size,)
    return sizes if len(sizes) == 2 else (other, *sizes)


class StackedConv(nn.Module):
    """M convolutions as one grouped convolution: (B, M·C_in, H, W) -> (B, M·C_out, H, W).

    Signals are treated as images with H = 1.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, members: int) -> None:
        super().__init__()
        self.weight, self.bias = _stacked(layer, members)
        padding = layer.padding if isinstance(layer.padding, str) else _in_2d(layer.padding, 0)
        self.geometry: dict[str, Any] = {
            "stride": _in_2d(layer.stride),
            "padding": padding,
            "dilation": _in_2d(layer.dilation),
            # A group sees only the channels of its own member.
            "groups": layer.groups * members,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, M·C_in, H, W) to (B, M·C_out, H, W)."""
        weight = self.weight.flatten(0, 1)
        # Kernels of 1-D convolutions get the height 1 of the images that signals became.
        if weight.dim() == 3:
            weight = weight.unsqueeze(2)
        bias = None if self.bias is None else self.bias.flatten()
        return F.conv2d(
            x, weight.contiguous(memory_format=torch.channels_last), bias, **self.geometry
        )


class StackedBatchNorm(nn.Module):
    """M batch norms as one.

    It normalizes the M·C channels of (B, M·C, ...), or each member's C channels of (M, B, C, ...).

    With several ranks, the statistics are over all ranks' examples, as in SyncBatchNorm, but by the
    same formula on every device (`_synchronized`).
    """

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d, members: int, folded: bool) -> None:
        super().__init__()
        # `plain_norm` rules out any other.
        assert layer.momentum is not None
        self.members, self.folded, self.eps, self.momentum = (
            members,
            folded,
            layer.eps,
            layer.momentum,
        )
        self.weight = nn.Parameter(layer.weight.new_ones(members, layer.num_features))
        self.bias = nn.Parameter(layer.weight.new_zeros(members, layer.num_features))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        # Each member's statistics as in its own state dict, including the count of batches: names
        # and shapes must match when weights are loaded and returned.
        self.register_buffer("running_mean", layer.weight.new_zeros(members, layer.num_features))
        self.register_buffer("running_var", layer.weight.new_ones(members, layer.num_features))
        self.register_buffer("num_batches_tracked", torch.zeros(members, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize activations; the result has the layout of x."""
        # (M, B, C, ...) -> (B, M·C, ...), so that `batch_norm` sees one long row of channels.
        if not self.folded:
            x = x.transpose(0, 1).flatten(1, 2)
        # `StackedNetworks.count_batches` counts; here that would be another kernel at every step.
        if self.training and distributed.world_size() > 1:
            x = self._synchronized(x)
        else:
            # Flattened buffers are views, so the running statistics are updated in place.
            x = F.batch_norm(
                x,
                self.running_mean.flatten(),
                self.running_var.flatten(),
                self.weight.flatten(),
                self.bias.flatten(),
                self.training,
                self.momentum,
                self.eps,
            )
        return x if self.folded else x.unflatten(1, (self.members, -1)).transpose(0, 1)

    def _synchronized(self, x: Tensor) -> Tensor:
        """Normalize (B, M·C, ...) by the statistics of all ranks, whose shares are equal."""
        ranks, shape = distributed.world_size(), (1, -1, *[1] * (x.dim() - 2))
        # Under autocast, x may be bfloat16, which is too coarse for statistics.
        values = x.to(self.weight.dtype)
        variance, mean = torch.var_mean(values, [0, *range(2, x.dim())], correction=0)
        # E[x²] − E[x]² loses digits if the mean is large; float64 has enough of them.
        mean, variance = mean.double(), variance.double()
        mean, square = distributed.total(torch.stack([mean, variance + mean.square()])) / ranks
        variance = square - mean.square()
        # As in PyTorch: normalize by the biased variance, average the unbiased one.
        with torch.no_grad():
            count = ranks * values.numel() / values.shape[1]
            unbiased = variance * (count / max(count - 1, 1))
            for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.mul_(1 - self.momentum).add_(
                    now.view_as(running).to(running), alpha=self.momentum
                )
        # Scale and shift are computed first, so that there is only one pass over the activations.
        scale = self.weight.flatten() * (variance + self.eps).rsqrt().to(values.dtype)
        shift = self.bias.flatten() - mean.to(values.dtype) * scale
        return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(x.dtype)


def plain_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> bool:
    """Return whether a batch norm is of the usual kind, the only one that can be stacked."""
    # Without a momentum, PyTorch averages over all batches since the first.
    return layer.affine and layer.track_running_stats and layer.momentum is not None


def fold(x: Tensor) -> Tensor:
    """Fold (B, M, C, H, W) into (B, M·C, H, W), channels_last; signals become images of height 1.

    Grouped convolutions of images in this layout are a third faster than those of signals.
    """
    x = x.flatten(1, 2)
    return (x.unsqueeze(2) if x.dim() == 3 else x).contiguous(memory_format=torch.channels_last)


def pool_in_2d(pool: nn.Module) -> nn.Module:
    """Turn a pooling of signals into one of images of height 1."""
    match pool:
        case nn.AdaptiveAvgPool1d():
            return nn.AdaptiveAvgPool2d(_in_2d(pool.output_size))
        case nn.MaxPool1d():
            padding, dilation = _in_2d(pool.padding, 0), _in_2d(pool.dilation)
            return nn.MaxPool2d(
                _in_2d(pool.kernel_size),
                _in_2d(pool.stride),
                padding,
                dilation,
                ceil_mode=pool.ceil_mode,
            )
        case nn.AvgPool1d():
            sizes = (_in_2d(pool.kernel_size), _in_2d(pool.stride), _in_2d(pool.padding, 0))
            return nn.AvgPool2d(*sizes, pool.ceil_mode, pool.count_include_pad)
    return pool
