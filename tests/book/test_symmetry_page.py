"""Chapter 02 as readers use it: units swapped by mouse, finger and keyboard, and what the page
says about it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import checks
import pytest
import torch
from playwright.sync_api import Browser, Locator, Page, expect
from torch import Tensor

from lotperm import PermutationSpec, magnitude_prune, permute
from lotperm.engine.models import MLP
from lotperm.science.sparsity import apply_mask, full_mask

Weights = dict[str, Tensor]


class Figure:
    """The figure on the open page, and the same computation in Python."""

    def __init__(self, root: Locator, html: str, problems: list[str]) -> None:
        found = re.search(r"mount\(element, (.*)\);", html)
        assert found
        self.root, self.problems, self.data = root, problems, json.loads(found[1])
        layers = self.data["layers"]
        sizes = [len(layer["bias"]) for layer in layers]
        model = MLP(len(layers[0]["weight"][0]), sizes[:-1], sizes[-1]).double()
        names = [
            name.removesuffix(".weight") for name in model.state_dict() if name.endswith("weight")
        ]
        self.weights: Weights = {
            f"{name}.{kind}": torch.tensor(layer[kind], dtype=torch.float64)
            for name, layer in zip(names, layers, strict=True)
            for kind in ("weight", "bias")
        }
        self.model, self.names, self.sizes = model, names, sizes
        self.inputs = torch.tensor(self.data["inputs"], dtype=torch.float64)
        self.targets = torch.tensor(self.data["targets"])
        self.spec = PermutationSpec.trace(model, self.inputs)

    def unit(self, layer: int, place: int) -> Locator:
        return self.root.locator(f".lp-unit[data-layer='{layer}'][data-place='{place}']")

    def swap(self, layer: int, i: int, j: int) -> None:
        self.unit(layer, i).click()
        self.unit(layer, j).click()

    def read(self, name: str) -> float:
        return float(self.root.locator(f"[data-out='{name}']").get_attribute("data-value") or "nan")

    def says(self, name: str) -> str:
        return self.root.locator(f"[data-out='{name}']").inner_text()

    def order(self) -> list[list[int]]:
        state = json.loads(self.root.get_attribute("data-state") or "")
        assert state["incoming"] == state["outgoing"]
        return state["incoming"]

    def logits(self, weights: Weights) -> Tensor:
        with torch.no_grad():
            return torch.func.functional_call(self.model, weights, self.inputs).squeeze(1)

    def moved(self, order: list[list[int]]) -> dict[str, Tensor]:
        return {name: torch.tensor(units) for name, units in zip(self.names, order, strict=False)}

    def agrees(self, order: list[list[int]], masking: str = "none", sparsity: float = 0.0) -> None:
        """The page is in this order, and all its numbers are Python's."""
        assert self.order() == order
        names = [f"{name}.weight" for name in self.names]
        pi = self.moved(order)
        mask = (
            {}
            if masking == "none"
            else magnitude_prune(self.weights, full_mask(self.weights, names), sparsity)
        )
        copy = permute(self.weights, self.spec, pi)
        before = self.logits(apply_mask(self.weights, mask))
        masked = apply_mask(copy, permute(mask, self.spec, pi) if masking == "moves" else mask)
        after = self.logits(masked)
        largest = before.abs().max().item()
        difference = (after - before).abs().max().item()
        assert self.read("difference") == pytest.approx(
            difference, rel=1e-9, abs=64 * math.ulp(largest)
        )
        far = math.sqrt(sum(((copy[n] - w) ** 2).sum().item() for n, w in self.weights.items()))
        assert self.read("distance") == pytest.approx(far, rel=1e-12, abs=1e-12)
        right = ((after > 0).int() == self.targets).double().mean().item()
        assert self.read("accuracy") == pytest.approx(right)
        cells = self.root.evaluate(
            """root => Object.fromEntries([...root.querySelectorAll("[data-cell]")].map(
                (cell) => [cell.dataset.cell, [cell.innerText, cell.classList.contains("lp-off")]]
            ))"""
        )
        for layer, name in enumerate(self.names):  # the tables
            for i, row in enumerate(copy[f"{name}.weight"].tolist()):
                for j, w in enumerate(row):
                    text, off = cells.pop(f"{layer} {i} {j}")
                    kept = masked[f"{name}.weight"][i, j] != 0
                    assert abs(float(text.replace("−", "-")) - w) <= 0.005 + 1e-9
                    assert off == (masking != "none" and not kept)
                bias = float(cells.pop(f"{layer} {i} bias")[0].replace("−", "-"))
                assert abs(bias - copy[f"{name}.bias"][i].item()) <= 0.005 + 1e-9
        assert cells == {}


@pytest.fixture
def address(site: Path) -> str:
    return (site / "notebooks" / "02_weight_symmetry.html").as_uri()


@pytest.fixture(scope="module")
def reader(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """One tab, in which each test opens the page anew; and what goes wrong in it."""
    with checks.window(browser) as context:
        yield checks.tab(context)


@pytest.fixture
def figure(reader: tuple[Page, list[str]], address: str) -> Iterator[Figure]:
    page, problems = reader
    checks.go(page, address, problems)
    root = page.locator(".lotperm-symmetry[data-ready]")
    root.wait_for()
    yield Figure(root, page.content(), problems)
    assert problems == []


START = [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_at_first_nothing_has_moved(figure: Figure) -> None:
    figure.agrees(START)
    assert figure.read("difference") == figure.read("distance") == 0
    assert figure.says("copies") == "1"
    assert "576" in figure.says("total")
    assert figure.read("accuracy") > 0.95  # the network was trained


def test_two_clicks_swap_two_units(figure: Figure) -> None:
    figure.swap(0, 0, 2)
    figure.agrees([[2, 1, 0, 3], [0, 1, 2, 3]])
    figure.swap(1, 3, 1)
    figure.agrees([[2, 1, 0, 3], [0, 3, 2, 1]])
    assert figure.read("difference") < 1e-12
    assert figure.read("distance") > 1
    assert figure.says("copies") == "3"
    figure.swap(0, 0, 2)
    figure.swap(1, 3, 1)
    figure.agrees(START)
    assert figure.read("difference") == figure.read("distance") == 0
    assert figure.says("copies") == "4"  # the start was counted before


def test_units_of_different_layers_are_not_swapped(figure: Figure) -> None:
    figure.swap(0, 0, 0)  # the same one twice: let go
    expect(figure.unit(0, 0)).to_have_attribute("aria-pressed", "false")
    figure.swap(0, 0, 1)
    figure.swap(0, 1, 0)
    figure.agrees(START)
    figure.unit(0, 0).click()
    figure.unit(1, 1).click()
    expect(figure.unit(0, 0)).to_have_attribute("aria-pressed", "false")
    expect(figure.unit(1, 1)).to_have_attribute("aria-pressed", "true")
    figure.agrees(START)


def test_by_keyboard(figure: Figure) -> None:
    keyboard = figure.root.page.keyboard
    figure.unit(0, 1).focus()
    keyboard.press("Enter")
    expect(figure.unit(0, 1)).to_have_attribute("aria-pressed", "true")
    keyboard.press("Tab")
    expect(figure.unit(0, 2)).to_be_focused()
    keyboard.press("Space")
    figure.agrees([[0, 2, 1, 3], [0, 1, 2, 3]])
    expect(figure.unit(0, 2)).to_be_focused()
    expect(figure.unit(0, 2)).to_have_attribute("aria-label", "hidden layer 1, place 3: unit b")
    assert "swapped" in figure.says("status")
    keyboard.press("Enter")
    keyboard.press("Escape")
    expect(figure.unit(0, 2)).to_have_attribute("aria-pressed", "false")
    for _ in range(6):
        keyboard.press("Tab")
    expect(figure.root.locator("[data-do='shuffle']")).to_be_focused()
    keyboard.press("Tab")
    keyboard.press("Enter")  # undo
    figure.agrees(START)


def test_shuffle_undo_and_reset(figure: Figure) -> None:
    press = {
        name: figure.root.locator(f"[data-do='{name}']") for name in ("shuffle", "undo", "reset")
    }
    expect(press["undo"]).to_be_disabled()
    orders = [START]
    for _ in range(5):
        press["shuffle"].click()
        orders.append(figure.order())
        figure.agrees(orders[-1])
        assert figure.read("difference") < 1e-12
    assert all(one != two for one, two in pairwise(orders))
    assert figure.says("copies") == str(len({str(order) for order in orders}))
    for order in orders[-2::-1]:
        press["undo"].click()
        figure.agrees(order)
    expect(press["undo"]).to_be_disabled()
    press["shuffle"].click()
    press["reset"].click()
    figure.agrees(START)
    assert figure.says("copies") == "1"
    expect(press["undo"]).to_be_disabled()


def test_incoming_weights_alone_break_the_function(figure: Figure) -> None:
    figure.root.get_by_label("move only the incoming weights").check()
    figure.swap(0, 0, 1)
    state = json.loads(figure.root.get_attribute("data-state") or "")
    assert state == {"incoming": [[1, 0, 2, 3], [0, 1, 2, 3]], "outgoing": START}
    broken = dict(figure.weights)
    for kind in ("weight", "bias"):
        broken[f"{figure.names[0]}.{kind}"] = broken[f"{figure.names[0]}.{kind}"][[1, 0, 2, 3]]
    before, after = figure.logits(figure.weights), figure.logits(broken)
    assert figure.read("difference") == pytest.approx(
        (after - before).abs().max().item(), rel=1e-12
    )
    assert figure.read("difference") > 0.1
    assert figure.says("ulps") == "another function"
    assert figure.says("copies") == "not a copy"
    right = ((after > 0).int() == figure.targets).double().mean().item()
    assert figure.read("accuracy") == pytest.approx(right)
    figure.root.locator("[data-do='undo']").click()
    figure.agrees(START)


def test_a_mask_stays_or_moves_along(figure: Figure) -> None:
    slider = figure.root.get_by_label("sparsity")
    expect(slider).to_be_disabled()
    figure.swap(0, 0, 3)
    figure.swap(1, 1, 3)
    order = figure.order()
    choose = {
        masking: figure.root.locator(f"input[value='{masking}']")
        for masking in ("none", "stays", "moves")
    }
    for sparsity in (figure.data["sparsity"], 0.25, 0.75):
        for masking in ("stays", "moves"):
            choose[masking].check()
            slider.fill(str(sparsity))
            figure.agrees(order, masking, sparsity)
            if masking == "moves":
                assert figure.read("difference") < 1e-12
            else:
                assert figure.read("difference") > 0.1
    choose["none"].check()
    figure.agrees(order)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone(browser: Browser, address: str, theme: checks.Theme) -> None:
    context = browser.new_context(
        viewport={"width": checks.PHONE, "height": 740}, color_scheme=theme, has_touch=True
    )
    page, problems = checks.visit(context, address)
    root = page.locator(".lotperm-symmetry[data-ready]")
    root.wait_for()
    figure = Figure(root, page.content(), problems)
    for place in (0, 3):
        figure.unit(0, place).tap()
    figure.agrees([[3, 1, 2, 0], [0, 1, 2, 3]])
    expect(figure.root.locator("[data-do='undo']")).to_be_enabled()
    box = figure.unit(0, 0).locator("circle").bounding_box()
    assert box is not None and min(box["width"], box["height"]) >= 24  # WCAG 2.2, target size
    # The drawing has arrived where the state says: with motion, it takes a moment.
    body = figure.root.locator(".lp-bodies > g").nth(2 + 0)  # after the two inputs: unit a
    place = figure.unit(0, 3).get_attribute("transform")
    expect(body).to_have_attribute("transform", str(place))
    figure.root.get_by_label("stays in the old order").check()
    problems += checks.accessibility(page)
    problems += checks.overflow(page)
    context.close()
    assert problems == []


def test_without_scripts_a_picture_stands(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    picture = page.locator(".lotperm-symmetry img")
    box = picture.bounding_box()
    assert box is not None and box["width"] > 200
    assert (picture.get_attribute("alt") or "").startswith(
        "A network with layers of 2, 4, 4, 1 units"
    )
    context.close()
