"""The precision that a forward pass computes in."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from lotperm.config.parameters import Precision


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which products are in bfloat16 if a recipe says so, all else in float32.

    Parameters
    ----------
    device : torch.device
        Where the products are computed.
    precision : "float32" or "bfloat16"
        As in `lotperm.config.experiment.Recipe`; with "float32" nothing is changed.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    # Every weight is used once a step: a cache of casts would only be in the way of a CUDA graph.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
