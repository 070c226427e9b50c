"""Where the questions are: folders of this package, and those that a variable names."""

from __future__ import annotations

import os
from pathlib import Path

from lotperm.config.presets import add_figures

VARIABLE = "LOTPERM_STUDIES"
"""Names folders that hold further questions, separated as in ``PATH``."""

FIGURE_FOLDERS: dict[str, str] = {}
"""Figure -> name of the folder of its question."""

# Presets are registered once: a figure's name may not be taken twice.
_seen: set[Path] = set()


def roots() -> list[Path]:
    """List the folders that hold questions, the package's own first."""
    named = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [Path(__file__).parent, *(Path(folder) for folder in named if folder)]


def question_folders() -> list[Path]:
    """List the folders of all questions, and register the figures of new ones.

    Raises
    ------
    ParameterError
        If a ``figures.toml`` isn't a table of presets, or a figure's name is taken.
    """
    # A folder with a study.py is a question. Sorted, as file systems list folders in any order and
    # plans, campaigns and help follow this one.
    found = [file.parent for root in roots() for file in sorted(root.glob("*/study.py"))]
    for folder in found:
        # The variable is read at every call, so folders may be added after the package was
        # imported.
        if folder not in _seen and (folder / "figures.toml").exists():
            FIGURE_FOLDERS.update(dict.fromkeys(add_figures(folder), folder.name))
        _seen.add(folder)
    return found
