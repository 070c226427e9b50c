"""Parameters by flat name, for notebooks, campaigns and the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lotperm.errors import ParameterError, shown, unknown_name

Profile = Literal["smoke", "live", "desktop", "paper"]


Schedule = Literal["cosine", "constant", "step"]


Augment = Literal["none", "crop", "flip_crop", "flip_resized_crop"]


Prunable = Literal["paper", "all"]


Scope = Literal["global", "layerwise"]


ImpMethod = Literal["finetune", "rewind"]


Matcher = Literal["activation", "weight"]


MatchPoint = Literal["last", "penultimate"]


Precision = Literal["float32", "bfloat16"]


MODELS = ("mlp", "resnet8", "resnet20", "resnet50", "vgg11")


IMAGE_FOLDERS = ("imagefolder", "picture_crops", "cifar10_png")

"""Data sets that are files of images, read while they are used (`lotperm.data.images`)."""


DATASETS = ("mnist1d", "fashion_mnist", "cifar10", "cifar100", "svhn", *IMAGE_FOLDERS)


ARMS = ("lth", "permuted", "naive")


# Bounds far beyond any experiment: what is past them is a slip, and would end in an endless loop
# or no memory.
MAX_ITEMS = 1_000  # of a list: seeds, sparsities, rewind epochs, widths, hidden layers


MAX_WIDTH = 1_000


MAX_HIDDEN = 1_000_000


MAX_ROUNDS = 1_000


_MAX_INTEGER = 2**63 - 1


def require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ParameterError(f"{name} is {shown(value)}; expected {expected}.")


def require_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise unknown_name(name, value, choices)


@dataclass(frozen=True)
class Parameter:
    """One flat parameter: its type in words, how a given value is checked, and what it means."""

    kind: str
    convert: Callable[[Any], Any] = field(repr=False)
    meaning: str

    def parse(self, name: str, value: Any) -> Any:
        """The value in its proper type.

        Raises
        ------
        ParameterError
            If the value isn't of this kind. No text is turned into a number here, and no bool.
        """
        try:
            return self.convert(value)
        except (TypeError, ValueError, OverflowError):
            raise ParameterError(f"{name} is {shown(value)}; expected {self.kind}.") from None


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError
    if abs(value) > _MAX_INTEGER:
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _several(convert: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def one_or_more(value: Any) -> tuple[Any, ...]:
        return tuple(convert(item) for item in _items(value))

    return one_or_more


def _items(value: Any) -> Sequence[Any]:
    items = value if isinstance(value, list | tuple) else [value]
    if len(items) > MAX_ITEMS:
        raise ValueError
    return items


def _seed_list(value: Any) -> tuple[int, ...]:
    if isinstance(value, list | tuple):
        return tuple(_integer(item) for item in _items(value))
    if not 1 <= (count := _integer(value)) <= MAX_ITEMS:
        raise ValueError
    return tuple(range(count))


PARAMETERS: dict[str, Parameter] = {
    "profile": Parameter(
        "text", _text, "smoke, live, desktop or paper: where the other defaults come from"
    ),
    "dataset": Parameter("text", _text, ", ".join(DATASETS)),
    "train_size": Parameter(
        "a whole number", _integer, "train on a class-balanced subset of so many examples"
    ),
    "test_size": Parameter(
        "a whole number", _integer, "test on a class-balanced subset of so many examples"
    ),
    "image_size": Parameter(
        "a whole number", _integer, "pixels a side of the images of an image folder"
    ),
    "resize_size": Parameter(
        "a whole number",
        _integer,
        "short side of an image of a folder before its centre is cut out",
    ),
    "model": Parameter("text", _text, "mlp, resnet8, resnet20, resnet50 or vgg11"),
    "width": Parameter(
        "a number", _number, "multiplies the channels, or the hidden widths of the mlp"
    ),
    "widths": Parameter(
        "a number, or a list of numbers",
        _several(_number),
        "in place of width on the pages that compare networks: one experiment each",
    ),
    "hidden": Parameter("a list of whole numbers", _several(_integer), "hidden widths of the mlp"),
    "seeds": Parameter(
        f"a count up to {MAX_ITEMS:,}, or a list of whole numbers", _seed_list, "replicates"
    ),
    "sparsity": Parameter(
        "a number, or a list of numbers", _several(_number), "fraction of the weights removed"
    ),
    "rewind_epoch": Parameter(
        "a whole number, or a list of them", _several(_integer), "k: epoch that arms start from"
    ),
    "epochs": Parameter("a whole number", _integer, "epochs of the dense networks"),
    "lr": Parameter("a number", _number, "peak learning rate of the dense networks"),
    "sparse_lr": Parameter("a number", _number, "peak learning rate of the sparse arms"),
    "momentum": Parameter("a number", _number, "momentum of SGD"),
    "weight_decay": Parameter("a number", _number, "weight decay of SGD"),
    "batch_size": Parameter("a whole number", _integer, "examples per step"),
    "schedule": Parameter(
        "text", _text, "cosine, constant or step: of the dense networks and the sparse arms"
    ),
    "milestones": Parameter(
        "a list of whole numbers",
        _several(_integer),
        "epochs at which the schedule 'step' multiplies by gamma",
    ),
    "gamma": Parameter("a number", _number, "factor of the schedule 'step'"),
    "warmup_epochs": Parameter("a whole number", _integer, "epochs of linear warm-up"),
    "augment": Parameter(
        "text", _text, "none, crop or flip_crop; for image folders none or flip_resized_crop"
    ),
    "precision": Parameter("text", _text, "float32, or bfloat16 for the products"),
    "imp": Parameter("text", _text, "finetune (the paper's) or rewind, after each pruning"),
    "prune_fraction": Parameter(
        "a number", _number, "share of the remaining weights that one IMP round removes"
    ),
    "finetune_epochs": Parameter("a whole number", _integer, "epochs of each IMP round"),
    "finetune_lr": Parameter("a number", _number, "peak learning rate of each IMP round"),
    "finetune_schedule": Parameter("text", _text, "cosine or constant: of each IMP round"),
    "scope": Parameter("text", _text, "global or layerwise pruning"),
    "prunable": Parameter("text", _text, "paper (not the shortcut convs) or all"),
    "matching": Parameter("text", _text, "activation or weight"),
    "match_samples": Parameter(
        "a whole number", _integer, "training examples used for activation matching"
    ),
    "match_points": Parameter("text", _text, "last or penultimate activation of a residual stream"),
}

"""Every flat parameter of an experiment."""
