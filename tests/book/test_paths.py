"""Four readers' ways through the book: first-time, after one number, on a phone, by keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import checks
import pandas as pd
import pytest
from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]


def _in_window(page: Page, selector: str) -> bool:
    """Whether all of the first visible element of a kind is in the window, without scrolling."""
    return page.evaluate(
        """(selector) => {
            const seen = [...document.querySelectorAll(selector)].find((e) => e.checkVisibility());
            const box = seen?.getBoundingClientRect();
            return !!box && box.top >= 0 && box.bottom <= innerHeight && box.right <= innerWidth + 1;
        }""",
        selector,
    )


def _right(page: Page) -> float:
    return float(page.locator("[data-out=accuracy]").get_attribute("data-value") or "nan")


def test_a_first_time_reader(site: Path, browser: Browser) -> None:
    """Question, answer and Run on one screen; then three chapters whose words set their figures."""
    with checks.window(browser) as context:
        page, problems = checks.visit(context, (site / "book/intro.html").as_uri())
        page.set_viewport_size({"width": 1280, "height": 800})
        assert page.get_by_role("heading", level=1).inner_text().rstrip("#").endswith("?")
        for what in ("h1", "#fig-answer img", ".lottery button[type=submit]"):
            assert _in_window(page, what), what
        page.get_by_role("link", name="The sparse training problem").first.click()
        page.get_by_role("link", name="Weight symmetry").last.click()
        page.wait_for_url("**/02_weight_symmetry.html")
        # The mask stays in the old order while two units change places: right answers are lost.
        page.get_by_role("button", name="Switch on the mask").click()
        before = _right(page)
        for place in (0, 1):
            page.locator(f".lp-unit[data-layer='1'][data-place='{place}']").click()
        lost = _right(page)
        page.get_by_role("button", name="moves along").click()
        assert lost < before == _right(page)
        page.goto((site / "notebooks/03_loss_landscape.html").as_uri())
        page.get_by_role("button", name="(c) Naive.").click()
        pressed = page.locator("[data-preset=c]")
        assert pressed.get_attribute("aria-pressed") == "true"
        assert (
            "naive"
            in page.locator("[aria-label^='Interactive figure'] output").inner_text().lower()
        )
        assert _in_window(page, "[data-preset=c]") or pressed.is_visible()
        form = page.locator("form.check[data-check=ex-landscape-naive]")
        form.get_by_label("w₀ of B must be positive").check()
        form.get_by_role("button", name="Check").click()
        assert form.locator("output").inner_text().startswith("✓")
    assert problems == []


@pytest.mark.parametrize("name", ["02_weight_symmetry", "03_loss_landscape", "04_method"])
def test_words_that_set_a_figure_reach_it(site: Path, browser: Browser, name: str) -> None:
    """Each of them, one after the other: what it names is on the page, and has its value then."""
    with checks.window(browser) as context:
        page, problems = checks.visit(context, (site / f"notebooks/{name}.html").as_uri())
        words = page.locator("button.sets")
        assert words.count() >= 3
        for i in range(words.count()):
            button = words.nth(i)
            for part in (button.get_attribute("data-sets") or "").split(";"):
                selector, _, value = (x.strip() for x in part.partition("->"))
                assert page.locator(f"article {selector}").count() >= 1, selector
            button.click()
            control = page.locator(f"article {selector}").first
            if value:
                assert float(control.input_value()) == float(value)
            elif control.get_attribute("type") in ("checkbox", "radio"):
                assert control.is_checked(), selector
        assert checks.accessibility(page) == []
    assert problems == []


def test_a_researcher_after_one_number(site: Path, browser: Browser) -> None:
    """ResNet20×4 on CIFAR-10 at S = 0.95, k = 50: by the contents, as a number, as a file, with its source."""
    paper = pd.read_csv(ROOT / "book/paper/tables_5_14.csv", comment="#")
    one = paper.query(
        "model == 'resnet20x4' and dataset == 'cifar10' and sparsity == 0.95 and rewind_epoch == 50"
    )
    wanted = one.query("method == 'permuted'")["value"].item()
    with checks.window(browser) as context:
        page, problems = checks.visit(context, (site / "book/intro.html").as_uri())
        page.locator("nav.bd-links").get_by_role("link", name="The paper’s tables").click()
        page.wait_for_url("**/tables.html")
        table = page.locator(
            ".paper-table", has_text=f"Table {one['table'].iloc[0]}, S = 0.95"
        ).locator("table")
        heads = table.locator("thead th").all_inner_texts()
        row = table.locator("tbody tr", has=page.get_by_role("cell", name="50", exact=True)).first
        cells = row.locator("th, td").all_inner_texts()
        shown = next(
            text for head, text in zip(heads, cells, strict=True) if "permuted" in head.lower()
        )
        assert re.match(r"[\d.]+", shown)[0] == f"{wanted:.2f}"  # type: ignore[index]
        file = page.get_by_role("link", name="All of them as CSV").get_attribute("href") or ""
        rows = pd.read_csv((site / "book" / file).resolve(), comment="#")
        pd.testing.assert_frame_equal(rows, paper)
        # And what it is worth: the ledger names the claims that rest on this table.
        page.locator("nav.bd-links").get_by_role("link", name="A ledger of the paper").click()
        page.wait_for_url("**/claims.html")
        assert page.locator(".claim", has_text="Table").count() > 5
        assert page.locator(".claim .verdict").first.inner_text() in (
            "agrees",
            "weaker",
            "opposite",
        )
    assert problems == []


def test_a_reader_on_a_phone(site: Path, browser: Browser) -> None:
    """The menu by touch, a number of a table as it stands on the screen, and an answer checked by it."""
    context = browser.new_context(
        viewport={"width": checks.PHONE, "height": 740}, has_touch=True, is_mobile=True
    )
    try:
        page, problems = checks.visit(context, (site / "book/intro.html").as_uri())
        page.locator("button.primary-toggle").tap()
        page.locator("nav.bd-links").get_by_role("link", name="The causal test").tap()
        page.wait_for_url("**/14_causal_test.html")
        line = page.locator("table.results tbody tr", has_text="permuted − π all scrambled")
        cell = line.locator("td").last
        cell.scroll_into_view_if_needed()
        box = cell.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= checks.PHONE
        number = re.search(r"[−-]?[\d.]+", cell.inner_text())
        form = page.locator("form.check[data-check=ex-causal-dose]")
        for answer, said in (("1000", "✗"), (number[0], "✓ Right")):  # type: ignore[index]
            form.get_by_label("Your answer").fill(answer)
            form.get_by_role("button").tap()
            assert said in form.locator("output").inner_text()
        small = page.evaluate(
            """() => [...document.querySelectorAll("article :is(button, summary, label:has(input))")]
                .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 24)
                .map((e) => e.outerHTML.slice(0, 80))"""
        )
        assert small == []
        assert checks.overflow(page) == []
    finally:
        context.close()
    assert problems == []


def test_a_reader_with_a_keyboard(site: Path, browser: Browser) -> None:
    """From the top of a page to its figure, an answer, and the command below a picture: no mouse."""
    with checks.window(browser) as context:
        page, problems = checks.visit(context, (site / "notebooks/03_loss_landscape.html").as_uri())
        page.keyboard.press("Tab")
        assert "Skip" in page.evaluate("document.activeElement.textContent")
        page.keyboard.press("Enter")
        words = page.get_by_role("button", name="(b) LTH.")
        for _ in range(60):
            if words.evaluate("(e) => e === document.activeElement"):
                break
            page.keyboard.press("Tab")
        else:
            pytest.fail("60 times Tab don't reach the words")
        outline = words.evaluate("(e) => getComputedStyle(e).outlineStyle")
        assert outline != "none"
        page.keyboard.press("Enter")
        assert page.locator("[data-preset=b]").get_attribute("aria-pressed") == "true"
        # The focus stays in the text, where reading goes on.
        assert words.evaluate("(e) => e === document.activeElement")
        field = page.locator("form.check[data-check=ex-landscape-rewind] input")
        field.focus()
        page.keyboard.type("1")
        page.keyboard.press("Enter")
        assert "✓" in page.locator("form.check[data-check=ex-landscape-rewind] output").inner_text()
        again = page.locator("details.again summary").first
        again.focus()
        page.keyboard.press("Enter")
        assert page.locator("details.again code").first.is_visible()
    assert problems == []


def test_chapters_are_light(site: Path) -> None:
    """What has to be read before the first picture: kB of HTML; pictures are files and come when near."""
    sizes = {p.stem: p.stat().st_size / 1000 for p in (site / "notebooks").glob("*.html")}
    assert len(sizes) >= 16
    assert {name: kb for name, kb in sizes.items() if kb > 300} == {}
