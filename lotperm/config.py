"""What an experiment is: frozen dataclasses, profiles, checked parsing, canonical JSON and seeds.

Everything is checked when it is made, so that a wrong value is refused before anything trains.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_type_hints

from lotperm.errors import ParameterError, shown, unknown_name

SCHEMA = 1
"""Version of what the configurations mean; a change of meaning without a change of name raises it."""

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
"""Data sets that are files of images, read while they are used (`lotperm.imagefolder`)."""
DATASETS = ("mnist1d", "fashion_mnist", "cifar10", "cifar100", "svhn", *IMAGE_FOLDERS)
ARMS = ("lth", "permuted", "naive")

# Bounds far beyond any experiment: what is past them is a slip, and would end in an endless loop or no memory.
MAX_ITEMS = 1_000  # of a list: seeds, sparsities, rewind epochs, widths, hidden layers
MAX_WIDTH = 1_000
MAX_HIDDEN = 1_000_000
MAX_ROUNDS = 1_000
_MAX_INTEGER = 2**63 - 1


def canonical_json(value: Any) -> str:
    """Serialize plain data so that equal data gives equal text: sorted keys, no spaces, ASCII.

    Raises
    ------
    ParameterError
        If the value holds NaN, an infinity, a key that isn't text, or anything that isn't plain JSON data.
    """

    def check(item: Any, where: str) -> None:
        if isinstance(item, float) and not math.isfinite(item):
            raise ParameterError(f"{where or 'value'} is {item}; expected a finite number.")
        if isinstance(item, Mapping):
            for key, inner in item.items():
                if not isinstance(key, str):
                    raise ParameterError(f"key {key!r} in {where or 'value'} is not text.")
                check(inner, f"{where}.{key}" if where else key)
        elif isinstance(item, list | tuple):
            for i, inner in enumerate(item):
                check(inner, f"{where}[{i}]")
        elif item is not None and not isinstance(item, str | int | float | bool):
            raise ParameterError(f"{where or 'value'} is a {type(item).__name__}, which JSON can't hold.")

    check(value, "")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) from names and numbers, so that every random stream has a name of its own.

    Examples
    --------
    >>> derive_seed("dense_a", 0, "init") != derive_seed("dense_b", 0, "init")
    True
    """
    return int.from_bytes(hashlib.sha256(canonical_json(list(parts)).encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Seeds:
    """The random streams of one network: initialization, order of the examples, augmentation."""

    init: int
    order: int
    augment: int

    @classmethod
    def of(cls, network: str, seed: int) -> Seeds:
        """The streams of a named network (``"a"``, ``"b"``, ``"lth"``, …) of a replicate."""
        return cls(*(derive_seed(network, seed, stream) for stream in ("init", "order", "augment")))


def _check(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ParameterError(f"{name} is {shown(value)}; expected {expected}.")


def _parse(config: Any, **fields: str) -> None:
    """Check the types of fields, and give them their proper one; each by the rule of the parameter named."""
    for field_, parameter in fields.items():
        value = getattr(config, field_)
        object.__setattr__(config, field_, PARAMETERS[parameter].parse(parameter, value))


def _from_plain(kind: Any, plain: Any) -> Any:
    """A dataclass of this module from plain JSON data."""
    fields = {field_.name: field_ for field_ in dataclasses.fields(kind)}
    _check(isinstance(plain, Mapping), kind.__name__, plain, f"the names {', '.join(fields)}")
    for name in plain:
        if name not in fields:
            raise unknown_name("key", name, fields)
    types, given = get_type_hints(kind), {}
    for name, value in plain.items():
        if dataclasses.is_dataclass(types[name]):
            given[name] = _from_plain(types[name], value)
        else:
            given[name] = tuple(value) if isinstance(value, list) else value
    for name, field_ in fields.items():
        missing = name not in given and field_.default is dataclasses.MISSING
        _check(not missing, f"{kind.__name__}.{name}", None, "a value")
    return kind(**given)


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise unknown_name(name, value, choices)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD, its schedule, batches and augmentation.

    Attributes
    ----------
    epochs : passes over the training set; the schedule spans them
    lr : peak learning rate
    momentum, weight_decay : of SGD; the decay is on every parameter, norms and biases included
    batch_size : the last partial batch of an epoch is dropped
    schedule : "cosine" to 0, "constant", or "step": × `gamma` at each of `milestones`; constant within an epoch
    milestones : epochs, ascending; for "step" alone
    warmup_epochs : linear warm-up
    augment : "none", "crop" (random crop after padding by 4), "flip_crop", or, for image folders,
        "flip_resized_crop" (a random part of the image, resized)
    precision : "float32", or "bfloat16": products under autocast, weights and statistics in float32
    """

    epochs: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_epochs: int = 0
    augment: Augment = "none"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        _parse(
            self, epochs="epochs", lr="lr", momentum="momentum", weight_decay="weight_decay",
            batch_size="batch_size", augment="augment", precision="precision", schedule="schedule",
            milestones="milestones", gamma="gamma", warmup_epochs="warmup_epochs",
        )  # fmt: skip
        _check(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        _check(math.isfinite(self.lr) and self.lr > 0, "lr", self.lr, "a finite number above 0")
        _check(0 <= self.momentum < 1, "momentum", self.momentum, "0 <= momentum < 1")
        _check(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            "weight_decay",
            self.weight_decay,
            ">= 0",
        )
        _check(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        _check(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "0 or more")
        _check_choice("schedule", self.schedule, get_args(Schedule))
        rising = all(a < b for a, b in itertools.pairwise((0, *self.milestones)))
        _check(rising, "milestones", self.milestones, "ascending epochs from 1 on")
        _check(
            bool(self.milestones) == (self.schedule == "step"),
            "milestones",
            self.milestones,
            "epochs with schedule 'step', none with others",
        )
        _check(math.isfinite(self.gamma) and self.gamma > 0, "gamma", self.gamma, "a number above 0")
        _check_choice("augment", self.augment, get_args(Augment))
        _check_choice("precision", self.precision, get_args(Precision))


@dataclass(frozen=True)
class DataConfig:
    """Which data set, and how much of it: None is all, a number a class-balanced subset.

    Attributes
    ----------
    name, train_size, test_size : which, and how many examples
    image_size : of an image folder: height and width of what a network sees, in pixels; None: 224
    resize_size : of an image folder: the short side before the centre is cut out; None: 256/224 of `image_size`
    """

    name: str
    train_size: int | None = None
    test_size: int | None = None
    image_size: int | None = None
    resize_size: int | None = None

    def __post_init__(self) -> None:
        _parse(self, name="dataset")
        _check_choice("dataset", self.name, DATASETS)
        sizes = ("train_size", "test_size", "image_size", "resize_size")
        _parse(self, **{n: n for n in sizes if getattr(self, n) is not None})
        for label, size in (("train_size", self.train_size), ("test_size", self.test_size)):
            _check(size is None or size >= 1, label, size, "1 or more, or nothing for all")
        for label, size in (("image_size", self.image_size), ("resize_size", self.resize_size)):
            _check(
                size is None or self.name in IMAGE_FOLDERS,
                label,
                size,
                f"nothing: {self.name} has a size of its own",
            )
            _check(size is None or 8 <= size <= 4096, label, size, "8 to 4096 pixels")
        if self.image_size is not None and self.resize_size is not None:
            _check(
                self.resize_size >= self.image_size,
                "resize_size",
                self.resize_size,
                f"{self.image_size} or more",
            )


@dataclass(frozen=True)
class ModelConfig:
    """Which network: see `lotperm.models.build`."""

    name: str
    width: float = 1.0
    hidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _parse(self, name="model", width="width", hidden="hidden")
        _check_choice("model", self.name, MODELS)
        _check(
            0 < self.width <= MAX_WIDTH, "width", self.width, f"a number above 0, {MAX_WIDTH:,} at the most"
        )
        _check(
            all(1 <= h <= MAX_HIDDEN for h in self.hidden),
            "hidden",
            self.hidden,
            f"widths of 1 to {MAX_HIDDEN:,}",
        )
        _check(bool(self.hidden) or self.name != "mlp", "hidden", self.hidden, "at least one width")


@dataclass(frozen=True)
class PruningConfig:
    """How a mask is found: iterative magnitude pruning (IMP).

    Attributes
    ----------
    finetune : recipe of the training that follows each pruning
    imp : "finetune": each round goes on from the pruned weights (the paper's). "rewind": each round starts again
        from A's rewind weights, with the sparse recipe (Frankle et al. 2020)
    fraction : share of the remaining weights that a round removes
    scope : "global" or "layerwise"
    prunable : "paper" or "all" (see `lotperm.masks.prunable_parameters`)
    """

    finetune: Recipe
    imp: ImpMethod = "finetune"
    fraction: float = 0.2
    scope: Scope = "global"
    prunable: Prunable = "paper"

    def __post_init__(self) -> None:
        _parse(self, imp="imp", fraction="prune_fraction", scope="scope", prunable="prunable")
        _check(0 < self.fraction < 1, "prune_fraction", self.fraction, "0 < prune_fraction < 1")
        _check_choice("imp", self.imp, get_args(ImpMethod))
        _check_choice("scope", self.scope, get_args(Scope))
        _check_choice("prunable", self.prunable, get_args(Prunable))


@dataclass(frozen=True)
class MatchingConfig:
    """How A is aligned to B.

    Attributes
    ----------
    matching : "activation" (the paper's) or "weight" (Git Re-Basin)
    samples : training examples whose activations are correlated, un-augmented; None: all
    points : which activation stands for a residual stream: the "last", or the "penultimate" (what the authors take
        in stage 3 of ResNet20)
    """

    matching: Matcher = "activation"
    samples: int | None = None
    points: MatchPoint = "last"

    def __post_init__(self) -> None:
        _parse(self, matching="matching", points="match_points")
        if self.samples is not None:
            _parse(self, samples="match_samples")
        _check_choice("matching", self.matching, get_args(Matcher))
        _check_choice("match_points", self.points, get_args(MatchPoint))
        _check(
            self.samples is None or self.samples >= 2,
            "match_samples",
            self.samples,
            "2 or more, or nothing for all",
        )


@dataclass(frozen=True)
class Experiment:
    """Everything that a result depends on. `from_parameters` makes one from flat names.

    Attributes
    ----------
    profile : where the defaults came from; a label, the values below are what counts
    data, model, pruning, matching : see there
    dense : recipe of the networks A and B
    sparse_lr : peak learning rate of the sparse arms; the rest of their recipe is the dense one's, over the epochs
        that remain after the rewind point
    sparsities : fractions removed, each a mask of its own
    rewind_epochs : k, each 0 <= k < dense.epochs
    seeds : one replicate each: its own A, B, mask, permutation and arms
    keep : epochs after which the dense networks' weights are kept, for rewinding and early matching; None: about 40
        evenly spaced ones, and the rewind epochs. Fewer make results and checkpoints small enough to travel
    """

    profile: Profile
    data: DataConfig
    model: ModelConfig
    dense: Recipe
    sparse_lr: float
    pruning: PruningConfig
    matching: MatchingConfig
    sparsities: tuple[float, ...]
    rewind_epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    keep: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _parse(
            self, profile="profile", sparse_lr="sparse_lr", sparsities="sparsity", rewind_epochs="rewind_epoch",
            seeds="seeds",
        )  # fmt: skip
        _check_choice("profile", self.profile, get_args(Profile))
        _check(bool(self.sparsities), "sparsity", self.sparsities, "at least one number")
        for sparsity in self.sparsities:
            _check(0 < sparsity < 1, "sparsity", sparsity, "0 < sparsity < 1, the fraction removed")
        rounds = math.log(1 - max(self.sparsities)) / math.log1p(-self.pruning.fraction)
        _check(
            rounds <= MAX_ROUNDS,
            "prune_fraction",
            self.pruning.fraction,
            f"{MAX_ROUNDS:,} rounds of IMP at the most",
        )
        _check(bool(self.rewind_epochs), "rewind_epoch", self.rewind_epochs, "at least one number")
        for k in self.rewind_epochs:
            _check(
                0 <= k < self.dense.epochs,
                "rewind_epoch",
                k,
                f"0 <= rewind_epoch < epochs ({self.dense.epochs})",
            )
        _check(bool(self.seeds), "seeds", self.seeds, "at least one")
        _check(all(s >= 0 for s in self.seeds), "seeds", self.seeds, "numbers of 0 or more")
        for label, values in (
            ("seeds", self.seeds), ("sparsity", self.sparsities), ("rewind_epoch", self.rewind_epochs)
        ):  # fmt: skip
            _check(len(set(values)) == len(values), label, values, "no number twice")
        if self.keep is not None:
            # In order, so that the same epochs are the same stage.
            kept = PARAMETERS["rewind_epoch"].parse("keep", self.keep)
            object.__setattr__(self, "keep", tuple(sorted(set(kept))))
            for k in self.keep:
                _check(0 <= k <= self.dense.epochs, "keep", k, f"0 <= keep <= epochs ({self.dense.epochs})")
            for k in self.rewind_epochs:
                _check(k in self.keep, "keep", self.keep, f"every rewind epoch, {k} too")
        _check(
            math.isfinite(self.sparse_lr) and self.sparse_lr > 0,
            "sparse_lr",
            self.sparse_lr,
            "a number above 0",
        )
        streamed, kinds = self.data.name in IMAGE_FOLDERS, ("none", "flip_resized_crop")
        fits = self.dense.augment in kinds if streamed else self.dense.augment != "flip_resized_crop"
        _check(
            fits,
            "augment",
            self.dense.augment,
            f"{' or '.join(kinds) if streamed else 'none, crop or flip_crop'} on {self.data.name}",
        )

    def sparse_recipe(self, rewind_epoch: int) -> Recipe:
        """Recipe of a sparse arm: the schedule starts anew over the epochs that remain after epoch k."""
        return replace(self.dense, epochs=self.dense.epochs - rewind_epoch, lr=self.sparse_lr)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, every default included."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Experiment:
        """The inverse of `to_dict`. What an older record doesn't name has its default.

        Raises
        ------
        ParameterError
            For an unknown name, a missing one, a wrong type, or a value that makes no sense.
        """
        experiment: Experiment = _from_plain(cls, plain)
        return experiment

    @classmethod
    def from_parameters(cls, **parameters: Any) -> Experiment:
        """Make an experiment from flat parameters; what isn't given is the profile's.

        Parameters
        ----------
        **parameters
            Names of `PARAMETERS`. None stands for "the profile's default". `sparsity`, `rewind_epoch` take one number
            or a list; `seeds` takes a count or a list.

        Raises
        ------
        ParameterError
            For an unknown name, a wrong type, or a value that makes no sense; nothing has been computed.
        """
        for name in parameters:
            if name not in PARAMETERS:
                raise unknown_name("parameter", name, PARAMETERS)
        if parameters.get("widths") is not None:
            raise ParameterError(
                f"widths is {shown(parameters['widths'])}, but this is one experiment, of one width: give width. Only "
                "the pages that compare networks take widths."
            )
        given = {n: PARAMETERS[n].parse(n, v) for n, v in parameters.items() if v is not None}
        profile = given.pop("profile", "live")
        _check_choice("profile", profile, get_args(Profile))
        p = {**_defaults(profile, given.get("dataset")), **given}
        dense = Recipe(
            epochs=p["epochs"], lr=p["lr"], momentum=p["momentum"], weight_decay=p["weight_decay"],
            batch_size=p["batch_size"], augment=p["augment"], precision=p["precision"], schedule=p["schedule"],
            milestones=p["milestones"], gamma=p["gamma"], warmup_epochs=p["warmup_epochs"],
        )  # fmt: skip
        # Plain SGD: the authors' code doesn't pass its momentum and weight decay on to these rounds.
        finetune = replace(
            dense, epochs=p["finetune_epochs"], lr=p["finetune_lr"], momentum=0.0, weight_decay=0.0,
            schedule=p["finetune_schedule"], milestones=(), warmup_epochs=0,
        )  # fmt: skip
        return cls(
            profile=profile,
            data=DataConfig(
                p["dataset"],
                p.get("train_size"),
                p.get("test_size"),
                p.get("image_size"),
                p.get("resize_size"),
            ),
            model=ModelConfig(p["model"], p["width"], p["hidden"] if p["model"] == "mlp" else ()),
            dense=dense,
            sparse_lr=p["sparse_lr"],
            pruning=PruningConfig(finetune, p["imp"], p["prune_fraction"], p["scope"], p["prunable"]),
            matching=MatchingConfig(p["matching"], p.get("match_samples"), p["match_points"]),
            sparsities=p["sparsity"],
            rewind_epochs=p["rewind_epoch"],
            seeds=p["seeds"],
        )

    @classmethod
    def for_figure(
        cls, figure: str, *, widths: float | Sequence[float] | None = None, **parameters: Any
    ) -> list[Experiment]:
        """The experiments behind a figure of the book: one for each width of the network.

        Parameters
        ----------
        figure : a name of `FIGURES`
        widths : one width or several; None: the figure's own
        **parameters : as in `from_parameters`; what isn't given is the figure's at that profile, then the profile's

        Raises
        ------
        ParameterError
            For an unknown figure, or as `from_parameters`.
        """
        if figure not in FIGURES:
            raise unknown_name("figure", figure, FIGURES)
        given = {name: value for name, value in parameters.items() if value is not None}
        if widths is not None and "width" in given:
            raise ParameterError("width and widths are both given: expected one of them.")
        profile = PARAMETERS["profile"].parse("profile", given.get("profile", "live"))
        _check_choice("profile", profile, get_args(Profile))
        own = FIGURES[figure][profile]
        if "dataset" in given and given["dataset"] != own.get("dataset", _PROFILES[profile]["dataset"]):
            own = {name: value for name, value in own.items() if name in ("widths", "sparsity")}
        merged = {**own, **given}
        default = merged.pop("widths", 1.0)
        chosen = widths if widths is not None else given.get("width", default)
        several = PARAMETERS["widths"].parse("widths", chosen)
        _check(bool(several), "widths", several, "at least one number")
        _check(len(set(several)) == len(several), "widths", several, "no number twice")
        return [cls.from_parameters(**{**merged, "width": width}) for width in several]


# ---------------------------------------------------------------------------------------------------------
# Parameters by flat name, for notebooks and the command line
# ---------------------------------------------------------------------------------------------------------


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
    "profile": Parameter("text", _text, "smoke, live, desktop or paper: where the other defaults come from"),
    "dataset": Parameter("text", _text, ", ".join(DATASETS)),
    "train_size": Parameter(
        "a whole number", _integer, "train on a class-balanced subset of so many examples"
    ),
    "test_size": Parameter("a whole number", _integer, "test on a class-balanced subset of so many examples"),
    "image_size": Parameter("a whole number", _integer, "pixels a side of the images of an image folder"),
    "resize_size": Parameter(
        "a whole number", _integer, "short side of an image of a folder before its centre is cut out"
    ),
    "model": Parameter("text", _text, "mlp, resnet8, resnet20, resnet50 or vgg11"),
    "width": Parameter("a number", _number, "multiplies the channels, or the hidden widths of the mlp"),
    "widths": Parameter(
        "a number, or a list of numbers",
        _several(_number),
        "in place of width on the pages that compare networks: one experiment each",
    ),
    "hidden": Parameter("a list of whole numbers", _several(_integer), "hidden widths of the mlp"),
    "seeds": Parameter(f"a count up to {MAX_ITEMS:,}, or a list of whole numbers", _seed_list, "replicates"),
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
    "match_samples": Parameter("a whole number", _integer, "training examples used for activation matching"),
    "match_points": Parameter("text", _text, "last or penultimate activation of a residual stream"),
}
"""Every flat parameter of an experiment."""

_COMMON: dict[str, Any] = {
    "width": 1.0, "hidden": (128, 128), "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 128, "augment": "none",
    "precision": "float32", "imp": "finetune", "prune_fraction": 0.2, "scope": "global", "prunable": "paper",
    "matching": "activation", "match_points": "last", "lr": 0.08, "sparse_lr": 0.02, "finetune_lr": 0.01,
    "schedule": "cosine", "milestones": (), "gamma": 0.1, "warmup_epochs": 0, "finetune_schedule": "cosine",
}  # fmt: skip

_PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {
        "dataset": "mnist1d", "model": "mlp", "hidden": (48, 48), "seeds": (0, 1, 2), "epochs": 12,
        "rewind_epoch": (2,), "finetune_epochs": 2, "sparsity": (0.8,), "sparse_lr": 0.08,
    },
    "live": {
        "dataset": "mnist1d", "model": "mlp", "seeds": tuple(range(8)), "epochs": 40, "rewind_epoch": (8,),
        "finetune_epochs": 10, "sparsity": (0.9,),
    },
    "desktop": {
        "dataset": "fashion_mnist", "model": "mlp", "hidden": (256, 256), "seeds": tuple(range(5)), "epochs": 20,
        "rewind_epoch": (4,), "finetune_epochs": 4, "sparsity": (0.9,), "match_samples": 10_000,
    },
    "paper": {
        "dataset": "cifar10", "model": "resnet20", "seeds": (0, 1, 2), "epochs": 200, "rewind_epoch": (20,),
        "finetune_epochs": 50, "sparsity": (0.8, 0.9, 0.95, 0.97), "augment": "flip_crop",
    },
}  # fmt: skip

# What a data set other than the profile's own asks for, below the paper's scale.
_IMAGES: dict[str, Any] = {
    "model": "resnet8",
    "augment": "flip_crop",
    "match_samples": 2_000,
}
# ResNet50 on ImageNet: what the paper's protocol says, and, below its scale, the same shape of a schedule.
_IMAGENET: dict[str, Any] = {
    "dataset": "imagefolder", "model": "resnet50", "image_size": 224, "resize_size": 256,
    "augment": "flip_resized_crop", "epochs": 90, "lr": 0.04, "sparse_lr": 0.04, "weight_decay": 1e-4,
    "batch_size": 256, "schedule": "step", "milestones": (31, 62), "warmup_epochs": 5,
    "finetune_epochs": 20, "finetune_lr": 0.002, "finetune_schedule": "constant",
    "match_samples": 50_000, "seeds": (0,),
}  # fmt: skip
_FILES: dict[str, Any] = {
    "model": "resnet50", "width": 0.25, "image_size": 32, "resize_size": 32, "augment": "flip_resized_crop",
    "batch_size": 32, "lr": 0.04, "sparse_lr": 0.04, "weight_decay": 1e-4, "finetune_schedule": "constant",
    "match_samples": 2_000,
}  # fmt: skip
_DATASETS: dict[str, dict[str, Any]] = {
    "imagefolder": {**_FILES, "image_size": 64, "resize_size": 73},
    "picture_crops": {**_FILES, "match_samples": None},
    "cifar10_png": _FILES,
    "mnist1d": {"model": "mlp", "augment": "none", "match_samples": None},
    "fashion_mnist": {"model": "mlp", "hidden": (256, 256), "match_samples": 10_000},
    "cifar10": _IMAGES,
    "cifar100": _IMAGES,
    "svhn": {**_IMAGES, "augment": "crop"},
}
# Enough of an image data set to see the effect at that profile's size and time.
_SUBSETS: dict[str, dict[str, Any]] = {
    "smoke": {"train_size": 1_000, "test_size": 500},
    "live": {"train_size": 10_000, "test_size": 5_000, "seeds": (0, 1, 2, 3, 4), "epochs": 20, "rewind_epoch": (4,),
             "finetune_epochs": 4},
    "desktop": {},
}  # fmt: skip


# The networks of CIFAR figures at other sizes: their 1-D twins on MNIST-1D, and a small one on the real images.
_TINY: dict[str, Any] = {
    "dataset": "mnist1d", "model": "resnet8", "train_size": 1_000, "test_size": 500, "seeds": (0, 1), "epochs": 4,
    "rewind_epoch": (0, 1), "finetune_epochs": 1, "prune_fraction": 0.5, "sparsity": (0.8,), "widths": (0.25,),
}  # fmt: skip
_TWIN: dict[str, Any] = {
    "dataset": "mnist1d", "model": "resnet8", "seeds": (0, 1, 2, 3, 4), "epochs": 15, "rewind_epoch": (0, 3),
    "finetune_epochs": 2, "sparsity": (0.8, 0.9), "widths": (0.5, 1.0), "match_samples": 2_000,
}  # fmt: skip
_SMALL: dict[str, Any] = {
    "dataset": "cifar10", "model": "resnet8", "seeds": (0, 1, 2), "epochs": 16, "rewind_epoch": (2, 4),
    "finetune_epochs": 2, "sparsity": (0.8, 0.9, 0.95, 0.97), "match_samples": 10_000, "train_size": 10_000,
    "widths": (0.5,),
}  # fmt: skip
# ResNet50 from files: a narrow one on crops of a few pictures, and on CIFAR-10 as files.
_CROPS: dict[str, Any] = {
    **_FILES, "dataset": "picture_crops", "match_samples": None, "schedule": "step", "warmup_epochs": 1,
}  # fmt: skip
_REWIND_EPOCHS = (0, 5, 10, 15, 20, 25, 50, 75, 100)

FIGURES: dict[str, dict[str, dict[str, Any]]] = {
    "resnet20_cifar10": {
        "smoke": _TINY, "live": {**_TWIN, "widths": (0.25, 0.5)}, "desktop": _SMALL,
        "paper": {"widths": (1.0, 4.0, 8.0, 16.0), "rewind_epoch": _REWIND_EPOCHS},
    },
    "resnet20_cifar100": {
        "smoke": _TINY,
        "live": {**_TWIN, "model": "resnet20", "widths": (0.25,), "sparsity": (0.9,), "rewind_epoch": (3,)},
        "desktop": {**_SMALL, "dataset": "cifar100"},
        "paper": {"dataset": "cifar100", "widths": (1.0, 4.0, 8.0, 16.0), "rewind_epoch": _REWIND_EPOCHS},
    },
    "vgg11_cifar10": {
        "smoke": {**_TINY, "model": "vgg11", "widths": (0.0625,)},
        # Without batch norm, a narrow network of 9 layers learns at a smaller rate, and nothing at all when it starts
        # from B with more than two thirds of its weights removed.
        "live": {**_TWIN, "model": "vgg11", "widths": (0.125,), "epochs": 20, "rewind_epoch": (3, 8), "lr": 0.05,
                 "sparse_lr": 0.05, "sparsity": (0.5, 0.65)},
        "desktop": {**_SMALL, "model": "vgg11", "widths": (0.25,)},
        "paper": {"model": "vgg11", "rewind_epoch": _REWIND_EPOCHS},
    },
    "svhn": {
        "smoke": _TINY,
        "live": {**_TWIN, "widths": (0.5,)},
        "desktop": {**_SMALL, "dataset": "svhn"},
        "paper": {"dataset": "svhn", "rewind_epoch": (10, 20)},
    },
    "diversity": {
        "smoke": {}, "live": {}, "desktop": {},
        "paper": {"sparsity": (0.9,), "seeds": (0, 1, 2, 3, 4), "rewind_epoch": (20,)},
    },
    "early_matching": {"smoke": {}, "live": {}, "desktop": {}, "paper": {}},
    "mode_connectivity": {
        "smoke": _TINY, "live": {**_TWIN, "rewind_epoch": (3,)}, "desktop": {**_SMALL, "widths": (0.5, 1.0, 2.0)},
        "paper": {"widths": (1.0, 2.0, 4.0, 8.0), "sparsity": (0.9,)},
    },
    "resnet50_imagenet": {
        "smoke": {**_CROPS, "train_size": 64, "test_size": 48, "seeds": (0, 1), "epochs": 2, "rewind_epoch": (1,),
                  "milestones": (1,), "batch_size": 16, "finetune_epochs": 1, "prune_fraction": 0.5,
                  "sparsity": (0.5,), "widths": (0.0625,)},
        "live": {**_CROPS, "seeds": (0, 1, 2, 3, 4), "epochs": 16, "rewind_epoch": (4,), "milestones": (7, 12),
                 "finetune_epochs": 2, "finetune_lr": 0.01, "prune_fraction": 0.5, "sparsity": (0.9,),
                 "widths": (0.125,)},
        "desktop": {**_FILES, "dataset": "cifar10_png", "seeds": (0, 1, 2), "epochs": 16, "rewind_epoch": (2,),
                    "schedule": "step", "milestones": (6, 11), "warmup_epochs": 1, "batch_size": 64,
                    "finetune_epochs": 2, "train_size": 5_000, "sparsity": (0.8, 0.9), "widths": (0.25,)},
        "paper": {**_IMAGENET, "rewind_epoch": (20,)},
    },
}  # fmt: skip
"""Figure -> profile -> parameters that it asks for, over the profile's own; ``widths`` are those of the network."""


def _defaults(profile: str, dataset: str | None) -> dict[str, Any]:
    """Defaults of a profile, adapted where another data set than its own is asked for."""
    own = _PROFILES[profile]
    defaults = {**_COMMON, **own}
    if dataset is None or dataset == own["dataset"]:
        return defaults
    _check_choice("dataset", dataset, DATASETS)
    defaults["dataset"] = dataset
    if profile == "paper" and dataset in IMAGE_FOLDERS:
        return {**defaults, **_IMAGENET, "dataset": dataset}
    if profile == "paper":
        # The paper's protocol: SVHN without flips; the others as they stand.
        return {**defaults, "augment": "crop"} if dataset == "svhn" else defaults
    if dataset not in ("mnist1d", "picture_crops", "imagefolder"):
        defaults |= _SUBSETS[profile]
    return defaults | _DATASETS[dataset]
