"""Tensors that are created anew: zeros, ones, full."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lotperm.science.labels import Labels, fixed_outputs, spread
from lotperm.science.rules.registry import Call, rule

# These use only the type of the tensor that they are given.
OF_A_TYPE = ("new_empty", "new_full", "new_ones", "new_zeros")


@rule("empty", "full", "ones", "zeros", *OF_A_TYPE)
@rule("empty_like", "full_like", "ones_like", "zero", "zeros_like")
def creation(labels: Labels, call: Call) -> Any:
    """Label equal values as new units without weights, which may be added or joined to others."""
    ids = equal_values(labels, call.shape)
    return fixed_outputs(call.node) if ids is None else ids


def equal_values(labels: Labels, shape: torch.Size) -> Tensor | None:
    """Return ids for units without weights along a dimension after the first; None if all are 1."""
    dim = next((d for d, size in enumerate(shape) if d and size > 1), 0)
    return spread(labels.blank(shape[dim]), shape, dim) if dim else None
