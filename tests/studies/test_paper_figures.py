"""The paper's figures show the numbers of its tables."""

import matplotlib as mpl
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from lotperm.errors import ParameterError
from lotperm.studies.claims import charts, numbers


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def tidy():
    return numbers.cells()


@pytest.mark.parametrize("table", range(5, 15))
def test_every_number_of_a_table_is_drawn(tidy, table):
    chosen = tidy[tidy["table"] == table]
    drawn = {}
    for metric in sorted(set(chosen["metric"])):
        figure = charts.against_rewinding(table, metric=metric)
        assert figure.get_suptitle().startswith(f"Paper, Table {table}:")
        sparsities = sorted(set(chosen["sparsity"]))
        assert [ax.get_title() for ax in figure.axes] == [f"S = {s:.2f}" for s in sparsities]
        for sparsity, ax in zip(sparsities, figure.axes, strict=True):
            for line in ax.lines:
                arm = str(line.get_label()).lower()
                for k, mean in zip(line.get_xdata(), line.get_ydata(), strict=True):
                    drawn[sparsity, k, arm, metric] = mean
    keys = ["sparsity", "rewind_epoch", "method", "metric"]
    assert drawn == chosen.set_index(keys)["mean"].to_dict()


def test_spreads_are_drawn_where_the_paper_has_them():
    assert all(len(ax.collections) == 3 for ax in charts.against_rewinding(9).axes)
    assert not any(ax.collections for ax in charts.against_rewinding(10).axes)


def test_accuracy_against_sparsity(tidy):
    figure = charts.against_sparsity("cifar100", 4)
    assert [ax.get_title() for ax in figure.axes] == ["k = 10", "k = 25", "k = 50", "k = 100"]
    permuted = figure.axes[1].lines[1]
    cells = tidy[
        (tidy["table"] == 12) & (tidy["rewind_epoch"] == 25) & (tidy["method"] == "permuted")
    ]
    assert list(permuted.get_xdata()) == [0.8, 0.9, 0.95, 0.97]
    assert list(permuted.get_ydata()) == cells.sort_values("sparsity")["mean"].to_list()


def test_width_raises_the_share_and_lowers_the_points(tidy):
    share, gain = charts.against_width("cifar100").axes
    table = numbers.by_width(numbers.settings(tidy)).set_index(["dataset", "sparsity"])
    for i, sparsity in enumerate((0.8, 0.9, 0.95, 0.97)):
        row = table.loc[("cifar100", sparsity)]
        for ax, what, scale in ((share, "share", 100), (gain, "gain", 1)):
            ends = ax.lines[i].get_ydata()[[0, -1]]
            assert list(ends) == pytest.approx(
                [scale * row[f"{what}_narrow"], scale * row[f"{what}_wide"]]
            )


def test_what_is_not_in_the_tables_is_named():
    with pytest.raises(ParameterError, match=r"unknown table '4'\..*Valid: 10, 11"):
        charts.against_rewinding(4)
    with pytest.raises(ParameterError, match="Valid: top1"):
        charts.against_rewinding(5, metric="top5")
    with pytest.raises(ParameterError, match="cifar10×1"):
        charts.against_sparsity("cifar10", 2)
    with pytest.raises(ParameterError, match="cifar10"):
        charts.against_width("imagenet")
