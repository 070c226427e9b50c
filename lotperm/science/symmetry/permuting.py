"""Permutations applied to weights and masks, inverted and composed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lotperm.errors import ParameterError, unknown_name
from lotperm.science.blocks import complete
from lotperm.science.state_dicts import as_dense, dict_like, mask_names, state_dict_of
from lotperm.science.symmetry.spec import Permutation, PermutationSpec
from lotperm.types import Int64


def permute(
    tensors: Mapping[str, Any] | nn.Module,
    spec: PermutationSpec,
    permutation: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Reorder the units of a network: ``new = old[p]`` on every axis of a group.

    Parameters
    ----------
    tensors : mapping or nn.Module
        A state dict or a mask, whole or in part, of any dtype and on any device; or a module, for
        its state dict. Names may have the prefixes of wrappers (``module.``, ``_orig_mod.``) and
        the endings of `torch.nn.utils.prune` (``_orig``, ``_mask``).
    spec : PermutationSpec
        The symmetries of the network that the tensors belong to.
    permutation : mapping
        Group name -> int64 Tensor of shape (n,), or a list or array of n integers; ``p[i]`` is the
        unit that moves to position i. Groups that are not named stay as they are, except for blocks
        that a named one moves.

    Returns
    -------
    dict
        The same names in the same order; a tensor is a new one if its units move. If
        `load_state_dict` accepts `tensors`, it accepts this, as PyTorch's metadata is kept.

    Raises
    ------
    ParameterError
        An unknown group or tensor, a tensor of another shape, a p that isn't a permutation of
        0..n-1, or one that tears blocks apart (`PermutationSpec.inside`).
    """
    moves = {group: _validated(spec, group, p) for group, p in permutation.items()}
    moves = complete(moves, spec.sizes, spec.inside)
    # Tensors that no group moves needn't be copied.
    moves = {group: p for group, p in moves.items() if not torch.equal(p, torch.arange(len(p)))}
    state = state_dict_of(tensors)
    names = mask_names(state, spec.shapes)
    result = {}
    for name, tensor in state.items():
        if name not in names:
            raise unknown_name("tensor of the traced network", name, spec.shapes)
        own = names[name]
        if tensor.shape != spec.shapes[own]:
            raise ParameterError(
                f"tensor {name!r} has shape {tuple(tensor.shape)}, but the traced network has "
                f"{tuple(spec.shapes[own])}; trace the network that these tensors belong to."
            )
        # Units are moved in dense tensors; sparse ones get their layout back.
        layout, dense = tensor.layout, as_dense(tensor)
        for role in spec.roles.get(own, ()):
            dense = role.apply(dense, moves)
        result[name] = dense if layout == torch.strided else dense.to_sparse(layout=layout)
    return dict_like(state, result)


def invert(permutation: Mapping[str, Int64[Tensor, " _"]]) -> Permutation:
    """Return the permutation that undoes `permutation`."""
    return {group: p.argsort() for group, p in permutation.items()}


def compose(
    outer: Mapping[str, Int64[Tensor, " _"]], inner: Mapping[str, Int64[Tensor, " _"]]
) -> Permutation:
    """Return the permutation that applies `inner`, then `outer`.

    If only one of them names a group, its permutation is taken.
    """
    # First new = old[inner], then new[outer], so it is inner[outer].
    both = {
        group: p[outer[group].to(p.device)] if group in outer else p for group, p in inner.items()
    }
    return {**outer, **both}


def _validated(spec: PermutationSpec, group: str, p: Any) -> Tensor:
    """Return the permutation of one group as a tensor on the CPU, after checking it."""
    if group not in spec.sizes:
        raise unknown_name("permutation group", group, spec.sizes)
    n = spec.sizes[group]
    p = _whole_numbers(p)
    if not isinstance(p, Tensor) or p.dtype != torch.int64 or p.shape != (n,):
        got = f"{p.dtype} of shape {tuple(p.shape)}" if isinstance(p, Tensor) else type(p).__name__
        raise ParameterError(
            f"the permutation of {group!r} must be an int64 tensor of shape ({n},), got {got}."
        )
    p = p.cpu()
    if not torch.equal(p.sort().values, torch.arange(n)):
        raise ParameterError(
            f"the permutation of {group!r} must hold each of 0..{n - 1} exactly once."
        )
    return p


def _whole_numbers(p: Any) -> Any:
    """Return a list or array of integers as an int64 tensor, and everything else as it is."""
    if isinstance(p, Tensor):
        return p
    try:
        found = torch.as_tensor(p)
    except (TypeError, ValueError, RuntimeError):
        return p
    whole = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    return found.to(torch.int64) if found.dtype in whole else p
