"""Empty stand-ins for cuDNN and cuBLAS: outputs of the right shape, dtype and layout.

Import it before lotperm trains. Nothing is computed, so the check for finite numbers is off.
"""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from lotperm.engine.run import Run
from lotperm.science.correlation import CorrelationAccumulator
from lotperm.store.stages import StageResult

TF32: set[bool] = set()
"""Whether convolutions were allowed to round float32 to TF32."""

LAYOUTS: set[tuple[bool, torch.dtype]] = set()
"""Of the inputs of convolutions: whether channels came last, and the dtype."""

_library = torch.library.Library("aten", "IMPL")


def _like_convolution(x: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    last = torch.channels_last in (suggest_memory_format(x), suggest_memory_format(weight))
    layout = torch.channels_last if last and len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def cudnn_convolution(x, w, padding, stride, dilation, groups, benchmark, deterministic, tf32):
    """A convolution's output."""
    TF32.add(bool(tf32))
    LAYOUTS.add((x.is_contiguous(memory_format=torch.channels_last), x.dtype))
    sizes = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, p, s, d in zip(x.shape[2:], w.shape[2:], padding, stride, dilation, strict=True)
    )
    return _like_convolution(x, w, (x.shape[0], w.shape[0], *sizes))


def convolution_backward(gradient, x, w, bias, stride, padding, dilation, transposed, out, g, mask):
    """A convolution's gradients."""
    wanted = (
        _like_convolution(x, w, x.shape) if mask[0] else None,
        _like_convolution(x, w, w.shape) if mask[1] else None,
        x.new_empty(w.shape[0]) if mask[2] else None,
    )
    return wanted


def cudnn_batch_norm(x, weight, bias, mean, variance, training, factor, eps):
    """A batch norm's output and statistics."""
    return (
        torch.empty_like(x),
        torch.empty_like(weight),
        torch.empty_like(weight),
        torch.empty(0, dtype=torch.uint8, device=x.device),
    )


def cudnn_batch_norm_backward(x, gradient, weight, mean, variance, m, v, eps, reserve):
    """A batch norm's gradients."""
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.empty((*a.shape[:-1], b.shape[-1]), dtype=a.dtype, device=a.device)


for name, kernel in {
    "cudnn_convolution": cudnn_convolution,
    "convolution_backward": convolution_backward,
    "cudnn_batch_norm": cudnn_batch_norm,
    "cudnn_batch_norm_backward": cudnn_batch_norm_backward,
    "mm": _product,
    "bmm": _product,
    "mm.out": lambda a, b, *, out: out,
    "bmm.out": lambda a, b, *, out: out,
    "addmm": lambda c, a, b, *, beta=1, alpha=1: _product(a, b),
    "baddbmm": lambda c, a, b, *, beta=1, alpha=1: _product(a, b),
    "addmm.out": lambda c, a, b, *, beta=1, alpha=1, out: out,
    "baddbmm.out": lambda c, a, b, *, beta=1, alpha=1, out: out,
}.items():
    _library.impl(name, kernel, "CUDA")

# What kernels seem to have computed is all zeros, also the answer to whether it is finite.
Run.check_finite = lambda self, epoch: None  # type: ignore[method-assign]
CorrelationAccumulator.correlation = lambda self: torch.eye(  # type: ignore[method-assign]
    len(self._cross), dtype=torch.float64
)


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which no stage may hold, by 0."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return 0.0 if isinstance(value, float) and not math.isfinite(value) else value


_init = StageResult.__init__


def _init_finite(self: StageResult, results: Any = None, *rest: Any, **names: Any) -> None:
    _init(self, _finite(dict(results or {})), *rest, **names)


StageResult.__init__ = _init_finite  # type: ignore[assignment, method-assign]

_folder = Path(os.environ["STAND_IN"])
_runtime = ctypes.CDLL(str(_folder / "libruntime.so"))
_driver = ctypes.CDLL(str(_folder / "lib" / "libcuda.so.1"))


def count(what: str) -> int:
    """Return how many there were so far.

    Parameters
    ----------
    what : str
        "kernels" (PyTorch's own), "launches" (Triton's), "graphs", "captures" or "complaints".
    """
    function = getattr(_driver if what == "launches" else _runtime, f"stand_in_{what}")
    function.restype = ctypes.c_long
    return int(function())
