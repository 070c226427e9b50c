"""Figures and tables as the book shows them, and what they say about their numbers' origins."""

from __future__ import annotations

import re
from itertools import pairwise

import matplotlib as mpl
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt
from bs4 import BeautifulSoup

from lotperm.config.parameters import PARAMETERS
from lotperm.studies import charts, html, origin, show
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.arms.charts import final_comparison, line
from lotperm.studies.claims.charts import against_rewinding, against_width
from lotperm.studies.published import recorded


@pytest.fixture(autouse=True)
def _style():
    charts.use_style()
    yield
    plt.close("all")


def sizes(svg: str) -> dict[str, float]:
    """Return width and height in points."""
    tag = re.search(r"<svg[^>]*>", svg)
    assert tag is not None
    return {k: float(v) for k, v in re.findall(r'\b(width|height)="([\d.]+)pt"', tag[0])}


def test_a_figure_is_the_same_bytes_again_and_says_whose_numbers_it_shows():
    svg, about = show.shown(against_width("cifar10"))
    again, _ = show.shown(against_width("cifar10"))
    assert svg == again
    assert "<dc:date>" not in svg and "<text" in svg  # letters stay letters
    (said,) = about["lotperm"]["origins"]
    assert said["kind"] == "paper" and said["of"] == "Tables 5, 6, 7, 8"


def test_on_a_phone_panels_stand_in_a_column_with_letters_of_9_pixels():
    figure = against_rewinding(5)
    svg, about = show.shown(figure)
    narrow = about["lotperm"]["narrow"]
    assert sizes(svg)["width"] == pytest.approx(576)
    assert sizes(narrow)["width"] == pytest.approx(72 * show.NARROW)
    assert sizes(narrow)["height"] > 1.5 * sizes(svg)["height"]
    # The page is 360 pixels wide, and 16 at each side are its margin.
    scale = 328 / (show.NARROW * 96)
    points = [float(size) for size in re.findall(r"font(?:-size)?:[^;]*?([\d.]+)px", narrow)]
    assert points and min(points) * 4 / 3 * scale >= 9
    # The figure itself isn't changed by that.
    assert figure.get_size_inches()[0] == 8
    assert len({ax.get_position().x0 for ax in figure.axes}) == 2


def test_what_is_laid_out_by_hand_is_not_laid_out_anew():
    figure, _ = plt.subplots(figsize=(8, 3))
    assert show.shown(figure)[1]["lotperm"]["narrow"] == ""
    other = plt.figure(figsize=(show.NARROW, 5))
    narrow = show.shown(show.lay_out(figure, other))[1]["lotperm"]["narrow"]
    assert sizes(narrow)["height"] == pytest.approx(360)


def test_arms_are_told_apart_without_colour():
    _, ax = plt.subplots()
    for arm in PAPER_ARMS:
        line(ax, [0, 1], [[0.1, 0.2], [0.3, 0.4]], arm)
    assert len({str(one._dash_pattern) for one in ax.lines}) == len(PAPER_ARMS)  # type: ignore[attr-defined]
    assert len({one.get_marker() for one in ax.lines}) == len(PAPER_ARMS)
    assert charts.DASHES.keys() == charts.MARKERS.keys() == charts.METHODS.keys()


def test_lines_are_named_at_their_ends_and_the_names_do_not_overlap():
    _, ax = plt.subplots()
    for arm in PAPER_ARMS:
        line(ax, [0, 1], [[0.5, 0.6], [0.5, 0.6]], arm)
    charts.name_lines(ax)
    assert ax.get_legend() is None
    heights = sorted(ax.transData.transform(text.xy)[1] for text in ax.texts)
    assert {text.get_text() for text in ax.texts} == {"LTH", "permuted", "naive"}
    assert min(b - a for a, b in pairwise(heights)) > 10
    _, single = plt.subplots()
    line(single, [0], [[0.5, 0.6]], "lth")
    charts.name_lines(single)
    assert single.get_legend() is not None


def test_what_a_figure_says_is_computed_from_its_numbers(smoke):
    _, results = smoke
    drawn = final_comparison(results, title="Title")
    said = show.shown(drawn)[1]["lotperm"]["alt"]
    e = results.experiment
    for arm in PAPER_ARMS:
        mean = 100 * results.values(arm, e.sparsities[0], e.rewind_epochs[0]).mean()
        assert f"{charts.METHODS[arm][0]} {mean:.1f}" in said
    assert f"of {len(e.seeds)} replicates" in said


def test_a_table_reads_without_knowing_the_data():
    index = pd.MultiIndex.from_tuples([(0.9, "lth"), (0.9, "naive")], names=["sparsity", "method"])
    frame = pd.DataFrame(
        {"rewind_epoch": [8, 8], "points": ["1.5 ± 0.2", "-3"], "p": [1e-6, None]}, index=index
    )
    page = BeautifulSoup(html.table(frame), "html.parser")
    heads = [th.text for th in page.select("thead th")]
    assert heads == ["sparsity S", "network", "rewind epoch k", "points", "p"]
    first, second = page.select("tbody tr")
    assert [c.text for c in first.find_all(["th", "td"])] == [
        "0.9",
        "LTH",
        "8",
        "1.5 ± 0.2",
        "1e-06",
    ]
    # On a phone each cell is told by its head; what the row above says already is pale.
    assert [c["data-label"] for c in second.find_all(["th", "td"])] == heads
    assert second.select_one(".same").text == "0.9"  # type: ignore[union-attr]
    assert second.find_all("td")[1].text == "−3"
    assert "stacked" in page.table["class"]  # type: ignore[index]
    assert page.select_one("p.spread").text == html.INTERVAL  # type: ignore[union-attr]
    frame.attrs["spread"] = "± is the standard deviation of three runs."
    assert frame.attrs["spread"] in html.table(frame)
    plain = html.table(pd.DataFrame({"a": [1], "b": ["<x>"]}))
    assert "stacked" not in plain and "spread" not in plain and "&lt;x&gt;" in plain


def test_every_data_set_and_network_has_a_name_in_words():
    for name in ("dataset", "model"):
        choices = PARAMETERS[name].choices
        assert choices and set(choices) <= origin.NAMES.keys()


def test_recorded_numbers_are_fresh_while_their_stages_keep_their_keys(monkeypatch):
    (run,) = (run for run in recorded() if run.name == "mnist1d_live")
    said = origin.of_record(run)
    assert (said.kind, said.seeds, said.device, said.date) == ("recorded", 8, "cpu", "2026-11-22")
    assert said.fresh is True and said.data == "book/results/mnist1d_live/results.csv"
    assert said.command == "lotperm experiment --profile laptop -p dataset=mnist1d"
    content = origin.load_record(origin.book_folder() / "results" / run.name)
    changed = {**content, "experiment": {**content["experiment"], "seeds": [1, 2]}}
    monkeypatch.setattr(origin, "load_record", lambda _: changed)
    origin._fresh.cache_clear()
    assert origin.of_record(run).fresh is False
    origin._fresh.cache_clear()


def test_live_numbers_are_stale_when_the_sources_are_others(smoke, monkeypatch):
    pipeline, _ = smoke
    said = origin.of_live([pipeline.experiment], "cpu", "lotperm run method --profile smoke")
    monkeypatch.setattr(origin, "source_hash", lambda: origin.SOURCE)
    assert said.today().fresh is True
    monkeypatch.setattr(origin, "source_hash", lambda: "0" * 64)
    assert said.today().fresh is False
    assert origin.of_table(5).today().fresh is None
