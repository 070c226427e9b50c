"""The book on paper: all pages, printed from the built site."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tools
from bs4 import BeautifulSoup
from pypdf import PdfReader

from lotperm.errors import LotpermError, StorageError
from lotperm.site import build, pdf

ROOT = Path(__file__).parents[2]


def times(site: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in site.rglob("*.html")}


def test_the_whole_book_is_printed(site: Path) -> None:
    before = times(site)
    printed = pdf.pdf(site.parent, browser=tools.chromium())
    assert times(site) == before  # the site stays as it is
    assert printed == site.parent / "book.pdf"
    pages = PdfReader(printed).pages
    texts = [re.sub(r"\s+", " ", page.extract_text()) for page in pages]
    chapters = list(build.pages(ROOT))
    assert len(texts) > 2 * len(chapters)
    whole = " ".join(texts)
    site_pages = [
        BeautifulSoup((site / chapter).with_suffix(".html").read_text(), "html.parser")
        for chapter in chapters
    ]
    titles = [page.h1.text.rstrip("#") for page in site_pages if page.h1]
    assert len(titles) == len(chapters)
    assert [title for title in titles if title not in whole] == []
    assert any(
        "Execute what changed and build the site" in text for text in texts[-20:]
    )  # the last chapter
    assert "\\begin{aligned}" not in whole and "\\(" not in whole  # formulas are set
    assert sum(len(page.images) for page in pages) >= len(
        [c for c in chapters if c.suffix == ".ipynb"]
    )
    width = {round(float(page.mediabox.width)) for page in pages}
    assert len(width) == 1


def test_a_book_that_is_not_built_is_not_printed(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no finished book"):
        pdf.pdf(tmp_path, browser="true")


def test_no_browser_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOTPERM_BROWSER", raising=False)
    monkeypatch.setattr(pdf, "_BROWSERS", ("no-such-browser",))
    monkeypatch.setattr(pdf, "_BROWSER_OF_A_MAC", tmp_path / "none")
    with pytest.raises(StorageError, match="LOTPERM_BROWSER"):
        pdf.pdf(tmp_path)
    monkeypatch.setenv("LOTPERM_BROWSER", "this one")
    assert pdf.find_browser() == "this one"


@pytest.mark.parametrize("program", ["true", "false"])
def test_a_browser_that_prints_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    def built(out: Path, state: str, builder: str) -> None:
        assert state == "of this book"
        (out / builder / "book").mkdir(parents=True)
        (out / builder / "index.html").write_text('<meta content="0; url=book/intro.html" />')
        (out / builder / "book" / "intro.html").write_text("<p>All pages.</p>")

    (tmp_path / ".complete").write_text("of this book")
    (tmp_path / "book.pdf").write_text("of another time")
    monkeypatch.setattr(pdf, "render", built)
    with pytest.raises(LotpermError, match="printed no PDF"):
        pdf.pdf(tmp_path, browser=program)
    assert not (tmp_path / "book.pdf").exists()
