"""What every page must fulfil. Each check returns a list of problems, empty where there is
none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup
from playwright.sync_api import Browser, BrowserContext, Page, Route
from playwright.sync_api import TimeoutError as Late

Theme = Literal["light", "dark"]

AXE = Path(__file__).parents[1] / "vendor" / "axe-core" / "axe.min.js"
DESKTOP, PHONE = 1200, 360  # widths in pixels
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@contextmanager
def window(
    browser: Browser, *, theme: Theme = "light", width: int = DESKTOP
) -> Iterator[BrowserContext]:
    """A fresh browser window, as of a reader whose system is set to light or dark."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce"
    )
    try:
        yield context
    finally:
        context.close()


def visit(context: BrowserContext, url: str) -> tuple[Page, list[str]]:
    """Open a page in a tab of its own: (page, requests to other hosts and console errors).

    The list grows for as long as the page lives.
    """
    page, problems = tab(context)
    return page, go(page, url, problems)


def tab(context: BrowserContext) -> tuple[Page, list[str]]:
    """Open an empty tab, and a list that gets what goes wrong in it.

    Requests to other hosts are recorded and refused.
    """
    problems: list[str] = []
    page = context.new_page()

    def gate(route: Route) -> None:
        asked, own = urlsplit(route.request.url), urlsplit(page.url)
        # What is opened is the first request of its page.
        if route.request.is_navigation_request() and route.request.frame == page.main_frame:
            own = asked
        if asked.scheme in ("data", "blob", "about") or (asked.scheme, asked.netloc) == (
            own.scheme,
            own.netloc,
        ):
            route.continue_()
        else:
            problems.append(f"{page.url} asks another host: {route.request.url}")
            route.abort()

    def note(what: str) -> None:
        problems.append(f"{page.url}: {what}")

    page.route("**/*", gate)
    page.on("websocket", lambda socket: note(f"opens a socket: {socket.url}"))
    page.on("console", lambda line: line.type == "error" and note(f"console: {line.text}"))
    page.on("pageerror", lambda error: note(f"script: {error}"))
    page.on("crash", lambda _: note("crashed"))
    return page, problems


def go(page: Page, url: str, problems: list[str]) -> list[str]:
    """Open another page in a tab and wait until its formulas are set; return its problems."""
    problems.clear()
    page.goto(url, wait_until="load")
    if page.locator(".math").count():
        # Its script has been loaded by now, where there is one; then it works on its own.
        started = page.evaluate(
            "() => Promise.resolve(window.MathJax?.startup?.promise).then(() => !!window.MathJax)"
        )
        problems += [] if started else [f"{url}: MathJax didn't start"]
    return problems


def formulas(page: Page) -> list[str]:
    """Find formulas that were written but not typeset, or typeset with an error."""
    return page.evaluate(
        """() => [...document.querySelectorAll(".math")].flatMap((formula) => {
            const set = formula.querySelectorAll("mjx-container").length;
            const wrong = formula.querySelector("mjx-merror, [data-mjx-error]");
            const text = formula.textContent.trim().slice(0, 80);
            return [
                ...(set === 1 ? [] : [`formula set ${set} times: ${text}`]),
                ...(wrong ? [`formula with an error: ${text}`] : []),
            ];
        }).concat([...document.querySelectorAll("mjx-container")].filter((set) => !set.closest(".math"))
            .map((set) => `set, but not written as a formula: ${set.textContent.slice(0, 80)}`))"""
    )


def shorten(page: Page) -> None:
    """Remove most entries from a generated page whose entries are all alike.

    The page of the package has 65,000 elements; axe-core would take a minute for it.
    """
    page.evaluate(
        """() => {
            const outermost = (name) => [...document.querySelectorAll(name)]
                .filter((e) => !e.parentElement.closest(name));
            if (document.querySelectorAll("dl.py").length < 200) return;
            outermost("dl.py").slice(30).forEach((e) => e.remove());
            document.querySelectorAll("article section section").forEach((e, i) => i < 30 || e.remove());
            document.querySelectorAll("li").forEach((e, i) => i < 150 || e.remove());
        }"""
    )


def accessibility(page: Page, *, colours_alone: bool = False) -> list[str]:
    """What axe-core finds against WCAG 2.2, levels A and AA.

    Of all its rules, those of colours alone can tell one theme from another.
    """
    only = {"type": "rule", "values": ["color-contrast"]} if colours_alone else None
    _await_tab_stops(page)
    page.evaluate(_axe())
    found: list[dict[str, Any]] = page.evaluate(
        """(only) => axe.run(document, {runOnly: only, resultTypes: ["violations"], preload: false})
            .then((result) => result.violations.map(({id, help, nodes}) => ({id, help, nodes: nodes.map(
                (node) => [node.target.join(" "), node.any.concat(node.all).map((check) => check.message)[0] ?? ""]
            )})))""",
        only or {"type": "tag", "values": WCAG},
    )
    return [
        f"{rule['id']} ({rule['help']}): {target}: {message}"
        for rule in found
        for target, message in rule["nodes"]
    ]


def _await_tab_stops(page: Page) -> None:
    """Wait until what scrolls can be reached by keyboard; axe-core reports what can't by then.

    The theme sees to it 0.3 s after the window has changed its size.
    """
    with suppress(Late):
        page.wait_for_function(
            """() => [...document.querySelectorAll("main [tabindex='-1']")].every((e) =>
                !/auto|scroll/.test(getComputedStyle(e).overflow)
                || e.scrollWidth <= e.clientWidth && e.scrollHeight <= e.clientHeight)""",
            timeout=2000,
        )


@cache
def _axe() -> str:
    return AXE.read_text(encoding="utf-8")


def overflow(page: Page) -> list[str]:
    """Elements that make the page wider than the window, or are cut off at its right edge."""
    return page.evaluate(
        """() => {
            const root = document.documentElement, width = root.clientWidth;
            const scrolls = (e) => e && e !== document.body && e !== root
                && (/auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
            const name = (e) => `${e.tagName.toLowerCase()}${e.id && "#" + e.id}.${[...e.classList].join(".")}`;
            // The words of a heading can end further right than its box.
            const words = (e) => getComputedStyle(e).overflowX === "visible" ? e.scrollWidth : 0;
            const end = (e) => e.getBoundingClientRect().left + Math.max(e.getBoundingClientRect().width, words(e));
            const wide = [...(document.querySelector("article") ?? document.body).querySelectorAll("*")].filter((e) =>
                end(e) > width + 1 && e.checkVisibility({opacityProperty: true})
                && e.getBoundingClientRect().width > 1 && !scrolls(e.parentElement) && !e.closest("mjx-assistive-mml"));
            const problems = wide.slice(0, 5).map((e) => `${name(e)} ends at ${
                Math.round(end(e))} px of ${width}: ${e.textContent.trim().slice(0, 60)}`);
            if (root.scrollWidth > width) problems.unshift(`the page is ${root.scrollWidth} px wide, of ${width}`);
            return problems;
        }"""
    )


def search(page: Page, words: str, *, expected: str, patience: float = 30) -> list[str]:
    """Search by typing, as a reader does.

    `expected` is part of the address of a page that must be found, each step within `patience`
    seconds.
    """
    bars = page.locator("input[type=search]").count()
    problems = [] if bars == 1 else [f"{bars} search bars"]
    try:
        page.locator(".search-button-field:visible").first.click(timeout=1000 * patience)
        page.locator("input[type=search]:visible").first.fill(words, timeout=1000 * patience)
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=*", timeout=1000 * patience)
        hits = page.locator("#search-results li a")
        hits.and_(page.locator(f"[href*='{expected}']")).first.wait_for(timeout=1000 * patience)
    except Late:
        found = [hit.get_attribute("href") for hit in page.locator("#search-results li a").all()]
        problems.append(f"{words!r} finds {found}, not {expected}")
    return problems


def parse(site: Path) -> dict[Path, BeautifulSoup]:
    """Every page of the site; the theme's templates are none."""
    return {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts
    }


def links(pages: dict[Path, BeautifulSoup]) -> list[str]:
    """Links, pictures, scripts and anchors that lead nowhere within the site."""
    anchors = {
        path.resolve(): {tag["id"] for tag in page.select("[id]")} for path, page in pages.items()
    }
    dead = []
    for path, page in pages.items():
        for element in page.select("a[href], link[href], [src]"):
            link = str(element.get("href") or element.get("src"))
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path.resolve()
            known = anchors.get(target, set())
            if not target.is_file() or (url.fragment and unquote(url.fragment) not in known):
                dead.append(f"{path.name}: {link} leads nowhere")
    return dead


def outside(page: BeautifulSoup) -> list[str]:
    """What a page would load from another host, as it is written."""
    loaded = {
        "script": ["src"],
        "link": ["href"],
        "img": ["src", "srcset"],
        "source": ["src", "srcset"],
        "iframe": ["src"],
        "video": ["src", "poster"],
        "audio": ["src"],
        "embed": ["src"],
        "object": ["data"],
        "use": ["href"],
    }
    values = [
        str(element.get(attribute) or "")
        for tag, attributes in loaded.items()
        for element in page.find_all(tag)
        for attribute in attributes
    ]
    found = [value for value in values if re.match(r"(\w+:)?//", value)]
    styles = [style.text for style in page.find_all("style")] + [
        str(e["style"]) for e in page.select("[style]")
    ]
    found += [text[:200] for text in styles if re.search(r"url\(\s*['\"]?http|@import", text)]
    return [f"loaded from another host: {value}" for value in found]


def markup(page: BeautifulSoup) -> list[str]:
    """Markup that stands on the page as it was written: a directive, a role, bold."""
    article = page.find("article") or page.body
    texts = [
        text.strip()
        for text in (article.find_all(string=True) if article else [])
        if not text.find_parent(["code", "pre", "script", "style", "kbd", "annotation"])
    ]
    wrong = re.compile(
        r"^(```|:::)\{?\w|\{[a-z:]+\}`|\{(ref|cite|doc|numref|term|glue)[:}]|\*\*\w+\*\*|^#{2,} "
    )
    return [f"not rendered: {text[:120]}" for text in texts if wrong.search(text)]


def pictures(page: BeautifulSoup) -> list[str]:
    """Pictures without a text that says what they show, and figures and captioned tables
    without a number.
    """
    return [
        f"picture without alt text: {str(image)[:120]}"
        for image in page.find_all("img")
        if not str(image.get("alt") or "").strip()
    ] + [
        f"caption without a number: {caption.get_text(' ', strip=True)[:120]}"
        for caption in page.select("figure figcaption, table caption")
        if not caption.select_one(".caption-number")
    ]
