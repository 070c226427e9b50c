"""What permuting gains, on axes that the paper and our runs share, and what pages say of it."""

from __future__ import annotations

import dataclasses
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy import stats

mpl.use("Agg")

from lotperm import Experiment
from lotperm.science.statistics import ratio_of_means
from lotperm.studies import lesson
from lotperm.studies.arms import compare, effects, series, words
from lotperm.studies.arms.series import Series
from lotperm.studies.claims import numbers
from lotperm.studies.claims.evidence import Within
from lotperm.studies.html import answer
from lotperm.studies.page import open_page
from lotperm.studies.subject import Subject

SEEDS = range(6)


def made_up(gain, gap=lambda units, s, k: 10.0, kind="live", noise=0.3) -> Series:
    """A series whose gain and gap are functions of units, sparsity and k, with some noise."""
    random = np.random.default_rng(0)
    rows = [
        {
            "units": units,
            "sparsity": s,
            "rewind_epoch": k,
            "rewind": 100 * k / 40,
            "seed": seed,
            "naive": 50.0,
            "gain": gain(units, s, k) + noise * random.normal(),
            "gap": gap(units, s, k) + noise * random.normal(),
        }
        for units in (16, 32, 64)
        for s in (0.8, 0.9)
        for k in (0, 8)
        for seed in SEEDS
    ]
    table = pd.DataFrame(rows)
    table["lth"], table["permuted"] = 50 + table["gap"], 50 + table["gain"]
    return Series(kind, f"{kind}: made up", table, "live")


def test_the_papers_settings_are_those_of_its_tables():
    one = series.of_paper("resnet20_cifar10")
    arms = numbers.settings(numbers.cells())
    arms = arms[arms["figure"] == "resnet20_cifar10"] if "figure" in arms else arms
    assert sorted(one.table["units"].unique()) == [16, 64, 128, 256]
    row = one.table.query("units == 256 and sparsity == 0.9 and rewind_epoch == 50").iloc[0]
    assert row["rewind"] == 25 and row["gain"] == pytest.approx(row["permuted"] - row["naive"])
    assert len(one.table) == 112 and set(one.table["seed"]) == {0}
    svhn = series.of_paper("svhn")
    assert len(svhn.table) == 8 and svhn.table["lth"].isna().all()


def test_recorded_runs_of_several_widths_are_one_series():
    (one,) = series.of_records("cifar10", "resnet")
    assert (one.kind, one.seeds, len(one.table)) == ("recorded", 6, 48)
    assert one.label == "recorded: ResNet8 on 10,000 images of CIFAR-10"
    # A run of a single setting makes no curve.
    labels = [s.label for s in series.of_records("fashion_mnist", "mlp")]
    assert len(set(labels)) == len(labels)
    assert all(
        len(s.table.drop_duplicates(series.SETTING)) > 1
        for s in series.of_records("fashion_mnist", "mlp")
    )


@pytest.mark.parametrize(
    "given",
    [{"model": "resnet8", "width": 0.5}, {"hidden": [12, 20]}, {"model": "vgg11", "width": 0.125}],
)
def test_the_narrowest_layer_is_that_of_the_network(given):
    experiment = Experiment.from_parameters(profile="smoke", **given)
    sizes = Subject(experiment).spec.sizes
    assert series.narrowest(experiment.to_dict()["model"]) == min(sizes.values())


def test_a_page_s_series_has_its_results(smoke):
    _, results = smoke
    one = series.of_results([results])
    e = results.experiment
    at = one.table[one.table["rewind_epoch"] == e.rewind_epochs[0]].set_index("seed")
    expected = results.values("permuted", e.sparsities[0], e.rewind_epochs[0])
    pd.testing.assert_series_equal(
        at.loc[expected.index, "permuted"], 100 * expected, check_names=False
    )
    assert one.label == "live: MLP on MNIST-1D" and one.profile == "smoke"


def test_a_curve_is_a_mean_over_the_other_settings_that_all_its_places_have():
    one = made_up(lambda units, s, k: 10 * s, noise=0.0)
    # A level that others lack would shift the mean of one place alone.
    extra = one.table[one.table["units"] == 64].assign(sparsity=0.97, gain=99.0)
    more = dataclasses.replace(one, table=pd.concat([one.table, extra], ignore_index=True))
    curve = effects.against(more, "units")
    assert curve["gain"].to_list() == pytest.approx([8.5] * 3)
    assert effects.against(more, "sparsity").empty is False
    flat = one.table[one.table["units"] == 16]
    assert effects.against(dataclasses.replace(one, table=flat), "units").empty


def test_the_share_has_fiellers_interval_and_none_where_the_gap_may_be_zero():
    one = made_up(lambda units, s, k: 5.0)
    by_seed = one.rewound[one.rewound["units"] == 16].groupby("seed")[["gain", "gap"]].mean()
    expected = ratio_of_means(by_seed["gain"], by_seed["gap"])
    row = effects.against(one, "units").iloc[0]
    assert row["share"] == pytest.approx(100 * expected.ratio)
    assert (row["share_low"], row["share_high"]) == pytest.approx(
        tuple(100 * end for end in expected.bounds)
    )
    vague = made_up(lambda units, s, k: 1.0, gap=lambda units, s, k: 0.05)
    assert effects.against(vague, "units")["share"].isna().any()


def test_the_headline_is_a_paired_test_over_seeds_at_k_above_0():
    one = made_up(lambda units, s, k: 4.0 if k else -4.0, noise=2.0)
    by_seed = one.table[one.table["rewind_epoch"] > 0].groupby("seed")["gain"].mean()
    effect = effects.headline(one)
    assert effect.p == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)
    assert effect.value == pytest.approx(by_seed.mean()) and effect.n == len(SEEDS)
    assert effects.shows("live", effect)
    assert not effects.shows("live", dataclasses.replace(effect, p=0.02))
    assert effects.shows("recorded", dataclasses.replace(effect, p=0.02))
    assert not effects.shows("recorded", dataclasses.replace(effect, value=-1.0))


def test_the_trend_with_width_is_of_the_share_not_of_the_points():
    share = made_up(lambda units, s, k: units / 8, gap=lambda units, s, k: 10.0, noise=0.02)
    trend = effects.width_trend(share)
    assert trend.value > 0 and trend.p < 0.001 and trend.note == "20 % to 80 %, from 16 to 64 units"
    # Points grow here, but so does the gap: the share is the same.
    points = made_up(lambda units, s, k: units / 8, gap=lambda units, s, k: units / 4)
    assert effects.width_trend(points).p > 0.05


def test_the_trend_with_width_finds_nothing_where_there_is_nothing():
    """At the level of 5 %, over 400 made-up runs of six seeds; also where some gaps are small."""
    random = np.random.default_rng(1)
    found = 0
    template = made_up(lambda units, s, k: 0.0, noise=0.0)
    size = template.table["units"].to_numpy() / 16
    for _ in range(400):
        gap = 2 * size + random.normal(size=len(size))
        gain = size + random.normal(size=len(size))
        table = template.table.assign(gain=gain, gap=gap)
        found += effects.width_trend(dataclasses.replace(template, table=table)).p < 0.05
    assert 6 <= found <= 36


def test_statements_are_judged_by_the_ledgers_rules():
    one = made_up(
        lambda units, s, k: (1.0 + (s - 0.8) * 40) * (k > 0) * units / 32,
        gap=lambda units, s, k: 10.0 + (k > 0),
    )
    judged = {words: rule.judge(effect) for words, effect, rule in effects.statements(one)}
    assert judged == {
        "permuting gains, at k > 0": "agrees",
        "it gains more in sparser networks": "agrees",
        "it closes more of the gap in wider ones": "agrees",
        "it gains less at k = 0": "agrees",
        "LTH is worse at k = 0": "agrees",
        "naive gains nothing from k": "agrees",
    }
    (rule,) = [rule for words, _, rule in effects.statements(one) if "naive" in words]
    assert isinstance(rule, Within)
    # The paper has means alone: numbers, but no intervals and no judgement.
    paper = effects.statements(series.of_paper("vgg11_cifar10"))
    assert paper and all(np.isnan(effect.low) for _, effect, _ in paper)


def test_an_answer_says_what_the_numbers_say():
    paper = series.of_paper("resnet20_cifar10")
    good = made_up(lambda units, s, k: 5.0)
    none = made_up(lambda units, s, k: 0.0, noise=5.0)
    worse = made_up(lambda units, s, k: -5.0)
    texts = words.gains([paper, good, none, worse], why="Too small.")
    assert "paper: yes" in texts[0] and "111 of 112 settings" in texts[0]
    assert "live: yes" in texts[1] and "of the gap" in texts[1] and "Too small" not in texts[1]
    assert "live: not shown" in texts[2] and "Too small" in texts[2]
    assert "live: the opposite" in texts[3]
    assert "smoke" in answer("Q?", texts, smoke=True)
    assert "smoke" not in answer("Q?", texts)
    mixed = dataclasses.replace(paper, table=paper.table.assign(gain=[-1.0] + [1.0] * 111))
    assert "paper: mostly" in words.gains([mixed])[0]


def test_words_of_a_figure_follow_its_curves():
    one = made_up(lambda units, s, k: units / 16, noise=0.0)
    said = words.in_words(compare.curves([one]))
    assert said[-1] == (
        "live: made up, from 16 to 64 units in the narrowest layer: 1.0 to 4.0 points, "
        "10 to 40 % of the gap"
    )
    figure = compare.side_by_side(compare.curves([one]))
    shown = words.curves(figure, compare.curves([one]), "How to read it.")
    assert said[0].split(":")[0] in shown and "How to read it." in shown
    lines = [line for line in figure.axes[2].lines if len(line.get_xdata()) == 3]
    np.testing.assert_allclose(lines[0].get_ydata(), [1, 2, 4])


def test_agreement_names_what_does_not_agree():
    one = made_up(lambda units, s, k: 5.0)
    text = words.agreement([series.of_paper("svhn"), one])
    assert "it gains less at k = 0 (weaker)" in text and "svhn" not in text.lower()
    listed = words.statements([series.of_paper("svhn"), one])
    first = listed.split("</ul></li>")[0]
    assert "paper: ResNet20 on SVHN: +0.6</li>" in first and first.count("verdict-") == 1
    assert "verdict-agrees" in first and "live: made up: +5" in first


def test_the_download_says_what_each_row_is_of():
    paper, one = series.of_paper("svhn"), made_up(lambda units, s, k: 5.0)
    table = series.download([paper, one], "abc")
    assert list(table.columns[:4]) == ["kind", "of", "profile", "source"]
    assert table.groupby("kind")["source"].first().to_dict() == {"live": "abc", "paper": ""}
    assert len(table) == len(paper.table) + len(one.table)


def test_panels_of_the_paper_show_its_numbers():
    tidy = numbers.cells()
    chosen = tidy[(tidy["table"] == 9) & (tidy["metric"] == "top1")]
    figure = compare.paper_panels(
        chosen, columns="sparsity", rows="width", x="rewind_epoch", xlabel="k"
    )
    assert [ax.get_title() for ax in figure.axes] == ["×1, S = 0.8", "×1, S = 0.9"]
    drawn = figure.axes[0].containers[0][0].get_ydata()
    arm = sorted(chosen["method"].unique())[0]
    at = chosen[(chosen["method"] == arm) & (chosen["sparsity"] == 0.8)].sort_values("rewind_epoch")
    assert list(map(float, drawn)) == at["mean"].to_list()


def test_the_page_of_statistics_computes_its_examples():
    share = lesson.example("share").set_index("run")
    assert re.fullmatch(r"80 % \[76, 84\]", share.iloc[0, 0])
    several = lesson.example("several")
    assert len(several) == 8
    difference = lesson.example("difference").set_index("how").iloc[:, 0]
    halves = [float(text.split("± ")[1]) for text in difference]
    assert halves[0] < halves[1]
    assert lesson.example("seeds").iloc[-1, 0] == "mean ± half width"


def test_a_page_of_several_widths_shows_how_they_align():
    given = {"model": "mlp", "hidden": [8], "epochs": 2, "finetune_epochs": 1, "sparsity": [0.5]}
    page = open_page("resnet20_cifar10", "smoke", widths=[1, 2], seeds=2, **given)
    text = page.alignment().data
    assert "from 8 to 16 units" in text and "nan" not in text.partition("base64")[0]
    names = [task.name for task in page.study.chapter(page.pipelines, page.options)]
    assert names.count("connectivity") == 2
    # A single width has nothing to be compared with.
    one = open_page("resnet20_cifar10", "smoke", widths=1, seeds=2, **given)
    assert "correlate by" in one.alignment().data
    assert "connectivity" not in [t.name for t in one.study.chapter(one.pipelines, one.options)]
