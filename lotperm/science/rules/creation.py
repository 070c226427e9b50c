"""Tensors that are made from nothing: zeros, ones, full."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lotperm.science.labels import Labels, fixed_outputs, spread
from lotperm.science.rules.registry import Call, rule

# These take of a tensor its type alone.
OF_A_TYPE = ("new_empty", "new_full", "new_ones", "new_zeros")


@rule("empty", "full", "ones", "zeros", *OF_A_TYPE)
@rule("empty_like", "full_like", "ones_like", "zero", "zeros_like")
def creation(labels: Labels, call: Call) -> Any:
    """Label equal values: new units without weights, which may be added to or follow others."""
    ids = equal_values(labels, call.shape)
    return fixed_outputs(call.node) if ids is None else ids


def equal_values(labels: Labels, shape: torch.Size) -> Tensor | None:
    """Return ids for units without weights, along one dimension; None if there is none."""
    dim = next((d for d, size in enumerate(shape) if d and size > 1), 0)
    return spread(labels.blank(shape[dim]), shape, dim) if dim else None
