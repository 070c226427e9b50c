"""Products of bfloat16 numbers on processors that can't multiply them.

Many processors, those of most laptops among them, have no instructions for bfloat16. There PyTorch
computes such products one number at a time, 7 to 50 times slower than in float32. This module
multiplies the same factors in float32 and rounds the result to bfloat16. That is what the
instructions do, apart from the order of the sums: the product of two bfloat16 numbers has 16 bits,
so that it is exact in float32, and sums are in float32 either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from lotperm.config.choices import Precision

_ATEN = torch.ops.aten

PRODUCTS = frozenset(
    {
        _ATEN.mm.default,
        _ATEN.bmm.default,
        _ATEN.addmm.default,
        _ATEN.baddbmm.default,
        _ATEN.mv.default,
        _ATEN.addmv.default,
        _ATEN.dot.default,
        _ATEN.convolution.default,
        _ATEN.convolution_backward.default,
    }
)
"""PyTorch's operations that multiply two tensors of activations or weights and sum the products."""


@cache
def native() -> bool:
    """Return True if this processor has instructions that PyTorch uses for bfloat16 products."""
    return torch.backends.mkldnn.is_available() and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def computed_in_float32(device: torch.device, precision: Precision) -> bool:
    """Return True if a recipe asks for bfloat16 and a device has no instructions for it."""
    return precision == "bfloat16" and device.type == "cpu" and not native()


class InFloat32(TorchDispatchMode):
    """Computes every product of bfloat16 numbers in float32, gradients included."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or not any(_low(t) for t in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, _widened, (args, kwargs))
        return tree_map_only(Tensor, _rounded, func(*args, **kwargs))


def _low(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bfloat16


def _widened(factor: Tensor) -> Tensor:
    return _round(factor.float()) if _low(factor) else factor


def _rounded(result: Tensor) -> Tensor:
    return _round(result).bfloat16()


def _round(numbers: Tensor) -> Tensor:
    """Round float32 numbers to what bfloat16 can hold; outside a trace, conversions do so.

    The compiler takes a conversion to bfloat16 for superfluous if the result becomes float32 again
    in the same loop, and leaves it out, and with it the rounding. It keeps all arithmetic, by which
    the 8 leading bits of a number are found here (Veltkamp, 1968; Dekker, 1971). Numbers above
    2¹¹¹ become NaN; training has diverged long before.
    """
    if get_proxy_mode() is None:
        return numbers
    scaled = numbers * (2**16 + 1)
    return scaled - (scaled - numbers)
