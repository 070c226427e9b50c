"""Signs of weights, transferred, shuffled and compared; and the size of a ticket in bits.

Zhou et al. 2019 found that a ticket's signs matter more than its magnitudes. Like a mask, signs are
given in the order of the units, so a permutation moves both in the same way:
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
    """Give weights the signs of others, wherever a mask keeps them; magnitudes stay.

    Parameters
    ----------
    weights : mapping or nn.Module
        A state dict or a module that gives the magnitudes, biases and norms.
    signs : mapping or nn.Module
        Likewise, with at least the tensors that the mask names; only the signs count.
    mask : mapping or nn.Module
        As in `lotperm.science.sparsity.magnitude_prune`.

    Returns
    -------
    dict
        With the names of `weights`. A weight stays as it is if it is zero, if it would get the sign
        of a zero, or if the mask doesn't keep it.

    Raises
    ------
    ParameterError
        If the mask names a tensor that is missing or has another shape.
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
    """Shuffle a network's signs among the weights that a mask keeps, layer by layer.

    A control for `with_signs`: the numbers of positive and negative signs in every layer stay.

    Parameters
    ----------
    signs : mapping or nn.Module
        A state dict or a module.
    mask : mapping or nn.Module
        As in `lotperm.science.sparsity.magnitude_prune`.
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
        # Drawn on the CPU, so that the order is the same for every device.
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
    """Return the fraction of the kept weights at which two networks have the same sign.

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
    """How many bits suffice to write down each part of a ticket.

    Attributes
    ----------
    mask : float
        Which weights are kept, given the number in each layer: the sum of ``log2 C(n, k)``.
    signs : float
        One bit for each weight that is kept.
    permutation : float
        The order of the units of every group: the sum of ``log2 n!``.
    """

    mask: float
    signs: float
    permutation: float


def ticket_bits(mask: Mask, sizes: Mapping[str, int]) -> Bits:
    """Count the bits of a ticket's mask, of its signs, and of a permutation of its network.

    These are logarithms of the numbers of possibilities, as needed by the shortest code of fixed
    length; a code that knows which possibilities are likelier needs fewer bits.

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
