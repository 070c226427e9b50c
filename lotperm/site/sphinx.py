"""Sphinx, run in a folder that holds a book's sources; every warning is an error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import lotperm
from lotperm.errors import LotpermError

# E-book readers run no scripts, so formulas must be typeset, and buttons that launch a notebook
# are left out. The format requires a version.
_EPUB = [
    *("-D", "html_math_renderer=mathml"),
    *("-D", "html_theme_options.launch_buttons="),
    *("-D", f"version={lotperm.__version__}"),
]


def rendered_state(out: Path) -> str | None:
    """Return the `state` of the last run in `out`, or None if that run had warnings."""
    complete = _complete(out)
    return complete.read_text(encoding="utf-8") if complete.exists() else None


def render(out: Path, state: str, builder: Literal["html", "singlehtml", "epub"] = "html") -> None:
    """Render the sources in ``<out>/src`` into a folder of `out` that is named for the builder.

    Parameters
    ----------
    out : Path
        The folder with ``src/``; it also gets ``sphinx.log``.
    state : str
        A description of everything that the result depends on, for `rendered_state`.
    builder : {"html", "singlehtml", "epub"}, optional
        Sphinx's builder: a page for each source, one page for all, or an EPUB.

    Raises
    ------
    LotpermError
        If Sphinx fails or warns; the message has the first problem, the log all of them.
    """
    source, trees = out / "src", out / "doctrees"
    if not _complete(out).exists():
        # Sphinx doesn't read unchanged pages again, so their warnings would be forgotten.
        shutil.rmtree(trees, ignore_errors=True)
    # Missing until the end, so an interrupted run counts as one with warnings.
    _complete(out).unlink(missing_ok=True)
    # With this interpreter, whatever others are on the path.
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    # All warnings are listed before they fail the build (-W, --keep-going); with -n, a reference
    # that leads nowhere is one.
    sphinx = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", builder]
    _run([*jupyter_book, "config", "sphinx", str(source)], out)
    options = _EPUB if builder == "epub" else []
    _run([*sphinx, *options, "-d", str(trees), str(source), str(out / builder)], out)
    _complete(out).write_text(state, encoding="utf-8")


def _complete(out: Path) -> Path:
    return out / ".complete"


def _run(command: list[str], out: Path) -> None:
    # Jupyter Book forgets local_extensions when it writes conf.py. The present PYTHONPATH stays, so
    # that the package that builds the book is the one that it documents.
    path = [str((out / "src" / "book" / "_extensions").resolve()), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "NO_COLOR": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    said, log = done.stdout + done.stderr, out / "sphinx.log"
    log.write_text(said, encoding="utf-8")
    if done.returncode:
        lines = [line for line in said.splitlines() if line.strip()]
        lines = lines or [f"exit code {done.returncode}"]
        problems = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-1:]
        raise LotpermError(
            f"the site has {len(problems)} problem(s), all in {log}. The first: {problems[0]}"
        )
