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
    """Find a permutation for each network, so that all of them agree as well as can be.

    Git Re-Basin's MergeMany (Ainsworth et al. 2023, algorithm 3): one network after the other is
    matched by weights to the mean of all others, until none of them moves. No sweep lowers the sum
    of the inner products of all pairs. Between any two of the networks the way through the common
    order is unique, so that from A to B to C leads where from A to C does, which isn't so of
    permutations found pair by pair.

    Parameters
    ----------
    networks : sequence of mapping or nn.Module
        Two or more, as `weights_a` of `lotperm.science.matching.weights.match_weights`.
    spec : PermutationSpec
        The permutation symmetries of their architecture.
    seed : int, optional
        Of the order of networks.
    max_sweeps : int, optional
        At most so many times every network is matched to the others.

    Returns
    -------
    list of Permutation
        One for each network: ``permute(network, spec, p)`` is in the common order, which is that
        of the first network, as this one stays as it is. From network i to network j leads
        ``compose(invert(p[j]), p[i])``.

    Raises
    ------
    ParameterError
        Fewer than two networks, or networks with other parameters.
    """
    if len(networks) < 2:
        raise ParameterError(f"match_many: got {len(networks)} networks; expected two or more.")
    states = [spec.read(n, f"the weights of network {i}") for i, n in enumerate(networks)]
    # Matched to the first one, they begin in a common order: its own.
    found = [spec.identity(), *(dict(match_weights(s, states[0], spec)) for s in states[1:])]
    moved = [permute(s, spec, p) for s, p in zip(states, found, strict=True)]
    generator = np.random.default_rng(seed)
    for _ in range(max_sweeps):
        still = True
        # The first one stays: else the common order itself could drift.
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
