"""lotperm: permute a lottery-ticket mask onto a new initialization, and train it sparse.

The executable companion of "Sparse Training from Random Initialization: Aligning Lottery Ticket
Masks using Weight Symmetry" (Adnan, Jain, Sharma, Krishnan, Ioannou; ICML 2025).
"""

from lotperm.config.experiment import Experiment
from lotperm.engine.runtime import Runtime
from lotperm.engine.training import train
from lotperm.science.matching import Matching, match_activations, match_weights
from lotperm.science.sparsity import Mask, full_mask, magnitude_prune, prunable_parameters
from lotperm.science.symmetry import Permutation, PermutationSpec, compose, invert, permute
from lotperm.store.masks import load_mask, save_mask
from lotperm.store.stages import Store
from lotperm.studies.pipeline import Pipeline, run
from lotperm.studies.results import Results
from lotperm.studies.tickets import Ticket, load_ticket

__version__ = "0.1.0"

__all__ = [
    "Experiment",
    "Mask",
    "Matching",
    "Permutation",
    "PermutationSpec",
    "Pipeline",
    "Results",
    "Runtime",
    "Store",
    "Ticket",
    "compose",
    "full_mask",
    "invert",
    "load_mask",
    "load_ticket",
    "magnitude_prune",
    "match_activations",
    "match_weights",
    "permute",
    "prunable_parameters",
    "run",
    "save_mask",
    "train",
]
