"""All parameters by the flat names that Python, notebooks, campaign files and commands take.

What they are is declared in `lotperm.config.settings`. Values that data sets, profiles and figures
set instead are in ``presets.toml`` and in the questions' ``figures.toml``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from lotperm.config.configuration import declared
from lotperm.config.fields import Parameter, Several
from lotperm.config.profiles import DEFAULT_PROFILE
from lotperm.config.settings import (
    ANY_NETWORK,
    IMP,
    DataConfig,
    MatchingConfig,
    ModelConfig,
    PruningConfig,
    Recipe,
    Settings,
    Width,
)
from lotperm.errors import unknown_name

# Length of a line in a notebook's cell; the formatter would wrap longer ones.
MAX_LINE = 100

# Each flat parameter comes from the field that declares it; only those that no field has are
# written out here.
_settings, _recipe = declared(Settings), declared(Recipe)

_FLAT = (
    # `Settings` requires a profile; callers may leave it out.
    replace(_settings["profile"], default=DEFAULT_PROFILE),
    *declared(DataConfig).values(),
    *declared(ModelConfig).values(),
    # Not a field of an experiment: a figure makes one experiment for each width.
    Parameter(
        "widths",
        Annotated[Several[Width], Field(min_length=1)],
        "in place of width where networks are compared: an experiment each",
        ANY_NETWORK,
        (1.0,),
    ),
    *(_settings[name] for name in ("seeds", "sparsities", "rewind_epochs")),
    *_recipe.values(),
    _settings["sparse_lr"],
    *declared(PruningConfig).values(),
    # Of the recipe of IMP's rounds only these three can be set; the dense one gives the rest.
    replace(
        _recipe["epochs"], name="finetune_epochs", meaning="epochs of each IMP round", applies=IMP
    ),
    replace(
        _recipe["lr"],
        name="finetune_lr",
        meaning="peak learning rate of each IMP round",
        applies=IMP,
    ),
    Parameter(
        "finetune_schedule",
        Literal["cosine", "constant"],
        "schedule of each IMP round",
        IMP,
        "cosine",
    ),
    *declared(MatchingConfig).values(),
)

PARAMETERS: dict[str, Parameter] = {parameter.name: parameter for parameter in _FLAT}
"""Flat name -> parameter, in the order of tables.

:meta hide-value:
"""


def parameter_cell(names: Iterable[str], **values: object) -> str:
    """Write the lines of a notebook's cell that assigns parameters, each with its help.

    Parameters
    ----------
    names : Iterable[str]
        Names of `PARAMETERS`, in the order of the lines.
    **values : object
        Values to assign, by name. Others are assigned None, the profile's default; the profile
        itself is "smoke" if it isn't given.

    Returns
    -------
    str
        One line for each name, without a newline at the end.

    Raises
    ------
    ParameterError
        For an unknown name.
    """
    lines = []
    for name in names:
        if name not in PARAMETERS:
            raise unknown_name("parameter", name, PARAMETERS)
        parameter = PARAMETERS[name]
        value = values.get(name, "smoke" if name == "profile" else None)
        # Double quotes, as a formatter would have them.
        text = json.dumps(value) if isinstance(value, str) else repr(value)
        line = f"{name} = {text}  # {parameter.meaning}"
        # As much of the type as fits into the line: its kind, then its bounds or choices too.
        for words in (parameter.kind, parameter.values):
            longer = f"{name} = {text}  # {words}: {parameter.meaning}"
            line = longer if len(longer) <= MAX_LINE else line
        lines.append(line)
    return "\n".join(lines)
