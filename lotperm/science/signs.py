"""Signs of weights: given to other weights, shuffled, compared; and what a ticket takes in bits.

Zhou et al. 2019 found that a ticket's signs matter more than its magnitudes. Signs are written in
the order of the units as a mask is, so a permutation moves them alike:
``with_signs(permute(w), permute(s), permute(m)) == permute(with_signs(w, s, m))``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lotperm.errors import ParameterError
from lotperm.science.sparsity import Mask
from lotperm.science.state_dicts import dict_like, read_mask, state_dict_of, weights_by_name


def with_signs(
    weights: Mapping[str, Any] | nn.Module,
    signs: Mapping[str, Any] | nn.Module,
    mask: Mapping[str, Any] | nn.Module,
) -> dict[str, Tensor]:
    """Return weights whose magnitudes are kept, with the signs of others where a mask keeps them.

    Parameters
    ----------
    weights : mapping or nn.Module
        A state dict or a module: whose magnitudes, biases and norms they are.
    signs : mapping or nn.Module
        Likewise, at least of the tensors that the mask names; only the signs count.
    mask : mapping or nn.Module
        As of `lotperm.science.sparsity.magnitude_prune`.

    Returns
    -------
    dict
        With the names of `weights`. A weight that is zero, or whose sign would be that of zero,
        stays as it is, and so does everything that the mask doesn't keep.

    Raises
    ------
    ParameterError
        If the mask names a tensor that isn't there, or that has another shape.
    """
    state = state_dict_of(weights)
    kept = read_mask(mask, state)
    given = weights_by_name(signs, kept)
    result = {}
    for name, tensor in state.items():
        if name not in kept:
            result[name] = tensor.clone()
            continue
        sign = given[name].to(tensor)
        if not tensor.shape == sign.shape == kept[name].shape:
            raise ParameterError(
                f"{name} has shape {tuple(tensor.shape)}, its signs {tuple(sign.shape)} and its "
                f"mask {tuple(kept[name].shape)}; expected one shape."
            )
        changes = kept[name].to(tensor.device) & (sign != 0)
        result[name] = torch.where(changes, tensor.abs() * sign.sign(), tensor)
    return dict_like(state, result)


def shuffle_signs(
    signs: Mapping[str, Any] | nn.Module,
    mask: Mapping[str, Any] | nn.Module,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Deal a network's signs out anew among the weights that a mask keeps, layer by layer.

    The control of `with_signs`: as many positive and negative ones in every layer, at random.

    Parameters
    ----------
    signs : mapping or nn.Module
        A state dict or a module.
    mask : mapping or nn.Module
        As of `lotperm.science.sparsity.magnitude_prune`.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    dict
        Name of each tensor of the mask -> Tensor of -1, 0 and 1, 0 where nothing is kept.
    """
    kept = read_mask(mask)
    shuffled = {}
    for name, tensor in weights_by_name(signs, kept).items():
        here = kept[name].to(tensor.device)
        dealt = tensor[here].sign()
        # Drawn on the CPU, so that every device deals alike.
        order = torch.randperm(len(dealt), generator=generator).to(tensor.device)
        result = torch.zeros_like(tensor)
        result[here] = dealt[order]
        shuffled[name] = result
    return shuffled


def sign_agreement(
    a: Mapping[str, Any] | nn.Module,
    b: Mapping[str, Any] | nn.Module,
    mask: Mapping[str, Any] | nn.Module,
) -> float:
    """Return the share of the kept weights in which two networks have the same sign.

    Raises
    ------
    ParameterError
        If the mask keeps nothing, or names a tensor that isn't there.
    """
    kept = read_mask(mask)
    x, y = weights_by_name(a, kept), weights_by_name(b, kept)
    same = sum(int((x[n].sign() == y[n].sign())[kept[n]].sum()) for n in kept)
    total = sum(int(k.sum()) for k in kept.values())
    if total == 0:
        raise ParameterError("sign_agreement: the mask keeps no weight.")
    return same / total


class Bits(NamedTuple):
    """What it takes at most to write down the parts of a ticket, in bits.

    Attributes
    ----------
    mask : float
        Which weights are kept, with the number of each layer known: the sum of ``log2 C(n, k)``.
    signs : float
        One for each weight that is kept.
    permutation : float
        The order of the units of every group: the sum of ``log2 n!``.
    """

    mask: float
    signs: float
    permutation: float


def ticket_bits(mask: Mask, sizes: Mapping[str, int]) -> Bits:
    """Count the bits of a ticket's mask, of its signs, and of a permutation of its network.

    These are logarithms of the number of possibilities, what the shortest code of fixed length
    takes; a code that knows which are likelier takes less.

    Parameters
    ----------
    mask : Mask
        Name -> bool tensor.
    sizes : mapping
        Group -> number of its units (`lotperm.science.symmetry.spec.PermutationSpec.sizes`).
    """

    def log_factorial(n: int) -> float:
        return math.lgamma(n + 1) / math.log(2)

    counts = [(kept.numel(), int(kept.sum())) for kept in mask.values()]
    return Bits(
        mask=sum(log_factorial(n) - log_factorial(k) - log_factorial(n - k) for n, k in counts),
        signs=float(sum(k for _, k in counts)),
        permutation=sum(log_factorial(n) for n in sizes.values()),
    )
