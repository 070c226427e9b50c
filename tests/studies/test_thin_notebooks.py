"""Notebooks of results hold no science: a parameters cell, a page that is opened, and what it
shows.
"""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest

from lotperm.config.presets import FIGURES

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
RESULTS = sorted(p for p in NOTEBOOKS.glob("*.ipynb") if p.stem.partition("_")[2] in FIGURES)


def code(path: Path) -> tuple[list[str], list[str]]:
    """Return the lines of the parameters cell, and those of all other code cells."""
    parameters: list[str] = []
    others: list[str] = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            tags = cell.metadata.get("tags", ())
            # What gets the project where there is only this file: tests/test_elsewhere.py.
            if "install" in tags:
                continue
            own = "parameters" in tags
            lines = [line for line in cell.source.splitlines() if line.strip()]
            (parameters if own else others).extend(lines)
    return parameters, others


def test_every_chapter_of_results_is_there() -> None:
    """A figure has a chapter, or is a variant of one that has, named after it."""
    chapters = {path.stem.partition("_")[2] for path in RESULTS}
    others = set(FIGURES) - chapters
    assert len(chapters) > 7
    assert [f for f in others if not f.startswith(tuple(f"{name}_" for name in chapters))] == []


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_chapter_of_results_is_thin(path: Path) -> None:
    parameters, others = code(path)
    assert len(parameters) <= 11
    assert len(others) <= 30
    tree = ast.parse("\n".join(others))
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.For | ast.While)]
    assert "globals()" not in "\n".join(others)


def test_chapters_of_the_same_figure_share_their_code() -> None:
    """Those of ResNet20 and VGG11 differ in what stands beside them alone."""
    shared = ("06_resnet20_cifar100", "07_vgg11_cifar10", "12_svhn")
    bodies = [code(NOTEBOOKS / f"{stem}.ipynb")[1] for stem in shared]
    same = set(bodies[0]).intersection(*bodies[1:])
    assert len(same) >= 9


def headings(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return [line[3:].rstrip("?") for line in text.splitlines() if line.startswith("## ")]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_chapter_of_results_has_the_shape_of_the_others(path: Path) -> None:
    """An answer first, then what agrees and how sure it is, and the command at the end."""
    number = int(path.stem.partition("_")[0])
    if number < 5:  # it explains; the others show results
        return
    found = headings(path)
    assert found[-1] == "Do it again" and "Exercises" in found
    cells = nbformat.read(path, as_version=4).cells
    shown = [cell.source for cell in cells if cell.cell_type == "code"]
    # Settings are folded away, not in front of the answer.
    assert not [text for text in shown if text.splitlines()[-1].endswith(".settings()")]
    assert any("made()" in text for text in shown)
    if number not in (8, 10, 11):  # they compare several things, each in its place
        assert "page.answer(" in shown[2]
        assert "What agrees" in found
    if number > 12:
        agrees, sure = found.index("What agrees"), found.index("How sure")
        assert agrees < sure < found.index("Exercises")


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_neither_code_nor_what_is_printed_for_tests_is_in_sight(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            tags = set(cell.metadata.tags)
            assert {"hide-input", "remove-input", "remove-cell"} & tags, cell.id
            assert "_short()" not in cell.source or "remove-cell" in tags, cell.id
