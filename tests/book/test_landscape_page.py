"""The interactive landscape in a browser: driven as readers do, and compared with Python's
numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lotperm.site import landscape
from lotperm.site.landscape import PRESETS, RUNS, Scene
from lotperm.studies import charts

# The theme's variables, as sphinx-book-theme sets them.
THEME = """
html { --pst-color-text-base: #222832; --pst-color-background: #fff; background: #fff; }
html[data-theme=dark] { --pst-color-text-base: #ced6dd; --pst-color-background: #121212; background: #121212; }
"""
HTML = """<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>The landscape</title><style>{theme}</style></head>
<body style="margin: 0 auto; padding: 8px; max-width: 760px">{figure}</body></html>"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("landscape") / "page.html"
    figure = str(landscape.interactive(Scene(), charts.METHODS)["text/html"])
    path.write_text(HTML.format(theme=THEME, figure=figure), encoding="utf-8")
    return path


def open_page(context: Any, file: Path) -> Iterator[Any]:
    """A page that must stay without errors and requests."""
    page, wrong = tab(context)
    yield from opened(page, wrong, file)
    context.close()


def tab(context: Any) -> tuple[Any, list[str]]:
    """An empty tab, and a list that gets errors and requests."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(r.url)
    )
    return page, wrong


def opened(page: Any, wrong: list[str], file: Path) -> Iterator[Any]:
    wrong.clear()
    page.goto(file.as_uri())
    page.wait_for_selector(".lotperm-landscape[data-ready]")
    yield page
    # That tests read pixels back is no fault of the page.
    assert not [text for text in wrong if "willReadFrequently" not in text]


@pytest.fixture(scope="module")
def one_tab(browser):
    """A tab for all tests that open the page anew: one for each would take longer than they do."""
    context = browser.new_context(viewport={"width": 1000, "height": 1000})
    yield tab(context)
    context.close()


@pytest.fixture
def page(one_tab, file):
    yield from opened(*one_tab, file)


def scene_of(page: Any) -> Scene:
    """The scene that the page's fields say."""

    def field(name: str) -> float:
        return float(page.input_value(f'[data-name="{name}"]'))

    pairs = {
        name: (field(f"{name}.0"), field(f"{name}.1")) for name in ("teacher", "init_a", "init_b")
    }
    return Scene(
        **pairs,
        learning_rate=field("learning_rate"),
        steps=int(field("steps")),
        rewind=int(field("rewind")),
    )


def short(value: float) -> str:
    text = f"{value:.3f}" if value >= 5e-4 or value == 0 else f"{value:.1e}".replace("e-0", "e-")
    return text.replace("-", "−")


def shown_losses(page: Any) -> dict[str, float]:
    return {
        name: float(page.get_attribute(f'[data-loss="{name}"]', "value"))
        for name in (*RUNS, "pruned")
    }


def assert_shows(page: Any, scene: Scene, step: int | None = None) -> None:
    """Losses and weights in the table at this step (the last by default), and the final losses
    in words.
    """
    result = landscape.simulate(scene)
    expected = result.final_losses()
    at = scene.steps if step is None else step
    ends = {**expected, **{name: values[at] for name, values in result.losses().items()}}
    shown = shown_losses(page)
    for name in (*RUNS, "pruned"):
        np.testing.assert_allclose(shown[name], ends[name], rtol=1e-12)
        w = result.pruned if name == "pruned" else result.paths[name][at]
        cells = page.locator("tr", has=page.locator(f'[data-loss="{name}"]')).locator("td")
        text = cells.nth(0).inner_text().replace("−", "-").split(", ")
        np.testing.assert_allclose([float(v) for v in text], w, atol=0.0051)
        assert cells.nth(1).inner_text() == short(ends[name])
    words = page.inner_text("output")
    assert f"after {scene.steps} steps" in words
    for name in RUNS:
        assert f"{charts.METHODS[name][0].split(':')[0]} {short(expected[name])}" in words
    assert f"pruned A {short(expected['pruned'])}" in words
    arms = ("lth", "naive", "permuted")
    least = min(expected[name] for name in arms)
    for name in arms:
        word = charts.METHODS[name][0].split(":")[0]
        stuck = expected[name] > 4 * least + 0.05
        assert (f"{word[0].upper()}{word[1:]} is stuck" in words) == stuck
    assert ("swaps the neurons" in words) == (result.permutation[0] == 1)
    assert f"A's mask keeps {'w₀' if result.mask[0] else 'w₁'}" in words
    assert f"permuted mask keeps {'w₀' if result.permuted_mask[0] else 'w₁'}" in words


def visible(page: Any) -> set[str]:
    return {name for name in RUNS if page.is_checked(f'[data-run="{name}"]')}


PIXEL = """([selector, x, y]) => {
  const canvas = document.querySelector(selector);
  const scale = canvas.width / canvas.clientWidth;
  return [...canvas.getContext("2d").getImageData(Math.round(x * scale), Math.round(y * scale), 1, 1).data];
}"""
PLANE = ".ll-surface canvas"


def position(page: Any, w0: float, w1: float) -> tuple[float, float]:
    """Where these weights are on the surface, in CSS pixels from its corner; handles A and B
    say the scale.
    """
    centres = {}
    for which in ("a", "b"):
        style = page.locator(f'[data-handle="{which}"]').evaluate(
            "h => [h.style.left, h.style.top]"
        )
        centres[which] = np.array([float(v.removesuffix("px")) for v in style])
    scene = scene_of(page)
    a, b = np.array(scene.init_a), np.array(scene.init_b)
    scale = (centres["b"] - centres["a"]) / (b - a)
    x, y = centres["a"] + (np.array([w0, w1]) - a) * scale
    return float(x), float(y)


def on_screen(page: Any, w0: float, w1: float) -> tuple[float, float]:
    box = page.locator(PLANE).bounding_box()
    x, y = position(page, w0, w1)
    return box["x"] + x, box["y"] + y


def test_the_figure_starts_with_pythons_numbers(page):
    assert_shows(page, Scene())
    assert visible(page) == set(RUNS)
    assert page.get_attribute("output", "aria-live") == "polite"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_panels_of_figure_3(page, name):
    page.fill('[data-name="steps"]', "50")
    page.fill('[data-name="init_a.0"]', "-2")
    page.click(f'[data-preset="{name}"]')
    assert scene_of(page) == Scene()
    assert visible(page) == set(PRESETS[name].shows)
    assert_shows(page, Scene())
    assert PRESETS[name].text in page.inner_text("output")
    pressed = page.locator("[data-preset][aria-pressed=true]").evaluate_all(
        "b => b.map((e) => e.dataset.preset)"
    )
    assert pressed == [name]
    page.focus('[data-handle="a"]')
    page.keyboard.press("ArrowUp")  # no panel any more
    assert page.locator("[data-preset][aria-pressed=true]").count() == 0
    assert PRESETS[name].text not in page.inner_text("output")


@pytest.mark.parametrize(
    ("which", "to"), [("a", (-1.5, 2.0)), ("b", (1.2, 0.7)), ("b", (-0.5, -2.0))]
)
def test_initializations_are_dragged_with_the_mouse(page, which, to):
    start = getattr(scene_of(page), f"init_{which}")
    page.mouse.move(*on_screen(page, *start))
    page.mouse.down()
    target = on_screen(page, *to)
    page.mouse.move(target[0] - 20, target[1] + 7, steps=3)
    page.mouse.move(*target, steps=3)
    page.mouse.up()
    scene = scene_of(page)
    np.testing.assert_allclose(getattr(scene, f"init_{which}"), to, atol=0.02)
    other = "init_b" if which == "a" else "init_a"
    assert getattr(scene, other) == getattr(Scene(), other)
    assert_shows(page, scene)
    page.mouse.move(target[0] + 50, target[1])  # it was let go
    assert scene_of(page) == scene


def test_a_handle_stays_on_the_surface(page):
    page.mouse.move(*on_screen(page, *Scene().init_a))
    page.mouse.down()
    page.mouse.move(2, 2, steps=3)
    page.mouse.up()
    assert scene_of(page).init_a == (-3.0, 3.0)
    assert_shows(page, scene_of(page))


def test_initializations_are_dragged_by_touch(browser, file):
    context = browser.new_context(
        viewport={"width": 360, "height": 1200}, has_touch=True, is_mobile=True
    )
    for page in open_page(context, file):
        page.locator(PLANE).scroll_into_view_if_needed()
        touch = context.new_cdp_session(page)

        def send(kind: str, *points: tuple[float, float], touch: Any = touch) -> None:
            where = [{"x": x, "y": y} for x, y in points]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": where})

        target = on_screen(page, 1.0, 1.5)
        send("touchStart", on_screen(page, *Scene().init_b))
        send("touchMove", (target[0] - 10, target[1]))
        send("touchMove", target)
        send("touchEnd")
        page.wait_for_function("document.querySelector('[data-name=\"init_b.0\"]').value > 0.9")
        np.testing.assert_allclose(scene_of(page).init_b, (1.0, 1.5), atol=0.03)
        assert_shows(page, scene_of(page))


def test_initializations_are_moved_with_the_keyboard(page):
    page.focus('[data-handle="b"]')
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    scene = scene_of(page)
    assert scene == replace(Scene(), init_b=(-0.95, -0.05))
    assert_shows(page, scene)
    assert "w₀ −0.95, w₁ −0.05" in page.get_attribute('[data-handle="b"]', "aria-label")
    page.keyboard.press("Tab")  # other keys keep their meaning
    assert page.evaluate("document.activeElement.dataset.handle") is None


@pytest.mark.parametrize(
    ("name", "value", "scene"),
    [
        ("teacher.0", "1.2", replace(Scene(), teacher=(1.2, -0.4))),
        ("teacher.1", "0.5", replace(Scene(), teacher=(2.0, 0.5))),
        ("learning_rate", "0.73", replace(Scene(), learning_rate=0.73)),
        ("steps", "37", replace(Scene(), steps=37)),
        ("rewind", "12", replace(Scene(), rewind=12)),
        ("init_a.1", "-0.35", replace(Scene(), init_a=(0.6, -0.35))),
        ("init_b.0", "2.5", replace(Scene(), init_b=(2.5, 0.4))),
    ],
)
def test_settings(page, name, value, scene):
    page.fill(f'[data-name="{name}"]', value)
    assert scene_of(page) == scene
    assert_shows(page, scene)


def test_fewer_steps_than_the_rewind_step_move_it(page):
    page.fill('[data-name="rewind"]', "100")
    page.fill('[data-name="steps"]', "40")
    assert scene_of(page) == replace(Scene(), steps=40, rewind=40)
    assert_shows(page, scene_of(page))


def test_a_number_that_is_half_typed_or_out_of_range_changes_nothing(page):
    for text in ("", "-", "99"):
        page.focus('[data-name="init_a.0"]')
        page.keyboard.press("Control+A")
        page.keyboard.type(text) if text else page.keyboard.press("Delete")
        assert shown_losses(page)["lth"] == landscape.simulate(Scene()).final_losses()["lth"]
        page.focus('[data-handle="a"]')
        page.keyboard.press("Shift+ArrowLeft")
        page.keyboard.press("Shift+ArrowRight")
        assert scene_of(page) == Scene()


def test_step_and_reset(page):
    page.click('[data-do="reset"]')
    assert_shows(page, Scene(), 0)
    for step in (1, 2):
        page.click('[data-do="step"]')
        assert_shows(page, Scene(), step)
    page.fill('[data-name="time"]', "64")
    assert_shows(page, Scene(), 64)
    page.fill('[data-name="time"]', "130")
    page.click('[data-do="step"]')  # there is no step after the last
    assert_shows(page, Scene())


def test_play_and_pause(page):
    page.click('[data-do="play"]')
    page.wait_for_function("document.querySelector('[data-name=time]').value > 5")
    assert page.inner_text('[data-do="play"]') == "Pause"
    page.click('[data-do="play"]')
    assert page.inner_text('[data-do="play"]') == "Play"
    step = int(page.input_value('[data-name="time"]'))
    assert 5 < step < 130
    page.wait_for_timeout(300)
    assert_shows(page, Scene(), step)
    page.fill('[data-name="time"]', "120")
    page.click('[data-do="play"]')  # goes on from where it is, to the end
    page.wait_for_function("document.querySelector('[data-do=play]').textContent === 'Play'")
    assert_shows(page, Scene())


def test_nothing_moves_for_readers_who_want_it_so(browser, file):
    context = browser.new_context(reduced_motion="reduce")
    for page in open_page(context, file):
        page.click('[data-do="reset"]')
        page.click('[data-do="play"]')
        assert page.input_value('[data-name="time"]') == "130"
        assert page.inner_text('[data-do="play"]') == "Play"


def hide_all(page: Any) -> None:
    for name in visible(page):
        page.uncheck(f'[data-run="{name}"]')


def test_the_surface_has_the_shade_of_its_loss(page):
    hide_all(page)
    key = page.locator(".ll-key span").evaluate_all("s => s.map((e) => e.style.borderTopColor)")
    shades = [[int(v) for v in re.findall(r"\d+", colour)] for colour in key]
    assert len(shades) == len(landscape.LEVELS) + 1
    seen = set()
    for w in np.random.default_rng(0).uniform(-2.8, 2.8, (60, 2)):
        around = landscape.loss(
            w + 0.05 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]), Scene().teacher
        )
        bands = {int(np.searchsorted(landscape.LEVELS, v, side="right")) for v in around}
        near_line = min(abs(w[0]), abs(w[1]), abs(w[0] - w[1])) < 0.1 or (w.max() < -0.5)
        near_handle = min(np.hypot(*(w - i)) for i in (Scene().init_a, Scene().init_b)) < 0.4
        if len(bands) > 1 or near_line or near_handle:
            continue
        (band,) = bands
        seen.add(band)
        pixel = page.evaluate(PIXEL, [PLANE, *position(page, *w)])
        np.testing.assert_allclose(pixel[:3], shades[band], atol=2)
    assert len(seen) >= 4


def test_paths_are_drawn_where_they_are_and_can_be_hidden(page):
    middle = {
        "dense_a": landscape.simulate(Scene()).paths["dense_a"][10],
        "lth": np.array([1.2, 0.0]),
        "naive": np.array([-0.7, 0.0]),
        "permuted": np.array([0.0, 1.2]),
    }
    for name, w in middle.items():
        where = [PLANE, *position(page, *w)]
        drawn = page.evaluate(PIXEL, where)
        page.uncheck(f'[data-run="{name}"]')
        without = page.evaluate(PIXEL, where)
        assert np.abs(np.array(drawn) - without).max() > 40
        page.check(f'[data-run="{name}"]')
        assert page.evaluate(PIXEL, where) == drawn


def test_curves_and_functions_change_with_the_step(page):
    def pictures() -> list[str]:
        return page.locator(".ll-side canvas").evaluate_all("c => c.map((e) => e.toDataURL())")

    end = pictures()
    page.fill('[data-name="time"]', "3")
    assert all(a != b for a, b in zip(end, pictures(), strict=True))


def luminance(pixel: list[int]) -> float:
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in pixel[:3]]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_are_readable(page, theme):
    basin, path = (Scene().teacher[1] + 0.2, Scene().teacher[0] + 0.1), (0.0, 1.2)
    page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    page.wait_for_timeout(100)
    ground = luminance(page.evaluate(PIXEL, [PLANE, *position(page, *basin)]))
    line = luminance(page.evaluate(PIXEL, [PLANE, *position(page, *path)]))
    assert ground > 0.8 if theme == "light" else ground < 0.05
    low, high = sorted((ground, line))
    assert (high + 0.05) / (low + 0.05) > 3  # WCAG's contrast for graphics


def test_it_fits_a_phone(browser, file):
    for page in open_page(browser.new_context(viewport={"width": 360, "height": 800}), file):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        small = page.locator("button, input").evaluate_all(
            "all => all.map((e) => e.closest('label') || e).map((e) => e.getBoundingClientRect())"
            ".filter((box) => Math.min(box.width, box.height) < 24).length"
        )
        assert small == 0  # WCAG's smallest target
        before = page.locator(PLANE).bounding_box()["width"]
        page.set_viewport_size({"width": 340, "height": 800})
        page.wait_for_timeout(100)
        assert page.locator(PLANE).bounding_box()["width"] < before
        assert page.evaluate("document.documentElement.scrollWidth") <= 340


def test_every_field_and_picture_has_a_name(page):
    names = page.locator("button, input, canvas:not([aria-hidden])").evaluate_all(
        "all => all.map((e) => e.getAttribute('aria-label') || (e.labels?.[0] || e).textContent.trim())"
    )
    assert len(names) > 20 and all(names)


def test_two_figures_on_one_page_keep_apart(browser, tmp_path):
    figures = [
        str(landscape.interactive(scene, charts.METHODS, element=element)["text/html"])
        for scene, element in ((Scene(), "first"), (replace(Scene(), steps=40), "second"))
    ]
    file = tmp_path / "two.html"
    file.write_text(HTML.format(theme=THEME, figure="".join(figures)), encoding="utf-8")
    for page in open_page(browser.new_context(), file):
        page.fill('#first [data-name="learning_rate"]', "0.5")
        assert page.input_value('#second [data-name="learning_rate"]') == "0.1"
        shown = float(page.get_attribute('#second [data-loss="dense_a"]', "value"))
        assert shown == landscape.simulate(replace(Scene(), steps=40)).final_losses()["dense_a"]


@pytest.mark.parametrize("width", [1200, 360])
def test_the_page_of_the_book(browser, site, width):
    built = site / "notebooks" / "03_loss_landscape.html"
    for page in open_page(browser.new_context(viewport={"width": width, "height": 900}), built):
        assert_shows(page, Scene())
        page.click('[data-preset="c"]')
        assert visible(page) == set(PRESETS["c"].shows)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.wait_for_selector("mjx-container")
