"""The figures show the numbers that they are given."""

import matplotlib as mpl
import numpy as np
import pytest
import torch

mpl.use("Agg")

import matplotlib.pyplot as plt

from lotperm import plotting
from lotperm.config import ARMS


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_learning_curves(smoke):
    _, results = smoke
    figure = plotting.learning_curves(results, ARMS, title="Title")
    left, right = figure.axes
    assert figure.get_suptitle() == "Title"
    assert len(left.lines) == len(right.lines) == len(ARMS)
    curves = results.curves
    for line, arm in zip(right.lines, ARMS, strict=True):
        chosen = curves[(curves["method"] == arm) & (curves["metric"] == "test_accuracy")]
        expected = 100 * chosen.groupby("epoch")["value"].mean()
        assert line.get_label() == plotting.METHODS[arm][0]
        np.testing.assert_allclose(line.get_xdata(), expected.index)
        np.testing.assert_allclose(line.get_ydata(), expected)


def test_final_comparison(smoke):
    _, results = smoke
    figure = plotting.final_comparison(results, title="Title")
    shown = [float(text.get_text()) for text in figure.axes[0].texts]
    summary = results.summary().set_index("method")["mean"]
    assert shown == pytest.approx([100 * summary[arm] for arm in ("naive", "permuted", "lth")], abs=0.05)


def test_density_per_layer():
    masks = [
        {
            "a.weight": torch.tensor([[True, False], [False, False]]),
            "b.weight": torch.ones(2, dtype=torch.bool),
        }
    ]
    ax = plotting.density_per_layer(masks, title="Title").axes[0]
    assert [patch.get_width() for patch in ax.patches] == [25.0, 100.0]
    assert ax.lines[-1].get_xdata()[0] == 50.0


def test_correlation_before_and_after():
    correlation = torch.eye(3)[[1, 2, 0]]
    p = torch.tensor([1, 2, 0])
    before, after = plotting.correlation_before_after(correlation, p, title="Title").axes[:2]
    assert before.images[0].get_array().trace() == 0
    assert after.images[0].get_array().trace() == 3


def test_overview_and_masks():
    mask = torch.rand(4, 5) < 0.5
    pictures = plotting.mask_images({"one": mask, "two": ~mask}, title="Title").axes
    np.testing.assert_array_equal(pictures[0].images[0].get_array(), mask)
    np.testing.assert_array_equal(pictures[1].images[0].get_array(), ~mask)
    accuracies = {m: 0.1 * i for i, m in enumerate(("dense_a", "dense_b", *ARMS), 1)}
    figure = plotting.method_overview(mask, ~mask, torch.eye(4), torch.eye(4), accuracies, title="Title")
    bars = [bar.get_height() for ax in figure.axes for bar in ax.patches]
    assert bars == pytest.approx([10, 20, 30, 40, 50])


def test_every_method_has_a_colour_of_its_own():
    colours = [colour for _, colour in plotting.METHODS.values()]
    assert len(set(colours)) == len(colours)
