"""Every page of the site in a real browser, by file:// and http://; and each check against a
planted error.
"""

from __future__ import annotations

import os
import pkgutil
import shutil
import threading
import time
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import checks
import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

from lotperm.site import build, notebooks

ROOT = Path(__file__).parents[2]
PAGES = [page.with_suffix("") for page in build.pages(ROOT)]
NOTEBOOKS = [page for page in PAGES if (ROOT / page).with_suffix(".ipynb").exists()]

Pages = dict[Path, BeautifulSoup]

every_page = pytest.mark.parametrize("name", [*PAGES, Path("search")], ids=str)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[str]:
    """The site by http, on a free port of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def reader(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """One tab, in which a reader opens page after page; and what goes wrong in it."""
    with checks.window(browser) as context:
        yield checks.tab(context)


@every_page
def test_a_page_as_a_reader_opens_it(
    site: Path, reader: tuple[Page, list[str]], name: Path
) -> None:
    """All checks in one visit, as to open a page takes longer than most of them."""
    page, problems = reader
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": checks.DESKTOP, "height": 900})
    checks.go(page, (site / name).with_suffix(".html").as_uri(), problems)
    assert page.locator("html").get_attribute("data-theme") == "light"
    found = checks.formulas(page)
    page.set_viewport_size({"width": checks.PHONE, "height": 740})
    found += checks.overflow(page)
    page.set_viewport_size({"width": checks.DESKTOP, "height": 900})
    checks.shorten(page)
    found += checks.accessibility(page)
    page.emulate_media(color_scheme="dark")
    page.locator("html[data-theme=dark]").wait_for()
    found += checks.accessibility(page, colours_alone=True)
    assert found + problems == []


@pytest.mark.parametrize("name", ["book/intro", "notebooks/03_loss_landscape", "search"])
def test_a_page_from_a_server(server: str, browser: Browser, name: str) -> None:
    """One of each kind; as files they may do less than from a server."""
    with checks.window(browser) as context:
        page, problems = checks.visit(context, f"{server}/{name}.html")
        problems += checks.formulas(page)
    assert problems == []


def test_every_kind_of_thing_that_is_checked_is_there(site: Path, parsed: Pages) -> None:
    assert {path.relative_to(site).with_suffix("") for path in parsed} >= {*PAGES, Path("search")}
    for selector in (
        ".math",
        "img",
        "figure figcaption",
        "table",
        "a.reference",
        ".citation",
        "dt.sig",
    ):
        assert any(page.select(selector) for page in parsed.values()), selector


def test_links_and_anchors_lead_somewhere(parsed: Pages) -> None:
    assert checks.links(parsed) == []


def test_pictures_have_alt_text_and_figures_numbers(parsed: Pages) -> None:
    assert {
        path.name: found for path, page in parsed.items() if (found := checks.pictures(page))
    } == {}


def test_no_markup_is_left(parsed: Pages) -> None:
    assert {
        path.name: found for path, page in parsed.items() if (found := checks.markup(page))
    } == {}


def test_no_page_names_a_file_of_another_host(parsed: Pages) -> None:
    assert {
        path.name: found for path, page in parsed.items() if (found := checks.outside(page))
    } == {}


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_the_search_finds_the_method(
    site: Path, server: str, browser: Browser, scheme: str
) -> None:
    start = (
        (site / "book" / "intro.html").as_uri() if scheme == "file" else f"{server}/book/intro.html"
    )
    with checks.window(browser) as context:
        page, problems = checks.visit(context, start)
        problems += checks.search(page, "rewind", expected="notebooks/04_method.html")
    assert problems == []


@pytest.mark.parametrize("name", NOTEBOOKS, ids=str)
def test_a_notebook_can_be_launched_and_downloaded(site: Path, name: Path) -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    repository, branch = config["repository"]["url"], config["repository"]["branch"]
    owner = repository.removeprefix("https://github.com/")
    page = BeautifulSoup((site / name).with_suffix(".html").read_text(), "html.parser")
    found = [str(link["href"]) for link in page.select("a[href]")]
    colab = [link for link in found if link.startswith("https://colab.research.google.com/")]
    binder = [link for link in found if link.startswith("https://mybinder.org/")]
    assert colab == [f"https://colab.research.google.com/github/{owner}/blob/{branch}/{name}.ipynb"]
    assert binder == [f"https://mybinder.org/v2/gh/{owner}/{branch}?urlpath=lab/tree/{name}.ipynb"]
    assert (ROOT / name).with_suffix(".ipynb").is_file()
    download = page.select_one(".btn-download-source-button[href]")
    assert download is not None
    assert (site / name).parent.joinpath(str(download["href"])).is_file()


def test_the_page_of_the_package_lists_what_it_exports(site: Path) -> None:
    import lotperm

    page = BeautifulSoup((site / "book" / "api.html").read_text(), "html.parser")
    listed = {link.text.strip() for link in page.select("table.autosummary a")}
    assert listed == set(lotperm.__all__) - {
        "Mask",
        "Permutation",
    }  # names of types, explained in words
    modules = {
        name
        for _, name, _ in pkgutil.walk_packages(lotperm.__path__, "lotperm.")
        if not name.startswith(("lotperm.cli", "lotperm.__"))
    }
    headings = [
        heading.get_text().rstrip("#")
        for heading in page.select("article h2, article h3, article h4")
    ]
    assert sorted(headings) == sorted({"lotperm", *modules})
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ][0]["layers"]
    level = {name: -i for i, layer in enumerate(layers) for name in layer.split(" | ")}
    rooms = [level[name.split(".")[1]] for name in headings if name.count(".") == 1]
    assert rooms == sorted(rooms)  # each imports only from those before it


def test_a_second_build_executes_nothing_and_is_quick(
    site: Path, site_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed = nbformat.read(
        (site.parent / "src" / NOTEBOOKS[0]).with_suffix(".ipynb"), as_version=4
    )
    for module in (build, notebooks):
        monkeypatch.setattr(module, "source_hash", lambda: executed.metadata.lotperm.source_hash)
    monkeypatch.setattr(
        "papermill.execute_notebook", lambda *_, **__: pytest.fail("executed again")
    )
    monkeypatch.setenv("LOTPERM_HOME", str(site_store))
    start = time.perf_counter()
    build.build("smoke", site.parent, root=ROOT, progress=False)
    assert (
        time.perf_counter() - start < 30
    )  # seconds; Sphinx alone takes about that long on a busy machine


PLAIN = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Plain</title>
<meta name="viewport" content="width=device-width">HEAD</head>
<body><main><article><h1>Plain</h1><p>Nothing wrong here.</p>BODY</article></main></body></html>"""
MATHJAX = '<script src="mathjax.js"></script>'
FORMULA = '<span class="math">\\(x^2\\)</span>'
SCROLLED = """<div id="scrolled" tabindex="-1" style="overflow: auto">
<p style="white-space: nowrap">One line of text that is wider than the screen of any phone.</p></div>"""


def planted(
    tmp_path: Path,
    reader: tuple[Page, list[str]],
    body: str = "",
    head: str = "",
    theme: checks.Theme = "light",
) -> list[str]:
    """All problems of a page that was right, but for `body` and `head`."""
    path = tmp_path / "plain.html"
    shutil.copy(ROOT / "book" / "vendor" / "mathjax" / "tex-svg-full.js", tmp_path / "mathjax.js")
    path.write_text(PLAIN.replace("HEAD", head).replace("BODY", body), encoding="utf-8")
    pages = checks.parse(tmp_path)
    problems = [
        *checks.links(pages),
        *checks.pictures(pages[path]),
        *checks.outside(pages[path]),
        *checks.markup(pages[path]),
    ]
    page, seen = reader
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": checks.PHONE, "height": 740})
    checks.go(page, path.as_uri(), seen)
    problems += [*checks.formulas(page), *checks.accessibility(page), *checks.overflow(page)]
    return problems + seen


def test_a_plain_page_has_no_problem(tmp_path: Path, reader: tuple[Page, list[str]]) -> None:
    figure = (
        '<figure><img alt="A dot." src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><figcaption>'
        '<span class="caption-number">Fig. 1 </span>A dot.</figcaption></figure>'
    )
    data = '<p><a download="dot.csv" href="data:text/csv;charset=utf-8,x%0A1">Data (CSV)</a></p>'
    assert planted(tmp_path, reader, FORMULA + figure + data, MATHJAX) == []


def test_a_page_has_time_to_answer_to_another_size(
    tmp_path: Path, reader: tuple[Page, list[str]]
) -> None:
    """As the theme does, which waits for the end of a change."""
    late = "setTimeout(() => {document.getElementById('scrolled').tabIndex = 0}, 300)"
    body = f"{SCROLLED}<script>{late}</script>"
    assert planted(tmp_path, reader, body) == []


@pytest.mark.parametrize(
    ("body", "head", "said"),
    [
        (
            '<img alt="x" src="http://other.invalid/x.png">',
            "",
            "asks another host: http://other.invalid/x.png",
        ),
        ('<img alt="x" src="http://other.invalid/x.png">', "", "loaded from another host"),
        (
            "<script>fetch('https://other.invalid/data.json').catch(() => 0)</script>",
            "",
            "asks another host",
        ),
        (
            "",
            "<style>body {background: url(https://other.invalid/x.png)}</style>",
            "loaded from another host",
        ),
        ("<script>console.error('planted')</script>", "", "console: planted"),
        ("<script>throw new Error('planted')</script>", "", "script: planted"),
        (FORMULA, "", "MathJax didn't start"),
        ('<span class="math">x^2, without its brackets</span>', MATHJAX, "formula set 0 times"),
        ('<span class="math">\\(\\frac{1}\\)</span>', MATHJAX, "formula with an error"),
        ("<p>\\(x^2\\)</p>", MATHJAX, "set, but not written as a formula"),
        ('<p style="color: #aaa; background: #fff">pale</p>', "", "color-contrast"),
        ("<input>", "", "label ("),
        ("<button></button>", "", "button-name"),
        (SCROLLED, "", "scrollable-region-focusable"),
        ('<div style="width: 500px">wide</div>', "", "the page is"),
        (
            '<div style="overflow: hidden"><p style="width: 500px">cut off</p></div>',
            "",
            "p. ends at",
        ),
        ('<a href="nowhere.html">broken</a>', "", "nowhere.html leads nowhere"),
        ('<a href="plain.html#nowhere">broken</a>', "", "plain.html#nowhere leads nowhere"),
        ('<a href="missing.csv" download>data</a>', "", "missing.csv leads nowhere"),
        ('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">', "", "picture without alt text"),
        ("<p>```{note} Not rendered.</p>", "", "not rendered: ```{note}"),
        ("<p>See {ref}`there`.</p>", "", "not rendered: See {ref}"),
        (
            "<figure><figcaption>No number.</figcaption></figure>",
            "",
            "caption without a number: No number.",
        ),
    ],
)
def test_a_planted_error_is_seen(
    tmp_path: Path, reader: tuple[Page, list[str]], body: str, head: str, said: str
) -> None:
    assert [problem for problem in planted(tmp_path, reader, body, head) if said in problem]


def test_an_error_of_the_dark_alone_is_seen(tmp_path: Path, reader: tuple[Page, list[str]]) -> None:
    head = (
        "<style>@media (prefers-color-scheme: dark) {body {color: #333; background: #222}}</style>"
    )
    assert planted(tmp_path, reader, head=head) == []
    dark = planted(tmp_path, reader, head=head, theme="dark")
    assert [problem for problem in dark if "contrast" in problem]


@pytest.mark.parametrize("damage", ["no index", "two bars"])
def test_a_broken_search_is_seen(site: Path, tmp_path: Path, browser: Browser, damage: str) -> None:
    # Only what is damaged is a file of its own.
    copy = Path(shutil.copytree(site, tmp_path / "site", copy_function=os.symlink))
    start = copy / "book" / "intro.html"
    damaged = copy / "searchindex.js" if damage == "no index" else start
    text = damaged.read_text().replace("</main>", '<input type="search"></main>', 1)
    damaged.unlink()
    damaged.write_text("" if damage == "no index" else text)
    with checks.window(browser) as context:
        page, _ = checks.visit(context, start.as_uri())
        problems = checks.search(page, "rewind", expected="notebooks/04_method.html", patience=5)
    assert [
        problem
        for problem in problems
        if ("finds []" if damage == "no index" else "2 search bars") in problem
    ]
