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
def pooling(labels: Labels, call: Call) -> Any:
    """Label an operation on each channel (dimension 1) by itself."""
    units = labels.along(call.tensors[0], 1)
    # Some give the places of the maxima too.
    return pytree.tree_map_only(
        Tensor, lambda value: spread(units, concrete_shape(value), 1), call.node.meta["val"]
    )
