"""Matching by activations: find the order of A's units that respond to data most like B's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lotperm.errors import ParameterError, unknown_name
from lotperm.parallel import distributed
from lotperm.science.assignment import mean_matched
from lotperm.science.blocks import families
from lotperm.science.correlation import CorrelationAccumulator, correlate
from lotperm.science.inputs import Batch
from lotperm.science.matching.result import Matching, assign_family, score_blocks
from lotperm.science.symmetry import PermutationSpec

Points = Literal["last", "penultimate", "authors"]
"""Names for ways to choose the activation at which each group of units is observed."""

# How often the residual streams of the paper's ResNet20 can be observed: after the stem and its
# three blocks, and after the three blocks of either later stage.
_RESNET20 = [4, 3, 3]


def match_activations(
    a: Mapping[str, Any] | nn.Module,
    b: Mapping[str, Any] | nn.Module,
    batches: Iterable[Batch],
    spec: PermutationSpec,
    *,
    points: Points | Mapping[str, str] = "last",
    keep_correlations: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Matching:
    """Match the units of A to those of B whose activations correlate most, all groups in one pass.

    Li et al. 2016; Ainsworth et al. 2023, section 3.1. For each group the permutation maximizes
    the sum of the Pearson correlations of the matched pairs. One pass over the unpermuted networks
    is enough, since permuting a layer's units together with the next layer's inputs leaves all
    later activations as they were.

    Parameters
    ----------
    a, b : Mapping[str, Any] | nn.Module
        The networks, as state dicts or modules of the architecture that `spec` was traced from;
        checkpoints and prefixed names are read too (`lotperm.science.state_dicts.read_weights`).
        They run in eval mode; a batch norm right after a convolution is folded into it.
    batches : Iterable[Batch]
        Normalized inputs `(B, ...)`, or tuples that begin with them, as a `DataLoader` yields; for
        a network that was traced with several inputs, tuples that begin with these, or dicts that
        hold them. A single tensor or dict is one batch. Order and batch size don't matter (beyond
        rounding), unless the network itself mixes the examples of a batch, as a batch norm without
        running statistics does.
    spec : PermutationSpec
        The permutation symmetries of the architecture.
    points : Points | Mapping[str, str], optional
        Where each group is observed. ``"last"``: at its last candidate, `spec.points[group][-1]`.
        ``"penultimate"``: at the one before, if there is one. ``"authors"``: as in the paper's
        code, only for ResNet20: the residual streams of stages 1 and 2 after their last block, that
        of stage 3 after its second-to-last block. Or a mapping, group -> graph node, for some
        groups; the others are observed at their last candidate.
    keep_correlations : bool, optional
        Also return the correlation matrices.
    device : torch.device | str | None, optional
        Where the networks run; without it, where the weights of A and B are.
    dtype : torch.dtype, optional
        Of weights and activations. bfloat16 is faster on some machines but decides a few near ties
        differently.

    Returns
    -------
    Matching
        For every group that can be observed in activations.

    Raises
    ------
    ParameterError
        Unknown group or point, points "authors" for a network other than ResNet20, no data, or
        activations that are not finite.
    """
    chosen = choose_points(spec, points)
    moments = correlate(a, b, batches, spec, chosen, device=device, dtype=dtype)
    return distributed.once(lambda: assign_all(spec, moments, chosen, keep_correlations))


def assign_all(
    spec: PermutationSpec,
    moments: Mapping[str, CorrelationAccumulator],
    chosen: Mapping[str, str],
    keep_correlations: bool,
) -> Matching:
    """Solve the assignment of every group."""
    matrices = {}
    for group, accumulator in moments.items():
        try:
            matrices[group] = accumulator.correlation()
        except ParameterError as error:
            raise ParameterError(
                f"permutation group {group!r} at {chosen[group]!r}: {error}"
            ) from None
    permutation: dict[str, Tensor] = {}
    for family in families(spec.sizes, spec.inside):
        known = {group: matrices[group] for group in family if group in matrices}
        if known:
            permutation |= assign_family(spec, family, known)
    scores, identity = (
        {group: mean_matched(matrix, p[group]) for group, matrix in matrices.items()}
        for p in (permutation, spec.identity())
    )
    for found in (scores, identity):
        score_blocks(spec, [group for group in permutation if group not in found], found)
    return Matching(permutation, scores, identity, matrices if keep_correlations else None)


def choose_points(spec: PermutationSpec, points: str | Mapping[str, str]) -> dict[str, str]:
    """Choose the graph node at which each group is observed."""
    # Nothing is known about a group that no activation shows, so it stays as it is.
    last = {group: nodes[-1] for group, nodes in spec.points.items() if nodes}
    if not isinstance(points, str):
        return {**last, **points}
    if points == "last":
        return last
    if points == "penultimate":
        return {group: nodes[-2:][0] for group, nodes in spec.points.items() if nodes}
    if points == "authors":
        return last | _authors_point(spec)
    raise unknown_name("choice of points", points, get_args(Points))


def _authors_point(spec: PermutationSpec) -> dict[str, str]:
    """Return where the paper's code observes the last residual stream of ResNet20."""
    streams = {group: nodes for group, nodes in spec.points.items() if len(nodes) > 1}
    if (found := [len(nodes) for nodes in streams.values()]) != _RESNET20:
        seen = f"at {', '.join(map(str, found))} places" if found else "at one place each"
        raise ParameterError(
            "points 'authors' is defined for ResNet20 alone, whose three residual streams can be "
            f"observed at 4, 3 and 3 places; those of this network {seen}. Use 'last', "
            "'penultimate' or a mapping of groups to nodes."
        )
    group, nodes = list(streams.items())[-1]
    return {group: nodes[-2]}
