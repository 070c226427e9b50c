"""What every matching returns, and the two steps that all methods share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lotperm.science.assignment import assign
from lotperm.science.block_assignment import assign_blocks
from lotperm.science.pairs import Products, Similarities, is_determined
from lotperm.science.symmetry import PermutationSpec


class Matching(dict[str, Tensor]):
    """A `Permutation` (group -> int64 `(n,)`) with the evidence for it.

    Attributes
    ----------
    scores : dict
        Group -> how alike the matched units are, in [-1, 1]: mean Pearson correlation of the
        pairs, or, when matched by weights, mean cosine of their weights. Dead units count as 0.
    identity_scores : dict
        The same for the pairs that there are without permuting.
    correlations : dict or None
        Group -> float64 `(n_b, n_a)`, unit of B by unit of A, if requested.
    """

    def __init__(
        self,
        permutation: Mapping[str, Tensor],
        scores: dict[str, float],
        identity_scores: dict[str, float],
        correlations: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__(permutation)
        self.scores = scores
        self.identity_scores = identity_scores
        self.correlations = correlations


def assign_family(
    spec: PermutationSpec, family: Sequence[str], known: Mapping[str, Similarities]
) -> dict[str, Tensor]:
    """Assign the groups of a family, whose units belong to each other; most have one group."""
    if len(family) == 1:
        (group,) = family
        matrix = known[group]
        assert isinstance(matrix, Tensor), "a group without others has a choice"
        return {group: assign(matrix)}
    # Nothing is known about mere blocks; what is inside decides where they go. Nor about units that
    # follow from the others: there may be so many of these that even looking for it takes long.
    similarities: dict[str, Similarities] = {}
    for group in family:
        n = spec.sizes[group]
        if group in known:
            similarities[group] = known[group]
        elif is_determined(spec.inside.get(group, ()), spec.sizes):
            similarities[group] = Products.unknown(n)
        else:
            # Expanded, so that large groups take no memory.
            similarities[group] = torch.zeros((), dtype=torch.float64).expand(n, n)
    return assign_blocks(similarities, spec.inside)


def score_blocks(spec: PermutationSpec, blocks: Iterable[str], scores: dict[str, float]) -> None:
    """Give groups of mere blocks, without weights or activations, the score of their units."""
    for group in blocks:
        inside = [
            scores[child]
            for child, above in spec.inside.items()
            if child in scores and any(parent.group == group for parent in above)
        ]
        # Or, if nothing was compared, of those that say where they go.
        inside = inside or [
            scores[a.group] for a in spec.inside.get(group, ()) if a.group in scores
        ]
        scores[group] = sum(inside) / len(inside) if inside else 0.0
