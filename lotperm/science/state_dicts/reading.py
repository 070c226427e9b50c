"""Read weights and masks in any common form, under the names of a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lotperm.errors import ParameterError, unknown_name
from lotperm.science.state_dicts.computed import required_weight, weight
from lotperm.science.state_dicts.mappings import as_dense, dict_like, state_dict_of
from lotperm.science.state_dicts.names import (
    computed_name,
    foreign_names,
    mask_names,
    match_names,
    plain_name,
)


def read_weights(
    weights: Mapping[str, Any] | nn.Module, names: Collection[str], what: str = "the weights"
) -> dict[str, Tensor]:
    """Read weights in any common form, under the names of a network.

    Parameters
    ----------
    weights : mapping or nn.Module
        See `state_dict_of` and `match_names`. If the network has ``X`` and the weights have
        ``X_orig`` and ``X_mask``, ``X`` is their product; in the opposite case, ``X_mask`` is all
        ones.
    names : Collection[str]
        Names of the network's tensors.
    what : str, optional
        What the weights are called in errors.

    Returns
    -------
    dict
        Name -> Tensor; tensors that don't match the network are left out.

    Raises
    ------
    ParameterError
        If the network has none of the names.
    """
    state = state_dict_of(weights)
    # In the usual case, there is nothing to rename or to compute.
    if all(name in names for name in state):
        return state
    state, found = _with_computed(state, names)
    if state and not found:
        raise foreign_names(state, names, what)
    result: dict[str, Tensor] = {}
    for name, target in found.items():
        tensor = state[name]
        if name.endswith("_mask") and not target.endswith("_mask"):
            continue  # the factor of an X_orig
        if name.endswith("_orig") and not target.endswith("_orig"):
            tensor = required_weight(state, plain_name(name))
        result[target] = tensor
        factor = f"{plain_name(target)}_mask"
        if target.endswith("_orig") and not name.endswith("_orig") and factor in names:
            result.setdefault(factor, torch.ones_like(tensor))
    return dict_like(state, result)


def _with_computed(
    state: dict[str, Tensor], names: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Match the names of a state dict, computing those weights that are plain in the network.

    Weight norm and spectral norm keep a weight X as tensors under other names. These are replaced
    by X if the network doesn't have them.
    """
    found = match_names(state, names)
    missing = dict.fromkeys(computed_name(name) for name in state if name not in found)
    computed = {
        name: tensor
        for name in missing
        if name not in state and (tensor := weight(state, name)) is not None
    }
    if not computed:
        return state, found
    others = {name: t for name, t in state.items() if computed_name(name) not in computed}
    state = dict_like(state, others | computed)
    return state, match_names(state, names)


def read_mask(
    mask: Mapping[str, Any] | nn.Module, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Read a mask in any common form, as bool tensors under the names of parameters.

    Parameters
    ----------
    mask : mapping or nn.Module
        Tensors of 0 and 1 of any dtype, True or 1 where a weight is kept; or a module that
        `torch.nn.utils.prune` has pruned, or its state dict, whose tensors ``X_mask`` are read.
    names : Collection[str] or None, optional
        Names of the network's tensors, to which the mask's names are matched (`mask_names`).

    Returns
    -------
    dict
        Parameter name -> bool Tensor. Bool tensors are not copied.

    Raises
    ------
    ParameterError
        If a tensor holds anything but 0 and 1, or a name isn't the network's.
    """
    state = state_dict_of(mask)
    pruned = {
        n: t for n, t in state.items() if n.endswith("_mask") and f"{plain_name(n)}_orig" in state
    }
    if isinstance(mask, nn.Module) and not pruned:
        raise ParameterError(
            f"{type(mask).__name__} holds no masks of torch.nn.utils.prune (X_orig and X_mask). "
            "If its pruned weights are zeros, use mask_of_zeros."
        )
    state = pruned or state
    if names is None:
        renamed = {n: n.removesuffix("_mask") for n in state}
        if len(set(renamed.values())) < len(renamed):
            renamed = {n: n for n in state}
    else:
        renamed = mask_names(state, names)
        for name in state:
            if name not in renamed:
                raise unknown_name("weight of the mask", name, names)
    return {renamed[name]: as_bool(tensor, name) for name, tensor in state.items()}


def as_bool(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor of 0 and 1, of any dtype, as bool.

    Raises
    ------
    ParameterError
        If it holds anything else, or is on the meta device.
    """
    if tensor.is_meta:
        raise ParameterError(f"{name} is on the meta device, so nothing is known of the mask.")
    tensor = as_dense(tensor)
    if tensor.dtype == torch.bool:
        return tensor
    odd = (tensor != 0) & (tensor != 1)
    if bool(odd.any()):
        raise ParameterError(
            f"{name} holds {tensor[odd][0].item():.4g} ({tensor.dtype}); a mask holds bool tensors, "
            "or 0 and 1."
        )
    return tensor != 0
