"""lotperm: permute a lottery-ticket mask onto a new initialization, and train it sparse.

The executable companion of "Sparse Training from Random Initialization: Aligning Lottery Ticket Masks using
Weight Symmetry" (Adnan, Jain, Sharma, Krishnan, Ioannou; ICML 2025).
"""

from lotperm.config import Experiment
from lotperm.experiments import Pipeline, run
from lotperm.masks import Mask, load_mask, magnitude_prune, save_mask
from lotperm.matching import Matching, match_activations, match_weights
from lotperm.permutation import Permutation, PermutationSpec, compose, invert, permute
from lotperm.results import Results
from lotperm.store import Store
from lotperm.tickets import Ticket, load_ticket
from lotperm.training import Runtime, train

__version__ = "0.1.0"

__all__ = [
    "Experiment", "Mask", "Matching", "Permutation", "PermutationSpec", "Pipeline", "Results", "Runtime", "Store",
    "Ticket", "compose", "invert", "load_mask", "load_ticket", "magnitude_prune", "match_activations", "match_weights",
    "permute", "run", "save_mask", "train",
]  # fmt: skip
