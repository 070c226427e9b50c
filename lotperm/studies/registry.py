"""All questions, found in their folders."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import lotperm.studies
from lotperm.config.presets import FIGURES
from lotperm.errors import ParameterError, unknown_name
from lotperm.studies.study import Study

VARIABLE = "LOTPERM_STUDIES"
"""Names folders with further questions, separated as in ``PATH``."""

_SYNONYMS = {"figure5": "resnet20_cifar10", "table1": "diversity"}
"""What the paper calls some figures."""


TEMPORARY = {
    "arms": ["resnet20_cifar10", "resnet20_cifar100", "vgg11_cifar10", "svhn"],
    "imagenet": ["resnet50_imagenet"],
    "early": ["early_matching"],
    "diversity": ["diversity"],
    "connectivity": ["mode_connectivity"],
}


@cache
def _found() -> tuple[dict[str, Study[Any]], dict[str, str]]:
    """Find the questions by name, and the folder of each figure's question."""
    outside = [folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    for folder in outside:
        if folder not in lotperm.studies.__path__:
            lotperm.studies.__path__.append(folder)
    studies: dict[str, Study[Any]] = {}
    figures: dict[str, str] = {}
    for root in map(Path, lotperm.studies.__path__):
        for file in sorted(root.glob("*/study.py")):
            study = import_module(f"lotperm.studies.{file.parent.name}.study").STUDY
            if study.name in studies:
                raise ParameterError(
                    f"{file.parent} and another folder both hold the question {study.name!r}."
                )
            studies[study.name] = study
            for figure in TEMPORARY.get(file.parent.name, ()):
                figures[figure] = file.parent.name
    return studies, figures


def studies() -> dict[str, Study[Any]]:
    """Return all questions by name, the package's own first."""
    return dict(_found()[0])


def study(name: str) -> Study[Any]:
    """Look a question up by the name that campaign files use.

    Raises
    ------
    ParameterError
        If there is none of that name, with the nearest one.
    """
    known = _found()[0]
    if name not in known:
        raise unknown_name("kind", name, known)
    return known[name]


def figure_name(name: str) -> str:
    """Return a figure's own name; the paper's names of some (figure5, table1) are known too."""
    return _SYNONYMS.get(name, name)


def folder_of(figure: str) -> str:
    """Return the name of the folder of the question that a figure belongs to.

    Raises
    ------
    ParameterError
        If there is no such figure, with the nearest name.
    """
    figures = _found()[1]
    if figure not in figures:
        raise unknown_name("figure", figure, FIGURES)
    return figures[figure]


def study_of(figure: str) -> Study[Any]:
    """Return the question that a figure belongs to; raises as `folder_of`."""
    return import_module(f"lotperm.studies.{folder_of(figure)}.study").STUDY


def stage_words() -> dict[str, str]:
    """Return what plans call every stage, in the order in which their rows stand."""
    from lotperm.studies.stages import WORDS

    words = dict(WORDS)
    for known in studies().values():
        words.update(known.words)
    return words
