"""All questions: one registry for campaigns, sweeps, plans, records and pages."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import lotperm.studies
from lotperm.config.presets import FIGURES
from lotperm.errors import ParameterError, unknown_name
from lotperm.studies.folders import FIGURE_FOLDERS, question_folders
from lotperm.studies.stages import WORDS
from lotperm.studies.study import Study

_SYNONYMS = {"figure5": "resnet20_cifar10", "table1": "diversity"}
"""The paper's name of a figure -> its name in the book."""


def _module(folder: str, name: str) -> ModuleType:
    """Import a module of a question, which may lie in a folder outside the package."""
    return import_module(f"lotperm.studies.{folder}.{name}")


def studies() -> Mapping[str, Study[Any]]:
    """Return all questions by name, the package's own first.

    Raises
    ------
    ParameterError
        If two folders hold questions of one name.
    """
    return _studies(question_folders())


# A plan asks for a question at every stage, and the folders rarely change.
@cache
def _studies(folders: tuple[Path, ...]) -> Mapping[str, Study[Any]]:
    found: dict[str, Study[Any]] = {}
    for folder in folders:
        # Folders outside the package become part of its path, so that every question is imported as
        # a submodule of `lotperm.studies`.
        if str(folder.parent) not in lotperm.studies.__path__:
            lotperm.studies.__path__.append(str(folder.parent))
        known: Study[Any] = _module(folder.name, "study").STUDY
        # Campaign files and records use the name as their kind, so it must mean one question.
        if known.name in found:
            raise ParameterError(
                f"{folder} and another folder both hold the question {known.name!r}."
            )
        found[known.name] = known
    return MappingProxyType(found)


def study(name: str) -> Study[Any]:
    """Look up a question by the name that campaign files use.

    Raises
    ------
    ParameterError
        If there is none of that name; the error gives the nearest one.
    """
    known = studies()
    if name not in known:
        raise unknown_name("kind", name, known)
    return known[name]


def figure_name(name: str) -> str:
    """Return a figure's own name; the paper's names of some (figure5, table1) are known too."""
    # Any other name is returned unchanged; whether there is such a figure is checked later.
    return _SYNONYMS.get(name, name)


def _folder_of(figure: str) -> str:
    """Return the name of the folder of the question that a figure belongs to."""
    # Figures are registered when the folders are listed.
    studies()
    if figure not in FIGURE_FOLDERS:
        raise unknown_name("figure", figure, FIGURES)
    return FIGURE_FOLDERS[figure]


def study_of(figure: str) -> Study[Any]:
    """Return the question that a figure belongs to.

    Raises
    ------
    ParameterError
        If there is no such figure; the error gives the nearest name.
    """
    known: Study[Any] = _module(_folder_of(figure), "study").STUDY
    return known


def page_of(figure: str) -> Any:
    """Return the class of a figure's page, or raise what `study_of` raises."""
    # Only pages import matplotlib: one is imported when it is opened, never to plan or to compute.
    return _module(_folder_of(figure), "page").Page


def stage_words() -> dict[str, str]:
    """Return the name that plans give every stage, in the order of their rows."""
    words = dict(WORDS)
    for known in studies().values():
        words.update(known.words)
    return words
