"""The figures show the numbers that they are given."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

mpl.use("Agg")

import matplotlib.pyplot as plt

from lotperm.science.matching import Matching
from lotperm.science.statistics import interval
from lotperm.studies import charts
from lotperm.studies.arms import charts as arms_charts
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.connectivity import charts as connectivity_charts
from lotperm.studies.diversity import charts as diversity_charts
from lotperm.studies.early import charts as early_charts


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_learning_curves(smoke):
    _, results = smoke
    figure = arms_charts.learning_curves(results, PAPER_ARMS, title="Title")
    left, right = figure.axes
    assert figure.get_suptitle() == "Title"
    assert len(left.lines) == len(right.lines) == len(PAPER_ARMS)
    curves = results.curves
    for line, arm in zip(right.lines, PAPER_ARMS, strict=True):
        chosen = curves[(curves["method"] == arm) & (curves["metric"] == "test_accuracy")]
        expected = 100 * chosen.groupby("epoch")["value"].mean()
        assert line.get_label() == charts.METHODS[arm][0]
        # Epochs of the dense training, which an arm goes on from.
        np.testing.assert_allclose(
            line.get_xdata(), expected.index + results.experiment.rewind_epochs[0]
        )
        np.testing.assert_allclose(line.get_ydata(), expected)


def test_an_interval_is_seen_at_a_single_place_too():
    _, ax = plt.subplots()
    values = [0.5, 0.6, 0.7]
    arms_charts.line(ax, [3], [values], "lth")
    ((_, _, (bar,)),) = ax.containers
    (ends,) = bar.get_segments()
    mean, half = interval(values)
    np.testing.assert_allclose(ends, [[3, 100 * (mean - half)], [3, 100 * (mean + half)]])


def test_bars_begin_at_zero_in_every_panel():
    _, axes = plt.subplots(1, 2)
    arms_charts._bars(axes[0], {"dense_a": 0.65, "dense_b": 0.7})
    arms_charts._bars(axes[1], {"lth": 0.6, "permuted": 0.5, "naive": 0.4})
    assert axes[0].get_ylim() == axes[1].get_ylim() and axes[0].get_ylim()[0] == 0


def test_final_comparison(smoke):
    _, results = smoke
    figure = arms_charts.final_comparison(results, title="Title")
    shown = [float(text.get_text()) for text in figure.axes[0].texts]
    summary = results.summary().set_index("method")["mean"]
    assert shown == pytest.approx(
        [100 * summary[arm] for arm in ("naive", "permuted", "lth")], abs=0.05
    )


def test_density_per_layer():
    masks = [
        {
            "a.weight": torch.tensor([[True, False], [False, False]]),
            "b.weight": torch.ones(2, dtype=torch.bool),
        }
    ]
    ax = charts.density_per_layer(masks, title="Title").axes[0]
    assert [patch.get_width() for patch in ax.patches] == [25.0, 100.0]
    assert ax.lines[-1].get_xdata()[0] == 50.0


def test_correlation_before_and_after():
    correlation = torch.eye(3)[[1, 2, 0]]
    p = torch.tensor([1, 2, 0])
    before, after = charts.correlation_before_after(correlation, p, title="Title").axes[:2]
    assert before.images[0].get_array().trace() == 0
    assert after.images[0].get_array().trace() == 3


def test_overview_and_masks():
    mask = torch.rand(4, 5) < 0.5
    pictures = charts.mask_images({"one": mask, "two": ~mask}, title="Title").axes
    np.testing.assert_array_equal(pictures[0].images[0].get_array(), mask)
    np.testing.assert_array_equal(pictures[1].images[0].get_array(), ~mask)
    accuracies = {m: 0.1 * i for i, m in enumerate(("dense_a", "dense_b", *PAPER_ARMS), 1)}
    figure = arms_charts.method_overview(
        mask, ~mask, torch.eye(4), torch.eye(4), accuracies, title="Title"
    )
    bars = [bar.get_height() for ax in figure.axes for bar in ax.patches]
    assert bars == pytest.approx([10, 20, 30, 40, 50])


def test_every_method_has_a_colour_of_its_own():
    colours = [colour for _, colour in charts.METHODS.values()]
    assert len(set(colours)) == len(colours)


def test_rewind_curves_show_the_means(smoke):
    _, results = smoke
    e = results.experiment
    ax = arms_charts.rewind_curves([results], title="Title").axes[0]
    points = [container[0] for container in ax.containers]
    for line, arm in zip(points, PAPER_ARMS, strict=True):
        mean = 100 * results.values(arm, e.sparsities[0], e.rewind_epochs[0]).mean()
        np.testing.assert_allclose(line.get_ydata(), [mean])
        assert list(line.get_xdata()) == list(e.rewind_epochs)
    dense = np.mean([results.values(m, 0.0, None).mean() for m in ("dense_a", "dense_b")])
    assert ax.lines[-1].get_ydata()[0] == pytest.approx(100 * dense)


def test_early_matching_shows_accuracy_and_score(smoke):
    _, results = smoke
    rows = [
        {"seed": s, "matching_epoch": t, "metric": m, "value": 0.1 * s + t / 100 + (m == "score")}
        for s in (0, 1)
        for t in (1, 5)
        for m in ("test_accuracy", "score")
    ]
    e = results.experiment
    figure = early_charts.early_matching(
        pd.DataFrame(rows), results, e.sparsities[0], e.rewind_epochs[0], title="Title"
    )
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [6, 10])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [1.06, 1.10])
    heights = [line.get_ydata()[0] for line in left.lines[1:]]
    assert heights == pytest.approx(
        [
            100 * results.values(arm, e.sparsities[0], e.rewind_epochs[0]).mean()
            for arm in ("lth", "naive")
        ]
    )


def test_diversity_shows_members_and_ensembles():
    table = pd.DataFrame(
        {
            "method": ["dense", "lth"],
            "mean": [0.5, 0.4],
            "ensemble_accuracy": [0.6, 0.45],
            "disagreement": [0.3, 0.1],
        }
    )
    left, right = diversity_charts.diversity(table, title="Title").axes
    np.testing.assert_allclose(left.collections[1].get_offsets()[:, 0], [50, 40])
    np.testing.assert_allclose(left.collections[2].get_offsets()[:, 0], [60, 45])
    assert [bar.get_width() for bar in right.patches] == [30, 10]


def test_members_and_ensembles_are_drawn_against_sparsity():
    rows = [
        {"method": method, "sparsity": s, "mean": mean - s / 10, "ensemble_accuracy": mean}
        for method, mean in (("dense", 0.9), ("permuted", 0.8))
        for s in (0.8, 0.9)
    ]
    left, right = diversity_charts.against_sparsity(pd.DataFrame(rows), title="Title").axes
    assert [line.get_label().partition(":")[0] for line in left.lines] == ["dense", "permuted"]
    np.testing.assert_allclose(left.lines[1].get_data(), [[80, 90], [72, 71]])
    np.testing.assert_allclose(right.lines[1].get_data(), [[80, 90], [80, 80]])
    assert [text.get_text() for text in right.texts] == ["permuted", "dense"]


LINES = pd.DataFrame(
    [
        {
            "seed": s,
            "ends": ends,
            "alpha": a,
            "repair": "bn",
            "loss": 1.0,
            "accuracy": accuracy - 0.1 * s,
            "width": 1.0,
        }
        for s in (0, 1)
        for ends, middle in (("as trained", 0.3), ("permuted", 0.6))
        for a, accuracy in ((0.0, 0.9), (0.5, middle), (1.0, 0.7))
    ]
)


def test_barriers_are_in_points():
    ax = connectivity_charts.barriers(LINES, "width", label="width", title="Title", log=True).axes[
        0
    ]
    assert ax.lines[0].get_ydata()[0] == pytest.approx(50)


def test_connectivity_shows_the_mean_of_the_seeds():
    ax = connectivity_charts.connectivity(LINES, "accuracy", title="Title").axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [85, 25, 65])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [85, 55, 65])


def test_correlation_per_layer(smoke):
    pipeline, _ = smoke
    matchings = pipeline.match()
    ax = connectivity_charts.correlation_per_layer(matchings, title="Title").axes[0]
    for i, group in enumerate(matchings[0]):
        assert ax.lines[0].get_ydata()[i] == pytest.approx(
            np.mean([m.identity_scores[group] for m in matchings])
        )


def test_the_names_of_many_groups_do_not_overlap(smoke):
    matching = smoke[0].match()[0]
    many = Matching(
        {f"layer{i}.0.conv2": torch.arange(64) for i in range(37)},
        {f"layer{i}.0.conv2": 0.5 for i in range(37)},
        {f"layer{i}.0.conv2": 0.0 for i in range(37)},
    )
    for matchings, turned in (([matching], 0), ([many], 90)):
        labels = (
            connectivity_charts.correlation_per_layer(matchings, title="Title")
            .axes[0]
            .get_xticklabels()
        )
        assert [label.get_rotation() for label in labels] == [turned] * len(matchings[0])


def test_example_images_show_the_pixels():
    images = {
        name: [torch.randint(256, (3, 8, 8), dtype=torch.uint8) for _ in range(2)] for name in "abc"
    }
    figure = charts.example_images(images, ["evaluation", "training"], title="Title")
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a", "b", "c"]
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["evaluation", "training"]
    shown = [ax.images[0].get_array() for ax in figure.axes]
    given = [images[name][row].permute(1, 2, 0).numpy() for row in range(2) for name in "abc"]
    assert all(np.array_equal(a, b) for a, b in zip(shown, given, strict=True))
