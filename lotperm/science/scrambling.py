"""Controls that destroy the structure of a mask or a permutation but keep its counts.

If scrambling what a method arranges costs nothing, the method didn't need it. So each function here
destroys one kind of structure, to a given extent, and keeps everything else.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lotperm.errors import ParameterError
from lotperm.science.sparsity import Mask
from lotperm.science.symmetry import Permutation
from lotperm.types import Int64


def scramble(
    permutation: Mapping[str, Int64[Tensor, " _"]], share: float, generator: torch.Generator
) -> Permutation:
    """Move a fraction of every group's units, so that none of these stays where it was.

    Of n units, m = ``round(share * n)`` are drawn and moved along a random cycle: each gets the
    place of the next one in a random order. For the same generator state, the units that a smaller
    share moves are among those that a larger one moves.

    Parameters
    ----------
    permutation : mapping
        Group -> int64 Tensor of shape (n,), a permutation of 0..n-1, on the CPU.
    share : float
        Fraction of the units, 0 <= share <= 1; halves are rounded to even.
    generator : torch.Generator
        On the CPU. Each group takes a random permutation of n from it, whatever the share.

    Returns
    -------
    Permutation
        It agrees with the given one at exactly n - m places of each group. A single unit has no
        other place to go to, so with m = 1 nothing moves. With share 1 it agrees nowhere.

    Raises
    ------
    ParameterError
        If the share isn't within [0, 1].
    """
    if not 0 <= share <= 1:
        raise ParameterError(f"scramble: share is {share}; expected 0 <= share <= 1.")
    scrambled = {}
    for group, p in permutation.items():
        # Drawn for share 0 as well, so that the shares of one generator are nested.
        chosen = torch.randperm(len(p), generator=generator)[: round(share * len(p))]
        moved = p.clone()
        moved[chosen] = p[chosen.roll(1)]
        scrambled[group] = moved
    return scrambled


def scatter(mask: Mask, generator: torch.Generator) -> Mask:
    """Keep as many weights of every layer as a mask does, at random places.

    Parameters
    ----------
    mask : Mask
        Name -> bool tensor, True where the weight is kept.
    generator : torch.Generator
        On the CPU.
    """
    return {
        # Shuffled, so that exactly as many weights are kept, layer by layer.
        name: kept.flatten()[torch.randperm(kept.numel(), generator=generator)].view(kept.shape)
        for name, kept in mask.items()
    }
