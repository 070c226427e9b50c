"""Presets: the parameters of every data set and figure at each profile, as tables.

``presets.toml``, beside this module, has a table for each data set; ``figures.toml`` in the folder
of a question has one for each of its figures. A row is a parameter, a column a profile.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lotperm.config.parameters import PARAMETERS
from lotperm.config.profiles import PROFILES, current_profile
from lotperm.errors import ParameterError, StorageError, unknown_name

# Profile -> parameters that are set.
Preset = dict[str, dict[str, Any]]


def _row(name: str, row: Any, where: str) -> list[Any]:
    """Check one row, and return its values in the order of the profiles."""
    if name not in PARAMETERS:
        raise ParameterError(f"{where}: {unknown_name('parameter', name, PARAMETERS)}")
    parameter = PARAMETERS[name]
    # A single cell stands for all profiles. A list is always a row of them, so a parameter that
    # takes a list has lists in its cells.
    cells = row if isinstance(row, list) else [row] * len(PROFILES)
    if len(cells) != len(PROFILES):
        raise ParameterError(
            f"{where}: {name} has {len(cells)} columns; expected {len(PROFILES)}: "
            f"{', '.join(PROFILES)}."
        )
    values = []
    for cell in cells:
        # TOML has no null, so "all" stands for it.
        everything = cell == "all" and parameter.default is None
        values.append(None if everything else parameter.parse(f"{where}: {name}", cell))
    return values


def _table(table: Any, where: str) -> Preset:
    if not isinstance(table, Mapping):
        raise ParameterError(f"{where} is not a table; expected rows `parameter = …`.")
    rows = {name: _row(name, row, where) for name, row in table.items()}
    return {
        profile: {name: values[column] for name, values in rows.items()}
        for column, profile in enumerate(PROFILES)
    }


def _read(path: Path) -> dict[str, Any]:
    """Read a file of presets whose columns are the profiles, and return the rest of it."""
    try:
        # TOML is UTF-8, whatever the encoding of the system.
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not TOML: {error}.") from None
    # The header keeps a reader's order of columns and the program's from drifting apart.
    given = content.pop("profiles", None)
    if not isinstance(given, list) or [current_profile(name) for name in given] != list(PROFILES):
        raise ParameterError(f"{path} lacks its header; expected profiles = {list(PROFILES)}.")
    return content


_content = _read(Path(__file__).with_name("presets.toml"))

OWN_DATASETS: dict[str, str] = dict(
    zip(PROFILES, _row("dataset", _content.pop("dataset"), "presets.toml"), strict=True)
)
"""Profile -> its data set, unless another one is chosen."""

DATASET_PRESETS: dict[str, Preset] = {
    name: _table(table, f"presets.toml, [{name}]") for name, table in _content.items()
}
"""Data set -> profile -> parameters.

:meta hide-value:
"""

FIGURES: dict[str, Preset] = {}
"""Figure -> profile -> parameters; `add_figures` fills it.

:meta hide-value:
"""


def add_figures(path: Path) -> list[str]:
    """Add a question's figures to `FIGURES`.

    Parameters
    ----------
    path : Path
        The question's folder, which has a file ``figures.toml``; or that file.

    Returns
    -------
    list[str]
        The names of its figures.

    Raises
    ------
    ParameterError
        If the file isn't a table of presets, or if there is a figure of one of its names already;
        no figure is added then.
    StorageError
        If it can't be read.
    """
    path = path / "figures.toml" if path.is_dir() else path
    added = {}
    for name, table in _read(path).items():
        if name in FIGURES:
            raise ParameterError(f"{path}: there is a figure {name} already; give it another name.")
        added[name] = _table(table, f"{path}, [{name}]")
    # At the end: a file with an error in it adds nothing.
    FIGURES.update(added)
    return list(added)


def defaults_of(profile: str, dataset: str | None) -> dict[str, Any]:
    """Return all parameters of a profile on a data set; None stands for the profile's own."""
    dataset = dataset or OWN_DATASETS[profile]
    declared = {name: parameter.default for name, parameter in PARAMETERS.items()}
    own = DATASET_PRESETS[dataset][profile]
    # The data set's values override the declared defaults.
    return {**declared, **own, "profile": profile, "dataset": dataset}
