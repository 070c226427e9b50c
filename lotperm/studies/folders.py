"""Finding the questions' folders: those of this package, and those that a variable names."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from lotperm.config.presets import add_figures

VARIABLE = "LOTPERM_STUDIES"
"""Environment variable that names folders with further questions, separated as in ``PATH``."""

FIGURE_FOLDERS: dict[str, str] = {}
"""Figure -> name of the folder of its question."""

# Presets are registered once: a figure's name may not be taken twice.
_seen: set[Path] = set()


@cache
def _listed(named: str, here: Path) -> tuple[Path, ...]:
    """List the folders of questions in the package and in the folders that the variable names."""
    roots = [Path(__file__).parent, *(here / root for root in named.split(os.pathsep) if root)]
    # A folder with a study.py is a question. Sorted, as file systems list folders in any order and
    # plans, campaigns and help follow this one.
    return tuple(file.parent for root in roots for file in sorted(root.glob("*/study.py")))


def question_folders() -> tuple[Path, ...]:
    """List the folders of all questions, the package's own first; register the figures of new ones.

    The variable is read at every call, so folders may be added after the package was imported. Each
    folder that it names is searched only once.

    Raises
    ------
    ParameterError
        If a ``figures.toml`` isn't a table of presets, or a figure's name is taken.
    """
    # Relative folders are those of the working directory, which may change as well.
    found = _listed(os.environ.get(VARIABLE, ""), Path.cwd())
    for folder in found:
        if folder not in _seen and (folder / "figures.toml").exists():
            FIGURE_FOLDERS.update(dict.fromkeys(add_figures(folder), folder.name))
        _seen.add(folder)
    return found
