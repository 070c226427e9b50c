"""Choose how the networks of a training run are computed: stacked, mapped, or one at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lotperm.engine.mapped import MappedStack, first_line, reason
from lotperm.engine.stacking import stack
from lotperm.errors import UnsupportedModelError
from lotperm.parallel import distributed
from lotperm.science.state_dicts import copy_of

_TOLERANCE = 1e-2
"""Largest allowed difference between a mapped network and a single one, relative to the norm.
Rounding is far below that, even after batch norms over a few examples; real differences are far
above.
"""


class Way(NamedTuple):
    """How the networks of a training run are computed.

    Attributes
    ----------
    name : "stacked", "mapped" or "single"
        All in one forward pass, by `lotperm.engine.stacking.stack` or by `torch.vmap`, or one
        network at a time.
    random : bool
        Whether the network draws random numbers while it is trained, as dropout does.
    """

    name: Literal["stacked", "mapped", "single"]
    random: bool = False


STACKED = Way("stacked")
"""The way for networks that have stacking rules."""


def choose(
    model: nn.Module, members: int, shape: Sequence[int], examples: Callable[[], Tensor]
) -> Way:
    """Choose the fastest way that computes the same as single networks do.

    Parameters
    ----------
    model : nn.Module
        The network.
    members : int
        Number of networks to train.
    shape : Sequence[int]
        Shape of an example.
    examples : Callable[[], Tensor]
        Returns a few inputs ``(B, *shape)``, on the CPU. A network without stacking rules is
        mapped over two sets of weights on these inputs, and must give the same values, gradients
        and batch statistics as two single networks.

    Returns
    -------
    Way

    Raises
    ------
    UnsupportedModelError
        If the network can't be trained at all: it fails on the inputs, returns something other than
        logits, or replaces a buffer instead of changing it in place.

    Warns
    -----
    UserWarning
        If several networks must be trained one at a time; it names the responsible operation.
    """
    if _stacks(model, (2, *shape)):
        return STACKED
    inputs, why = examples(), ""
    if members > 1:
        try:
            _compare(model, inputs, members=2)
            return Way("mapped")
        except _NetworkError:
            raise
        # Mapping runs the network's own code on PyTorch's batched tensors, where anything may fail.
        except _Difference as error:
            why = f"{error} would differ from that of a single one."
        except Exception as error:
            why = reason(error)
    try:
        random = _compare(model, inputs, members=1)
    except _Difference as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} can't be trained here: {error} is another one if its "
            "parameters and buffers are passed in from outside. Change buffers in place "
            "(self.x.copy_), and compute from what is registered."
        ) from None
    if members > 1:
        warnings.warn(
            f"{type(model).__name__} is trained one network at a time: {why}", stacklevel=3
        )
    return Way("single", random)


def check_ranks(model: nn.Module, way: Way) -> None:
    """Raise an error for batch norms that each process would compute from its own share only.

    Raises
    ------
    UnsupportedModelError
        If there are several ranks and the network has batch norms but isn't stacked.
    """
    norms = [name for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)]
    if way.name != "stacked" and norms and distributed.world_size() > 1:
        raise UnsupportedModelError(
            f"the statistics of batch norm {norms[0]!r} can't be shared by several processes in a "
            "network without stacking rules. Train it in one process."
        )


class _NetworkError(UnsupportedModelError):
    """Raised if the network itself can't be trained, in whatever way."""


def _stacks(model: nn.Module, shape: Sequence[int]) -> bool:
    """Return whether `stack` has a rule for everything and preserves the network's shapes."""
    try:
        together = stack(model, 2)
    except UnsupportedModelError:
        return False
    # Layers that the network has but doesn't use aren't part of its graph.
    if together.state_dict().keys() != model.state_dict().keys():
        return False
    # Shapes are checked on the meta device, since some rules hold only for inputs of usual rank.
    one, inputs = copy_of(model).to("meta").eval(), torch.empty(shape, device="meta")
    dtype = next((p.dtype for p in one.parameters()), inputs.dtype)
    try:
        alone = one(inputs.to(dtype))
        # A stack flattens everything after the channels, so several values there would be mixed up.
        if not isinstance(alone, Tensor) or alone.dim() < 2 or alone[0, 0].numel() > 1:
            return False
    except Exception:  # something in the network may fail without values
        return True
    both = inputs.to(dtype).unsqueeze(1).expand(-1, 2, *shape[1:])
    try:
        logits: Tensor = together.to("meta").eval()(both)
    except Exception:  # any operation may find that shapes don't fit
        return False
    return logits.numel() == 2 * alone.numel()


def _compare(model: nn.Module, inputs: Tensor, members: int) -> bool:
    """Check a `MappedStack` against single networks, and return whether these are random."""
    singles = [_varied(model, member) for member in range(members)]
    dtype = next((p.dtype for p in model.parameters()), inputs.dtype)
    inputs = inputs.to(dtype)
    mapped = MappedStack(model, members, strict=True).cpu()
    with torch.no_grad():
        for name, tensor in mapped.state_dict().items():
            tensor.copy_(torch.stack([single.state_dict()[name] for single in singles]))
    # Each member sees the examples in another order, so that a mix-up of members shows.
    x = torch.stack([inputs.roll(member, 0) for member in range(members)], 1)
    random = False
    for mode in (True, False):
        expected = []
        for member, single in enumerate(singles):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                # All draw the same numbers, so that dropout makes no difference; drawing any
                # changes the state of the generator.
                before = torch.get_rng_state()
                logits = _logits(single.train(mode), x[:, member])
                random |= mode and not torch.equal(before, torch.get_rng_state())
            expected.append((logits, _gradient(logits, list(single.parameters()))))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            together = mapped.train(mode)(x)
        gradient = _gradient(together, list(mapped.parameters()), members)
        rows = [gradient] if members == 1 else list(gradient)
        for member, (logits, alone) in enumerate(expected):
            _require_close("its output", together[member], logits)
            _require_close("its gradient", rows[member], alone)
        after = dict(mapped.named_buffers())
        for member, single in enumerate(singles):
            for name, buffer in single.named_buffers():
                _require_close(f"its buffer {name}", after[name][member], buffer)
    return random


def _varied(model: nn.Module, member: int) -> nn.Module:
    """Copy a network to the CPU, with weights that differ between members."""
    copied = copy_of(model).cpu()
    draw = torch.Generator().manual_seed(member)
    with torch.no_grad():
        # New biases are 0 and new scales 1 in all members, which would hide a mix-up.
        for parameter in copied.parameters():
            if parameter.is_floating_point() and parameter.numel():
                noise = torch.randn(parameter.shape, generator=draw).to(parameter)
                parameter.add_(noise * 0.1 * (parameter.abs().mean() + 0.1))
                parameter.requires_grad_()
    return copied


def _logits(single: nn.Module, inputs: Tensor) -> Tensor:
    """Run a single network, and check that it returns logits."""
    name = type(single).__name__
    try:
        logits = single(inputs)
    except Exception as error:  # the network's own code
        raise _NetworkError(
            f"{name} fails on {len(inputs)} training examples of shape {tuple(inputs.shape[1:])}: "
            f"{first_line(error)}"
        ) from error
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(inputs):
        raise _NetworkError(
            f"{name} returns {got} for {len(inputs)} examples; training needs logits "
            f"({len(inputs)}, classes), one tensor."
        )
    return logits


def _gradient(logits: Tensor, parameters: list[nn.Parameter], members: int = 1) -> Tensor:
    """Return the gradient of the sum of squared logits: (P,), or (M, P) for several networks."""
    # Any loss with a different slope for each logit would do.
    found = torch.autograd.grad(
        logits.square().sum(), parameters, allow_unused=True, materialize_grads=True
    )
    rows = [g.reshape(members, -1) for g in found]
    return torch.cat(rows, 1) if members > 1 else torch.cat(rows, 1).flatten()


def _require_close(what: str, got: Tensor, expected: Tensor) -> None:
    got, expected = got.double(), expected.double()
    # Relative to the norm of all entries, as single ones may be zero up to rounding.
    if not bool((got - expected).norm() <= _TOLERANCE * expected.norm() + 1e-6):
        raise _Difference(what)


class _Difference(Exception):
    """Raised if a mapped network computes something other than a single one."""
