"""Presets: tables in TOML, those of the package and those of a question of one's own."""

import pytest

from lotperm.config import presets
from lotperm.config.choices import DATASETS
from lotperm.config.experiment import Experiment
from lotperm.config.parameters import PARAMETERS
from lotperm.config.presets import FIGURES, PROFILES, add_figures
from lotperm.errors import ParameterError, StorageError

HEADER = 'profiles = ["smoke", "laptop", "desktop", "paper"]\n'
OWN = f"""{HEADER}
[my_figure]
#              smoke      laptop     desktop    paper
dataset     = ["mnist1d", "mnist1d", "svhn",    "svhn"]
train_size  = [100,       "all",     1000,      "all"]
widths      = [[0.5, 1],  1,         1,         2]
seeds       = [1,         2,         2,         3]
sparsity    = [[0.5, 0.8], 0.8,      0.8,       0.9]
prunable    = "all"
"""


@pytest.fixture(autouse=True)
def _same_figures():
    """Remove the figures that a test added."""
    before = dict(FIGURES)
    yield
    FIGURES.clear()
    FIGURES.update(before)


def test_every_data_set_has_a_table_with_all_that_has_no_default():
    assert set(presets.DATASET_PRESETS) == set(DATASETS)
    for profile in PROFILES:
        for dataset in DATASETS:
            defaults = presets.defaults_of(profile, dataset)
            assert set(defaults) == set(PARAMETERS)
            for name, value in defaults.items():
                assert value is None or PARAMETERS[name].check(value) == value


def test_a_figure_spells_out_what_it_runs_at_every_profile():
    for figure in FIGURES.values():
        assert list(figure) == list(PROFILES)
        for rows in figure.values():
            assert {"dataset", "epochs", "lr", "model", "seeds", "sparsity"} <= set(rows)
            for name, value in rows.items():
                assert value is None or PARAMETERS[name].check(value) == value


def test_figures_of_ones_own_are_read_from_a_folder(tmp_path):
    (tmp_path / "figures.toml").write_text(OWN)
    add_figures(tmp_path)
    smoke = Experiment.for_figure("my_figure", profile="smoke")
    assert smoke == [
        Experiment.from_parameters(
            profile="smoke",
            dataset="mnist1d",
            train_size=100,
            width=width,
            seeds=[0],
            sparsity=[0.5, 0.8],
            prunable="all",
        )
        for width in (0.5, 1.0)
    ]
    # "all" is the whole data set, not what the table of the data set has.
    (paper,) = Experiment.for_figure("my_figure", profile="paper")
    assert (paper.data.train_size, paper.model.width) == (None, 2.0)
    # On another data set, widths and sparsities are the figure's, and nothing else is.
    other = Experiment.for_figure("my_figure", profile="smoke", dataset="cifar10")
    assert [e.model.width for e in other] == [0.5, 1.0]
    assert other[0].sparsities == (0.5, 0.8) and len(other[0].seeds) == 3
    assert other[0].pruning.prunable == "paper"


def test_all_wins_over_a_number_of_the_data_set(tmp_path):
    (tmp_path / "figures.toml").write_text(
        f'{HEADER}[whole]\ndataset = "cifar10"\ntrain_size = "all"\n'
    )
    add_figures(tmp_path / "figures.toml")
    assert Experiment.from_parameters(profile="laptop", dataset="cifar10").data.train_size == 10_000
    (whole,) = Experiment.for_figure("whole", profile="laptop")
    assert whole.data.train_size is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nepochs = 3\n", "lacks its header"),
        (HEADER.replace("laptop", "lap"), "lacks its header"),
        (f"{HEADER}[a]\nepochs = [1, 2]\n", "epochs has 2 columns; expected 4: smoke, laptop"),
        (f"{HEADER}[a]\nepoch = 1\n", "Did you mean 'epochs'"),
        (f'{HEADER}[a]\nepochs = "all"\n', "epochs is 'all'; expected a whole number"),
        (f"{HEADER}[a]\nepochs = [1, 2, 3, true]\n", "epochs is True; expected a whole number"),
        (f"{HEADER}epochs = 3\n", "epochs. is not a table"),
        (f"{HEADER}[a\n", "is not TOML"),
        (f"{HEADER}[fine]\nepochs = 3\n[svhn]\nepochs = 3\n", "there is a figure svhn already"),
    ],
)
def test_a_wrong_table_is_refused_and_adds_nothing(tmp_path, text, message):
    (tmp_path / "figures.toml").write_text(text)
    before = set(FIGURES)
    with pytest.raises(ParameterError, match=message) as caught:
        add_figures(tmp_path)
    assert "figures.toml" in str(caught.value) and "\n" not in str(caught.value)
    assert set(FIGURES) == before


def test_a_folder_without_figures_is_refused(tmp_path):
    with pytest.raises(StorageError, match=r"figures.toml can't be read"):
        add_figures(tmp_path)
