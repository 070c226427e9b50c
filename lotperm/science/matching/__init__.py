"""Match the units of network A to those of network B, by activations, gradients or weights.

All ways end in one linear assignment per permutation group, or one of blocks and of the units
inside each pair of them (`lotperm.science.blocks`), and return a `result.Matching`, a
permutation together with the evidence for it. A permutation moves A onto B: ``permute(weights_a,
spec, matching)`` is close to B. What is compared, and how the best order is searched for, is in
`activations`, `gradients` and `weights`.
"""

from lotperm.science.matching.activations import Points, match_activations
from lotperm.science.matching.gradients import Signal, match_gradients
from lotperm.science.matching.result import Matching
from lotperm.science.matching.weights import match_weights, weight_agreement

__all__ = [
    "Matching",
    "Points",
    "Signal",
    "match_activations",
    "match_gradients",
    "match_weights",
    "weight_agreement",
]
