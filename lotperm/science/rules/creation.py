"""Tensors that are made from nothing: zeros, ones, full."""

from __future__ import annotations

from typing import Any

from lotperm.science.labels import Labels, fixed_outputs, spread
from lotperm.science.rules.registry import Call, rule


@rule("full", "new_full", "new_ones", "new_zeros", "ones", "zeros")
@rule("full_like", "ones_like", "zeros_like")
def creation(labels: Labels, call: Call) -> Any:
    """Label equal values: new units without weights, which may be added to or follow others."""
    dim = next((d for d, size in enumerate(call.shape) if d and size > 1), 0)
    if dim:
        return spread(labels.blank(call.shape[dim]), call.shape, dim)
    return fixed_outputs(call.node)
