"""The paper's numbers and recorded ones beside ours."""

import base64
import io
import json
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lotperm import Experiment
from lotperm.errors import ParameterError, StorageError
from lotperm.science.barrier import accuracy_barriers
from lotperm.science.statistics import paired
from lotperm.store.provenance import source_hash
from lotperm.studies import clone, html, published
from lotperm.studies.arms import effects
from lotperm.studies.arms import series as arms_series
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.claims import numbers
from lotperm.studies.connectivity import beside as connectivity_beside
from lotperm.studies.diversity import beside as diversity_beside
from lotperm.studies.early import series as early_series

ROOT = Path(__file__).parents[2]


def test_the_papers_table_says_where_it_comes_from():
    table = published.paper("table1_diversity")
    assert table.attrs["source"].startswith("project blog post")
    assert table["test_acc_mean"].between(0, 100).all() and len(table) == 10
    with pytest.raises(ParameterError, match="Did you mean 'table1_diversity'"):
        published.paper("table1_diversty")


def test_without_the_repository_it_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clone, "__file__", str(tmp_path / "lotperm" / "studies" / "clone.py"))
    with pytest.raises(StorageError, match="Run this in a clone"):
        published.paper("table1_diversity")


def test_the_recorded_ensembles_are_what_chapter_8_says_of_them():
    runs = published.recorded("fashion_mnist", "mlp", 0.5, kind="diversity")
    rows = pd.concat(run.summary for run in runs)
    cells = rows[rows["method"] != "dense"].set_index(["method", "sparsity"])
    together, alone = (100 * cells[column] for column in ("ensemble_accuracy", "mean"))
    ahead = [(them["permuted"] - them["lth"]).round(1).tolist() for them in (together, alone)]
    assert ahead == [[0.3, 0.1, -0.1], [-0.1, -0.4, -0.5]]
    gain = together - alone
    assert gain["lth"].round(1).tolist() == [0.1] * 3
    assert gain["permuted"].round(1).tolist() == [0.5, 0.6, 0.5]
    assert (gain["naive"] > gain["permuted"]).all()
    assert (together["naive"] < together["lth"]).tolist() == [False, True, True]


def test_the_recorded_widths_are_what_the_book_says_of_them():
    """The words of book/recorded.md."""
    cells = {}
    for width in (0.125, 0.25, 0.5, 1.0, 2.0):
        (run,) = (
            run
            for run in published.recorded("fashion_mnist", "mlp", width)
            if run.name.startswith("fashion_widths")
        )
        means = run.summary.set_index(["sparsity", "rewind_epoch", "method"])["mean"].unstack()
        cells[width] = 100 * means.dropna(subset=["lth"])
    cells = pd.concat(cells)
    assert len(cells) == 40 and (cells["permuted"] > cells["naive"]).all()
    gain = (cells["permuted"] - cells["naive"]).unstack("rewind_epoch")
    by_width, by_sparsity = (gain.groupby(level=level) for level in (0, 1))
    assert by_width.mean()[4].agg(["min", "max"]).round(1).tolist() == [1.2, 1.7]
    assert by_width.mean()[0].agg(["min", "max"]).round(1).tolist() == [0.3, 0.6]
    for sparsity, ends in ((0.8, [0.3, 0.6]), (0.98, [2.4, 3.4])):
        at = gain.xs(sparsity, level=1)[4]
        assert at.agg(["min", "max"]).round(1).tolist() == ends
    assert by_sparsity.mean()[4].is_monotonic_increasing
    late = cells.xs(4, level="rewind_epoch").groupby(level=0).mean()
    share = (late["permuted"] - late["naive"]) / (late["lth"] - late["naive"])
    assert (100 * share).round().tolist() == [67, 72, 78, 75, 73]
    missing = late["lth"] - late["naive"]
    assert missing.round(1).tolist()[::4] == [2.5, 1.9]


def test_the_recorded_rewind_epochs_are_what_the_book_says_of_them():
    """The words of book/recorded.md."""
    (run,) = (r for r in published.recorded("fashion_mnist") if r.name == "fashion_rewinds")
    means = 100 * run.summary.pivot(index="rewind_epoch", columns="method", values="mean")
    permuted, naive = means["permuted"], means["naive"]
    assert permuted[2] - permuted[0] == pytest.approx(1.4, abs=0.05)
    assert permuted[8] - permuted[2] == pytest.approx(0.0, abs=0.05)
    assert naive[naive.index > 0].mean() - naive[0] == pytest.approx(0.0, abs=0.1)


def test_the_recorded_lines_are_what_chapter_10_says_of_them():
    barriers = {}
    for run in published.recorded("fashion_mnist", kind="connectivity"):
        found = accuracy_barriers(run.summary)
        of = found[found["repair"] == "none"].groupby("ends")["barrier"].mean()
        barriers[run.experiment["model"]["width"]] = 100 * of
    table = pd.DataFrame(barriers).T.sort_index()
    assert table["permuted"].round(1).tolist() == [2.7, 1.5, 0.8, 0.4]
    assert table["as trained"].iloc[[0, -1]].round().tolist() == [33, 11]
    assert (table["permuted"] < 0.1 * table["as trained"]).all()


def test_the_recorded_cifar10_run_is_what_the_book_says_of_it():
    """The words of book/recorded.md and of chapter 5."""
    (run,) = published.recorded("cifar10", "resnet8", 0.5)
    means = run.summary.set_index(["sparsity", "rewind_epoch", "method"])["mean"].unstack()
    cells = means.dropna(subset=["lth"])
    assert len(cells) == 8
    assert (cells["permuted"] > cells["naive"]).all()
    assert (cells["lth"] > cells["permuted"]).all()
    folder = published.book_folder() / "results" / run.name
    content = json.loads((folder / "results.json").read_text())
    comparisons = pd.DataFrame(content["comparisons"]).set_index("comparison")
    gain = comparisons.loc["permuted - naive"]
    assert (gain["p_value"] < 0.05).sum() == 3
    assert [round(100 * gain["mean"].min(), 1), round(100 * gain["mean"].max(), 1)] == [
        0.6,
        2.1,
    ]  # README
    table = pd.read_csv(folder / "results.csv").query("metric == 'test_accuracy'")
    arms = table.pivot_table(
        index=["seed", "sparsity", "rewind_epoch"], columns="method", values="value"
    )
    by_seed = 100 * (arms["permuted"] - arms["naive"]).groupby("seed").mean()
    assert len(by_seed) == 6 and (by_seed > 0).all()
    over_all = paired(by_seed, 0 * by_seed)
    assert [round(x, 2) for x in over_all] == [1.08, 0.86, 0.02]
    closed = (cells["permuted"] - cells["naive"]) / (cells["lth"] - cells["naive"])
    assert [round(100 * closed.min()), round(100 * closed.max())] == [8, 29]
    later = cells.xs(4, level="rewind_epoch") - cells.xs(2, level="rewind_epoch")
    gains = 100 * later[list(PAPER_ARMS)].mean()
    assert [round(gains[arm], 1) for arm in ("permuted", "naive", "lth")] == [2.0, 1.5, 1.0]
    paper = published.paper("early_matching_resnet20x1_cifar10").query(
        "matching_epoch != matching_epoch or matching_epoch == 200"
    )
    theirs = paper.pivot_table(index="sparsity", columns="method", values="test_acc_mean")
    gap = theirs["lth"] - theirs["naive"]
    share = 100 * (theirs["permuted"] - theirs["naive"]) / gap
    assert [round(share.min()), round(share.max())] == [20, 30]
    wider = (100 * (cells["lth"] - cells["naive"])).div(gap, level="sparsity")
    assert [round(wider.min(), 1), round(wider.max(), 1)] == [1.6, 4.0]
    # Chapter 5's answer counts every seed once.
    (one,) = arms_series.of_records("cifar10", "resnet")
    assert effects.headline(one).value == pytest.approx(over_all.mean)
    assert effects.headline(one).p == pytest.approx(over_all.p_value)


def test_the_tenth_of_the_papers_training_is_what_the_book_says_of_it():
    """The words of book/recorded.md."""
    runs = {run.name: run for run in published.recorded("cifar10", "resnet20")}
    names = {"tenth_resnet20x1_cifar10", "tenth_resnet20x1_cifar10_sparser"}
    assert set(runs) == names
    means, of_seeds = {}, {}
    for run in runs.values():
        e = run.experiment
        assert (e["model"]["width"], e["data"]["train_size"], e["seeds"]) == (1, None, [0, 1, 2])
        assert (e["dense"]["epochs"], e["pruning"]["finetune"]["epochs"]) == (20, 5)
        (sparsity,) = e["sparsities"]
        means[sparsity] = (100 * run.summary.set_index("method")["mean"]).round(2)
        rows = run.rows()
        rows = rows[rows["metric"] == "test_accuracy"]
        of_seeds[sparsity] = 100 * rows.pivot(index="seed", columns="method", values="value")
    cells = numbers.settings(numbers.cells())
    theirs = cells[(cells["table"] == 5) & (cells["rewind_epoch"] == 20)].set_index("sparsity")

    arms = ["lth", "permuted", "naive"]
    accuracies = of_seeds[0.9]
    assert accuracies.loc[0, ["dense_a", "dense_b"]].round(2).to_list() == [89.06, 89.46]
    assert accuracies.loc[0, arms].round(2).to_list() == [88.03, 83.44, 83.59]
    assert means[0.9][["dense_a", "dense_b", *arms]].round(1).to_list() == [
        89.1,
        89.2,
        87.8,
        83.8,
        83.3,
    ]
    gains = accuracies["permuted"] - accuracies["naive"]
    assert gains.round(2).to_list() == [-0.15, 0.96, 0.46]
    gain, left = (
        paired(accuracies[a], accuracies[b])
        for a, b in (("permuted", "naive"), ("lth", "permuted"))
    )
    assert [round(gain.mean, 2), round(gain.half_width, 2)] == [0.42, 1.38]
    assert [round(left.mean, 1), round(left.half_width, 1)] == [4.0, 1.3]
    gap = means[0.9]["lth"] - means[0.9]["naive"]
    assert round(100 * gain.mean / gap) == 10
    assert round(theirs["gain"][0.9], 2) == 0.67
    assert round(100 * theirs["share"][0.9]) == 29
    assert theirs["gain"][0.9] / theirs["share"][0.9] / gap == pytest.approx(0.5, abs=0.05)

    accuracies = of_seeds[0.97]
    assert accuracies.loc[0, arms].round(2).to_list() == [84.53, 78.38, 77.12]
    assert means[0.97][arms].round(1).to_list() == [84.6, 78.7, 77.6]
    gains = accuracies["permuted"] - accuracies["naive"]
    assert gains.round(2).to_list() == [1.26, 1.69, 0.26]
    gain, left = (
        paired(accuracies[a], accuracies[b])
        for a, b in (("permuted", "naive"), ("lth", "permuted"))
    )
    assert [round(gain.mean, 2), round(gain.half_width, 2)] == [1.07, 1.82]
    assert [round(left.mean, 1), round(left.half_width, 1)] == [5.9, 1.5]
    assert round(theirs["gain"][0.97], 2) == 0.76
    lth, permuted, naive = means[0.97][arms]
    shares = (permuted - naive) / (lth - naive), theirs["share"][0.97]
    assert [round(100 * share) for share in shares] == [15, 20]
    # Two networks of one accuracy, on 10,000 images: 95 % of differences are within this.
    rate = 0.835
    assert 1.96 * 100 * math.sqrt(2 * rate * (1 - rate) / 10_000) == pytest.approx(1.0, abs=0.05)
    stages = {s["key"]: s["seconds"] for name in runs for s in _stages(name)}
    assert round(sum(stages.values()) / 3600, 1) == 14.6

    (lines,) = published.recorded("cifar10", "resnet20", kind="connectivity")
    middle = lines.summary[lines.summary["alpha"] == 0.5].set_index(["ends", "repair"])
    ends = ("as trained", "repair"), ("permuted", "repair")
    assert [round(100 * middle["accuracy"][end], 1) for end in ends] == [17.1, 63.7]
    barriers = accuracy_barriers(lines.summary).set_index(["ends", "repair"])["barrier"]
    assert [round(100 * barriers[end], 1) for end in ends] == [72.1, 25.5]


def test_signs_on_cifar10_are_what_the_book_says_of_them():
    """The words of the README, of chapter 15 and of book/beyond.md."""
    runs = {run.name: run for run in published.recorded("cifar10", kind="signs")}

    def shown(a, b):
        found = paired(a, b)
        return f"{found.mean:.1f} ± {found.half_width:.1f}"

    def arms(name, k):
        e = runs[name].experiment
        assert (e["model"]["width"], e["data"]["train_size"], len(e["seeds"])) == (1, 10_000, 6)
        assert (e["sparsities"], e["rewind_epochs"], e["dense"]["epochs"]) == ([0.97], [k], 16)
        table = 100 * runs[name].rows().pivot(index="seed", columns="arm", values="accuracy")
        of = (table[arm] for arm in ("lth", "permuted", "permuted, A's signs moved", "naive"))
        return tuple(of)

    def shares(lth, permuted, moved, naive):
        gap = (lth - naive).mean()
        return [round(100 * (arm - naive).mean() / gap) for arm in (permuted, moved)]

    lth, permuted, moved, naive = late = arms("signs_resnet8_cifar10_rewound", 4)
    assert shown(permuted, naive) == "1.9 ± 1.5"
    assert shown(moved, permuted) == "2.5 ± 1.4"
    assert shares(*late) == [26, 60]
    rows = runs["signs_resnet8_cifar10_rewound"].rows()
    barrier = 100 * rows.groupby("arm")["accuracy_barrier_permuted"].mean()
    assert [round(barrier[arm]) for arm in ("permuted", "permuted, A's signs moved")] == [19, 6]

    lth, permuted, moved, naive = early = arms("signs_resnet8_cifar10", 0)
    assert shown(permuted, naive) == "0.9 ± 1.3"
    assert shown(moved, naive) == "5.4 ± 2.0"
    assert shown(lth, moved) == "0.4 ± 0.9"
    assert shares(*early) == [15, 93]
    means = runs["signs_resnet8_cifar10"].rows().groupby("arm").mean(numeric_only=True)
    lower = [
        1
        - means.loc["naive, A's signs", "accuracy_barrier"]
        / means.loc["naive", "accuracy_barrier"],
        1
        - means.loc["permuted, A's signs moved", "accuracy_barrier_permuted"]
        / means.loc["permuted", "accuracy_barrier_permuted"],
    ]
    assert [round(share, 2) for share in lower] == [0.67, 0.72]


def _stages(name):
    content = (published.book_folder() / "results" / name / "results.json").read_text()
    return json.loads(content)["stages"]


def test_the_recorded_accuracies_are_what_the_book_says_of_them():
    """The words of book/speed.md."""
    results = ROOT / "book" / "results"
    older, rows = (
        json.loads((folder / "accuracy.json").read_text())["rows"]
        for folder in (results / "epyc", results)
    )
    for report in (older, rows):
        found = [row["difference"] for row in report if "difference" in row]
        assert len(found) == 8
        assert all(abs(d["mean"]) < d["half_width"] for d in found)
    found = [row["difference"] for row in older if "difference" in row]
    assert max(abs(d["mean"]) + d["half_width"] for d in found) <= 0.005

    accuracies = [100 * np.array(row["accuracy"]) for row in rows]
    plain, *ours = (accuracies[i] for i, row in enumerate(rows) if row["network"] != "mlp")
    collapsed = plain.argmin()
    assert round(plain[collapsed], 1) == 10.6
    there = next(row for row in older if row["network"] != "mlp" and row["mode"] == "plain loop")
    assert round(100 * there["accuracy"][collapsed], 1) == 42.1
    assert [round(f([way[collapsed] for way in ours])) for f in (min, max)] == [42, 45]
    without_it = [paired(np.delete(way, collapsed), np.delete(plain, collapsed)) for way in ours]
    mlp, *fast = (accuracies[i] for i, row in enumerate(rows) if row["network"] == "mlp")
    without_it += [paired(way, mlp) for way in fast]
    assert max(abs(d.mean) for d in without_it) < 0.215
    assert max(abs(d.mean) + d.half_width for d in without_it) < 2 / 3


def speeds(report, network, peers):
    """Number of networks and images/s of every way of training whose name begins so."""
    rows = [r for r in report["rows"] if r["network"] == network and r["peer"].startswith(peers)]
    return [(r["members"], r["images_per_s"]) for r in rows]


def engine_report(folder=""):
    return json.loads((ROOT / "book" / "results" / folder / "engine.json").read_text())


def times_ordinary(report, network, members):
    """How many times as fast the best way is as the best ordinary loop."""
    ours = speeds(report, network, ("float", "bfloat"))
    ordinary = max(speed for _, speed in speeds(report, network, "ordinary"))
    return round(max(speed for m, speed in ours if m == members) / ordinary, 1)


def test_the_recorded_engine_is_what_the_book_says_of_it():
    """The words of book/speed.md and the README."""
    small, wide = engine_report(), engine_report("resnet20")
    assert [times_ordinary(wide, "resnet20x1", m) for m in (1, 2)] == [3.9, 4.6]
    assert times_ordinary(small, "resnet8x0.5", 8) == 4.5
    assert [times_ordinary(small, "mlp", m) for m in (8, 16)] == [10.3, 13.8]
    for report in (small, wide):
        assert {r["members"] for r in report["rows"]} == {1, 2, 4, 8, 16}
    (roof,) = wide["roofline"]
    best = max(speed for _, speed in speeds(wide, "resnet20x1", "bfloat16"))
    assert round(roof["images_per_s_by_memory"] / best, 1) == 2.3
    assert round(wide["limits"]["gb_per_s"]) == 31

    older = engine_report("epyc")
    assert times_ordinary(older, "resnet20x1", 1) == 2.3
    assert times_ordinary(older, "resnet8x0.5", 8) == 3.3
    assert [times_ordinary(older, "mlp", m) for m in (8, 16)] == [10.9, 11.8]
    (roof,) = [r for r in older["roofline"] if r["network"] == "resnet20x1"]
    assert round(100 * roof["products"]["share"]) == 74
    assert round(roof["products"]["tflops"], 2) == 0.29
    assert round(older["limits"]["tflops_bfloat16"], 2) == 0.39


def step_rows(folder=""):
    report = json.loads((ROOT / "book" / "results" / folder / "step.json").read_text())
    return {row["network"]: row for row in report["rows"] if row["precision"] == "bfloat16"}


def test_the_recorded_profile_of_steps_is_what_the_book_says_of_it():
    """The words of book/speed.md."""
    shares = {
        name: [round(100 * row["profile"][kind]) for kind in ("products", "update")]
        for name, row in step_rows().items()
    }
    assert (shares["mlp"], shares["resnet20x1"]) == ([44, 23], [62, 18])
    milliseconds = [
        [round(step_rows(f"norms/{when}")[name]["step_us"] / 1000) for when in ("after", "before")]
        for name in ("resnet20x1", "resnet8x0.5")
    ]
    assert milliseconds == [[142, 181], [41, 49]]


def test_the_recorded_engine_of_wide_networks_is_what_the_book_says_of_it():
    """The words of book/recorded.md: least and most against the ordinary loop, and of the roof."""
    report = json.loads((ROOT / "book" / "results" / "wide" / "engine.json").read_text())

    def span(network, precision):
        (roof,) = [
            r["images_per_s_by_arithmetic"] for r in report["roofline"] if r["network"] == network
        ]
        ordinary = max(speed for _, speed in speeds(report, network, "ordinary"))
        ours = [speed for _, speed in speeds(report, network, precision)]
        ends = min(ours), max(ours)
        return [round(speed / ordinary, 1) for speed in ends] + [
            round(100 * speed / roof) for speed in ends
        ]

    assert span("resnet20x4", "bfloat16") == [2.5, 2.8, 90, 101]
    assert span("vgg11", "bfloat16") == [1.7, 2.0, 76, 89]
    assert span("resnet20x4", "float32")[:2] == [1.2, 1.4]
    assert span("vgg11", "float32")[:2] == [1.0, 1.0]
    assert {r["members"] for r in report["rows"]} == {1, 2, 4}


def test_the_recorded_early_matching_is_what_the_book_says_of_it():
    """The words of chapter 9."""
    (run,) = published.recorded("cifar10", "resnet8", kind="early")
    assert (run.experiment["seeds"], run.experiment["dense"]["epochs"]) == ([0, 1, 2], 16)
    rows = run.summary.pivot_table(
        index=["metric", "matching_epoch"], columns="seed", values="value"
    )
    score, accuracy = rows.loc["score"].mean(axis=1), rows.loc["test_accuracy"]
    assert [round(score[t], 2) for t in (0, 4, 16)] == [0.18, 0.32, 0.34]
    means = 100 * accuracy.mean(axis=1)
    assert [round(means.min(), 1), round(means.max(), 1)] == [49.2, 51.1]
    assert round(100 * (accuracy.max(axis=1) - accuracy.min(axis=1)).max()) == 3
    arms = early_series.recorded_arms(run).mean()
    assert [round(100 * arms[name], 1) for name in ("naive", "lth")] == [50.0, 55.6]


def test_the_recorded_diversity_is_what_the_book_says_of_it():
    """The words of chapter 8."""
    (run,) = published.recorded("cifar10", "resnet8", kind="diversity")
    assert (run.experiment["model"]["width"], run.experiment["dense"]["epochs"]) == (0.5, 16)
    rows = run.summary.set_index("method")
    assert (rows["members"] == 5).all()
    paper = published.paper("table1_diversity").query("dataset == 'cifar10'").set_index("method")
    gain, theirs = (
        rows["ensemble_accuracy"] - rows["mean"],
        paper["ensemble_acc"] - paper["test_acc_mean"],
    )
    disagreement = 100 * rows["disagreement"]
    assert [round(disagreement[m]) for m in ("lth", "permuted", "imp")] == [6, 34, 29]
    assert [round(100 * paper.loc[m, "disagreement"], 1) for m in ("permuted", "imp")] == [
        10.7,
        9.3,
    ]
    assert [round(100 * gain[m], 1) for m in ("lth", "permuted")] == [0.1, 2.8]
    assert round(theirs["permuted"], 1) == 2.4
    behind = rows.loc["lth", "mean"] - rows.loc["permuted", "mean"]
    assert round(100 * behind, 1) == 5.8
    assert (
        round(paper.loc["lth", "test_acc_mean"] - paper.loc["permuted", "test_acc_mean"], 1) == 1.8
    )
    ensembles = 100 * rows["ensemble_accuracy"].drop("dense")
    assert [round(ensembles[m], 2) for m in ("permuted", "lth", "imp")] == [52.76, 55.85, 59.41]
    assert ensembles.idxmax() == "imp"
    better = 100 * (rows.loc["permuted", "mean"] - rows.loc["naive", "mean"])
    assert round(better, 1) == 1.3 and round(100 * rows.loc["naive", "half_width"], 1) == 1.8
    assert disagreement.idxmax() == "naive" and rows["mean"].idxmin() == "naive"


def test_the_recorded_lines_are_what_the_book_says_of_them():
    """The words of chapter 10."""
    runs = {
        run.experiment["model"]["width"]: run
        for run in published.recorded("cifar10", "resnet8", kind="connectivity")
    }
    assert list(runs) == [0.25, 0.5, 1]
    barriers, middles = {}, {}
    for width, run in runs.items():
        every = (
            accuracy_barriers(run.summary)
            .set_index(["ends", "repair", "seed"])["barrier"]
            .sort_index()
        )
        assert (
            run.experiment["data"]["train_size"] == 10_000
            and run.experiment["dense"]["epochs"] == 16
        )
        assert len(every["permuted", "bn"]) == 3
        barriers[width] = 100 * every
        middle = run.summary[run.summary["alpha"] == 0.5]
        middles[width] = 100 * middle.groupby(["ends", "repair"])["accuracy"].mean()

    def by_width(ends, repair):
        return [round(barriers[width][ends, repair].mean(), 1) for width in runs]

    assert by_width("permuted", "bn") == [26.3, 20.5, 17.8]
    assert by_width("as trained", "bn") == [35.4, 42.8, 46.8]
    assert by_width("permuted", "none") == [38.8, 42.4, 41.3]
    reset = [barriers[width]["permuted", "bn"] for width in runs]
    steps = [stats.ttest_ind(a, b, equal_var=False).pvalue for a, b in pairwise(reset)]
    assert [round(p, 2) for p in steps] == [0.03, 0.25]
    repaired = [barriers[width]["permuted", "repair"].mean() for width in runs]
    further = [abs(a - b.mean()) for a, b in zip(repaired, reset, strict=True)]
    assert round(max(further), 1) == 0.2
    assert round(middles[1]["permuted", "none"], 1) == 26.3


def test_the_recorded_fashion_mnist_run_is_what_the_book_says_of_it():
    """The words of book/recorded.md."""
    run = published.recorded("fashion_mnist", "mlp")[0]
    assert len(run.experiment["seeds"]) == 3
    content = json.loads(
        (published.book_folder() / "results" / run.name / "results.json").read_text()
    )
    found = (
        pd.DataFrame(content["comparisons"])
        .set_index(["comparison", "sparsity", "rewind_epoch"])
        .sort_index()
    )
    gain = found.loc["permuted - naive"]
    assert len(gain) == 8
    assert (gain["mean"] > 0).all() and (gain["p_value"] < 0.05).all()
    by_sparsity = 100 * gain["mean"].groupby("sparsity").mean()
    assert by_sparsity.is_monotonic_increasing
    assert [round(by_sparsity.loc[sparsity], 1) for sparsity in (0.8, 0.97)] == [0.7, 1.8]
    closed = 100 * found.loc["gap closed", "mean"]
    assert [round(closed.min()), round(closed.max())] == [79, 98]
    assert [round(100 * gain["mean"].min(), 1), round(100 * gain["mean"].max(), 1)] == [
        0.6,
        2.0,
    ]  # README
    behind = 100 * found.loc["lth - permuted", "mean"]
    assert behind.min() > 0 and round(behind.max(), 1) == 0.4


def test_recorded_runs_are_found_by_what_they_ran():
    names = ["desktop_mlp_fashion_mnist", "fashion_mnist_desktop", "fashion_widths_x1"]
    assert [other.name for other in published.recorded("fashion_mnist", "ml", 1.0)] == names
    run = published.recorded("fashion_mnist", "mlp", 1.0)[1]
    assert run.name == names[1]
    assert run.experiment["profile"] == "desktop" and "torch" in run.how["versions"]
    assert set(run.summary["method"]) >= {"lth", "permuted", "naive"}
    assert (
        published.recorded("fashion_mnist", "vgg11")
        == []
        == published.recorded("fashion_mnist", "mlp", 4.0)
    )


@pytest.fixture
def made_up(monkeypatch):
    """Puts a recorded run of a kind into the place of those that there are."""

    def put(kind, summary):
        experiment = {
            "data": {"name": "cifar10"},
            "model": {"name": "resnet8", "width": 1.0},
            "profile": "desktop",
            "dense": {"epochs": 20},
            "seeds": [0, 1],
        }
        run = published.Recorded("mine", kind, experiment, summary, {})

        def recorded(dataset=None, model=None, width=None, *, kind="table"):
            return [run] if kind == run.kind and dataset in (None, "cifar10") else []

        for module in (published, diversity_beside, connectivity_beside):
            monkeypatch.setattr(module, "recorded", recorded)
        return run

    return put


def test_diversity_beside_the_papers(smoke, made_up):
    columns = ["method", "mean", "half_width", "ensemble_accuracy", "disagreement", "kl", "js"]
    table = pd.DataFrame([["lth", 0.5, 0.03125, 0.625, 0.25, 0.5, 0.125]], columns=columns)
    run = made_up("diversity", table.assign(mean=0.75, sparsity=0.9, rewind_epoch=4))
    found = diversity_beside.beside_diversity(table, smoke[1].experiment)
    live, kept = "live, mnist1d", f"{run.label}, S = 0.9, k = 4"
    assert found.loc[(live, "lth")].to_list() == ["50.00 ± 3.12", "12.50", "0.25", "0.50", "0.12"]
    assert found.loc[(kept, "lth"), ["accuracy", "gain"]].to_list() == ["75.00 ± 3.12", "-12.50"]
    paper = published.paper("table1_diversity")
    model, dataset = "resnet20x1", "cifar10"
    (lth,) = paper[
        (paper["model"] == model) & (paper["dataset"] == dataset) & (paper["method"] == "lth")
    ].to_dict("records")
    name = f"paper, {model}, {dataset}"
    assert found.loc[(name, "lth"), "accuracy"] == f"{lth['test_acc_mean']:.2f}"
    assert found.loc[(name, "dense"), "disagreement"] == ""  # the paper gives none
    assert (
        found.loc[(f"{live} − {name}", "lth"), "accuracy"]
        == f"{50 - lth['test_acc_mean']:.2f} ± 3.12"
    )


def test_recorded_early_matching_stands_beside_the_arms_of_its_table(monkeypatch):
    """LTH and naive of the seeds that were matched early, from the recorded table of the same
    experiment.
    """
    (table,) = [r for r in published.recorded("cifar10") if r.name == "desktop_resnet8_cifar10"]
    e = {**table.experiment, "seeds": [0, 2], "sparsities": [0.9], "rewind_epochs": [4]}
    rows = [
        {
            "seed": s,
            "sparsity": 0.9,
            "rewind_epoch": 4,
            "matching_epoch": 4,
            "metric": "test_accuracy",
            "value": 0.5,
        }
        for s in e["seeds"]
    ]
    real = published.recorded
    early = [
        published.Recorded("mine", "early", experiment, pd.DataFrame(rows), {})
        for experiment in (e, {**e, "profile": "elsewhere"})
    ]
    monkeypatch.setattr(
        early_series,
        "recorded",
        lambda *given, kind="table": early if kind == "early" else real(*given),
    )
    # The second has no table of its own, so nothing to stand beside.
    (one,) = early_series.of_records()
    assert one.label == "recorded: ResNet8 on 10,000 images of CIFAR-10"
    every = pd.read_csv(ROOT / "book" / "results" / "desktop_resnet8_cifar10" / "results.csv")
    at = every.query(
        "sparsity == 0.9 and rewind_epoch == 4 and metric == 'test_accuracy' and seed in (0, 2)"
    ).pivot(index="seed", columns="method", values="value")
    assert one.table["seed"].to_list() == [0, 2] and (one.table["matched"] == 25).all()
    assert one.table["gain"].to_list() == pytest.approx((50 - 100 * at["naive"]).to_list())
    assert one.table["gap"].to_list() == pytest.approx((100 * (at["lth"] - at["naive"])).to_list())


def test_lines_beside_published_ones(smoke, made_up):
    lines = pd.DataFrame(
        [
            {
                "seed": s,
                "ends": ends,
                "alpha": a,
                "repair": repair,
                "accuracy": v - 0.01 * s * (1 + a),
            }
            for s in (0, 1)
            for repair in ("none", "bn")
            for ends, middle in (("as trained", 0.3), ("permuted", 0.6))
            for a, v in ((0, 0.9), (0.5, middle), (1, 0.7))
        ]
    )
    run = made_up("connectivity", lines[lines["repair"] == "bn"])
    experiments = [Experiment.from_parameters(profile="smoke", width=width) for width in (1, 0.5)]
    found = connectivity_beside.beside_connectivity(experiments, [lines, lines])
    assert found.loc[("live, mnist1d", "mlpx0.5", "permuted")].to_list() == [
        "59.2 ± 9.5",
        "20.0 ± 0.0",
    ]
    recorded = found.loc[run.label]
    assert list(recorded.index) == [("resnet8x1", "permuted+bn_reset")]
    reported = published.paper("lmc_reference")
    first = reported.iloc[0]
    shown = found.loc[("reference", f"{first['model']}, {first['dataset']}", first["stage"])]
    assert shown.to_list() == [f"{first['midpoint_test_acc']:.1f}", ""]
    of_one = connectivity_beside.beside_connectivity(experiments, [lines, lines], "imagenet")
    assert len(of_one.loc["reference"]) == (reported["dataset"] == "imagenet").sum() > 0
    assert set(of_one.index.get_level_values(0)) == {"reference", "live, mnist1d"}


def test_the_csv_link_carries_the_table():
    table = pd.DataFrame({"x": [1.5, 2.5], "name": ["π", "b"]})
    link = html.csv_link(table, 'data "1".csv')
    assert 'download="data &quot;1&quot;.csv"' in link
    found = re.search(r'base64,([^"]+)"', link)
    assert found is not None
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(base64.b64decode(found[1]))), table)


def test_how_it_was_made_names_what_was_given(smoke):
    _, results = smoke
    given = {"profile": "smoke", "sparsity": [0.8, 0.9], "lr": None, "dataset": "mnist1d"}
    line = html.how_made("diversity", results.experiment, given)
    assert (
        "lotperm run diversity --profile smoke -p &#x27;sparsity=[0.8,0.9]&#x27; -p dataset=mnist1d</code>"
        in line
    )
    page = {**given, "points": 5, "workers": None, "device": "cuda"}
    assert "-p points=5 -p device=cuda</code>" in html.how_made(
        "diversity", results.experiment, page
    )
    assert "device" not in html.how_made("diversity", results.experiment, {**page, "device": "cpu"})


def test_it_names_the_sources_that_ran(smoke, tmp_path, monkeypatch):
    """Not those that are there when the page ends: they may have been edited."""
    _, results = smoke
    began = source_hash()
    monkeypatch.setattr("lotperm.store.provenance._PACKAGE", tmp_path)
    assert source_hash() != began
    assert f"<code>{began[:12]}</code>" in html.how_made("diversity", results.experiment, {})


def test_the_recorded_faults_are_of_a_long_run():
    """What the book shows was counted by `make faults`, not typed in."""
    report = json.loads((ROOT / "book" / "results" / "faults.json").read_text())
    shown = (ROOT / "book" / "results" / "faults.md").read_text()
    assert report["command"] == "make faults"
    rows = [row for group in report["groups"] for row in group["rows"]]
    assert all(group["kills"] >= 500 for group in report["groups"])
    assert all(
        row["tried"] > 0 and f"| {row['fault']} | {row['tried']:,} |" in shown for row in rows
    )
    assert all(name in shown for name in report["missing"])
    # What cluster.md says of these rows.
    apart = {
        row["fault"]: row["outcome"] for row in rows if row["fault"].startswith("profile laptop")
    }
    for other, outcome in apart.items():
        mean = float(re.search(r"mean of an arm by ([\d.]+);", outcome)[1])  # type: ignore[index]
        moved = "AVX-512" in other or "compiled" in other
        assert (0 < mean < 1 and "by 5e-08 of" in outcome and "0.1 at last" in outcome) == moved, (
            other
        )
        assert moved or mean == 0
    assert len(apart) == 5
    kills = sum(row["tried"] for row in rows if row["fault"].startswith("kill −9"))
    assert kills >= 500 or "crash" in report["missing"]
