"""The book on paper: all pages, printed from the built site."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from unicodedata import normalize

import pytest
import tools
from bs4 import BeautifulSoup
from pypdf import PdfReader
from small import small_book

from lotperm.errors import LotpermError, StorageError
from lotperm.site import build, pdf
from lotperm.site.epub import epub

ROOT = Path(__file__).parents[2]


def times(site: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in site.rglob("*.html")}


def _spelled(text: str) -> str:
    """Write out ligatures, which a printed text has if its font does."""
    return "".join(normalize("NFKC", c) if "\ufb00" <= c <= "\ufb04" else c for c in text)


def check(out: Path, root: Path) -> None:
    """Assert that what was printed has all pages of the site, formulas set and pictures there."""
    pages = PdfReader(out / "book.pdf").pages
    texts = [re.sub(r"\s+", " ", _spelled(page.extract_text())) for page in pages]
    chapters = list(build.pages(root))
    whole = " ".join(texts)
    site_pages = [
        BeautifulSoup((out / "html" / chapter).with_suffix(".html").read_text(), "html.parser")
        for chapter in chapters
    ]
    titles = [page.h1.text.rstrip("#") for page in site_pages if page.h1]
    assert len(titles) == len(chapters)
    assert [title for title in titles if title not in whole] == []
    assert "\\begin{aligned}" not in whole and "\\(" not in whole
    # Drawn figures are vectors; pictures of panels and matrices are images.
    assert any(page.images for page in pages)
    # A title page, contents with the right numbers, a head and a number on each page.
    assert "Lottery tickets, permuted" in texts[0] and "Contents" in texts[1]
    listed = " ".join(texts[1:3])
    for title in titles:
        if title == "The package":
            assert f"{title} in api.pdf" in listed
            continue
        number = re.search(re.escape(title) + r" (\d+)", listed)
        assert number is not None, title
        first = texts[int(number[1]) - 1]
        assert first.count(title) >= 2 and number[1] in first.split(), title
    assert len({round(float(page.mediabox.width)) for page in pages}) == 1


TABLES = """\
# Tables

$$
\\begin{aligned} a &= b \\\\ &= \\sqrt{c} \\end{aligned}
$$

| layer | units |
| --- | --- |
"""


def test_all_pages_are_printed_and_in_the_epub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path / "home"))
    root, out = small_book(tmp_path), tmp_path / "out"
    rows = [f"| {i} | its number of units is {2**i} |" for i in range(100)]
    (root / "book" / "tables.md").write_text(TABLES + "\n".join(rows) + "\n")
    with (root / "_toc.yml").open("a") as toc:
        toc.write("  - file: book/tables\n")
    site = build.build("smoke", out, root=root, progress=False).parent
    before = times(site)
    assert pdf.pdf(out, browser=tools.chromium()) == out / "book.pdf"
    assert times(site) == before  # the site stays as it is
    check(out, root)
    with zipfile.ZipFile(epub(out)) as book:
        names = book.namelist()
        assert names[0] == "mimetype" and "notebooks/04_method.xhtml" in names
        page = book.read("book/tables.xhtml").decode()
        assert "<math" in page and "<script" not in page
    last = PdfReader(out / "book.pdf").pages[-1].extract_text()
    assert str(2**99) in last
    # The control: a chapter that was printed, but isn't there any more, is missed.
    page = site / "book" / "tables.html"
    page.write_text(page.read_text().replace("Tables<", "Tables that nobody printed<"))
    with pytest.raises(AssertionError, match="nobody printed"):
        check(out, root)


PAGE = """<head></head><body><section class="x" id="start">
<h1>Start<a href="#start">#</a></h1>
<p><a class="reference download internal" download="" href="../x.ipynb">The file</a> has it.</p>
<p><a href="../notebooks/01.html#there">How sure?</a> <a href="https://arxiv.org">Paper</a></p>
<section id="one"><h2>One<a href="#one">#</a></h2></section>
<span id="document-notebooks/01"></span><section class="x" id="one">
<h2>One<a href="#one">#</a></h2><p>A chapter.</p></section>
<span id="document-book/api"></span><section id="the-package">
<h2>The package<a href="#the-package">#</a></h2></section></section></body>"""


def test_a_chapter_is_told_from_a_section_of_its_name() -> None:
    """The ledger has sections that are named after chapters."""
    text = pdf.own_anchors(PAGE)
    assert pdf._chapters(text) == [
        ("chapter-0", "Start"), ("chapter-1", "One"), ("chapter-2", "The package")
    ]  # fmt: skip
    book = BeautifulSoup(pdf.as_book(text, {"chapter-1": 7}), "html.parser")
    section = book.find(id="chapter-1")
    assert section is not None and "A chapter." in section.text
    # What leads to a file of the site is text.
    assert "The file has it." in book.text and "x.ipynb" not in str(book)
    links = {a.text: a.get("href") for a in book.select("p a")}
    assert links["How sure?"] == "#document-notebooks/01" and links["Paper"] == "https://arxiv.org"
    # Links to the chapter, by its page or by its name, still have somewhere to lead.
    assert section.find(id="document-notebooks/01") and section.find(id="one")
    # A line between two chapters would be printed on a page of its own.
    assert section.find_previous_sibling().name == "section"  # type: ignore[union-attr]
    listed = [" ".join(li.text.split()) for li in book.select("nav.contents li")]
    assert listed == ["Start", "One 7", "The package in api.pdf"]
    assert "#chapter-2 { display: none; }" in str(book) and "chapter0:first" in str(book)


def test_the_whole_book_where_it_was_printed() -> None:
    """What ``make pdf`` made, which takes minutes; the workflows run this behind it."""
    printed, built = ROOT / "_build" / "book.pdf", ROOT / "_build" / ".complete"
    there = printed.exists() and built.exists()
    if not there or printed.stat().st_mtime < built.stat().st_mtime:
        pytest.skip("`make pdf` hasn't printed the book here")
    check(ROOT / "_build", ROOT)


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
        (out / builder / "book" / "intro.html").write_text("<head></head><p>All pages.</p>")

    (tmp_path / ".complete").write_text("of this book")
    (tmp_path / "book.pdf").write_text("of another time")
    monkeypatch.setattr(pdf, "render", built)
    with pytest.raises(LotpermError, match="printed no PDF"):
        pdf.pdf(tmp_path, browser=program)
    assert not (tmp_path / "book.pdf").exists()
