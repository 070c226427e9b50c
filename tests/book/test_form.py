"""What every page has besides its words: a strip below each figure, tables for phones, previews, tags, checks."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import checks
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Browser

import lotperm
from lotperm.site import build
from lotperm.studies import downloads

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "book" / "_extensions"))

import exercises  # noqa: E402
import world  # noqa: E402


@pytest.fixture(scope="module")
def texts(site: Path) -> dict[str, str]:
    """Every page of the table of contents but the package's, as it is written."""
    names = [page.with_suffix("").as_posix() for page in build.pages(ROOT)]
    return {
        name: (site / f"{name}.html").read_text(encoding="utf-8")
        for name in names
        if name != "book/api"
    }


def test_every_drawn_figure_says_where_its_numbers_come_from(texts: dict[str, str]) -> None:
    drawn = 0
    for name, text in texts.items():
        pictures = len(re.findall(r'<img[^>]*class="[^"]*figure-wide', text))
        assert text.count('class="provenance') >= pictures, name
        drawn += pictures
    assert drawn > 40
    chapter = BeautifulSoup(texts["notebooks/05_resnet20_cifar10"], "html.parser")
    said = " ".join(chapter.select_one(".provenance").text.split())  # type: ignore[union-attr]
    kinds = {tag.text for tag in chapter.select(".provenance .kind")}
    assert kinds <= {"live", "recorded", "paper"} and kinds
    assert re.search(r"\d+ seeds?|Tables? \d", said)
    shelf = BeautifulSoup(texts["book/tables"], "html.parser")
    assert {tag.text for tag in shelf.select(".provenance .kind")} == {"paper"}
    start = BeautifulSoup(texts["book/intro"], "html.parser")
    assert {tag.text for tag in start.select(".provenance .kind")} == {"recorded", "paper"}
    # A record whose stages would be computed as they were is fresh.
    assert {tag.text for tag in start.select(".provenance .fresh")} == {"fresh"}


@pytest.mark.parametrize(
    ("page", "panel", "words"),
    [
        ("02_weight_symmetry", "lotperm-symmetry", "computed in your browser"),
        ("03_loss_landscape", "lotperm-landscape", "computed in your browser"),
        ("04_method", "lotperm-mask", "MNIST-1D"),
    ],
)
def test_a_figure_to_play_with_has_a_strip_too(
    texts: dict[str, str], page: str, panel: str, words: str
) -> None:
    found = BeautifulSoup(texts[f"notebooks/{page}"], "html.parser").select_one(f".{panel}")
    assert found is not None
    below = found.find_next(class_="provenance")
    assert below is not None and words in below.text and "fresh" in below.text
    # It is this figure's own: no other picture is between them.
    assert found.find_next("img", class_="figure-wide") not in below.find_all_previous("img")


DRAWINGS = {"fig-swap", "fig-imagenet-examples"}
"""Figures that only show what something looks like."""


def test_captions_end_with_what_the_numbers_come_to(site: Path) -> None:
    without, found = set(), 0
    for path in sorted((site.parent / "src" / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            figure = cell["metadata"].get("mystnb", {}).get("figure")
            if figure is None:
                continue
            abouts = [
                output["metadata"]["image/svg+xml"]["lotperm"]
                for output in cell["outputs"]
                if "image/svg+xml" in output.get("metadata", {})
            ]
            if not any(about["finding"] for about in abouts):
                without.add(figure["name"])
                continue
            found += 1
            page = (site / "notebooks" / path.name).with_suffix(".html").read_text("utf-8")
            shown = BeautifulSoup(page, "html.parser").select_one(
                f"#{figure['name']} figcaption .finding"
            )
            assert shown is not None, figure["name"]
            assert shown.text in {about["finding"] for about in abouts}
    assert without == DRAWINGS
    assert found > 25


def test_every_recorded_and_published_table_can_be_had(site: Path) -> None:
    page = BeautifulSoup((site / "book" / "recorded.html").read_text("utf-8"), "html.parser")
    listed = {str(a["href"]) for a in page.select("a.download[href$='.csv']")}
    names = {Path(link).name for link in listed}
    assert names >= {row["name"] for row in downloads.every_table()}
    for link in listed:
        assert (site / "book" / link).resolve().is_file(), link
    # No page offers one of them under a name that doesn't say what it holds.
    for path in site.rglob("*.html"):
        assert not re.findall(r'href="[^"]*/results\.csv"', path.read_text("utf-8")), path.name


def test_live_numbers_are_of_the_sources_that_built_the_page(texts: dict[str, str]) -> None:
    stale = [name for name, text in texts.items() if 'class="stale"' in text]
    assert stale == []


def test_data_are_files_that_say_what_they_hold(site: Path, texts: dict[str, str]) -> None:
    assert [name for name, text in texts.items() if "data:text/csv" in text] == []
    page = BeautifulSoup(texts["notebooks/12_svhn"], "html.parser")
    links = {str(a["href"]) for a in page.select("a.download[href$='.csv']")}
    (live,) = (link for link in links if "_live_" in link)
    table = pd.read_csv((site / "notebooks" / live).resolve())
    assert {"kind", "profile", "source"} <= set(table.columns)
    assert table["kind"].unique().tolist() == ["live"]
    assert re.search(r"_live_mnist1d_\w+_smoke$", Path(live).stem)
    early = BeautifulSoup(texts["notebooks/08_diversity"], "html.parser")
    found = {str(a["href"]) for a in early.select("p.data a.download[href$='.csv']")}
    assert found
    for link in found:
        rows = pd.read_csv((site / "notebooks" / link).resolve())
        assert {"dataset", "model", "profile", "source"} <= set(rows.columns), link


def test_no_table_is_as_pandas_writes_it(texts: dict[str, str]) -> None:
    assert [name for name, text in texts.items() if 'class="dataframe' in text] == []
    assert sum(text.count('<table class="results') for text in texts.values()) > 15
    # What ± means is said below a table, and leads to the page that explains it.
    said = re.findall(r'<p class="spread">(.{0,60})', "".join(texts.values()))
    assert said and all("statistics.html" in words for words in said)


def test_previews_are_there_for_terms_citations_and_figures(site: Path) -> None:
    script = (site / "_static" / "previews.js").read_text(encoding="utf-8")
    previews = json.loads(script.removeprefix("window.lotpermPreviews = ").rstrip(";\n"))
    assert "true where the weight is kept" in previews["book/glossary.html#term-mask"]
    assert "w ⊙ m" in previews["book/glossary.html#term-mask"]
    cited = [text for text in previews.values() if "Adnan" in text and "2025" in text]
    assert any("weight symmetry" in text.lower() for text in cited)
    assert any(key.startswith("notebooks/") and "#fig-" in key for key in previews)
    # Of the markup alone: an address that is shown may hold "?id=".
    assert not [text for text in previews.values() if re.search(r"<a\b|<[^>]*\sid=", text)]


def test_pages_tell_other_programs_what_they_are(site: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        for tag in ("citation_title", "citation_author", "og:title", "og:image", "description"):
            assert f'="{tag}" content="' in text, (name, tag)
        assert f"Version {lotperm.__version__}" in text, name
    assert (site / "_static" / world.CARD).read_bytes().startswith(b"\x89PNG")
    listed = re.findall(r"<loc>(.*?)</loc>", (site / "sitemap.xml").read_text())
    address = world.site_address(
        yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    )
    assert {f"{address}{name}.html" for name in texts} <= set(listed)


def test_without_a_repository_no_address_is_made_up() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert world.site_address("") == ""
    assert world.site_address("https://git.example/a/b") == ""
    assert world.site_address("https://github.com/A/b.git") == "https://a.github.io/b/"
    assert world.site_address("https://github.com/a/b", "https://x.example/y") == (
        "https://x.example/y/"
    )
    found = world.tags("A title", "Words.", "book/intro.html", "", citation, "../card.png")
    names = {name for _, name, _ in found}
    assert not {"og:url", "citation_public_url", "citation_pdf_url"} & names
    assert ("property", "og:image", "../card.png") in found

    class Config:
        html_theme_options = {  # noqa: RUF012
            "repository_url": "",
            "launch_buttons": {"colab_url": "x"},
            "use_edit_page_button": True,
        }
        html_context: dict[str, str] = {}  # noqa: RUF012
        html_baseurl = ""

    world._on_config(None, Config)  # type: ignore[arg-type]
    assert Config.html_theme_options.keys() == {"repository_url", "extra_footer"}
    assert Config.html_context == {"site_address": ""}


def test_a_choice_has_one_right_answer() -> None:
    line = "- [ ] One :: No."
    match = exercises._CHOICE.fullmatch(line)
    assert match is not None and match["words"] == "One" and match["said"] == "No."
    for source in ("book/first_number.md", "notebooks/01_sparse_training_problem.ipynb"):
        text = (ROOT / source).read_text()
        assert "{exercise}" in text
    chapters = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    assert len(chapters) >= 16
    for path in chapters:
        text = "\n".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"])
        asked = re.findall(r"\{exercise\}[^\n]*\n:label: ([\w-]+)", text)
        # Below its text, by the directive, or by a cell with what the page computes.
        checked = re.findall(r"(?:\{check\} |page\.ask\w*\(\")([\w-]+)", text)
        assert asked == re.findall(r"\{solution\} ([\w-]+)", text), path.name
        assert len(set(checked)) == len(checked) >= 2 and set(checked) <= set(asked), path.name


def test_a_chapter_on_a_phone(site: Path, browser: Browser) -> None:
    """A number in each table can be read, figures have their narrow layout, answers are checked."""
    with checks.window(browser, width=checks.PHONE) as context:
        page, problems = checks.visit(context, (site / "notebooks/04_method.html").as_uri())
        outside = page.evaluate(
            """() => [...document.querySelectorAll("article table.results")].flatMap((table) => {
                const cells = [...table.querySelectorAll("tbody :is(td, th)")];
                const numbers = cells.filter((c) => /\\d/.test(c.textContent));
                const seen = numbers.filter((c) => c.getBoundingClientRect().right <= innerWidth
                    && c.getBoundingClientRect().left >= 0);
                return seen.length === numbers.length ? [] : [table.textContent.slice(0, 80)];
            })"""
        )
        assert outside == []
        labels = page.evaluate(
            """() => [...document.querySelectorAll("table.stacked tbody td")].map((cell) =>
                getComputedStyle(cell, "::before").content)"""
        )
        assert labels and "none" not in labels
        shown = page.evaluate(
            """() => [...document.querySelectorAll("img.figure-narrow")].map((image) =>
                [image.checkVisibility(), image.getBoundingClientRect().width])"""
        )
        assert shown and all(visible and width <= checks.PHONE for visible, width in shown)
        assert page.locator("img.figure-wide:not(.figure-alone)").first.is_hidden()
        form = page.locator("form.check[data-check=ex-method-rounds]")
        for answer, said in (("5", "✗"), ("many", "A number"), ("11", "✓ Right")):
            form.get_by_label("Your answer").fill(answer)
            form.get_by_role("button").click()
            assert said in form.locator("output").inner_text()
        assert checks.overflow(page) == []
    assert problems == []


def test_previews_and_code_by_keyboard(site: Path, browser: Browser) -> None:
    with checks.window(browser) as context:
        url = (site / "notebooks/01_sparse_training_problem.html").as_uri()
        page, problems = checks.visit(context, url)
        term = page.locator("article a[data-preview]", has_text="mask").first
        term.focus()
        box = page.locator(".tippy-box")
        box.wait_for()
        assert "true where the weight is kept" in box.inner_text()
        assert term.get_attribute("aria-describedby") is not None
        assert checks.accessibility(page) == []
        page.keyboard.press("Escape")
        box.wait_for(state="detached")
        code = page.locator(".cell.tag_hide-input:not(.tag_parameters) .cell_input").first
        assert code.is_hidden()
        button = page.get_by_role("button", name="Show the code of this page")
        button.focus()
        page.keyboard.press("Enter")
        assert code.is_visible()
        choice = page.locator("form.check").first
        choice.get_by_role("radio").first.check()
        choice.get_by_role("button").click()
        assert choice.locator("output").inner_text().startswith(("✓", "✗"))
    assert problems == []
