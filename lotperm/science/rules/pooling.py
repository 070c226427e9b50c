"""Pooling and upsampling: space changes, channels stay."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from lotperm.science.graphs import concrete_shape
from lotperm.science.labels import Labels, spread
from lotperm.science.rules.registry import Call, rule


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")
@rule("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices")
@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
@rule("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d")
@rule("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
@rule("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
def pooling(labels: Labels, call: Call) -> Any:
    """Label an operation on each channel (dimension 1) separately."""
    units = labels.along(call.tensors[0], 1)
    # Some operations also return the places of the maxima.
    return pytree.tree_map_only(
        Tensor, lambda value: spread(units, concrete_shape(value), 1), call.node.meta["val"]
    )


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "roi_align", "roi_pool")
def sampling(labels: Labels, call: Call) -> Any:
    """Label channels that are sampled at places, or in boxes, given by another tensor."""
    ids, places = call.tensors[:2]
    units = labels.along(ids, 1)
    labels.because("uses them as places")
    labels.fix(places)
    # Some operations also return the places of the maxima.
    return pytree.tree_map_only(
        Tensor, lambda value: spread(units, concrete_shape(value), 1), call.node.meta["val"]
    )


@rule("max_unpool2d", "max_unpool3d")
def unpooling(labels: Labels, call: Call) -> Any:
    """Label channels whose values are put back at the places of their maxima."""
    ids, places = call.tensors[:2]
    units = labels.along(ids, 1)
    labels.unify(labels.along(places, 1), units)
    return spread(labels.find(units), call.shape, 1)


@rule("im2col")
def patches(labels: Labels, call: Call) -> Tensor:
    """Label patches of images, whose values are listed channel by channel."""
    units = labels.along(call.tensors[0], 1)
    return spread(units.repeat_interleave(call.shape[1] // len(units)), call.shape, 1)


@rule("col2im")
def from_patches(labels: Labels, call: Call) -> Any:
    """Label the sum of patches, whose values are listed channel by channel."""
    rows = labels.along(call.tensors[0], 1).view(call.shape[1], -1)
    labels.unify(rows, rows[:, :1])
    return spread(labels.find(rows[:, 0]), call.shape, 1)
