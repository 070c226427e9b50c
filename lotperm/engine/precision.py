"""The precision that a network computes in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from lotperm.config.choices import Precision
from lotperm.science.precision import products


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which products are in bfloat16 if a recipe says so, all else in float32.

    Parameters
    ----------
    device : torch.device
        Where the products are computed.
    precision : "float32", "tf32" or "bfloat16"
        As in `lotperm.config.experiment.Recipe`; only "bfloat16" changes anything here.
    """
    if precision != "bfloat16":
        return contextlib.nullcontext()
    # Every weight is used once a step: a cache of casts would only be in the way of a CUDA graph.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


@contextlib.contextmanager
def settings(device: torch.device, precision: Precision) -> Iterator[None]:
    """Set what PyTorch has one setting of for the whole process, as training needs it.

    On CUDA, float32 numbers are multiplied as the name of the precision says: by itself PyTorch
    takes TF32 for convolutions and calls that float32. And cuDNN tries out which of its kernels are
    the fastest. On a CPU nothing is changed.

    Parameters
    ----------
    device : torch.device
        Where the networks are.
    precision : "float32", "tf32" or "bfloat16"
        As in `lotperm.config.experiment.Recipe`.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.benchmark
    # The trial costs a little for every new shape; here there are few.
    torch.backends.cudnn.benchmark = True
    try:
        with products("tf32" if precision == "tf32" else "ieee"):
            yield
    finally:
        torch.backends.cudnn.benchmark = before
