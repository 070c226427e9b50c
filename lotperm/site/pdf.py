"""The book as one PDF."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

from lotperm.errors import LotpermError, StorageError
from lotperm.site.sphinx import render, rendered_state

# Names of installed browsers that can print, the likeliest first.
_BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
    "chrome",
    "microsoft-edge",
)
_BROWSER_OF_A_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


def find_browser() -> str | None:
    """Find a browser that can print.

    Returns
    -------
    str or None
        The Chromium or Chrome that ``LOTPERM_BROWSER`` names, else one that is installed, else
        None.
    """
    if chosen := os.environ.get("LOTPERM_BROWSER"):
        return chosen
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    return found or (str(_BROWSER_OF_A_MAC) if _BROWSER_OF_A_MAC.exists() else None)


def pdf(out: Path = Path("_build"), *, browser: str | None = None) -> Path:
    """Print the book that `build` has built to ``<out>/book.pdf``, all pages in one file.

    Parameters
    ----------
    out : Path, optional
        The folder that was given to `build`.
    browser : str, optional
        A Chromium or Chrome, which prints; by default what `find_browser` finds.

    Returns
    -------
    Path
        The PDF.

    Raises
    ------
    StorageError
        If the book isn't built, or there is no browser.
    LotpermError
        If the build had warnings or the browser printed nothing.
    """
    program = browser or find_browser()
    if program is None:
        raise StorageError(
            "Chromium or Chrome prints the PDF, and none was found. Install one, or name it in LOTPERM_BROWSER."
        )
    state = rendered_state(out)
    if state is None:
        raise StorageError(
            f"there is no finished book in {out}. Build it first: lotperm book --out {out}"
        )
    folder, target = out / "singlehtml", out / "book.pdf"
    page = folder / "index.html"
    with FileLock(out / ".lock"):
        # An older file would pass for the result of a browser that printed nothing.
        target.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        render(out, state, "singlehtml")
        # Sphinx writes the page beside the first chapter, but its links are those of a page in
        # `folder`.
        (first,) = re.findall(r"url=([^\"]+)", page.read_text(encoding="utf-8"))
        text = (folder / first).read_text(encoding="utf-8")
        page.write_text(text.replace(f'href="{first}#', 'href="#'), encoding="utf-8")
        # With a profile of its own, it doesn't touch the reader's browser.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as settings:
            command = [
                program,
                "--headless",
                # So that root can print in a container; the page is our own.
                "--no-sandbox",
                "--disable-gpu",
                "--no-pdf-header-footer",
                # Milliseconds of the page's own clock, after which all formulas are set.
                "--virtual-time-budget=10000",
                f"--user-data-dir={settings}",
                f"--print-to-pdf={target.resolve()}",
                page.resolve().as_uri(),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not target.exists():
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise LotpermError(
            f"{program} printed no PDF: {last} Name another browser in LOTPERM_BROWSER."
        )
    return target
