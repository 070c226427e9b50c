"""Weights as a network uses them, computed from the tensors that represent them.

`torch.nn.utils.prune` keeps a weight as ``X_orig`` and its mask as a float tensor ``X_mask``;
weight norm and spectral norm, too, keep it as tensors under other names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lotperm.errors import ParameterError, unknown_name
from lotperm.science.state_dicts.mappings import state_dict_of
from lotperm.science.state_dicts.names import computed_name, mask_names, stand_ins


def weight(state: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Return a weight that a state dict holds, as the network uses it, or None if there is none.

    The state dict holds it under its name, or as the tensors that `torch.nn.utils.prune`, weight
    norm or spectral norm keep in its place.

    Raises
    ------
    ParameterError
        If it is computed from others in a way that a state dict doesn't show.
    """
    if name in state:
        return state[name]
    pruned, v, original1, original = stand_ins(name)
    if pruned in state:
        if f"{name}_u" in state and f"{name}_v" in state:
            return _spectral(state[pruned], state[f"{name}_u"], state[f"{name}_v"])
        kept = state.get(f"{name}_mask")
        return state[pruned] if kept is None else state[pruned] * kept.to(state[pruned])
    for direction, size in ((v, f"{name}_g"), (original1, original1[:-1] + "0")):
        if direction in state and size in state:
            # There is a norm for each place along one axis, or a single one for all values.
            axes = [i for i, n in enumerate(state[size].shape) if n == 1]
            norm = torch.linalg.vector_norm(state[direction], dim=axes or None, keepdim=True)
            return state[direction] * (state[size] / norm)
    u, v = (f"{original.removesuffix('original')}0._{which}" for which in "uv")
    if original in state and u in state and v in state:
        return _spectral(state[original], state[u], state[v])
    if original in state:
        raise ParameterError(
            f"{name} is computed by a parametrization from {original}, so the state dict doesn't "
            "hold it; give the module in its place."
        )
    return None


def required_weight(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a weight as `weight` does, but raise a ParameterError if there is none."""
    found = weight(state, name)
    if found is None:
        raise unknown_name("masked tensor", name, state)
    return found


def _spectral(original: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Divide a weight by its largest singular value, as spectral norm does in evaluation.

    The vectors of its power iteration show which axis becomes the rows of a matrix.
    """
    # As in PyTorch: axis 0, or axis 1 for transposed convolutions.
    axis = next((d for d in (0, 1) if d < original.dim() and len(u) == original.shape[d]), 0)
    matrix = original.movedim(axis, 0).flatten(1)
    return original / torch.dot(u, matrix @ v)


def weights_by_name(
    weights: Mapping[str, Any] | nn.Module, names: Iterable[str]
) -> dict[str, Tensor]:
    """Return the named weights, as the network uses them.

    Parameters
    ----------
    weights : mapping or nn.Module
        In any form that `read_weights` takes. For a module, weights that its parametrizations
        compute are found as well.
    names : Iterable[str]
        Names of weights; prefixes may differ.

    Raises
    ------
    ParameterError
        If there is no such weight.
    """
    names = list(names)
    state = state_dict_of(weights)
    if all(name in state for name in names):
        return {name: state[name] for name in names}
    known = {computed_name(name): None for name in state}
    renamed = mask_names(names, known)
    found = {}
    for name in names:
        if name not in renamed:
            raise unknown_name("masked tensor", name, known)
        tensor = _of_module(weights, renamed[name]) if isinstance(weights, nn.Module) else None
        found[name] = required_weight(state, renamed[name]) if tensor is None else tensor
    return found


def _of_module(model: nn.Module, name: str) -> Tensor | None:
    """Return a weight that a parametrization of a module computes, or None."""
    owner, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(owner)
    except AttributeError:
        return None
    return getattr(module, leaf).detach() if is_parametrized(module, leaf) else None
