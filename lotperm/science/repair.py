"""Corrections of an interpolated network's statistics: batch norm reset and REPAIR.

Averaging the weights of two networks shrinks the variance of the activations, layer by layer. Both
corrections restore it: by new running statistics of the batch norms, or, without batch norms, by
rescaling every preactivation (Jordan et al. 2023, "REPAIR: REnormalizing Permuted Activations for
Interpolation Repair").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
        Batches of training inputs. Every batch counts the same: use batches of one size.

    Raises
    ------
    ParameterError
        If there are no batches; the statistics are as they were.
    """
    batches = _some(inputs)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [norm.momentum for norm in norms]
    try:
        with evaluating(model) as device:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's cumulative average
                norm.train()
            for x in batches:
                model(x.to(device))
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def _some(inputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """Return the same batches, after making sure that there is one."""
    batches = iter(inputs)
    first = next(batches, None)
    if first is None:
        raise ParameterError(
            "got no batches of inputs, expected at least one; a generator can be used once only."
        )
    return chain([first], batches)


def preactivation_statistics(model: nn.Module, inputs: Iterable[Tensor]) -> Statistics:
    """Measure mean and standard deviation of every preactivation of a network in eval mode.

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
        positions, for the output of each convolution, linear layer and batch norm but the one that
        is the network's output.

    Raises
    ------
    ParameterError
        If there are no batches.
    """
    batches = _some(inputs)
    first = next(batches)
    pooled = {name: _Pooled() for name in _hidden_points(model, first[:2])}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            pooled[name].add(_units_first(module, output))

        return hook

    with evaluating(model) as device, _hooks(model, {name: watch(name) for name in pooled}):
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

    Jordan et al. 2023: for each unit, `y = (x - mean) / std * target_std + target_mean`. Statistics
    of a layer depend on the layers before it, so while they are measured each batch is corrected
    with its own (like a batch norm in train mode), afterwards with those pooled over all; with a
    single batch this is exact. Where a batch norm follows a convolution both are corrected, and
    the later one decides.

    Parameters
    ----------
    model : nn.Module
        The interpolated network; gets forward hooks inside the context, its weights stay as they
        are.
    target : Statistics
        From `preactivation_statistics`, interpolated between the ends.
    inputs : Iterable[Tensor]
        Batches of training inputs.
    """
    pooled = {name: _Pooled() for name in target}
    fixed: Statistics = {}

    def correct(name: str) -> Callable[..., Tensor]:
        target_mean, target_std = target[name]

        def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
            mean, std = fixed[name] if fixed else pooled[name].add(_units_first(module, output))
            # A unit that is constant here has no spread to rescale: it is only moved to its mean.
            scale = torch.where(std > 0, target_std / std, 0.0)
            shift = target_mean - mean * scale
            axis = _unit_axis(module, output)
            shape = [-1 if i == axis else 1 for i in range(output.ndim)]
            return output * scale.to(output.dtype).view(shape) + shift.to(output.dtype).view(shape)

        return hook

    with _hooks(model, {name: correct(name) for name in target}):
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
        """Add a batch; return its own mean and standard deviation.

        Each unit has a row, of samples and positions.
        """
        var, mean = torch.var_mean(values.double(), dim=1, correction=0)
        weight = values.shape[1] / (self.count + values.shape[1])
        self.mean = self.mean + weight * (mean - self.mean)
        self.square = self.square + weight * (var + mean**2 - self.square)
        self.count += values.shape[1]
        return mean, var.sqrt()

    def result(self) -> tuple[Float64[Tensor, " units"], Float64[Tensor, " units"]]:
        """Return mean and standard deviation over all batches."""
        mean, square = torch.as_tensor(self.mean), torch.as_tensor(self.square)
        return mean, (square - mean**2).clamp(min=0).sqrt()


def _hidden_points(model: nn.Module, inputs: Tensor) -> list[str]:
    """Return the names of convolutions, linear layers and batch norms that run.

    The one whose output is that of the network is left out: logits are not repaired.
    """
    seen: dict[str, Tensor] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            seen[name] = output

        return hook

    kinds = (_ConvNd, nn.Linear, _BatchNorm)
    hooks = {
        name: record(name) for name, module in model.named_modules() if isinstance(module, kinds)
    }
    with evaluating(model) as device, _hooks(model, hooks):
        last = model(inputs.to(device))
    return [name for name, output in seen.items() if output is not last]


def _unit_axis(module: nn.Module, output: Tensor) -> int:
    """Return the axis of units: the last of a linear layer, else (convolution, norm) axis 1."""
    return output.ndim - 1 if isinstance(module, nn.Linear) else 1


def _units_first(module: nn.Module, output: Float[Tensor, "b ..."]) -> Float[Tensor, "units _"]:
    """Return the output with units first, then samples times positions."""
    return output.movedim(_unit_axis(module, output), 0).flatten(1)


@contextmanager
def _hooks(model: nn.Module, hooks: Mapping[str, Callable[..., Tensor | None]]) -> Iterator[None]:
    """Register forward hooks, by module name, within a context."""
    handles = [
        model.get_submodule(name).register_forward_hook(hook) for name, hook in hooks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
