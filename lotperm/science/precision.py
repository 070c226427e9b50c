"""Whether products of float32 numbers are products of float32 numbers.

PyTorch lets cuDNN round the factors of a convolution to TF32, with 10 bits of mantissa instead of
23, unless it is told not to; the settings are those of the whole process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import torch

Products = Literal["ieee", "tf32"]
"""float32 as it is, or the factors of convolutions rounded to TF32 where CUDA can do that."""

_LOCK = threading.Lock()
# What those who are inside want, and how the settings were before the first one came.
_WANTED: list[Products] = []
_BEFORE: list[str] = []
_CUDNN_BEFORE: list[bool] = []


@contextmanager
def products(precision: Products) -> Iterator[None]:
    """Choose how float32 numbers are multiplied, on every device, until the end of the context.

    Threads may be inside at the same time; "ieee" holds as long as one of them wants it.

    Parameters
    ----------
    precision : "ieee" or "tf32"
        "tf32" is for convolutions on CUDA alone, as PyTorch has it by itself.
    """
    with _LOCK:
        if not _WANTED:
            _note()
        _WANTED.append(precision)
        _apply()
    try:
        yield
    finally:
        with _LOCK:
            _WANTED.remove(precision)
            _apply()


def full_precision() -> Any:
    """Switch TF32 and the like off, whose errors in a sum of products are those of bfloat16."""
    return products("ieee")


def _kinds() -> list[tuple[Any, bool]]:
    """Return the settings of all products, and which of them "tf32" is for."""
    return [
        (getattr(backend, part), backend is torch.backends.cudnn)
        for backend in (torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn)
        for part in ("matmul", "conv", "rnn")
        if hasattr(backend, part)
    ]


def _note() -> None:
    """Note how the settings are."""
    _BEFORE[:] = [kind.fp32_precision for kind, _ in _kinds()]
    _CUDNN_BEFORE.clear()
    # PyTorch answers for cuDNN as a whole only as long as its old and its new settings agree.
    with suppress(RuntimeError):
        _CUDNN_BEFORE.append(torch.backends.cudnn.allow_tf32)


def _apply() -> None:
    """Set what those who are inside want; what was before, if there is nobody."""
    rounded = bool(_WANTED) and "ieee" not in _WANTED
    for before in _CUDNN_BEFORE:
        # First, as it sets convolutions and recurrent layers, too. `torch.export` reads it, and
        # fails if it contradicts them.
        torch.backends.cudnn.allow_tf32 = rounded if _WANTED else before
    for (kind, may_round), value in zip(_kinds(), _BEFORE, strict=True):
        wanted = "tf32" if rounded and may_round else "ieee"
        kind.fp32_precision = wanted if _WANTED else value
