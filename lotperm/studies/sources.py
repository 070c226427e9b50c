"""Masks that come from elsewhere than iterative magnitude pruning.

Each source here finds A's mask in one go; those that train are in `lotperm.studies.trained_masks`.
Magnitudes are those of A at the end of its dense training. SNIP, GraSP and SynFlow score the
weights that the arms start from, those of A after the rewind epoch (its initialization if that is
0). The random masks look at no weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from lotperm.config.choices import MaskSource
from lotperm.config.seeds import derive_seed
from lotperm.data.dataset import subset
from lotperm.engine.models import Weights
from lotperm.science.leaves import has_norms
from lotperm.science.ranking import (
    collapsed,
    erdos_renyi_densities,
    keep_highest,
    random_mask,
)
from lotperm.science.saliency import (
    SYNFLOW_ROUNDS,
    LabelledBatch,
    grasp_scores,
    snip_scores,
    synflow_mask,
)
from lotperm.science.sparsity import Mask, full_mask, magnitude_prune, prunable_parameters
from lotperm.store.tasks import Plain, epoch_file
from lotperm.studies.subject import Subject

EXAMPLES_PER_CLASS = 10
"""Training examples of each class that SNIP and GraSP score weights on; GraSP's authors take 10."""


def weights_file(source: MaskSource, rewind_epoch: int) -> str | None:
    """Name the file of A's weights that a source looks at; None if it looks at none."""
    if source in ("erk", "uniform"):
        return None
    return "final" if source == "magnitude" else epoch_file(rewind_epoch)


def settings(subject: Subject, sparsity: float, rewind_epoch: int) -> Plain:
    """Return everything that a mask depends on besides A's weights, for its stage's key."""
    pruning = subject.experiment.pruning
    found: Plain = {
        "source": pruning.mask,
        "sparsity": sparsity,
        "prunable": pruning.prunable,
    }
    match pruning.mask:
        case "erk" | "uniform":
            # Drawn from the seeds, for the shapes of the network.
            seeds = list(subject.experiment.seeds)
            return {**found, **subject.identity(), "seeds": seeds}
        case "magnitude":
            return {**found, "scope": pruning.scope}
        case "snip" | "grasp":
            found |= {"scope": pruning.scope, "examples": examples(subject)}
        case "synflow":
            found["rounds"] = SYNFLOW_ROUNDS
            # Only part of the key where there are norms: elsewhere it makes no difference.
            if has_norms(subject.model):
                found["norms"] = "affine"
    return {**found, "rewind_epoch": rewind_epoch}


def examples(subject: Subject) -> int:
    """Return the number of training examples that SNIP and GraSP score on."""
    of = subject.info
    return min(EXAMPLES_PER_CLASS * of.classes, of.train)


def images(subject: Subject) -> int:
    """Return roughly how many training images cost as much as finding one mask."""
    match subject.experiment.pruning.mask:
        case "snip":
            return examples(subject)
        case "grasp":
            # The gradient once, then again with the gradient of its product.
            return 3 * examples(subject)
        case "synflow":
            return SYNFLOW_ROUNDS
    return 0


def find_masks(subject: Subject, weights: Sequence[Weights], sparsity: float) -> list[Mask]:
    """Find A's mask in every replicate; `weights` are A's, or empty if the source needs none."""
    pruning = subject.experiment.pruning
    if pruning.mask in ("erk", "uniform"):
        return draw_masks(subject, sparsity)
    names = prunable_parameters(subject.model, pruning.prunable)
    if pruning.mask == "magnitude":
        return [
            magnitude_prune(w, full_mask(w, names), sparsity, scope=pruning.scope) for w in weights
        ]
    networks = (subject.network(w) for w in weights)
    if pruning.mask == "synflow":
        found = (synflow_mask(n, subject.info.shape, names, sparsity) for n in networks)
    else:
        found = (_scored(subject, n, names, sparsity) for n in networks)
    return [{name: kept.cpu() for name, kept in mask.items()} for mask in found]


def draw_masks(subject: Subject, sparsity: float) -> list[Mask]:
    """Draw a random mask for every replicate, different for each source.

    The source "uniform" has the same density in every layer, any other ERK densities.
    """
    pruning = subject.experiment.pruning
    parameters = dict(subject.model.named_parameters())
    names = prunable_parameters(subject.model, pruning.prunable)
    shapes = {name: tuple(parameters[name].shape) for name in names}
    even = dict.fromkeys(names, 1 - sparsity)
    densities = even if pruning.mask == "uniform" else erdos_renyi_densities(shapes, sparsity)
    streams = [derive_seed("mask", pruning.mask, seed) for seed in subject.experiment.seeds]
    return [
        random_mask(shapes, densities, sparsity, torch.Generator().manual_seed(stream))
        for stream in streams
    ]


def _scored(subject: Subject, network: nn.Module, names: Sequence[str], sparsity: float) -> Mask:
    """Make a mask of SNIP's or GraSP's scores on a few training examples of each class."""
    data, pruning = subject.data, subject.experiment.pruning
    some = subset(data.train, examples(subject), "the number of examples to score on")
    batches: Iterable[LabelledBatch] = subject.batches(some)
    scores = (snip_scores if pruning.mask == "snip" else grasp_scores)(network, batches, names)
    return keep_highest(scores, sparsity, scope=pruning.scope)


def name_collapse(subject: Subject, masks: Sequence[Mask], sparsity: float) -> None:
    """Warn about layers that lost all their weights.

    Warns
    -----
    UserWarning
        If a mask keeps nothing of a layer; it names the seeds and the layers.
    """
    lost = {
        seed: layers
        for seed, mask in zip(subject.experiment.seeds, masks, strict=True)
        if (layers := collapsed(mask))
    }
    if lost:
        seed, layers = next(iter(lost.items()))
        warnings.warn(
            f"layer collapse: at sparsity {sparsity:g} the mask of seed {seed} keeps no weight of "
            f"{', '.join(layers[:4])}{' …' if len(layers) > 4 else ''}, so no signal passes there "
            f"({len(lost)} of {len(masks)} masks have such a layer). Choose a lower sparsity, "
            "scope=layerwise or another mask.",
            stacklevel=2,
        )
