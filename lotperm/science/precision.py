"""The precision with which float32 numbers are multiplied.

Unless told not to, PyTorch lets cuDNN round the factors of a convolution to TF32, with 10 bits of
mantissa instead of 23. The settings apply to the whole process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import torch

Products = Literal["ieee", "tf32"]
"""Full float32, or the factors of convolutions rounded to TF32 where CUDA supports it."""

_LOCK = threading.Lock()
# What the contexts that are open now ask for, and the settings before the first was entered.
_WANTED: list[Products] = []
_BEFORE: list[str] = []
_CUDNN_BEFORE: list[bool] = []


@contextmanager
def products(precision: Products) -> Iterator[None]:
    """Choose how float32 numbers are multiplied, on every device, until the end of the context.

    Several threads may have such a context open; "ieee" holds as long as one of them asks for it.

    Parameters
    ----------
    precision : "ieee" or "tf32"
        "tf32" applies only to convolutions on CUDA, as by PyTorch's default.
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
    """Switch off TF32 and similar modes, whose errors in sums of products are like bfloat16's."""
    return products("ieee")


def _kinds() -> list[tuple[Any, bool]]:
    """Return the settings of all kinds of products, and which of them "tf32" applies to."""
    return [
        (getattr(backend, part), backend is torch.backends.cudnn)
        for backend in (torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn)
        for part in ("matmul", "conv", "rnn")
        if hasattr(backend, part)
    ]


def _note() -> None:
    """Remember the present settings."""
    _BEFORE[:] = [kind.fp32_precision for kind, _ in _kinds()]
    _CUDNN_BEFORE.clear()
    # PyTorch reports a setting for cuDNN as a whole only if its old and new settings agree.
    with suppress(RuntimeError):
        _CUDNN_BEFORE.append(torch.backends.cudnn.allow_tf32)


def _apply() -> None:
    """Apply what the open contexts ask for; restore the earlier settings if none is open."""
    rounded = bool(_WANTED) and "ieee" not in _WANTED
    for before in _CUDNN_BEFORE:
        # This comes first, as it also sets convolutions and recurrent layers. `torch.export` reads
        # it, and fails if it contradicts them.
        torch.backends.cudnn.allow_tf32 = rounded if _WANTED else before
    for (kind, may_round), value in zip(_kinds(), _BEFORE, strict=True):
        wanted = "tf32" if rounded and may_round else "ieee"
        kind.fp32_precision = wanted if _WANTED else value
