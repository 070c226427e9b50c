"""What an experiment is: frozen dataclasses, profiles, checked parsing, canonical JSON and seeds.

Everything is checked when it is made, so that a wrong value is refused before anything trains.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args, get_type_hints

from lotperm.config.parameters import (
    DATASETS,
    IMAGE_FOLDERS,
    MAX_HIDDEN,
    MAX_ROUNDS,
    MAX_WIDTH,
    MODELS,
    PARAMETERS,
    Augment,
    ImpMethod,
    Matcher,
    MatchPoint,
    Precision,
    Profile,
    Prunable,
    Schedule,
    Scope,
    require,
    require_choice,
)
from lotperm.config.presets import FIGURES, PROFILES, defaults_of
from lotperm.errors import ParameterError, shown, unknown_name


def _parse(config: Any, **fields: str) -> None:
    """Check the types of fields, and give them their proper one; each by the rule of the
    parameter named.
    """
    for field_, parameter in fields.items():
        value = getattr(config, field_)
        object.__setattr__(config, field_, PARAMETERS[parameter].parse(parameter, value))


def _from_plain(kind: Any, plain: Any) -> Any:
    """A dataclass of this module from plain JSON data."""
    fields = {field_.name: field_ for field_ in dataclasses.fields(kind)}
    require(isinstance(plain, Mapping), kind.__name__, plain, f"the names {', '.join(fields)}")
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
        require(not missing, f"{kind.__name__}.{name}", None, "a value")
    return kind(**given)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD, its schedule, batches and augmentation.

    Attributes
    ----------
    epochs : int
        Passes over the training set; the schedule spans them.
    lr : float
        Peak learning rate.
    momentum, weight_decay : float
        Of SGD; the decay is on every parameter, norms and biases included.
    batch_size : int
        The last partial batch of an epoch is dropped.
    schedule : Schedule
        "cosine" to 0, "constant", or "step": × `gamma` at each of `milestones`; constant within an
        epoch.
    milestones : tuple[int, ...]
        Epochs, ascending; for "step" alone.
    warmup_epochs : int
        Linear warm-up.
    augment : Augment
        "none", "crop" (random crop after padding by 4), "flip_crop", or, for image folders,
        "flip_resized_crop" (a random part of the image, resized).
    precision : Precision
        "float32", or "bfloat16": products under autocast, weights and statistics in float32.
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
            self,
            epochs="epochs",
            lr="lr",
            momentum="momentum",
            weight_decay="weight_decay",
            batch_size="batch_size",
            augment="augment",
            precision="precision",
            schedule="schedule",
            milestones="milestones",
            gamma="gamma",
            warmup_epochs="warmup_epochs",
        )
        require(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        require(math.isfinite(self.lr) and self.lr > 0, "lr", self.lr, "a finite number above 0")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "0 <= momentum < 1")
        require(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            "weight_decay",
            self.weight_decay,
            ">= 0",
        )
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "0 or more")
        require_choice("schedule", self.schedule, get_args(Schedule))
        rising = all(a < b for a, b in itertools.pairwise((0, *self.milestones)))
        require(rising, "milestones", self.milestones, "ascending epochs from 1 on")
        require(
            bool(self.milestones) == (self.schedule == "step"),
            "milestones",
            self.milestones,
            "epochs with schedule 'step', none with others",
        )
        require(
            math.isfinite(self.gamma) and self.gamma > 0, "gamma", self.gamma, "a number above 0"
        )
        require_choice("augment", self.augment, get_args(Augment))
        require_choice("precision", self.precision, get_args(Precision))


@dataclass(frozen=True)
class DataConfig:
    """Which data set, and how much of it: None is all, a number a class-balanced subset.

    Attributes
    ----------
    name, train_size, test_size : str
        Which, and how many examples.
    image_size : int | None
        Of an image folder: height and width of what a network sees, in pixels; None: 224.
    resize_size : int | None
        Of an image folder: the short side before the centre is cut out; None: 256/224 of
        `image_size`.
    """

    name: str
    train_size: int | None = None
    test_size: int | None = None
    image_size: int | None = None
    resize_size: int | None = None

    def __post_init__(self) -> None:
        _parse(self, name="dataset")
        require_choice("dataset", self.name, DATASETS)
        sizes = ("train_size", "test_size", "image_size", "resize_size")
        _parse(self, **{n: n for n in sizes if getattr(self, n) is not None})
        for label, size in (("train_size", self.train_size), ("test_size", self.test_size)):
            require(size is None or size >= 1, label, size, "1 or more, or nothing for all")
        for label, size in (("image_size", self.image_size), ("resize_size", self.resize_size)):
            require(
                size is None or self.name in IMAGE_FOLDERS,
                label,
                size,
                f"nothing: {self.name} has a size of its own",
            )
            require(size is None or 8 <= size <= 4096, label, size, "8 to 4096 pixels")
        if self.image_size is not None and self.resize_size is not None:
            require(
                self.resize_size >= self.image_size,
                "resize_size",
                self.resize_size,
                f"{self.image_size} or more",
            )


@dataclass(frozen=True)
class ModelConfig:
    """Which network: see `lotperm.engine.models.build`."""

    name: str
    width: float = 1.0
    hidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _parse(self, name="model", width="width", hidden="hidden")
        require_choice("model", self.name, MODELS)
        require(
            0 < self.width <= MAX_WIDTH,
            "width",
            self.width,
            f"a number above 0, {MAX_WIDTH:,} at the most",
        )
        require(
            all(1 <= h <= MAX_HIDDEN for h in self.hidden),
            "hidden",
            self.hidden,
            f"widths of 1 to {MAX_HIDDEN:,}",
        )
        require(
            bool(self.hidden) or self.name != "mlp", "hidden", self.hidden, "at least one width"
        )


@dataclass(frozen=True)
class PruningConfig:
    """How a mask is found: iterative magnitude pruning (IMP).

    Attributes
    ----------
    finetune : Recipe
        Recipe of the training that follows each pruning.
    imp : ImpMethod
        "finetune": each round goes on from the pruned weights (the paper's). "rewind": each round
        starts again from A's rewind weights, with the sparse recipe (Frankle et al. 2020).
    fraction : float
        Share of the remaining weights that a round removes.
    scope : Scope
        "global" or "layerwise".
    prunable : Prunable
        "paper" or "all" (see `lotperm.science.sparsity.prunable_parameters`).
    """

    finetune: Recipe
    imp: ImpMethod = "finetune"
    fraction: float = 0.2
    scope: Scope = "global"
    prunable: Prunable = "paper"

    def __post_init__(self) -> None:
        _parse(self, imp="imp", fraction="prune_fraction", scope="scope", prunable="prunable")
        require(0 < self.fraction < 1, "prune_fraction", self.fraction, "0 < prune_fraction < 1")
        require_choice("imp", self.imp, get_args(ImpMethod))
        require_choice("scope", self.scope, get_args(Scope))
        require_choice("prunable", self.prunable, get_args(Prunable))


@dataclass(frozen=True)
class MatchingConfig:
    """How A is aligned to B.

    Attributes
    ----------
    matching : Matcher
        "activation" (the paper's) or "weight" (Git Re-Basin).
    samples : int | None
        Training examples whose activations are correlated, un-augmented; None: all.
    points : MatchPoint
        Which activation stands for a residual stream: the "last", or the "penultimate" (what the
        authors take in stage 3 of ResNet20).
    """

    matching: Matcher = "activation"
    samples: int | None = None
    points: MatchPoint = "last"

    def __post_init__(self) -> None:
        _parse(self, matching="matching", points="match_points")
        if self.samples is not None:
            _parse(self, samples="match_samples")
        require_choice("matching", self.matching, get_args(Matcher))
        require_choice("match_points", self.points, get_args(MatchPoint))
        require(
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
    profile : Profile
        Where the defaults came from; a label, the values below are what counts.
    data, model, pruning, matching : DataConfig
        See there.
    dense : Recipe
        Recipe of the networks A and B.
    sparse_lr : float
        Peak learning rate of the sparse arms; the rest of their recipe is the dense one's, over
        the epochs that remain after the rewind point.
    sparsities : tuple[float, ...]
        Fractions removed, each a mask of its own.
    rewind_epochs : tuple[int, ...]
        k, each 0 <= k < dense.epochs.
    seeds : tuple[int, ...]
        One replicate each: its own A, B, mask, permutation and arms.
    keep : tuple[int, ...] | None
        Epochs after which the dense networks' weights are kept, for rewinding and early matching;
        None: about 40 evenly spaced ones, and the rewind epochs. Fewer make results and
        checkpoints small enough to travel.
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
            self,
            profile="profile",
            sparse_lr="sparse_lr",
            sparsities="sparsity",
            rewind_epochs="rewind_epoch",
            seeds="seeds",
        )
        require_choice("profile", self.profile, get_args(Profile))
        require(bool(self.sparsities), "sparsity", self.sparsities, "at least one number")
        for sparsity in self.sparsities:
            require(
                0 < sparsity < 1, "sparsity", sparsity, "0 < sparsity < 1, the fraction removed"
            )
        rounds = math.log(1 - max(self.sparsities)) / math.log1p(-self.pruning.fraction)
        require(
            rounds <= MAX_ROUNDS,
            "prune_fraction",
            self.pruning.fraction,
            f"{MAX_ROUNDS:,} rounds of IMP at the most",
        )
        require(bool(self.rewind_epochs), "rewind_epoch", self.rewind_epochs, "at least one number")
        for k in self.rewind_epochs:
            require(
                0 <= k < self.dense.epochs,
                "rewind_epoch",
                k,
                f"0 <= rewind_epoch < epochs ({self.dense.epochs})",
            )
        require(bool(self.seeds), "seeds", self.seeds, "at least one")
        require(all(s >= 0 for s in self.seeds), "seeds", self.seeds, "numbers of 0 or more")
        for label, values in (
            ("seeds", self.seeds),
            ("sparsity", self.sparsities),
            ("rewind_epoch", self.rewind_epochs),
        ):
            require(len(set(values)) == len(values), label, values, "no number twice")
        if self.keep is not None:
            # In order, so that the same epochs are the same stage.
            kept = PARAMETERS["rewind_epoch"].parse("keep", self.keep)
            object.__setattr__(self, "keep", tuple(sorted(set(kept))))
            for k in self.keep:
                require(
                    0 <= k <= self.dense.epochs,
                    "keep",
                    k,
                    f"0 <= keep <= epochs ({self.dense.epochs})",
                )
            for k in self.rewind_epochs:
                require(k in self.keep, "keep", self.keep, f"every rewind epoch, {k} too")
        require(
            math.isfinite(self.sparse_lr) and self.sparse_lr > 0,
            "sparse_lr",
            self.sparse_lr,
            "a number above 0",
        )
        streamed, kinds = self.data.name in IMAGE_FOLDERS, ("none", "flip_resized_crop")
        fits = (
            self.dense.augment in kinds if streamed else self.dense.augment != "flip_resized_crop"
        )
        require(
            fits,
            "augment",
            self.dense.augment,
            f"{' or '.join(kinds) if streamed else 'none, crop or flip_crop'} on {self.data.name}",
        )

    def sparse_recipe(self, rewind_epoch: int) -> Recipe:
        """Recipe of a sparse arm: the schedule starts anew over the epochs that remain after
        epoch k.
        """
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
            Names of `PARAMETERS`. None stands for "the profile's default". `sparsity`,
            `rewind_epoch` take one number or a list; `seeds` takes a count or a list.

        Raises
        ------
        ParameterError
            For an unknown name, a wrong type, or a value that makes no sense; nothing has been
            computed.
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
        require_choice("profile", profile, get_args(Profile))
        p = {**defaults_of(profile, given.get("dataset")), **given}
        dense = Recipe(
            epochs=p["epochs"],
            lr=p["lr"],
            momentum=p["momentum"],
            weight_decay=p["weight_decay"],
            batch_size=p["batch_size"],
            augment=p["augment"],
            precision=p["precision"],
            schedule=p["schedule"],
            milestones=p["milestones"],
            gamma=p["gamma"],
            warmup_epochs=p["warmup_epochs"],
        )
        # Plain SGD: the authors' code doesn't pass its momentum and weight decay on to these
        # rounds.
        finetune = replace(
            dense,
            epochs=p["finetune_epochs"],
            lr=p["finetune_lr"],
            momentum=0.0,
            weight_decay=0.0,
            schedule=p["finetune_schedule"],
            milestones=(),
            warmup_epochs=0,
        )
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
            pruning=PruningConfig(
                finetune, p["imp"], p["prune_fraction"], p["scope"], p["prunable"]
            ),
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
        figure : str
            a name of `FIGURES`.
        widths : float | Sequence[float] | None, optional
            One width or several; None: the figure's own.
        **parameters : Any
            As in `from_parameters`; what isn't given is the figure's at that profile, then the
            profile's.

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
        require_choice("profile", profile, get_args(Profile))
        own = FIGURES[figure][profile]
        if "dataset" in given and given["dataset"] != own.get(
            "dataset", PROFILES[profile]["dataset"]
        ):
            own = {name: value for name, value in own.items() if name in ("widths", "sparsity")}
        merged = {**own, **given}
        default = merged.pop("widths", 1.0)
        chosen = widths if widths is not None else given.get("width", default)
        several = PARAMETERS["widths"].parse("widths", chosen)
        require(bool(several), "widths", several, "at least one number")
        require(len(set(several)) == len(several), "widths", several, "no number twice")
        return [cls.from_parameters(**{**merged, "width": width}) for width in several]
