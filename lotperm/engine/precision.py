"""The precision in which networks compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from lotperm.config.choices import Precision
from lotperm.engine import bfloat16
from lotperm.science.precision import products


def products_in(
    device: torch.device, precision: Precision
) -> contextlib.AbstractContextManager[Any]:
    """Return a context for forward and backward passes, in which bfloat16 products are fast.

    Parameters
    ----------
    device : torch.device
        Where the products are computed.
    precision : "float32", "tf32" or "bfloat16"
        As in `lotperm.config.experiment.Recipe`; only "bfloat16" changes anything here, and only on
        processors that can't multiply such numbers.
    """
    if bfloat16.computed_in_float32(device, precision):
        return bfloat16.InFloat32()
    return contextlib.nullcontext()


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which products are in bfloat16 if a recipe asks for it.

    It is for the forward pass alone; gradients follow its precision.

    Parameters
    ----------
    device : torch.device
        Where the products are computed.
    precision : "float32", "tf32" or "bfloat16"
        As in `lotperm.config.experiment.Recipe`; only "bfloat16" changes anything here.
    """
    if precision != "bfloat16":
        return contextlib.nullcontext()
    # Every weight is used once per step, so a cache of casts would only get in a CUDA graph's way.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


@contextlib.contextmanager
def settings(device: torch.device, precision: Precision) -> Iterator[None]:
    """Change PyTorch's process-wide settings to what training needs, within a context.

    On CUDA, float32 numbers are multiplied as the name of the precision says: by default, PyTorch
    uses TF32 for convolutions and calls that float32. Also, cuDNN tries out which of its kernels
    are fastest. On a CPU nothing is changed.

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
    # A trial costs some time for every new shape, of which there are few here.
    torch.backends.cudnn.benchmark = True
    try:
        with products("tf32" if precision == "tf32" else "ieee"):
            yield
    finally:
        torch.backends.cudnn.benchmark = before
