"""M networks of any kind as one: PyTorch maps the network over M sets of parameters.

`lotperm.engine.stacking.stack` rewrites the networks that it has rules for, and these run fastest.
A `MappedStack` needs no rules: it calls the network itself, by `torch.vmap`, or, where that can't
be done, for one network at a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lotperm.engine.layers import nested
from lotperm.science.state_dicts import copy_of

_ATTENTION = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


class MappedStack(nn.Module):
    """M networks with the parameters of each; maps ``(B, M, *shape)`` to (M, B, classes).

    Parameters
    ----------
    model : nn.Module
        The network; it is copied, not changed. Whatever it does between its first input, whose
        first axis is the batch, and the one tensor that it returns is up to it.
    members : int
        M ≥ 1. With one member the network is called as it is; with more it is mapped, so that it
        may neither draw random numbers nor branch on values.

    Notes
    -----
    Parameters and buffers have the names of the model's and a leading axis M. Parameters start at
    zero, as those of a stack do, and so do the buffers of a state dict; others are copies.
    """

    def __init__(self, model: nn.Module, members: int) -> None:
        super().__init__()
        form = copy_of(model)
        # In a tuple, so that its own parameters aren't taken for parameters of the stack.
        self._form = (form,)
        self._members = members
        self._attends = any(isinstance(layer, _ATTENTION) for layer in form.modules())
        kept, made = form.state_dict().keys(), dict[int, nn.Parameter]()
        # Tied weights have several names; they stay one parameter.
        for name, parameter in form.named_parameters(remove_duplicate=False):
            path, _, leaf = name.rpartition(".")
            stacked = nn.Parameter(parameter.detach().new_zeros(members, *parameter.shape))
            nested(self, path).register_parameter(leaf, made.setdefault(id(parameter), stacked))
        for name, buffer in form.named_buffers():
            path, _, leaf = name.rpartition(".")
            each = buffer.detach().expand(members, *buffer.shape).clone()
            if name in kept:
                each.zero_()
            nested(self, path).register_buffer(leaf, each, persistent=name in kept)

    def train(self, mode: bool = True) -> MappedStack:
        """Switch the network between training and evaluation."""
        self._form[0].train(mode)
        super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs ``(B, M, *shape)`` to logits (M, B, classes)."""
        (form,) = self._form
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        if self._members == 1:
            # Views: what the network does to its buffers in place reaches the stack's own.
            own = {name: tensor[0] for name, tensor in tensors.items()}
            logits: Tensor = functional_call(form, own, (x[:, 0],))
            return logits.unsqueeze(0)

        def of_one(own: dict[str, Tensor], x: Tensor) -> Tensor:
            result: Tensor = functional_call(form, own, (x,))
            return result

        # Each network sees contiguous inputs, as it would alone: it may call `view`.
        each = x.transpose(0, 1).contiguous()
        with _plain_attention() if self._attends else contextlib.nullcontext():
            # A mapped random operation would draw all members' numbers from one stream.
            mapped: Tensor = torch.vmap(of_one, randomness="error")(tensors, each)
        return mapped


_FAST_ATTENTION = threading.Lock()
_calls: list[bool] = []


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep attention from its fused inference kernels, which can't be mapped."""
    # The switch is the process's, and two threads train at the same time: the first to come
    # notes how it was, the last to leave puts it back.
    with _FAST_ATTENTION:
        _calls.append(_calls[0] if _calls else torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        with _FAST_ATTENTION:
            before = _calls.pop()
            if not _calls:
                torch.backends.mha.set_fastpath_enabled(before)
