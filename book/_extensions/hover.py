"""Short previews of what links lead to: citations, terms of the glossary, figures and tables.

When the site is written, the previews are collected from its own pages into one script, which works
from a disk too; ``_static/hover.js`` shows them with Tippy, which is vendored.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag
from metadata import metadata
from sphinx.application import Sphinx

FILE = "previews.js"

# Where Sphinx writes what a link may lead to.
_FIGURE = re.compile(r'<figure[^>]*\bid="[^"]+".*?</figure>', re.DOTALL)
_LONGEST = 900  # letters of a preview


def _previews(outdir: Path) -> dict[str, str]:
    """Collect previews; "page#anchor" -> HTML without links and ids."""
    found: dict[str, str] = {}
    for path in sorted(outdir.glob("book/*.html")) + sorted(outdir.glob("notebooks/*.html")):
        page = path.relative_to(outdir).as_posix()
        text = path.read_text(encoding="utf-8")
        for match in _FIGURE.finditer(text):
            figure = BeautifulSoup(match[0], "html.parser").figure
            caption = figure.figcaption.find("p") if figure and figure.figcaption else None
            if figure is not None and caption is not None:
                found[f"{page}#{figure['id']}"] = _plain(caption)
        # Parsing takes a while, and only two pages have these.
        if 'class="citation"' in text or 'glossary"' in text:
            soup = BeautifulSoup(text, "html.parser")
            for citation in soup.select("div.citation[id]"):
                found[f"{page}#{citation['id']}"] = _plain(citation.find("p") or citation)
            for term in soup.select("dl.glossary dt[id]"):
                meaning = term.find_next_sibling("dd")
                if isinstance(meaning, Tag):
                    found[f"{page}#{term['id']}"] = f"<b>{_words(term)}</b>: {_plain(meaning)}"
    return found


def _words(tag: Tag) -> str:
    for mark in tag.select(".headerlink"):
        mark.decompose()
    return tag.get_text(" ", strip=True)


def _plain(tag: Tag) -> str:
    """Return a piece of a page as a preview: words and emphasis, no links, no ids."""
    copy = BeautifulSoup(str(tag), "html.parser")
    for mark in copy.select(".headerlink, script, .provenance"):
        mark.decompose()
    for element in copy.find_all(True):
        if element.name in ("a", "p", "span", "div", "dd", "cite"):
            element.unwrap()
        else:
            element.attrs = {}
    text = re.sub(r"\s+", " ", copy.decode(formatter="minimal")).strip()
    # Cut between words, outside of tags.
    if len(text) > _LONGEST:
        text = re.sub(r"<[^>]*$", "", text[:_LONGEST]).rsplit(" ", 1)[0] + " …"
    # Formulas are set by MathJax, which isn't asked for a preview: their letters do.
    return re.sub(r"\\\((.*?)\\\)", _letters, text)


def _letters(formula: re.Match[str]) -> str:
    """Return a short formula in letters."""
    known = {r"\odot": "⊙", r"\pi": "π", r"\sum": "∑", r"\log": "log", "-": "−"}
    text = formula[1]
    for written, letter in known.items():
        text = text.replace(written, letter)
    return re.sub(r"[\\{}$]", "", text)


def _on_finish(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        outdir = Path(app.outdir)
        script = f"window.lotpermPreviews = {json.dumps(_previews(outdir), ensure_ascii=False)};\n"
        target = outdir / "_static" / FILE
        if not target.exists() or target.read_text(encoding="utf-8") != script:
            target.write_text(script, encoding="utf-8")


def _on_inited(app: Sphinx) -> None:
    if app.builder.name == "html":
        # Deferred scripts run in this order, before the page counts as loaded.
        for name in ("../tippy/popper.min.js", "../tippy/tippy-bundle.umd.min.js", FILE):
            app.add_js_file(name, loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the hooks; Sphinx calls this."""
    app.connect("builder-inited", _on_inited)
    app.connect("build-finished", _on_finish)
    return metadata(__file__)
