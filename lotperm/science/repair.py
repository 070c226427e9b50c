"""Corrections of an interpolated network's statistics: batch norm reset and REPAIR.

Averaging the weights of two networks shrinks the variance of the activations, layer by layer. Both
corrections restore it: by new running statistics of the batch norms, or, without batch norms, by
rescaling every preactivation (Jordan et al. 2023, "REPAIR: REnormalizing Permuted Activations for
Interpolation Repair").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lotperm.errors import ParameterError
from lotperm.science.evaluation import evaluating
from lotperm.types import Float, Float64

# Module name -> mean and standard deviation of each of its output's units.
Statistics = dict[str, tuple[Float64[Tensor, " _"], Float64[Tensor, " _"]]]


def reset_batch_norm(model: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Recompute the running statistics of every batch norm, in place.

    They become the plain averages over `inputs`. Only the batch norms run in train mode, so dropout
    stays off. Momentum and training mode are restored.

    Parameters
    ----------
    model : nn.Module
        The network.
    inputs : Iterable[Tensor]
        Batches of training inputs. Every batch has the same weight, so use batches of one size. If
        a batch norm sees one value per unit, a single example has no variance: such a batch is
        joined to the one before it.

    Raises
    ------
    ParameterError
        If there are no batches, or only one example, without variance; the statistics are then
        unchanged.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    batches = _with_variance(model, norms, _some(inputs))
    first = next(batches)
    before = [norm.momentum for norm in norms]
    try:
        with evaluating(model) as device:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's cumulative average
                norm.train()
            for x in chain([first], batches):
                model(x.to(device))
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def _with_variance(
    model: nn.Module, norms: Sequence[_BatchNorm], batches: Iterator[Tensor]
) -> Iterator[Tensor]:
    """Join batches of one example to others, if a norm would see a single value per unit."""
    waiting = next(batches)
    # None until there is a batch of one example, as it takes a forward pass to find out.
    alone: bool | None = None
    for x in batches:
        if alone is None and min(len(waiting), len(x)) == 1:
            alone = _one_value(model, norms, x[:1])
        if alone and min(len(waiting), len(x)) == 1:
            waiting = torch.cat([waiting, x])
        else:
            yield waiting
            waiting = x
    if len(waiting) == 1 and _one_value(model, norms, waiting):
        raise ParameterError(
            "got one example in all, which has no variance to reset a batch norm by; give more."
        )
    yield waiting


def _one_value(model: nn.Module, norms: Sequence[_BatchNorm], example: Tensor) -> bool:
    """Return whether a norm sees one value per unit when the network runs on one example."""
    sizes: list[int] = []

    def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        sizes.append(args[0].numel() // args[0].shape[1])

    handles = [norm.register_forward_pre_hook(see) for norm in norms]
    try:
        with evaluating(model) as device:
            model(example.to(device))
    finally:
        for handle in handles:
            handle.remove()
    return 1 in sizes


def _some(inputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """Return the same batches after checking that there is at least one."""
    batches = iter(inputs)
    first = next(batches, None)
    if first is None:
        raise ParameterError(
            "got no batches of inputs, expected at least one; a generator can be used once only."
        )
    return chain([first], batches)


def preactivation_statistics(model: nn.Module, inputs: Iterable[Tensor]) -> Statistics:
    """Measure the mean and standard deviation of every preactivation of a network in eval mode.

    Parameters
    ----------
    model : nn.Module
        Network of convolutions, linear layers and batch norms (modules).
    inputs : Iterable[Tensor]
        Batches of inputs.

    Returns
    -------
    dict
        Module name -> (mean, standard deviation), float64 `(n,)`, pooled over samples and
        positions, for the output of each convolution, linear layer and batch norm except the one
        that gives the network's output. A module that runs several times in a pass has an entry for
        each call: ``name``, ``name (call 2)``, and so on.

    Raises
    ------
    ParameterError
        If there are no batches.
    """
    batches = _some(inputs)
    first = next(batches)
    pooled = {call: _Pooled() for call in _hidden_points(model, first[:2])}

    def watch(call: str, module: nn.Module, output: Tensor) -> None:
        if call in pooled:
            pooled[call].add(_units_first(module, output))

    with evaluating(model) as device, _watched(model, watch):
        for x in chain([first], batches):
            model(x.to(device))
    return {name: moments.result() for name, moments in pooled.items()}


def between(a: Statistics, b: Statistics, alpha: float) -> Statistics:
    """Interpolate means and standard deviations: ``(1 - alpha) a + alpha b``."""

    def mix(x: Tensor, y: Tensor) -> Tensor:
        return torch.lerp(x, y, alpha)

    return {name: (mix(mean, b[name][0]), mix(std, b[name][1])) for name, (mean, std) in a.items()}


@contextmanager
def repaired(model: nn.Module, target: Statistics, inputs: Iterable[Tensor]) -> Iterator[None]:
    """Give every preactivation the mean and standard deviation of `target`, within a context.

    Jordan et al. 2023: for each unit, `y = (x - mean) / std * target_std + target_mean`. The
    statistics of a layer depend on the layers before it. So while they are measured, each batch is
    corrected by its own statistics (like a batch norm in train mode), and afterwards by those
    pooled over all batches; with a single batch this is exact. Where a batch norm follows a
    convolution, both are corrected, and the later one decides.

    Parameters
    ----------
    model : nn.Module
        The interpolated network. It has forward hooks within the context; its weights don't
        change.
    target : Statistics
        From `preactivation_statistics`, interpolated between the ends.
    inputs : Iterable[Tensor]
        Batches of training inputs.
    """
    pooled = {name: _Pooled() for name in target}
    fixed: Statistics = {}

    def correct(call: str, module: nn.Module, output: Tensor) -> Tensor | None:
        if call not in target:
            return None
        target_mean, target_std = target[call]
        # While statistics are being measured, each batch is corrected by its own.
        mean, std = fixed[call] if fixed else pooled[call].add(_units_first(module, output))
        # A unit that is constant here has no spread to rescale: it only gets the target mean.
        scale = torch.where(std > 0, target_std / std, 0.0)
        shift = target_mean - mean * scale
        axis = _unit_axis(module, output)
        shape = [-1 if i == axis else 1 for i in range(output.ndim)]
        return output * scale.to(output.dtype).view(shape) + shift.to(output.dtype).view(shape)

    with _watched(model, correct):
        with evaluating(model) as device:
            for x in inputs:
                model(x.to(device))
        fixed.update({name: moments.result() for name, moments in pooled.items()})
        yield


class _Pooled:
    """Mean and standard deviation per unit, pooled over batches in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def add(
        self, values: Float[Tensor, "units _"]
    ) -> tuple[Float64[Tensor, " units"], Float64[Tensor, " units"]]:
        """Add a batch, and return its own mean and standard deviation.

        Each unit has a row of values, over samples and positions.
        """
        var, mean = torch.var_mean(values.double(), dim=1, correction=0)
        # Running means of values and squares, as batches may differ in size.
        weight = values.shape[1] / (self.count + values.shape[1])
        self.mean = self.mean + weight * (mean - self.mean)
        self.square = self.square + weight * (var + mean**2 - self.square)
        self.count += values.shape[1]
        return mean, var.sqrt()

    def result(self) -> tuple[Float64[Tensor, " units"], Float64[Tensor, " units"]]:
        """Return the mean and standard deviation over all batches."""
        mean, square = torch.as_tensor(self.mean), torch.as_tensor(self.square)
        # For a constant unit, rounding may give less than 0.
        return mean, (square - mean**2).clamp(min=0).sqrt()


def _hidden_points(model: nn.Module, inputs: Tensor) -> list[str]:
    """Return the calls of convolutions, linear layers and batch norms in a pass.

    The one whose output is that of the network is left out: logits are not repaired.
    """
    seen: dict[str, Tensor] = {}

    def record(call: str, module: nn.Module, output: Tensor) -> None:
        seen[call] = output

    with evaluating(model) as device, _watched(model, record):
        last = model(inputs.to(device))
    return [call for call, output in seen.items() if output is not last]


def _unit_axis(module: nn.Module, output: Tensor) -> int:
    """Return the axis of units: the last for a linear layer, otherwise (convolution, norm) 1."""
    return output.ndim - 1 if isinstance(module, nn.Linear) else 1


def _units_first(module: nn.Module, output: Float[Tensor, "b ..."]) -> Float[Tensor, "units _"]:
    """Return the output with units first, then samples times positions."""
    return output.movedim(_unit_axis(module, output), 0).flatten(1)


@contextmanager
def _watched(
    model: nn.Module, see: Callable[[str, nn.Module, Tensor], Tensor | None]
) -> Iterator[None]:
    """Pass the outputs of convolutions, linear layers and batch norms to `see`, within a context.

    `see` gets the call, as `preactivation_statistics` names it, the module and its output; what it
    returns, if not None, replaces the output.
    """
    calls = Counter[str]()

    def hook(name: str) -> Callable[..., Tensor | None]:
        def shown(module: nn.Module, args: object, output: Tensor) -> Tensor | None:
            calls[name] += 1
            return see(name if calls[name] == 1 else f"{name} (call {calls[name]})", module, output)

        return shown

    # Calls are counted anew in each pass, even after one that failed.
    handles = [model.register_forward_pre_hook(lambda *_: calls.clear())]
    handles += [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, (_ConvNd, nn.Linear, _BatchNorm))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
