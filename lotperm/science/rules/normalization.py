"""Normalizations, and other operations with parameters for each channel."""

from __future__ import annotations

import torch
from torch import Tensor

from lotperm.science.labels import Labels
from lotperm.science.rules.elementwise import align
from lotperm.science.rules.reductions import statistic
from lotperm.science.rules.registry import Call, rule


@rule("batch_norm", "instance_norm")
def batch_norm(labels: Labels, call: Call) -> Tensor:
    """Label a norm with statistics, scale and shift of each channel."""
    _per_channel(labels, call)
    return call.tensors[0]


@rule("prelu")
def prelu(labels: Labels, call: Call) -> Tensor:
    """Label a PReLU, with a slope for each channel or one for all."""
    _per_channel(labels, call)
    return call.tensors[0]


@rule("group_norm")
def group_norm(labels: Labels, call: Call) -> Tensor:
    """Label a norm with statistics of each block of channels."""
    channels = _per_channel(labels, call)
    count = call.arguments["num_groups"]
    if count < len(channels):  # otherwise each channel has its own statistics
        labels.derive(channels.view(count, -1))
    return call.tensors[0]


@rule("layer_norm", "rms_norm")
def layer_norm(labels: Labels, call: Call) -> Tensor:
    """Label a norm with statistics over the last dimensions, and scale and shift of each value."""
    dims = list(range(-len(call.arguments["normalized_shape"]), 0))
    out = align(labels, call.tensors)
    statistic(labels, call.tensors[0], dims)
    return out


def _per_channel(labels: Labels, call: Call) -> Tensor:
    """Tie parameters to the channels, dimension 1, and return the channels' ids."""
    x, *parameters = call.tensors
    if labels.is_mixed(x) and call.name == "batch_norm" and 1 in labels.varying(x):
        for ids in parameters:
            align(labels, [x, ids.view(-1, *[1] * (x.dim() - 2))])
        statistic(labels, x, [d for d in range(x.dim()) if d != 1])
        return torch.zeros(x.shape[1], dtype=torch.int64)
    if labels.crosses(x, 1):  # the channels are positions of units that lie along another dimension
        labels.because("has parameters by position, along another axis than the units")
        if call.name != "prelu":
            statistic(labels, x, [d for d in range(x.dim()) if d != 1])
        for ids in parameters:
            labels.fix(ids)
        return torch.zeros(x.shape[1], dtype=torch.int64)
    channels = labels.along(x, 1)
    for ids in parameters:
        if ids.numel() > 1:  # PReLU may have one slope for all
            labels.unify(ids, channels)
    return channels
