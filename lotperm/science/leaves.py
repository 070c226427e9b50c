"""A network as a function of the weights to score, however they are named and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.parametrize import is_parametrized

from lotperm.errors import ParameterError, unknown_name
from lotperm.science.state_dicts import copy_of

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class Leaves:
    """A copy of a network as a function of the weights to score; all other tensors are constants.

    Parameters
    ----------
    model : nn.Module
        The network; it is copied, not changed.
    names : Sequence[str]
        The weights to score, as `lotperm.science.sparsity.prunable_parameters` names them. For a
        weight that is computed, by weight norm, say, this is the computed one; tied weights are
        one.
    training : bool
        Run as in training, or as in evaluation.
    dtype : torch.dtype | None, optional
        The dtype of all floating-point tensors; None keeps their own.
    positive : bool, optional
        Take absolute values of all tensors, as SynFlow does, and let norms only scale and shift:
        batch norms as their statistics and parameters do in evaluation, other norms by their
        parameters.
    mask : Mapping[str, Tensor] | None, optional
        Name -> which weights are kept; the others are set to 0.

    Attributes
    ----------
    leaves : dict[str, Tensor]
        Name -> the weight, which requires a gradient.
    device : torch.device
        Where the weights are.

    Raises
    ------
    ParameterError
        If there is no such weight, or two of the names are one weight.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        *,
        training: bool,
        dtype: torch.dtype | None = None,
        positive: bool = False,
        mask: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.form = copy_of(model).train(training)
        for name in names:
            _store_plainly(self.form, name)
        if positive:
            _let_norms_scale(self.form)
        parameters = dict(self.form.named_parameters(remove_duplicate=False))
        owners: dict[int, str] = {}
        for name in names:
            if name not in parameters:
                raise unknown_name("parameter to score", name, parameters)
            if (first := owners.setdefault(id(parameters[name]), name)) != name:
                raise ParameterError(f"{first} and {name} are one weight, which is scored once.")
        values: dict[str, Tensor] = {}
        for name, tensor in (*parameters.items(), *self.form.named_buffers()):
            # Tied weights have several names; one is enough.
            if owners.setdefault(id(tensor), name) != name:
                continue
            value = tensor.detach().clone()
            if value.is_floating_point():
                value = value.to(dtype or value.dtype)
                value = value.abs() if positive else value
            if mask is not None and name in mask:
                value = value * mask[name].to(value)
            values[name] = value
        self.leaves = {name: values.pop(name).requires_grad_() for name in names}
        self.others = values
        self.device = next(iter(self.leaves.values())).device

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map inputs ``(B, *shape)`` to the network's outputs."""
        result: Tensor = functional_call(self.form, {**self.others, **self.leaves}, (inputs,))
        return result


def has_norms(model: nn.Module) -> bool:
    """Return whether a network has norms, which `Leaves` may treat as affine."""
    return any(isinstance(module, _NORMS) for module in model.modules())


def _store_plainly(form: nn.Module, name: str) -> None:
    """Replace a weight that is computed from others by a parameter with the computed values."""
    owner, _, leaf = name.rpartition(".")
    try:
        module = form.get_submodule(owner)
    except AttributeError:
        return
    own = module._parameters
    if is_parametrized(module, leaf):
        _drop_parametrizations(module)
    elif f"{leaf}_g" in own and f"{leaf}_v" in own:
        remove_weight_norm(module, leaf)
    elif f"{leaf}_orig" in own:
        pruned = f"{leaf}_mask" in module._buffers
        (prune.remove if pruned else remove_spectral_norm)(module, leaf)


@torch.no_grad()
def _drop_parametrizations(module: nn.Module) -> None:
    """Do what PyTorch's `remove_parametrizations` does, but safely for a copied module.

    PyTorch's function changes the module's class, which the copy shares with the original.
    """
    training = module.training
    # In training mode, spectral norm would take another step of its power iteration.
    module.eval()
    lists = cast(nn.ModuleDict, module.parametrizations)
    values = {leaf: getattr(module, leaf).clone() for leaf in lists}
    module.train(training)
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for leaf, value in values.items():
        module.register_parameter(leaf, nn.Parameter(value))


@torch.no_grad()
def _let_norms_scale(form: nn.Module) -> None:
    """Make norms affine: subtracting a mean cancels the flow, and dividing by a scale stops it."""
    for module in form.modules():
        if not isinstance(module, _NORMS):
            continue
        if isinstance(module, _NormBase) and module.running_mean is not None:
            assert module.running_var is not None
            # y = γ/σ·x + (β - μγ/σ), as if it were folded into the layer before it. The offset
            # becomes positive where the caller takes absolute values.
            if not module.affine:
                module.weight = nn.Parameter(torch.ones_like(module.running_mean))
                module.bias = nn.Parameter(torch.zeros_like(module.running_mean))
            sigma = (module.running_var + module.eps).sqrt()
            module.bias.sub_(module.running_mean * module.weight / sigma)
            module.running_mean.zero_()
        else:
            module.forward = partial(_scale, module)  # type: ignore[method-assign]


def _scale(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply only a norm's own weight and bias."""
    for tensor, apply in ((norm.weight, torch.mul), (getattr(norm, "bias", None), torch.add)):
        if isinstance(tensor, Tensor):
            # In layer norms they have the shape of the last axes, in others that of axis 1.
            last = isinstance(norm, (nn.LayerNorm, nn.RMSNorm))
            x = apply(x, tensor if last else tensor.view(-1, *[1] * (x.dim() - 2)))
    return x
