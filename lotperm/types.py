"""Shapes and dtypes in annotations: jaxtyping's types, which the tests check at every call.

``Float64[Tensor, "n n"]`` is a square matrix, ``" n"`` a vector, and ``" ..."`` has any shape. A
name stands for one size throughout a call; ``_`` stands for any. The leading space keeps linters
from reading a single word as a name. Where jaxtyping isn't installed, as on a bare machine with a
GPU, an annotation says no more than ``Tensor``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int64, Num
else:
    try:
        from jaxtyping import Bool, Float, Float64, Int64, Num
    except ImportError:

        class _Plain:
            def __class_getitem__(cls, kind_and_shape: tuple[Any, str]) -> Any:
                return kind_and_shape[0]

        Bool = Float = Float64 = Int64 = Num = _Plain

__all__ = ["Bool", "Float", "Float64", "Int64", "Num"]
