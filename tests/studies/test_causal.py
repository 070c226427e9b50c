"""The causal test: its arms, its table, its quantities and its figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from little import little

mpl.use("Agg")

import matplotlib.pyplot as plt

from lotperm import Pipeline
from lotperm.errors import ParameterError
from lotperm.science.statistics import interval
from lotperm.studies import causal
from lotperm.studies.causal import charts
from lotperm.studies.causal.measures import MEASURES, doses
from lotperm.studies.causal.study import IDENTITY, STUDY, CausalOptions, all_arms
from lotperm.studies.claims.evidence import Above, Within
from lotperm.studies.predictions import effects, load_predictions, verdicts

FOLDER = Path(causal.__file__).parent
OPTIONS = CausalOptions(shares=(0.0, 0.5, 1.0), samples=(64, 9999))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return little(tmp_path_factory.mktemp("causal"), rewind_epoch=[0, 1], hidden=[32, 32])


@pytest.fixture(scope="module")
def table(pipeline: Pipeline) -> pd.DataFrame:
    return STUDY.table(pipeline, OPTIONS.completed(pipeline.experiment))


def made_up(**accuracies: float) -> pd.DataFrame:
    """A cell of two seeds in which every arm has a known accuracy, but for those given."""
    arms = {
        "lth": 0.6,
        "permuted": 0.55,
        "naive": 0.4,
        "copy, naive": 0.41,
        "copy, 0% scrambled": 0.6,
        "copy, 50% scrambled": 0.5,
        "copy, 100% scrambled": 0.4,
        "B, 50% scrambled": 0.5,
        "B, 100% scrambled": 0.43,
        "activations-256": 0.54,
        "epoch-0": 0.45,
        "other-seed": 0.42,
    } | accuracies
    rows = []
    for seed in (0, 1):
        for arm, accuracy in arms.items():
            copy = arm.startswith("copy")
            share = float(arm.split()[1].rstrip("%")) / 100 if "scrambled" in arm else 0.0
            rows.append(
                {
                    "sparsity": 0.9,
                    "rewind_epoch": 8,
                    "seed": seed,
                    "test": "oracle" if copy else "dose" if share else "sources",
                    "arm": arm,
                    "share": share,
                    "permutation": IDENTITY if "naive" in arm or arm == "lth" else "found",
                    "correlation": accuracy,
                    "accuracy": accuracy + seed / 1000,
                }
            )
    return pd.DataFrame(rows)


def test_the_table_has_every_arm_once(pipeline: Pipeline, table: pd.DataFrame) -> None:
    options = OPTIONS.completed(pipeline.experiment)
    for k in (0, 1):
        cell = table[table["rewind_epoch"] == k]
        arms = [arm.name for part in all_arms(pipeline, options, k).values() for arm in part]
        assert len(set(arms)) == len(arms)
        assert sorted(cell["arm"]) == sorted(arms * 2)
        # As many examples as there are is the arm "permuted"; an untrained B isn't asked.
        assert ("activations-64" in arms) == (k > 0) and "activations-9999" not in arms
        assert not cell[["accuracy", "correlation"]].isna().any(axis=None)


def test_a_known_permutation_gives_what_lth_has(table: pd.DataFrame) -> None:
    for _, cell in table.groupby("rewind_epoch"):
        apart = MEASURES["copy is lth"].of(cell)
        assert (apart.abs() <= 1).all()
    alike = table.groupby(["rewind_epoch", "arm"])["correlation"].mean()
    for k in (0, 1):
        assert alike[k, "copy, 0% scrambled"] == pytest.approx(alike[k, "lth"])
        # The assignment is exact: nothing joins units that are more alike than what was found.
        assert (
            alike[k, "permuted"]
            >= alike[k]
            .drop(["lth", "permuted", *(a for a in alike[k].index if a.startswith("copy"))])
            .max()
        )


def test_quantities_by_hand() -> None:
    cell = made_up()
    assert MEASURES["copy is lth"].of(cell).to_list() == pytest.approx([0, 0])
    assert MEASURES["copy naive is naive"].of(cell).to_list() == pytest.approx([1, 1])
    # The slope through 60, 50 and 40 at 0, 50 and 100 %.
    assert MEASURES["copy falls"].of(cell).to_list() == pytest.approx([20, 20])
    assert doses(cell, "B").loc[0].to_list() == pytest.approx([55, 50, 43])
    assert MEASURES["found falls"].of(cell).to_list() == pytest.approx([12, 12])
    assert MEASURES["rank correlation"].of(cell).to_list() == pytest.approx([1, 1])
    assert MEASURES["other seed is random"].of(cell).to_list() == pytest.approx([-1, -1])


def test_predictions_are_judged_by_the_numbers() -> None:
    predictions = load_predictions(FOLDER, MEASURES)
    numbers = [p.number for p in predictions.all]
    assert predictions.stated == "2026-11-29" and len(set(numbers)) == len(numbers) == 9
    found = verdicts(predictions, MEASURES, {"here": made_up()})["verdict"]
    by_number = {words.split(":")[0]: verdict for words, verdict in found.items()}
    assert by_number["C 1"] == by_number["C 3"] == by_number["C 6"] == "agrees"
    # No cell at k = 0 is here.
    assert by_number["C 5"] == by_number["C 9"] == "not run here"
    worse = made_up(**{"copy, 0% scrambled": 0.3, "copy, 50% scrambled": 0.35})
    found = verdicts(predictions, MEASURES, {"here": worse})["verdict"]
    by_number = {words.split(":")[0]: verdict for words, verdict in found.items()}
    assert by_number["C 1"] == by_number["C 3"] == "opposite"


def test_a_recorded_table_says_what_the_live_one_did(table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "results.csv", index=False)
    read = pd.read_csv(tmp_path / "results.csv")
    for _, rows in table.groupby("rewind_epoch"):
        again = read.loc[rows.index]
        for name, measure in MEASURES.items():
            if name != "256 is all":
                pd.testing.assert_series_equal(measure.of(again), measure.of(rows))


def test_a_table_without_the_arms_says_nothing() -> None:
    first = load_predictions(FOLDER, MEASURES).all[0]
    cell = made_up()
    assert effects(first, MEASURES, cell[cell["arm"] != "lth"], "here") == []
    (effect,) = effects(first, MEASURES, cell, "here")
    assert effect.note == "at S = 0.9, k = 8" and effect.n == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('measure = "x"\nat = "any k"\nrule = { above = 0.0 }', "measure"),
        ('measure = "copy falls"\nat = "k = 7"\nrule = { above = 0.0 }', "expected k = 0, k > 0"),
        ('measure = "copy falls"\nat = "any k"\nrule = { below = 0.0 }', "rule"),
    ],
)
def test_a_prediction_about_nothing_is_refused(tmp_path: Path, text: str, said: str) -> None:
    head = 'stated = 2026-11-29\nknown = ""\n[[prediction]]\nnumber = "C 1"\nwords = "w"\n'
    (tmp_path / "predictions.toml").write_text(head + text)
    with pytest.raises(ParameterError, match=said):
        load_predictions(tmp_path, MEASURES)


def test_rules_are_the_ledgers() -> None:
    rules = {p.number: p.rule for p in load_predictions(FOLDER, MEASURES).all}
    assert rules["C 1"] == Within(1.0) and rules["C 3"] == Above(0.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"shares": (0.0, 0.5)}, "both ends included"),
        ({"shares": (0.0, 1.0, 1.5)}, "from 0 to 1"),
        ({"samples": (16, 16)}, "no number twice"),
    ],
)
def test_wrong_options_are_refused(pipeline: Pipeline, given: dict[str, object], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        CausalOptions(**given).completed(pipeline.experiment)  # type: ignore[arg-type]


def test_figures_show_their_numbers(table: pd.DataFrame) -> None:
    figure = charts.dose_response(table, title="Title")
    last = table[table["rewind_epoch"] == 1]
    line = figure.axes[1].containers[1].lines[0]
    assert [float(v) for v in line.get_xdata()] == [0, 50, 100]
    np.testing.assert_allclose(
        line.get_ydata(), [interval(doses(last, "B")[s])[0] for s in (0, 0.5, 1)]
    )
    figure = charts.gain_against_correlation(table, title="Title")
    arms = last[(last["test"] != "oracle") & (last["arm"] != "lth")].groupby("arm", sort=False)
    points = [c.lines[0].get_xydata()[0] for c in figure.axes[1].containers]
    naive = last[last["arm"] == "naive"]["accuracy"].to_numpy()
    for point, (_, rows) in zip(points, arms, strict=True):
        gain = 100 * (rows["accuracy"].to_numpy() - naive).mean()
        np.testing.assert_allclose(point, [rows["correlation"].mean(), gain], atol=1e-9)
    assert len(charts.known(table, title="Title").axes) == 2
    plt.close("all")
