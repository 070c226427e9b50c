"""Match the units of network A to those of network B, by activations, gradients or weights.

Each method solves a linear assignment per permutation group, or one for blocks and for the units
inside each pair of blocks (`lotperm.science.block_assignment`), and returns a `result.Matching`, a
permutation together with the evidence for it. The permutation moves A onto B: ``permute(weights_a,
spec, matching)`` is close to B. The modules `activations`, `gradients` and `weights` say what is
compared and how the best order is found.
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
