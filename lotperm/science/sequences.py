"""Padded sequences with lengths, in place of packed ones, whose size in memory depends on values.

PyTorch's exporter can't follow `torch.nn.utils.rnn.pack_padded_sequence`. So while a network is
exported, sequences stay padded, and recurrent layers get their lengths as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence
from torch.overrides import TorchFunctionMode

_KINDS = {"lstm": 2, "gru": 1, "rnn_tanh": 1, "rnn_relu": 1}
"""Recurrent layers, and how many states each has."""


def _run(
    kind: str,
    x: Tensor,
    lengths: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    bidirectional: bool,
) -> list[Tensor]:
    """Run one recurrent layer on padded sequences of given lengths, time first."""
    packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
    order, back = packed.sorted_indices, packed.unsorted_indices
    assert order is not None and back is not None
    states: Any = [state.index_select(1, order) for state in hx]
    states = states if len(states) > 1 else states[0]
    options = (list(params), has_biases, 1, 0.0, False, bidirectional)
    values, *last = getattr(torch._VF, kind)(packed.data, packed.batch_sizes, states, *options)
    padded = torch._VF._pad_packed_sequence(values, packed.batch_sizes, False, 0.0, len(x))[0]
    return [padded.index_select(1, back), *(state.index_select(1, back) for state in last)]


def _shapes_of(x: Tensor, hx: Sequence[Tensor], bidirectional: bool) -> list[Tensor]:
    """Return tensors of the outputs' shapes, without values."""
    size = hx[0].shape[2] * (2 if bidirectional else 1)
    return [x.new_empty(x.shape[0], x.shape[1], size), *(torch.empty_like(h) for h in hx)]


def _define(kind: str, states: int) -> None:
    """Define an operation ``lotperm::packed_KIND``."""
    name = f"lotperm::packed_{kind}"
    torch.library.define(
        name,
        "(Tensor input, Tensor lengths, Tensor[] hx, Tensor[] params, bool has_biases, "
        f"int num_layers, bool bidirectional) -> ({', '.join(['Tensor'] * (states + 1))})",
    )

    def run(x: Tensor, lengths: Tensor, hx: Any, params: Any, *options: Any) -> tuple[Tensor, ...]:
        return tuple(_run(kind, x, lengths, hx, params, options[0], options[2]))

    def shapes(x: Tensor, lengths: Tensor, hx: Any, params: Any, *options: Any) -> Any:
        return tuple(_shapes_of(x, hx, options[2]))

    torch.library.impl(name, "CompositeExplicitAutograd", run)
    torch.library.register_fake(name, shapes)


for _kind, _states in _KINDS.items():
    _define(_kind, _states)


class _Padded(NamedTuple):
    """The lengths and shape of a padded sequence that represents a packed one."""

    sizes: Tensor
    lengths: Tensor
    steps: int
    examples: Any


class Unpacked(TorchFunctionMode):
    """Keep sequences padded where a network packs them.

    The data of a packed sequence then has a row for each step of each example, even after its end.
    When it is padded again, it has as many steps as before it was packed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, _Padded] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "_pack_padded_sequence":
            return self._pack(*args, **kwargs)
        place = {"_pad_packed_sequence": 1, "__getitem__": 0}.get(name, 1 if name in _KINDS else -1)
        known = self._known.get(id(args[place])) if 0 <= place < len(args) else None
        if known is None:
            return func(*args, **kwargs)
        if name == "_pad_packed_sequence":
            return self._pad(known, *args, **kwargs)
        if name == "__getitem__":
            return known.examples if args[1] == 0 else func(*args, **kwargs)
        return self._recur(name, known, *args, **kwargs)

    def _pack(self, x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        x = x.transpose(0, 1) if batch_first else x
        steps = torch.arange(x.shape[0], device=lengths.device)
        sizes = (lengths[None] > steps[:, None]).sum(1)
        self._known[id(sizes)] = _Padded(sizes, lengths, x.shape[0], x.shape[1])
        return x.flatten(0, 1), sizes

    def _pad(
        self,
        known: _Padded,
        data: Tensor,
        sizes: Tensor,
        batch_first: bool,
        padding: float,
        total: int,
    ) -> tuple[Tensor, Tensor]:
        x = data.unflatten(0, (known.steps, known.examples))
        steps = torch.arange(known.steps, device=x.device)[:, None]
        inside = steps < known.lengths.to(x.device)[None]
        x = torch.where(inside.view(*inside.shape, *[1] * (x.dim() - 2)), x, padding)
        if total > known.steps:
            x = torch.cat([x, x.new_full((total - known.steps, *x.shape[1:]), padding)])
        return x.transpose(0, 1) if batch_first else x, known.lengths

    def _recur(
        self,
        kind: str,
        known: _Padded,
        data: Tensor,
        sizes: Tensor,
        hx: Any,
        params: Sequence[Tensor],
        has_biases: bool,
        layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
    ) -> tuple[Tensor, ...]:
        x = data.unflatten(0, (known.steps, known.examples))
        hx = [hx] if isinstance(hx, Tensor) else list(hx)
        operation = getattr(torch.ops.lotperm, f"packed_{kind}")
        per, states = len(params) // layers, (2 if bidirectional else 1)
        lasts = []
        for layer in range(layers):
            own = [h[layer * states : (layer + 1) * states] for h in hx]
            weights = list(params[layer * per : (layer + 1) * per])
            x, *last = operation(x, known.lengths, own, weights, has_biases, 1, bidirectional)
            lasts.append(last)
        joined = [torch.cat(parts) for parts in zip(*lasts, strict=True)]
        return (x.flatten(0, 1), *joined)
