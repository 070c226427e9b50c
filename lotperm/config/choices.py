"""The words that parameters choose from: data sets, networks, schedules, sources of masks, ..."""

from __future__ import annotations

from typing import Literal, get_args

Dataset = Literal[
    "mnist1d",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "svhn",
    "imagefolder",
    "picture_crops",
    "cifar10_png",
]
Model = Literal["mlp", "resnet8", "resnet20", "resnet50", "vgg11", "vit_tiny"]
Schedule = Literal["cosine", "constant", "step"]
Augment = Literal["none", "crop", "flip_crop", "flip_resized_crop"]
Precision = Literal["float32", "tf32", "bfloat16"]
ImpMethod = Literal["finetune", "rewind"]
MaskSource = Literal[
    "imp", "magnitude", "snip", "grasp", "synflow", "erk", "uniform", "rigl", "movement"
]
Scope = Literal["global", "layerwise"]
Prunable = Literal["paper", "all"]
Matcher = Literal["activation", "weight"]
MatchPoint = Literal["last", "penultimate", "authors"]

# The names are listed once, in the types that check them.
DATASETS: tuple[str, ...] = get_args(Dataset)
MODELS: tuple[str, ...] = get_args(Model)

# Data sets that are files of images, read while they are used (`lotperm.data.images`).
# Named here as well as in the catalog of data sets, which is in a layer above this one.
IMAGE_FOLDERS = ("imagefolder", "picture_crops", "cifar10_png")
