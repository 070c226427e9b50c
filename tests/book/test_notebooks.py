"""The notebooks, executed for the site: they print what is committed."""

from __future__ import annotations

import configparser
import re
from collections import defaultdict
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHECKED = "nbval-check-output"


def sanitized(text: str) -> str:
    """Replace what may differ from run to run, as nbval does."""
    rules = configparser.ConfigParser(interpolation=None)
    rules.read(ROOT / "tests" / "nbval.cfg")
    for name in rules.sections():
        text = re.sub(rules[name]["regex"], rules[name]["replace"], text)
    return text


def shown(cell: NotebookNode) -> dict[str, list[str]]:
    """Return what a cell shows, pictures left out: stream or media type to contents."""
    found = defaultdict(list)
    for output in cell.outputs:
        if output.output_type == "stream":
            found[output.name].append(sanitized(output.text))
        for kind, content in output.get("data", {}).items():
            if not kind.startswith("image/"):
                found[kind].append(sanitized(str(content)))
    return found


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_is_committed(site: Path, notebook: Path) -> None:
    """`make nbval` checks the same, in kernels of its own."""
    executed = site.parent / "src" / "notebooks" / notebook.name
    cells = [nbformat.read(path, as_version=4).cells for path in (notebook, executed)]
    checked = 0
    for committed, ours in zip(*cells, strict=True):
        if CHECKED in committed.metadata.get("tags", []):
            assert shown(committed)
            assert shown(ours) == shown(committed), committed.id
            checked += 1
    assert checked


def test_a_number_that_changed_is_seen() -> None:
    """A control of the comparison, and of what it is to overlook."""

    def cell(text: str) -> NotebookNode:
        stream = nbformat.v4.new_output("stream", name="stdout", text=text)
        return nbformat.v4.new_code_cell(outputs=[stream])

    assert shown(cell("76.6 in 3.5 s")) == shown(cell("76.6 in 12 ms"))
    assert shown(cell("76.6 in 3.5 s")) != shown(cell("76.7 in 3.5 s"))
