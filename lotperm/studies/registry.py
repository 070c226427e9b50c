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
"""What the paper calls some figures."""


def _module(folder: str, name: str) -> ModuleType:
    """Import a module of a question; questions outside the package are found by its path."""
    return import_module(f"lotperm.studies.{folder}.{name}")


def studies() -> Mapping[str, Study[Any]]:
    """Return all questions by name, the package's own first.

    Raises
    ------
    ParameterError
        If two folders hold questions of one name.
    """
    return _studies(question_folders())


# A plan asks for a question at every stage; the folders are the same nearly always.
@cache
def _studies(folders: tuple[Path, ...]) -> Mapping[str, Study[Any]]:
    found: dict[str, Study[Any]] = {}
    for folder in folders:
        # Folders outside the package become part of its path, so that every question is imported as
        # a submodule of `lotperm.studies`.
        if str(folder.parent) not in lotperm.studies.__path__:
            lotperm.studies.__path__.append(str(folder.parent))
        known: Study[Any] = _module(folder.name, "study").STUDY
        # The name is a kind of campaign files and records, so it must stand for one question.
        if known.name in found:
            raise ParameterError(
                f"{folder} and another folder both hold the question {known.name!r}."
            )
        found[known.name] = known
    return MappingProxyType(found)


def study(name: str) -> Study[Any]:
    """Look a question up by the name that campaign files use.

    Raises
    ------
    ParameterError
        If there is none of that name, with the nearest one.
    """
    known = studies()
    if name not in known:
        raise unknown_name("kind", name, known)
    return known[name]


def figure_name(name: str) -> str:
    """Return a figure's own name; the paper's names of some (figure5, table1) are known too."""
    # Any other name is taken as it is; whether there is such a figure is asked later.
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
        If there is no such figure, with the nearest name.
    """
    known: Study[Any] = _module(_folder_of(figure), "study").STUDY
    return known


def page_of(figure: str) -> Any:
    """Return the class of a figure's page; raises as `study_of`."""
    # Pages alone import matplotlib: one is imported when it is opened, never to plan or to compute.
    return _module(_folder_of(figure), "page").Page


def stage_words() -> dict[str, str]:
    """Return the name that plans give every stage, in the order of their rows."""
    words = dict(WORDS)
    for known in studies().values():
        words.update(known.words)
    return words
