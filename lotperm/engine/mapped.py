"""M networks of any kind, run as one: PyTorch maps the network over M sets of parameters.

`lotperm.engine.stacking.stack` rewrites the networks that it has rules for, and these run fastest.
A `MappedStack` needs no rules: it calls the network itself, by `torch.vmap`, or, if that isn't
possible, for one member at a time.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lotperm.engine.layers import nested
from lotperm.science.state_dicts import copy_of

_ATTENTION = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


class MappedStack(nn.Module):
    """M networks, each with its own parameters, that map ``(B, M, *shape)`` to (M, B, classes).

    Parameters
    ----------
    model : nn.Module
        The network; it is copied, not changed. It must map one input, whose first axis is the
        batch, to one tensor; what it does in between is up to it.
    members : int
        M ≥ 1. With one member the network is called as it is. With more it is mapped. If that fails
        (because it draws random numbers or branches on values, say), it is called for each member.
    strict : bool, optional
        If the network can't be mapped, raise PyTorch's error.

    Warns
    -----
    UserWarning
        At the first call, if the network is called for each member; it names the operation.

    Notes
    -----
    Parameters and buffers have the model's names and a leading axis M. Parameters start at zero,
    and so do the buffers of the state dict; other buffers are copies.
    """

    def __init__(self, model: nn.Module, members: int, *, strict: bool = False) -> None:
        super().__init__()
        form = copy_of(model)
        # In a tuple, so that its parameters aren't registered as parameters of the stack.
        self._form = (form,)
        self._members, self._strict = members, strict
        # The modes, training or not, in which mapping has worked, and whether it never will.
        self._tried: set[bool] = set()
        self._one_by_one = members == 1
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
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        if self._one_by_one:
            return self._each(tensors, x)
        if self._strict or self.training in self._tried:
            return self._mapped(tensors, x)
        before = {name: buffer.clone() for name, buffer in self.named_buffers()}
        try:
            logits = self._mapped(tensors, x)
        # Mapping runs the network's own code on PyTorch's batched tensors, so anything may fail.
        except Exception as error:
            with torch.no_grad():
                for name, buffer in self.named_buffers():
                    buffer.copy_(before[name])
            # If this fails as well, it is the network's own error.
            logits = self._each(tensors, x)
            self._one_by_one = True
            name = type(self._form[0]).__name__
            warnings.warn(f"{name} is called one network at a time: {reason(error)}", stacklevel=2)
        else:
            self._tried.add(self.training)
        return logits

    def _each(self, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        """Call the network for one member after another."""
        (form,) = self._form
        # These are views, so what the network does to its buffers in place reaches the stack's.
        return torch.stack(
            [
                functional_call(form, {name: t[m] for name, t in tensors.items()}, (x[:, m],))
                for m in range(self._members)
            ]
        )

    def _mapped(self, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        """Map the network over all members."""
        (form,) = self._form

        def of_one(own: dict[str, Tensor], x: Tensor) -> Tensor:
            result: Tensor = functional_call(form, own, (x,))
            return result

        # Each network sees contiguous inputs, as it would alone, since it may call `view`.
        each = x.transpose(0, 1).contiguous()
        with _plain_attention() if self._attends else contextlib.nullcontext():
            # A mapped random operation would draw all members' numbers from one stream.
            mapped: Tensor = torch.vmap(of_one, randomness="error")(tensors, each)
        return mapped


_FAST_ATTENTION = threading.Lock()
_calls: list[bool] = []


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep attention from using fused inference kernels, which can't be mapped."""
    # The switch applies to the whole process, and two threads may train at the same time: the first
    # to enter remembers the setting, and the last to leave restores it.
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


def reason(error: Exception) -> str:
    """Say which operation of a network can't be mapped, and why, in a short phrase.

    Parameters
    ----------
    error : Exception
        What a `MappedStack` raised.
    """
    text = str(error)
    why = next((words for part, words in _MEANINGS.items() if part in text), first_line(error))
    if found := re.search(r"not implemented for (aten::\w+)", text):
        why = f"PyTorch can't map {found[1]}."
    # The innermost layer whose forward pass was under way.
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        owner = frame.f_locals.get("self")
        if frame.f_code.co_name == "forward" and isinstance(owner, nn.Module):
            name, path = type(owner).__name__, Path(inspect.getfile(frame))
            of_torch = type(owner).__module__.startswith("torch.")
            return f"{name if of_torch else f'{name} ({path.name}:{line})'}: {why}"
    return why


_MEANINGS = {
    "random operation": "it draws random numbers.",
    ".item()": "it reads a value.",
    "data-dependent control flow": "it branches on a value.",
}
"""What PyTorch says about an operation that can't be mapped -> the same in plain words."""


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message."""
    text = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {text.rstrip('.')}."
