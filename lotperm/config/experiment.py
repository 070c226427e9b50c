"""Experiments, made from flat parameters, from a figure of the book, or from a record.

All values are checked when one is made, so that a wrong one is refused before anything trains.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lotperm.config.configuration import configuration, filled, from_plain
from lotperm.config.fields import require_distinct
from lotperm.config.parameters import PARAMETERS
from lotperm.config.presets import FIGURES, OWN_DATASETS, defaults_of
from lotperm.config.profiles import DEFAULT_PROFILE
from lotperm.config.settings import (
    DataConfig,
    MatchingConfig,
    ModelConfig,
    PruningConfig,
    Recipe,
    Settings,
)
from lotperm.errors import ParameterError, shown, unknown_name

__all__ = [
    "DataConfig",
    "Experiment",
    "MatchingConfig",
    "ModelConfig",
    "PruningConfig",
    "Recipe",
]


def _checked(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Check the parameters that aren't None, and return each in its type."""
    for name in parameters:
        if name not in PARAMETERS:
            raise unknown_name("parameter", name, PARAMETERS)
    return {
        name: PARAMETERS[name].check(value)
        for name, value in parameters.items()
        if value is not None
    }


@configuration(frozen=True)
class Experiment(Settings):
    """Everything that a result depends on. `from_parameters` makes one from flat names."""

    def sparse_recipe(self, rewind_epoch: int) -> Recipe:
        """Return the recipe of a sparse arm.

        Its schedule starts anew over the epochs that remain after epoch k.
        """
        return replace(self.dense, epochs=self.dense.epochs - rewind_epoch, lr=self.sparse_lr)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, every default included."""
        # JSON turns tuples into lists, which a record that is read back has too.
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Experiment:
        """Invert `to_dict`; fields that an older record lacks get their defaults.

        Raises
        ------
        ParameterError
            For an unknown name, a missing one, a wrong type, or a value that makes no sense.
        """
        return from_plain(cls, plain)

    @classmethod
    def from_parameters(cls, **parameters: Any) -> Experiment:
        """Make an experiment from flat parameters; those not given come from the profile.

        Parameters
        ----------
        **parameters
            Values by the names of `PARAMETERS`. None stands for the profile's default. `sparsity`
            and `rewind_epoch` take one number or a list; `seeds` takes a count or a list.

        Raises
        ------
        ParameterError
            For an unknown name, a wrong type, or a value that makes no sense; before anything is
            computed.
        """
        # An unknown name is reported first, by `_checked`.
        if parameters.get("widths") is not None and parameters.keys() <= PARAMETERS.keys():
            raise ParameterError(
                f"widths is {shown(parameters['widths'])}, but this is one experiment, of one "
                "width: give width. Only the pages that compare networks take widths."
            )
        return cls._from_flat(_checked(parameters))

    @classmethod
    def for_figure(
        cls, figure: str, *, widths: float | Sequence[float] | None = None, **parameters: Any
    ) -> list[Experiment]:
        """Make the experiments behind a figure of the book, one for each width of the network.

        Parameters
        ----------
        figure : str
            A name of `FIGURES`.
        widths : float | Sequence[float] | None, optional
            One width or several; None: the figure's own.
        **parameters
            As in `from_parameters`; those not given are the figure's at that profile. On a data set
            other than its own, the figure only sets widths and sparsities.

        Raises
        ------
        ParameterError
            For an unknown figure, or as `from_parameters`.
        """
        if figure not in FIGURES:
            raise unknown_name("figure", figure, FIGURES)
        given = _checked({**parameters, "widths": widths})
        if widths is not None and "width" in given:
            raise ParameterError("width and widths are both given: expected one of them.")
        preset = FIGURES[figure][given.get("profile", DEFAULT_PROFILE)]
        own = preset.get("dataset", OWN_DATASETS[given.get("profile", DEFAULT_PROFILE)])
        # A figure's other values belong to its own data set and network.
        if given.get("dataset", own) != own:
            preset = {name: preset[name] for name in ("widths", "sparsity") if name in preset}
        # Given values override the figure's, and these override the data set's.
        flat = {**preset, **given}
        # A single given width replaces all of the figure's.
        several = (given["width"],) if "width" in given else flat.pop("widths", (1.0,))
        require_distinct("widths", several)
        return [cls._from_flat({**flat, "width": width}) for width in several]

    @classmethod
    def _from_flat(cls, given: Mapping[str, Any]) -> Experiment:
        """Make an experiment from checked values by flat name; others come from the data set."""
        profile = given.get("profile", DEFAULT_PROFILE)
        flat = {**defaults_of(profile, given.get("dataset")), **given}
        # Other networks have no hidden widths: left over from a preset, they would change the key.
        if flat["model"] != "mlp":
            flat["hidden"] = ()
        dense = filled(Recipe, flat)
        # Plain SGD: the authors' code doesn't pass its momentum and weight decay on to these
        # rounds.
        finetune = replace(
            dense,
            epochs=flat["finetune_epochs"],
            lr=flat["finetune_lr"],
            schedule=flat["finetune_schedule"],
            momentum=0.0,
            weight_decay=0.0,
            milestones=(),
            warmup_epochs=0,
        )
        return filled(
            cls,
            # `keep` is declared but isn't a flat parameter: here it has its default.
            {**flat, "keep": None},
            data=filled(DataConfig, flat),
            model=filled(ModelConfig, flat),
            dense=dense,
            pruning=filled(PruningConfig, flat, finetune=finetune),
            matching=filled(MatchingConfig, flat),
        )
