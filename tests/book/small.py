"""A book of two pages with a fast notebook, for tests of how books are built."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[2]

PARAMETERS = """\
# How much is run.
profile = "smoke"
sparsity: float = 0.9  # fraction that π moves
seeds = [0, 1]
width = 3
quick = False
note = None
"""
FIGURE = """\
import matplotlib.pyplot as plt
fig, ax = plt.subplots()
ax.plot(seeds)
plt.show()
"""
NOISE = """\
import sys, time
from pathlib import Path
from tqdm import tqdm
for _ in tqdm(range(3)):
    time.sleep(0.01)
    print("step", flush=True)
with Path("runs").open("a") as file:
    file.write("x")
object()
"""


def tiny_notebook(path: Path, *, last: str = "print(profile, sparsity)") -> Path:
    """A notebook with parameters, a formula, a figure, a progress bar and a trace in the file
    ``runs``.
    """
    alt = {"mystnb": {"image": {"alt": "A line from zero to one."}}}
    cells = [
        new_markdown_cell(
            "# The method\n\nA formula, $x^2$, and a citation, {cite}`adnan2025sparse`."
        ),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(NOISE),
        new_code_cell(FIGURE, metadata=alt),
        new_code_cell(last),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


def small_book(root: Path) -> Path:
    """A book of two pages in another folder, set up as the repository's; its notebook is fast."""
    shutil.copy(ROOT / "_config.yml", root / "_config.yml")
    shutil.copytree(
        ROOT / "book", root / "book", ignore=shutil.ignore_patterns("*.md", "results", "paper")
    )
    (root / "book" / "intro.md").write_text(
        "# A book\n\nIts chapter is {doc}`../notebooks/04_method`.\n\n```{bibliography}\n```\n"
    )
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n  - file: notebooks/04_method\n"
    )
    tiny_notebook(root / "notebooks" / "04_method.ipynb")
    return root
