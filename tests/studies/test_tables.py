"""What the chapters share: their tables say what the results say, in percent."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from lotperm import Experiment, Pipeline
from lotperm.errors import ParameterError
from lotperm.science.statistics import interval, ratio_of_means
from lotperm.site import html
from lotperm.studies import examples, tables
from lotperm.studies.arms import tables as arms_tables
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.connectivity import study as lines_study
from lotperm.studies.diversity import tables as diversity_tables
from lotperm.studies.early import study as early_study
from lotperm.studies.early import tables as early_tables

K, S = 2, 0.8


def with_values(results, values):
    """The results with these test accuracies: (method, seed) -> accuracy."""
    table = pd.DataFrame(
        [
            {
                "seed": seed,
                "method": method,
                "sparsity": S,
                "rewind_epoch": K,
                "metric": "test_accuracy",
                "value": v,
            }
            for (method, seed), v in values.items()
        ]
    )
    return dataclasses.replace(results, table=table)


def test_a_title_says_that_a_network_is_a_twin():
    twin = Experiment.from_parameters(profile="smoke")
    assert tables.title(twin) == "1-D twin, MNIST-1D, MLP, profile smoke"
    other = Experiment.from_parameters(profile="smoke", dataset="fashion_mnist", model="mlp")
    assert tables.title(other) == "Fashion-MNIST, MLP, profile smoke"


def test_settings_have_a_column_for_each_width():
    given = {"profile": "smoke", "hidden": [4], "sparsity": [0.5, 0.9], "rewind_epoch": [0, 2]}
    pipelines = [Pipeline(Experiment.from_parameters(**given, width=width)) for width in (1, 2)]
    table = tables.settings(pipelines)
    assert list(table.columns) == ["width 1", "width 2"]
    # 40 inputs, 10 classes, one hidden layer of 4 or 8 units, with biases.
    assert table.loc["network"].to_list() == [f"MLP, {51 * n + 10} parameters" for n in (4, 8)]
    assert table.loc[["rewind epochs k", "sparsities S"], "width 1"].to_list() == [
        "0, 2",
        "0.5, 0.9",
    ]
    e = pipelines[0].experiment
    rows = ["replicates (seeds)", "epochs dense", "epochs a round of IMP"]
    assert table.loc[rows, "width 2"].to_list() == [
        len(e.seeds),
        e.dense.epochs,
        e.pruning.finetune.epochs,
    ]
    assert table.index[0] == "data set" and "schedule" not in table.index


def test_settings_of_an_image_folder_count_its_images():
    (experiment,) = Experiment.for_figure("resnet50_imagenet", profile="smoke")
    pipeline = Pipeline(experiment)
    column = tables.settings([pipeline]).iloc[:, 0]
    assert (
        column["images"]
        == f"{len(pipeline.data.train)} for training, {len(pipeline.data.test)} for validation"
    )
    assert column["pixels a side"] == experiment.data.image_size
    assert (
        column["schedule"].startswith(experiment.dense.schedule) and "data set" not in column.index
    )


def test_matching_epochs_are_the_papers_or_the_same_shares():
    assert early_study.matching_epochs(200) == [5, 20, 50, 100, 200]
    assert early_study.matching_epochs(40) == [0, 1, 4, 8, 20, 40]
    assert early_study.matching_epochs(1) == [0, 1]


@pytest.mark.parametrize("points", [3, 5, 11, 101])
def test_the_middle_of_a_line_is_one_of_its_positions(points):
    found = lines_study.line_positions(points)
    assert len(found) == points and found[0] == 0 and found[points // 2] == 0.5 and found[-1] == 1
    np.testing.assert_allclose(np.diff(found), 1 / (points - 1))


@pytest.mark.parametrize("points", [4, 1, -3, 3.0, True])
def test_other_numbers_of_positions_are_refused(points):
    with pytest.raises(
        ParameterError, match=rf"points is {points}; expected an odd number, 3 or more"
    ) as caught:
        lines_study.line_positions(points)
    assert caught.value.exit_code == 2


def test_pruning_rounds_begin_with_the_dense_network_and_end_with_the_last():
    assert lines_study.pruning_rounds(7) == [0, 2, 4, 6, 7]
    assert lines_study.pruning_rounds(8) == [0, 2, 4, 6, 8]
    assert lines_study.pruning_rounds(0) == [0]


def test_class_examples_show_the_first_image_of_each_class():
    (experiment,) = Experiment.for_figure("resnet50_imagenet", profile="smoke")
    split = Pipeline(experiment).data.train
    found = examples.class_examples(split, classes=2, views=3)
    assert list(found) == sorted(found) and len(found) == 2
    names = [split.inputs.class_name(row) for row in range(len(split))]
    for name, (whole, *views) in found.items():
        row = torch.tensor(names.index(name))
        assert torch.equal(whole, split.inputs.read(row))
        expected = split.inputs.read_augmented(row.view(1, 1).expand(1, 3), [0, 1, 2], 0)[0]
        assert torch.equal(torch.stack(views), expected)


def test_class_examples_need_files(smoke):
    with pytest.raises(ParameterError, match="image folder"):
        examples.class_examples(smoke[0].data.train, classes=2, views=1)


def test_tables_of_several_widths_become_one():
    experiments = [Experiment.from_parameters(profile="smoke", width=width) for width in (1, 0.5)]
    table = tables.by_width(experiments, [pd.DataFrame({"x": [1, 2]}), pd.DataFrame({"x": [3]})])
    assert table.to_dict("list") == {"x": [1, 2, 3], "width": [1.0, 1.0, 0.5]}
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        tables.by_width(experiments, [table])


def test_accuracies_are_means_with_intervals(smoke):
    _, results = smoke
    table = arms_tables.accuracies([results])
    mean, half = interval(results.values("lth", S, K).to_numpy())
    assert table.loc[(1.0, "0.8", K, "lth"), "top-1 (%)"] == f"{100 * mean:.1f} ± {100 * half:.1f}"
    assert (1.0, "0", "", "dense_a") in table.index and list(table.columns) == ["top-1 (%)"]


def test_comparisons_are_in_points(smoke):
    _, results = smoke
    wider = dataclasses.replace(
        results, experiment=Experiment.from_parameters(profile="smoke", width=2)
    )
    table = arms_tables.comparisons([results, wider])
    assert list(table.index.names) == ["width", "sparsity", "rewind_epoch", "comparison"]
    assert len(table) == 2 * len(results.comparisons())
    expected = results.comparisons().set_index("comparison").loc["permuted - naive"]
    for width in (1.0, 2.0):
        row = table.loc[(width, S, K, "permuted - naive")]
        assert (
            row["difference (points)"]
            == f"{100 * expected['mean']:.1f} ± {100 * expected['half_width']:.1f}"
        )
        assert row["p (paired t-test)"] == f"{expected['p_value']:.1g}"
        assert table.loc[(width, S, K, "gap closed (percent)"), "p (paired t-test)"] == ""


def test_the_gap_closed_has_the_interval_of_a_ratio(smoke):
    values = {
        (arm, seed): accuracy + 0.01 * seed * factor
        for arm, accuracy, factor in (("lth", 0.8, 1), ("permuted", 0.7, -1), ("naive", 0.6, 1))
        for seed in range(4)
    }
    results = with_values(smoke[1], values)
    arms = {arm: results.values(arm, S, K).to_numpy() for arm in PAPER_ARMS}
    ratio = ratio_of_means(arms["permuted"] - arms["naive"], arms["lth"] - arms["naive"])
    low, high = (100 * end for end in ratio.bounds)
    shown = f"{100 * ratio.ratio:.1f} [{low:.1f}, {high:.1f}]"
    table = arms_tables.comparisons([results]).droplevel(["width", "sparsity", "rewind_epoch"])
    assert table.loc["gap closed (percent)", "difference (points)"] == shown
    # On seed 1 LTH is far below naive: the gap may be 0, and its share anything.
    vague = with_values(smoke[1], {**values, ("lth", 1): 0.1})
    text = arms_tables.comparisons([vague]).droplevel(["width", "sparsity", "rewind_epoch"])
    assert text.loc["gap closed (percent)", "difference (points)"].endswith(", no interval")
    assert ", no interval |" in vague.markdown()


def test_what_one_seed_or_equal_arms_cannot_say_stays_empty(smoke):
    single = with_values(smoke[1], {("lth", 0): 0.75, ("permuted", 0): 0.5, ("naive", 0): 0.25})
    table = arms_tables.comparisons([single]).droplevel(["width", "sparsity", "rewind_epoch"])
    assert table.loc["permuted - naive"].to_list() == ["25.0", ""]
    equal = with_values(smoke[1], {(arm, seed): 0.1 for arm in PAPER_ARMS for seed in (0, 1)})
    assert arms_tables.comparisons([equal])["difference (points)"].to_list() == [
        *["0.0 ± 0.0"] * 3,
        "",
    ]


def test_in_short_has_what_is_equal_on_every_machine(smoke):
    values = {("lth", 0): 0.8, ("lth", 1): 0.7, ("permuted", 0): 0.504, ("permuted", 1): 0.504}
    results = with_values(smoke[1], {**values, ("naive", 0): 0.1, ("naive", 1): 0.18})
    arms = "arms at the first width: lth, naive, permuted\n"
    assert arms_tables.in_short(results) == (
        f"{arms}S = 0.8: above 15 percent: lth, permuted; the best: lth"
    )
    chance = with_values(smoke[1], {(arm, seed): 0.1 for arm in PAPER_ARMS for seed in (0, 1)})
    assert arms_tables.in_short(chance) == f"{arms}S = 0.8: above 15 percent: none"


def test_diversity_is_in_percent():
    table = pd.DataFrame(
        {
            "method": ["lth"],
            "mean": [0.5],
            "half_width": [0.025],
            "ensemble_accuracy": [0.625],
            "disagreement": [0.25],
            "kl": [0.5],
            "js": [0.125],
            "members": [3],
        }
    )
    assert diversity_tables.diversity(table).loc["lth"].to_dict() == {
        "test accuracy (%)": "50.0 ± 2.5",
        "ensemble (%)": "62.5",
        "disagreement": "0.250",
        "KL": "0.500",
        "JS": "0.125",
    }


def test_matching_costs_count_epochs_by_hand(smoke):
    results = with_values(smoke[1], {("lth", 0): 0.8, ("permuted", 0): 0.7, ("naive", 0): 0.6})
    table = pd.DataFrame(
        [
            {"seed": 0, "matching_epoch": t, "metric": "test_accuracy", "value": v}
            for t, v in ((0, 0.6), (6, 0.7))
        ]
    )
    found = early_tables.matching_costs(table, results, S, K)
    # T = 12, k = 2: at t = 0 the rewind point still costs 2 dense epochs, 2 + 10 of 12 + 10 in
    # all.
    assert found.loc[0].to_list() == ["17", "55", "60.0", "0"]
    assert found.loc[6].to_list() == ["50", "73", "70.0", "50"]


def test_where_lth_is_not_above_naive_there_is_no_gap_to_close(smoke):
    results = with_values(smoke[1], {("lth", 0): 0.6, ("permuted", 0): 0.7, ("naive", 0): 0.6})
    table = pd.DataFrame(
        [{"seed": 0, "matching_epoch": 0, "metric": "test_accuracy", "value": 0.7}]
    )
    assert early_tables.matching_costs(table, results, S, K).loc[0, "gap closed (%)"] == ""


def test_a_round_of_imp_trains_what_its_kind_does():
    given = {"profile": "smoke", "epochs": 12, "rewind_epoch": [2, 4], "finetune_epochs": 3}
    assert tables.round_epochs(Experiment.from_parameters(**given)) == 3
    assert tables.round_epochs(Experiment.from_parameters(**given, imp="rewind")) == "10, 8"


def test_a_script_cannot_end_its_element():
    found = html.script_element('const end = "</SCRIPT>" + "</b>";\n', ' id="x"')
    assert found == '<script id="x">\nconst end = "<\\/SCRIPT>" + "</b>";\n</script>'
