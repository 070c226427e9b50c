"""Alternative texts: what is drawn, in words, whatever draws it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lotperm.studies import show
from lotperm.studies.alt import told
from lotperm.studies.charts import dots
from lotperm.studies.connectivity import charts as connectivity
from lotperm.studies.relearning import charts as relearning


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    plt.close("all")


def test_a_curve_is_told_by_its_ends_and_extremes():
    figure, ax = plt.subplots()
    ax.plot([0, 1, 2], [5.0, -2.25, 3.0], label="one")
    ax.axhline(4.0, label="a level")
    ax.plot([0, 1], [1, 1])  # without a name it is decoration
    ax.set(title="k = 8", xlabel="sparsity", ylabel="accuracy (%)")
    assert told(figure) == (
        "k = 8, accuracy (%) against sparsity: one 5 at 0 to 3 at 2, at least −2.25; a level 4."
    )


def test_what_is_missing_or_unnamed_is_left_out():
    figure, ax = plt.subplots()
    ax.plot([0, 1], [np.nan, np.nan], label="nothing")
    ax.errorbar([1], [2.0], [0.5], fmt="o", label="a point")
    assert told(figure) == "a point 2 at 1."
    empty, ax = plt.subplots()
    ax.plot([1, 2])
    assert told(empty) == ""
    picture, ax = plt.subplots()
    ax.imshow(np.zeros((2, 2)))
    ax.plot([1, 2], label="on a picture")
    assert told(picture) == ""


def test_rows_and_bars_have_the_names_of_their_places():
    figure, (left, right) = plt.subplots(1, 2, sharey=True)
    dots(left, {"LTH": [60.0, 62.0], "naive": [40.0, 41.0]}, {"LTH": "red", "naive": "blue"})
    left.set_xlabel("test accuracy (%)")
    right.bar([0, 1], [3.0, 4.0])
    right.set_xticks([0, 1], ["first", "second"])
    assert told(figure).startswith("test accuracy (%): LTH 61; naive 40.5.")


def test_ticks_that_say_their_number_are_no_names():
    figure, ax = plt.subplots()
    ax.plot([0.5, 1, 2], [3, 2, 1], label="barrier")
    ax.set_xticks([0.5, 1, 2], ["0.5", "1", "2"])
    ax.set(xlabel="width", ylabel="points")
    assert told(figure) == "points against width: barrier 3 at 0.5 to 1 at 2."


def test_a_crowd_is_cut_short():
    figure, ax = plt.subplots()
    for i in range(30):
        ax.plot([0, 1], [i, i], label=f"line {i}")
    assert told(figure).endswith("; and 21 more.")
    many, axes = plt.subplots(3, 3)
    for ax in axes.flat:
        ax.plot([0, 1], [0, 1], label="x")
    assert told(many).endswith(" And 3 more panels.")


def test_figures_of_the_chapters_are_told_by_their_numbers():
    rows = [
        {"seed": s, "ends": e, "repair": r, "alpha": a, "accuracy": 0.5 + 0.1 * (e == "permuted") - a * (1 - a)}
        for s in (0, 1) for e in ("as trained", "permuted") for r in ("none", "bn") for a in (0, 0.5, 1)
    ]  # fmt: skip
    lines = connectivity.connectivity(pd.DataFrame(rows), "accuracy", title="Lines")
    said = told(lines)
    assert "A to B 50 at 0 to 50 at 1, at least 25" in said
    # The words of an axis that panels share are said of each.
    assert said.count("test accuracy (%) against position α on the line") == 2
    near = pd.DataFrame(
        {
            "network": ["lth", "permuted", "naive"] * 2,
            "reference": "imp",
            "disagreement": [0.03, 0.06, 0.09] * 2,
            "barrier_none": 0.01,
            "barrier_repair": 0.005,
        }
    )
    assert "LTH 3" in told(relearning.nearness(near, title="Near"))


def test_a_figure_carries_what_is_drawn_beside_what_was_said():
    figure, ax = plt.subplots()
    ax.plot([0, 1], [0, 2], label="gain")
    _, about = show.shown(figure)
    assert about["lotperm"]["drawn"] == "gain 0 at 0 to 2 at 1." and about["lotperm"]["alt"] == ""
