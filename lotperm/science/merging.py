"""Bring many networks into one order of units at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lotperm.errors import ParameterError
from lotperm.science.matching import match_weights
from lotperm.science.state_dicts import is_parameter
from lotperm.science.symmetry import Permutation, PermutationSpec, permute


def match_many(
    networks: Sequence[Mapping[str, Any] | nn.Module],
    spec: PermutationSpec,
    *,
    seed: int = 0,
    max_sweeps: int = 20,
) -> list[Permutation]:
    """Find a permutation for each network, so that all networks agree as well as possible.

    Git Re-Basin's MergeMany (Ainsworth et al. 2023, algorithm 3): one network after another is
    matched by weights to the mean of all others, until none of them moves. No sweep lowers the sum
    of the inner products of all pairs. Permutations between networks go through the common order,
    so they are consistent: A to B to C is the same as A to C, which isn't so for permutations found
    pair by pair.

    Parameters
    ----------
    networks : sequence of mapping or nn.Module
        Two or more, each like `weights_a` in `lotperm.science.matching.weights.match_weights`.
    spec : PermutationSpec
        The permutation symmetries of their architecture.
    seed : int, optional
        Seed of the random order of networks.
    max_sweeps : int, optional
        The largest number of sweeps, in which every network but the first is matched to the others.

    Returns
    -------
    list of Permutation
        One for each network: ``permute(network, spec, p)`` is in the common order, which is that
        of the first network, since this one isn't moved. ``compose(invert(p[j]), p[i])`` moves
        network i onto network j.

    Raises
    ------
    ParameterError
        Fewer than two networks, or networks with different parameters.
    """
    if len(networks) < 2:
        raise ParameterError(f"match_many: got {len(networks)} networks; expected two or more.")
    states = [spec.read(n, f"the weights of network {i}") for i, n in enumerate(networks)]
    # They begin in a common order, that of the first network, since each is matched to it.
    found = [spec.identity(), *(dict(match_weights(s, states[0], spec)) for s in states[1:])]
    moved = [permute(s, spec, p) for s, p in zip(states, found, strict=True)]
    generator = np.random.default_rng(seed)
    for _ in range(max_sweeps):
        still = True
        # The first one stays; otherwise the common order itself could drift.
        for i in 1 + generator.permutation(len(states) - 1):
            mean = {
                # What isn't trained, such as the counter of a batch norm, has no mean.
                name: torch.stack([m[name].double() for j, m in enumerate(moved) if j != i]).mean(0)
                for name, tensor in moved[0].items()
                if is_parameter(name, tensor)
            }
            better = dict(match_weights(states[i], mean, spec, init=found[i]))
            if any(not torch.equal(better[group], found[i][group]) for group in better):
                found[i], still = better, False
                moved[i] = permute(states[i], spec, better)
        if still:
            break
    return found
