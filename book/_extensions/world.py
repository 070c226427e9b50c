"""What other programs ask of a page: who wrote it, a picture for links to it, where all pages are, which version.

The repository's address is one setting, ``repository.url`` in ``_config.yml``. The site's address
follows from it, unless ``html.baseurl`` says another. Without it there are no buttons that lead
there, and no addresses that would be wrong.
"""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from docutils import nodes
from metadata import metadata
from sphinx.application import Sphinx
from sphinx.config import Config

CARD = "card.png"
"""Name of the picture that links to the site are shown with."""

_BUTTONS = (
    "launch_buttons",
    "use_repository_button",
    "use_edit_page_button",
    "use_source_button",
    "use_issues_button",
)


def site_address(repository: str, base: str = "") -> str:
    """Return the address of the site, with a slash at its end, or "" if nobody knows it.

    Parameters
    ----------
    repository : str
        The repository's address, or "".
    base : str
        The address that the configuration gives, or "".
    """
    if base:
        return base.rstrip("/") + "/"
    parts = urlsplit(repository)
    names = parts.path.strip("/").removesuffix(".git").split("/")
    # GitHub serves the pages of a repository there.
    if parts.netloc == "github.com" and len(names) == 2:
        return f"https://{names[0].lower()}.github.io/{names[1]}/"
    return ""


def _on_config(app: Sphinx, config: Config) -> None:
    import lotperm
    from lotperm.store.provenance import source_hash

    options = config.html_theme_options
    repository = str(options.get("repository_url") or "")
    # Not as Sphinx's html_baseurl: its link to the one address of a page is of no use on a disk.
    address = site_address(repository, config.html_baseurl)
    config.html_context = {**config.html_context, "site_address": address}
    config.html_baseurl = ""
    if not repository:
        for name in _BUTTONS:
            options.pop(name, None)
    words = f"Version {lotperm.__version__}, sources {source_hash()[:8]}"
    options["extra_footer"] = f'<p class="version">{words}</p>'


def _address(app: Sphinx) -> str:
    return str(app.config.html_context.get("site_address", ""))


def _card(app: Sphinx) -> Path:
    """Return where the start page leaves the picture."""
    return Path(app.outdir).parent / "jupyter_execute" / CARD


def _citation() -> dict[str, Any]:
    """Read who wrote what, from the file that says how to cite the project."""
    from lotperm.studies.published import book_folder

    text = (book_folder().parent / "CITATION.cff").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def tags(
    title: str, description: str, page: str, address: str, citation: dict[str, Any], card: str
) -> list[tuple[str, str, str]]:
    """Return a page's tags: (attribute, its value, content).

    Parameters
    ----------
    title, description : str
        Of the page.
    page : str
        Its path within the site.
    address : str
        The site's address, or "".
    citation : dict
        The content of ``CITATION.cff``.
    card : str
        Path of the picture, from the page.
    """
    paper = citation["preferred-citation"]
    url = address and address + page
    authors = [f"{a['family-names']}, {a['given-names']}" for a in paper["authors"]]
    found = [
        ("name", "description", description),
        ("name", "citation_title", f"{title} (lotperm {citation['version']})"),
        ("name", "citation_author", citation["authors"][0]["name"]),
        ("name", "citation_publication_date", str(citation.get("date-released", paper["year"]))),
        ("name", "citation_language", "en"),
        ("name", "citation_public_url", url),
        ("name", "citation_pdf_url", address and f"{address}book.pdf"),
        (
            "name",
            "citation_reference",
            f"citation_title={paper['title']};"
            + "".join(f"citation_author={author};" for author in authors)
            + f"citation_publication_date={paper['year']}",
        ),
        ("property", "og:type", "article"),
        ("property", "og:site_name", "Lottery tickets, permuted"),
        ("property", "og:title", title),
        ("property", "og:description", description),
        ("property", "og:url", url),
        ("property", "og:image", address + f"_static/{CARD}" if address and card else card),
        ("property", "og:image:alt", card and "What permuting a lottery ticket's mask gains"),
        ("name", "twitter:card", "summary_large_image"),
    ]
    return [(attribute, name, content) for attribute, name, content in found if content]


def _on_page(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    if doctree is None:
        return
    title = re.sub(r"<[^>]+>", "", str(context.get("title", "")))
    first = next(
        (p.astext() for p in doctree.findall(nodes.paragraph) if len(p.astext()) > 60), title
    )
    description = re.sub(r"\s+", " ", first)[:200].rsplit(" ", 1)[0]
    card = context["pathto"](f"_static/{CARD}", resource=True) if _card(app).exists() else ""
    address, target = _address(app), app.builder.get_target_uri(page)
    found = tags(html.unescape(title), description, target, address, _citation(), card)
    context["metatags"] = str(context.get("metatags", "")) + "".join(
        f'<meta {attribute}="{name}" content="{html.escape(content)}">\n'
        for attribute, name, content in found
    )


def sitemap(pages: list[str], address: str) -> str:
    """Return the list of all pages, as search engines read it."""
    urls = "".join(f"<url><loc>{html.escape(address + page)}</loc></url>\n" for page in pages)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n'
    )


def _on_finish(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.name != "html":
        return
    outdir = Path(app.outdir)
    if address := _address(app):
        pages = sorted(app.builder.get_target_uri(name) for name in app.env.found_docs)
        (outdir / "sitemap.xml").write_text(sitemap(pages, address), encoding="utf-8")
    if _card(app).exists():
        shutil.copy(_card(app), outdir / "_static" / CARD)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the hooks; Sphinx calls this."""
    # Before the theme reads its options.
    app.connect("config-inited", _on_config, priority=100)
    app.connect("html-page-context", _on_page)
    app.connect("build-finished", _on_finish)
    return metadata(__file__)
