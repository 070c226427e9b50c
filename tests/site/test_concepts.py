"""Figures 1 and 2 show the networks and the numbers that they are given."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import same_color

mpl.use("Agg")

import matplotlib.pyplot as plt

from lotperm.science.sparsity import full_mask, magnitude_prune
from lotperm.science.statistics import interval
from lotperm.site import concepts
from lotperm.studies.arms import charts as arms_charts
from lotperm.studies.charts import NEGATIVE, POSITIVE
from lotperm.studies.control import charts as control_charts

SIZES = (2, 4, 3)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def layers(seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n_out, n_in, generator=generator) for n_in, n_out in itertools.pairwise(SIZES)
    ]


def lines(ax):
    """(layer, unit of origin, unit of arrival) -> line; the first unit of a layer stands
    highest.
    """
    heights = [sorted({y for _, y in c.get_offsets()}, reverse=True) for c in ax.collections]
    found = {}
    for line in ax.lines:
        (x, _), (start, end) = line.get_xdata(), line.get_ydata()
        layer = int(x)
        found[layer, heights[layer].index(start), heights[layer + 1].index(end)] = line
    return found


def test_a_network_is_drawn_weight_by_weight():
    weights = layers(0)
    kept = [torch.ones_like(w, dtype=torch.bool) for w in weights]
    kept[0][3, 1] = kept[1][0, 2] = False
    _, ax = plt.subplots()
    control_charts.draw_network(ax, weights, kept=kept)
    assert [len(c.get_offsets()) for c in ax.collections] == list(SIZES)
    found = lines(ax)
    assert len(found) == sum(w.numel() for w in weights)
    largest = max(float(w.abs().max()) for w in weights)
    for (layer, j, i), line in found.items():
        value = weights[layer][i, j].item()
        if kept[layer][i, j]:
            assert same_color(line.get_color(), POSITIVE if value >= 0 else NEGATIVE)
            assert line.get_linestyle() == "-"
            assert line.get_linewidth() == pytest.approx(0.5 + 3 * abs(value) / largest)
        else:
            assert same_color(line.get_color(), "#aaaaaa")
            assert line.get_linestyle() == "--"
            assert (layer, i, j) in {(0, 3, 1), (1, 0, 2)}


def test_sparse_training_problem():
    names = ("a_start", "b_start", "dense_a", "imp", "naive", "lth")
    networks = {name: layers(seed) for seed, name in enumerate(names)}
    mask = [w > 0 for w in layers(9)]
    accuracies = {"dense_a": 0.6, "imp": 0.5, "naive": 0.375, "lth": 0.587}
    figure = control_charts.sparse_training_problem(networks, mask, accuracies, title="Title")
    assert figure.get_suptitle() == "Title"
    shown = [text.get_text() for ax in figure.axes for text in ax.texts]
    for words in (
        "A, trained: 60.0 %",
        "A, pruned: 50.0 %",
        "naive: 37.5 %",
        "LTH: 58.7 %",
        "B, early, masked",
    ):
        assert words in shown
    drawn = [
        ("a_start", False),
        ("dense_a", False),
        ("imp", True),
        ("b_start", False),
        ("b_start", True),
        ("naive", True),
        ("a_start", False),
        ("a_start", True),
        ("lth", True),
    ]
    for ax, (name, masked) in zip(figure.axes, drawn, strict=True):
        for (layer, j, i), line in lines(ax).items():
            removed = masked and not mask[layer][i, j]
            sign = POSITIVE if networks[name][layer][i, j] >= 0 else NEGATIVE
            assert same_color(line.get_color(), "#aaaaaa" if removed else sign)


def test_accuracy_by_method():
    values = {"dense_a": [0.6, 0.7, 0.65], "naive": [0.3, 0.35, 0.31], "random": [0.2, 0.25, 0.3]}
    ax = arms_charts.accuracy_by_method(values, title="Title").axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "dense A",
        "naive: B, mask",
        "random: B, random mask",
    ]
    assert [text.get_text() for text in ax.texts] == ["65.0", "32.0", "25.0"]
    dots = [line for line in ax.lines if len(line.get_xdata()) == 3]
    for line, accuracies in zip(dots, values.values(), strict=True):
        np.testing.assert_allclose(line.get_xdata(), 100 * np.array(accuracies))
    for bars, accuracies in zip(ax.containers, values.values(), strict=True):
        (segment,) = bars.lines[2][0].get_segments()
        mean, half = interval(100 * np.array(accuracies))
        np.testing.assert_allclose(segment[:, 0], [mean - half, mean + half])


def test_swapped_units():
    before, order = layers(1), [1, 0, 3, 2]
    after = [before[0][order], before[1][:, order]]
    figure = concepts.swapped_units(before, after, order, title="Title")
    left, right = (ax for ax in figure.axes if ax.collections)
    assert [t.get_text() for t in left.texts] == ["x1", "x2", "a", "b", "c", "d", "f1", "f2", "f3"]
    assert [t.get_text() for t in right.texts] == ["x1", "x2", "b", "a", "d", "c", "f1", "f2", "f3"]
    colours = [ax.collections[1].get_facecolors() for ax in (left, right)]
    np.testing.assert_array_equal(colours[0][order], colours[1])
    pictures = [ax for ax in figure.axes if ax.images]
    for ax, matrix in zip(pictures, [*before, *after], strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), matrix)
        assert [text.get_text() for text in ax.texts] == [
            f"{value:.2f}" for value in matrix.flatten().tolist()
        ]
    assert [label.get_text() for label in pictures[2].get_yticklabels()] == ["b", "a", "d", "c"]
    assert [label.get_text() for label in pictures[3].get_xticklabels()] == ["b", "a", "d", "c"]


def test_every_swap_under_the_old_mask_costs_right_answers() -> None:
    """The figure is there to show it, so it must not show the opposite."""
    weights, _, points, targets = concepts.quadrants()
    names = [name for name in weights if name.endswith(".weight")]
    mask = magnitude_prune(weights, full_mask(weights, names), 0.3)

    def right(state: dict[str, torch.Tensor]) -> float:
        x = points
        for i, name in enumerate(names):
            layer = name.removesuffix(".weight")
            x = x @ (state[name] * mask[name]).T + state[f"{layer}.bias"]
            x = x if i == len(names) - 1 else x.relu()
        return float(((x[:, 0] > 0) == (targets > 0.5)).double().mean())

    assert right(weights) == 1
    swaps = 0
    for layer in range(2):
        into, out_of = names[layer], names[layer + 1]
        alive = mask[into].any(1) & mask[out_of].any(0)
        for i, j in itertools.combinations(range(4), 2):
            if not (alive[i] and alive[j]):
                continue
            order = list(range(4))
            order[i], order[j] = j, i
            moved = dict(weights)
            moved[into] = weights[into][order]
            bias = into.replace(".weight", ".bias")
            moved[bias] = weights[bias][order]
            moved[out_of] = weights[out_of][:, order]
            assert right(moved) <= 0.95, (layer, i, j)
            swaps += 1
    assert swaps >= 9
