"""The book as a PDF with contents and running heads, and the package's pages as another PDF."""

from __future__ import annotations

import html
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

import lotperm
from lotperm.errors import LotpermError, StorageError
from lotperm.site.sphinx import render, rendered_state

# The start page has the h1. Sphinx puts all other pages inside it, so their headings are h2, behind
# a mark of where each page begins.
_SECTION = re.compile(
    r'(?:<span id="document-[^"]*"></span>\s*<section[^>]*?\bid="(?P<inner>[^"]+)"[^>]*>\s*<h2>'
    r'|<section[^>]*?\bid="(?P<start>[^"]+)"[^>]*>\s*<h1>)',
)
# The same with an anchor of its own.
_CHAPTER = re.compile(
    r'<section[^>]*?\bid="(?P<name>chapter-\d+)"[^>]*>(?:\s*<span id="[^"]*"></span>)*\s*<h[12]>(?P<title>.*?)<a ',
    re.DOTALL,
)
_LINK = re.compile(r'(?P<before><a\b[^>]*?) href="(?!#|https?:|mailto:)(?P<to>[^"]*)"')
_API = "The package"
"""Title of the chapter that gets a file of its own: it has as many pages as all others."""

_RULES = (
    # The theme prints a page's title and list of sections in place of its h1.
    "#jb-print-docs-body, .toctree-wrapper > .caption { display: none !important; } "
    ".bd-main .bd-content .bd-article h1:first-of-type { display: block; }"
)

# The title page has neither head nor number. A named page for it would follow an empty one.
_FRONT = "@page chapter0:first { @top-center { content: none; } @bottom-center { content: none; } }"

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
    """Print the book that `build` has built to ``<out>/book.pdf``, all chapters in one file.

    The package's pages, if there are any, go into ``<out>/api.pdf``.

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
        text = own_anchors(text.replace(f'href="{first}#', 'href="#'))
        apart = [name for name, title in _chapters(text) if title == _API]
        if apart:
            _print(program, page, only(text, apart[0]), out / "api.pdf")
        # Printed twice: only the first print shows on which page each chapter begins.
        _print(program, page, as_book(text, {}), target)
        if numbers := chapter_pages(target, [name for name, _ in _chapters(text)]):
            _print(program, page, as_book(text, numbers), target)
    return target


def _print(program: str, page: Path, text: str, target: Path) -> None:
    """Write a page to a file and print it."""
    page.write_text(text, encoding="utf-8")
    target.unlink(missing_ok=True)
    # With a profile of its own, the browser doesn't touch the reader's settings.
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


def own_anchors(text: str) -> str:
    """Give every chapter an anchor that nothing else on the one page has.

    Sphinx names a section after its title, and other chapters may have sections of that name.
    """

    def named(match: re.Match[str]) -> str:
        count = next(number)
        old = match["inner"] or match["start"]
        whole = match[0]
        # What leads to the chapter by its page goes inside: between two chapters it would be a line
        # of its own, on a page of its own.
        mark = re.match(r'<span id="document-[^"]*"></span>\s*', whole)
        inside = (mark[0].strip() if mark else "") + f'<span id="{old}"></span>'
        rest = whole[mark.end() :] if mark else whole
        end = rest.index(">", rest.index(f'id="{old}"')) + 1
        return rest[:end].replace(f'id="{old}"', f'id="chapter-{count}"') + inside + rest[end:]

    number = itertools.count()
    return _SECTION.sub(named, text)


def _chapters(text: str) -> list[tuple[str, str]]:
    """List the chapters of the one page, which have `own_anchors`: (anchor, title)."""
    return [
        (m["name"], html.unescape(re.sub(r"<[^>]+>", "", m["title"])).strip())
        for m in _CHAPTER.finditer(text)
    ]


def _inside(match: re.Match[str], text: str) -> str:
    """Point a link to a page of the site at that chapter; drop a link to any other file."""
    page = re.search(r"([\w.-]+)\.html(?:#.*)?$", match["to"])
    mark = page and re.search(rf'id="(document-[\w/-]*?{re.escape(page[1])})"', text)
    return f'{match["before"]} href="#{mark[1]}"' if mark else match["before"]


def as_book(text: str, pages: Mapping[str, int]) -> str:
    """Put title page, contents and running heads into the one page; leave the package's pages out.

    Parameters
    ----------
    text : str
        The page, as Sphinx wrote it.
    pages : mapping of str to int
        Anchor of a chapter -> the number of its first page; may be empty.
    """
    found = _chapters(text)
    if not found:
        return text
    rules, entries = [_RULES], []
    for i, (name, title) in enumerate(found):
        if title == _API:
            rules.append(f"#{name} {{ display: none; }}")
            entries.append(f"<li>{html.escape(title)} <span>in api.pdf</span></li>")
            continue
        head = title.replace("\\", "").replace('"', "'")
        # A named page for each chapter, since CSS sets running heads by the name of a page.
        rules.append(
            f'#{name} {{ page: chapter{i}; }} @page chapter{i} {{ @top-center {{ content: "{head}"; '
            "font: 9px sans-serif; } @bottom-center { content: counter(page); font: 9px sans-serif; } }"
        )
        number = pages.get(name, "")
        entries.append(f'<li><a href="#{name}">{html.escape(title)}</a> <span>{number}</span></li>')
    text = _LINK.sub(lambda match: _inside(match, text), text)
    front = (
        '<section class="title-page"><p class="book-title">Lottery tickets, permuted</p>'
        "<p>An executable companion to “Sparse Training from Random Initialization: Aligning Lottery Ticket "
        "Masks using Weight Symmetry” (Adnan, Jain, Sharma, Krishnan, Ioannou; ICML 2025)</p>"
        f"<p>The lotperm developers. Version {lotperm.__version__}</p></section>"
        f'<nav class="contents" aria-label="Contents"><p class="contents-title">Contents</p>'
        f"<ol>{''.join(entries)}</ol></nav>"
    )
    begin = text.index(f'id="{found[0][0]}"')
    place = text.rindex("<section", 0, begin)
    style = f"<style>{' '.join(rules)} {_FRONT}</style>"
    return text[:place] + style + front + text[place:]


def only(text: str, chapter: str) -> str:
    """Return the one page with a single chapter of it visible."""
    (start, *inner) = [name for name, _ in _chapters(text)]
    # The start page holds all others, so only what it says itself is hidden.
    others = [f"#{start} > :not(.toctree-wrapper)"] if chapter != start else []
    hidden = ", ".join(others + [f"#{name}" for name in inner if name != chapter])
    style = f"{_RULES} {hidden} {{ display: none; }}" if hidden else _RULES
    return text.replace("</head>", f"<style>{style}</style></head>", 1)


def chapter_pages(printed: Path, names: list[str]) -> dict[str, int]:
    """Find the pages on which chapters begin, by the links of the contents.

    Parameters
    ----------
    printed : Path
        The PDF.
    names : list of str
        Anchors of the chapters.

    Returns
    -------
    dict of str to int
        Anchor -> number of the page, from 1. Empty where pypdf isn't installed.
    """
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError:
        return {}
    try:
        reader = PdfReader(printed)
        found = reader.named_destinations
        return {
            name: number + 1
            for name in names
            if (place := found.get(name) or found.get(f"/{name}")) is not None
            and (number := reader.get_destination_page_number(place)) is not None
        }
    # A browser may print in ways that pypdf doesn't read: then contents have no numbers.
    except (PyPdfError, OSError):
        return {}
