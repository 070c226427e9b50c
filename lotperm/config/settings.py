"""What an experiment depends on, declared once: type, bounds, default and meaning of each field.

The classes group the fields as records and keys hold them. `lotperm.config.parameters` lists them
by the flat names that callers use.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated

from pydantic import AfterValidator, Field

from lotperm.config.choices import (
    IMAGE_FOLDERS,
    Augment,
    Dataset,
    ImpMethod,
    MaskSource,
    Matcher,
    MatchPoint,
    Model,
    Precision,
    Prunable,
    Schedule,
    Scope,
)
from lotperm.config.configuration import configuration
from lotperm.config.fields import (
    Count,
    Fraction,
    FromZero,
    Help,
    Number,
    Positive,
    SeedList,
    Several,
    Whole,
    either,
    require,
    require_distinct,
)
from lotperm.config.profiles import Profile

# Bounds far beyond any experiment: a value past them is a mistake, and would never end or exhaust
# the memory.
MAX_WIDTH = 1_000
MAX_HIDDEN = 1_000_000
MAX_ROUNDS = 1_000

# The parts of an experiment that parameters apply to.
DENSE = "dense networks"
SPARSE = "sparse arms"
IMP = "IMP rounds"
TRAINED = f"{DENSE}, {SPARSE}"
ALL = f"{TRAINED}, {IMP}"
ANY_NETWORK = "all networks"
FOLDERS = "image folders"
PERMUTATION = "permutations"

Width = Annotated[Number, Field(gt=0, le=MAX_WIDTH)]
Pixels = Annotated[Whole, Field(ge=8, le=4096)]


def _in_order(epochs: tuple[int, ...]) -> tuple[int, ...]:
    # So that the same epochs are the same stage.
    return tuple(sorted(set(epochs)))


@configuration(frozen=True)
class Recipe:
    """The training of a network: SGD, its schedule, batches and augmentation.

    The schedule spans `epochs`, and the rate is constant within an epoch: "cosine" falls to 0,
    "step" multiplies by `gamma` at each of `milestones`. Weight decay is on every parameter, norms
    and biases included. The last partial batch of an epoch is dropped. "crop" is a random crop
    after padding by 4; "flip_resized_crop", for image folders, a random part of the image, resized.
    "bfloat16" computes products under autocast; weights and statistics stay in float32. "tf32"
    rounds the factors of convolutions to 10 bits of mantissa on CUDA, and is float32 elsewhere;
    "float32" doesn't, on any device.
    """

    epochs: Annotated[FromZero, Help("passes over the training set", TRAINED)]
    lr: Annotated[Positive, Help("peak learning rate of the dense networks", DENSE)]
    momentum: Annotated[Number, Field(ge=0, lt=1), Help("momentum of SGD", TRAINED)] = 0.9
    weight_decay: Annotated[Number, Field(ge=0), Help("weight decay of SGD", TRAINED)] = 5e-4
    batch_size: Annotated[Count, Help("examples per step", ALL)] = 128
    schedule: Annotated[Schedule, Help("schedule of the learning rate", TRAINED)] = "cosine"
    milestones: Annotated[
        Several[Whole], Help("epochs at which the schedule 'step' multiplies by gamma", TRAINED)
    ] = ()
    gamma: Annotated[Positive, Help("factor of the schedule 'step'", ALL)] = 0.1
    warmup_epochs: Annotated[FromZero, Help("epochs of linear warm-up", TRAINED)] = 0
    augment: Annotated[Augment, Help("augmentation (resized: image folders)", ALL)] = "none"
    precision: Annotated[Precision, Help("precision of the products", ALL)] = "float32"

    def __post_init__(self) -> None:
        # Values that nothing would read are refused: they would still be part of the key.
        rising = all(a < b for a, b in itertools.pairwise((0, *self.milestones)))
        require(rising, "milestones", self.milestones, "ascending epochs from 1 on")
        require(
            bool(self.milestones) == (self.schedule == "step"),
            "milestones",
            self.milestones,
            "epochs with schedule 'step', none with others",
        )


@configuration(frozen=True)
class DataConfig:
    """A data set, or part of it: None is all, a number the size of a class-balanced subset.

    Images of a folder are 224 pixels a side unless `image_size` says otherwise; before the centre
    is cut out, their short side is 256/224 of that unless `resize_size` says otherwise.
    """

    name: Annotated[Dataset, Help("data set, of `lotperm data list`", name="dataset")]
    train_size: Annotated[Count | None, Help("size of a class-balanced subset to train on")] = None
    test_size: Annotated[Count | None, Help("size of a class-balanced subset to test on")] = None
    image_size: Annotated[
        Pixels | None, Help("pixels a side of the images that the network sees", FOLDERS)
    ] = None
    resize_size: Annotated[
        Pixels | None, Help("short side of an image before its centre is cut out", FOLDERS)
    ] = None

    def __post_init__(self) -> None:
        for label, size in (("image_size", self.image_size), ("resize_size", self.resize_size)):
            require(
                size is None or self.name in IMAGE_FOLDERS,
                label,
                size,
                f"nothing: {self.name} has a size of its own",
            )
        if self.image_size is not None and self.resize_size is not None:
            require(
                self.resize_size >= self.image_size,
                "resize_size",
                self.resize_size,
                f"{self.image_size} or more",
            )


@configuration(frozen=True)
class ModelConfig:
    """A network, as `lotperm.engine.models.build` makes it."""

    name: Annotated[Model, Help("architecture", ANY_NETWORK, name="model")]
    width: Annotated[
        Width, Help("multiplies the channels, or the hidden widths of the mlp", ANY_NETWORK)
    ] = 1.0
    hidden: Annotated[
        Several[Annotated[Whole, Field(ge=1, le=MAX_HIDDEN)]],
        Help("hidden widths of the mlp", "mlp"),
    ] = ()

    def __post_init__(self) -> None:
        require(
            bool(self.hidden) or self.name != "mlp", "hidden", self.hidden, "at least one width"
        )


@configuration(frozen=True)
class PruningConfig:
    """The search for a mask: iterative magnitude pruning (IMP), or another source.

    `mask` "magnitude" prunes A once, at the end of its dense training. "snip", "grasp" and
    "synflow" score the weights of A after the rewind epoch; "erk" and "uniform" are drawn at
    random, with Erdős-Rényi-kernel densities or the same density in every layer
    (`lotperm.studies.sources`). "rigl" and "movement" take a training of A of their own, sparse
    from the rewind epoch on or dense from the start (`lotperm.studies.trained_masks`).

    `finetune` is the recipe of the training that follows each pruning of IMP. With `imp`
    "finetune", each round goes on from the pruned weights (the paper's); with "rewind", each
    starts again from A's rewind weights, with the sparse recipe (Frankle et al. 2020).
    `lotperm.science.sparsity.prunable_parameters` has the meaning of `prunable`.
    """

    finetune: Recipe
    mask: Annotated[MaskSource, Help("where A's mask comes from; the paper: imp", SPARSE)] = "imp"
    imp: Annotated[ImpMethod, Help("what follows each pruning; the paper: finetune", IMP)] = (
        "finetune"
    )
    fraction: Annotated[
        Fraction,
        Help("share of the remaining weights that one round removes", IMP, name="prune_fraction"),
    ] = 0.2
    scope: Annotated[Scope, Help("scope of the ranking by magnitude", IMP)] = "global"
    prunable: Annotated[
        Prunable, Help("weights to prune; the paper's leave out the shortcut convolutions", IMP)
    ] = "paper"


@configuration(frozen=True)
class MatchingConfig:
    """The alignment of A to B: by activations (the paper's), or by weights (Git Re-Basin).

    Activations are taken on training examples without augmentation. `points` says after which block
    a residual stream is observed: the "last" of its stage, the "penultimate", or as the "authors"
    of the paper do in ResNet20: stages 1 and 2 after their last block, stage 3 after its last but
    one.
    """

    matching: Annotated[Matcher, Help("what units are matched by", PERMUTATION)] = "activation"
    samples: Annotated[
        Annotated[Whole, Field(ge=2)] | None,
        Help("training examples for activation matching", PERMUTATION, name="match_samples"),
    ] = None
    points: Annotated[
        MatchPoint,
        Help(
            "block at which a residual stream is observed; authors: theirs, of resnet20",
            PERMUTATION,
            name="match_points",
        ),
    ] = "last"


@configuration(frozen=True)
class Settings:
    """Everything that a result depends on.

    `profile` only records where the defaults came from: the other values are what counts. `dense`
    is the recipe of A and B; a sparse arm has its own `sparse_lr`, over the epochs that remain
    after the rewind epoch. Each of `sparsities` has a mask of its own; each of `seeds` is a
    replicate, with its own A, B, masks, permutation and arms. Without `keep`, the dense networks'
    weights are kept at about 40 evenly spaced epochs and the rewind epochs; fewer make results and
    checkpoints small enough to travel.
    """

    profile: Annotated[Profile, Help("where the other defaults come from")]
    data: DataConfig
    model: ModelConfig
    dense: Recipe
    sparse_lr: Annotated[Positive, Help("peak learning rate of the sparse arms", SPARSE)]
    pruning: PruningConfig
    matching: MatchingConfig
    sparsities: Annotated[
        Several[Fraction],
        Field(min_length=1),
        Help("fraction of the weights removed", f"{IMP}, {SPARSE}", name="sparsity"),
    ]
    rewind_epochs: Annotated[
        Several[FromZero],
        Field(min_length=1),
        Help("epoch k that arms start from", SPARSE, name="rewind_epoch"),
    ]
    seeds: Annotated[SeedList, Help("replicates")]
    keep: Annotated[
        Annotated[Several[FromZero], AfterValidator(_in_order)] | None,
        Help("epochs after which weights are kept", DENSE),
    ] = None

    def __post_init__(self) -> None:
        # Rounds of IMP to the highest sparsity: each keeps the same share of the weights.
        rounds = math.log(1 - max(self.sparsities)) / math.log1p(-self.pruning.fraction)
        require(
            rounds <= MAX_ROUNDS,
            "prune_fraction",
            self.pruning.fraction,
            f"{MAX_ROUNDS:,} rounds of IMP at the most",
        )
        points, network = self.matching.points, self.model.name
        require(
            points != "authors" or network == "resnet20",
            "match_points",
            points,
            f"last or penultimate with {network}: the authors' choice is defined for resnet20 only",
        )
        epochs = self.dense.epochs
        for k in self.rewind_epochs:
            # An arm that starts from the last epoch has nothing left to train.
            require(k < epochs, "rewind_epoch", k, f"0 <= rewind_epoch < epochs ({epochs})")
        # A replicate given twice would count as two in every mean and interval.
        require_distinct("seeds", self.seeds)
        require_distinct("sparsity", self.sparsities)
        require_distinct("rewind_epoch", self.rewind_epochs)
        # The arms start from the weights of the rewind epochs, so these must be kept.
        if self.keep is not None:
            for k in self.keep:
                require(k <= epochs, "keep", k, f"0 <= keep <= epochs ({epochs})")
            for k in self.rewind_epochs:
                require(k in self.keep, "keep", self.keep, f"every rewind epoch, {k} too")
        augment, folder = self.dense.augment, self.data.name in IMAGE_FOLDERS
        kinds = ("none", "flip_resized_crop") if folder else ("none", "crop", "flip_crop")
        require(augment in kinds, "augment", augment, f"{either(kinds)} on {self.data.name}")
