"""Signs against symmetry: its arms, where they end, its members, its quantities and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from lotperm import Experiment, Pipeline, Store
from lotperm.errors import ParameterError
from lotperm.science.barrier import barrier_height, loss_barrier
from lotperm.science.diversity import disagreement, ensemble_accuracy
from lotperm.science.evaluation import probabilities
from lotperm.science.statistics import interval
from lotperm.science.symmetry import permute
from lotperm.store.tasks import unpack
from lotperm.studies import signs as package
from lotperm.studies.claims.own import THEME, own_claims, own_ledger
from lotperm.studies.claims.sources import Run, Sources
from lotperm.studies.predictions import load_predictions, verdicts
from lotperm.studies.signs import arms, charts
from lotperm.studies.signs.measures import MEASURES, by_arm
from lotperm.studies.signs.study import STUDY, SignsOptions, ends, members, signs

FOLDER = Path(package.__path__[0])
OPTIONS = SignsOptions(controls=("unmoved", "random", "own-end"))


def made(tmp: Path, **given: Any) -> Pipeline:
    experiment = Experiment.from_parameters(
        **{
            "profile": "smoke",
            "train_size": 600,
            "test_size": 200,
            "epochs": 4,
            "rewind_epoch": [0, 1],
            "finetune_epochs": 1,
            "hidden": [32, 32],
            "seeds": [3, 5, 7],
            "prune_fraction": 0.5,
            "sparsity": [0.8, 0.6],
            **given,
        }
    )
    return Pipeline(experiment, Store(tmp))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return made(tmp_path_factory.mktemp("signs"))


@pytest.fixture(scope="module")
def table(pipeline: Pipeline) -> pd.DataFrame:
    return STUDY.page_table([pipeline], OPTIONS)


def test_a_page_has_controls_and_members_where_it_says(
    pipeline: Pipeline, table: pd.DataFrame
) -> None:
    own = table[table["ticket"] == "own"]
    for (s, k), rows in own.groupby(["sparsity", "rewind_epoch"]):
        wanted = OPTIONS.arms if s == 0.8 else arms.MAIN
        assert sorted(rows["arm"]) == sorted([arm.name for arm in wanted] * 3), (s, k)
    shared = table[table["ticket"] == "first"]
    assert set(zip(shared["sparsity"], shared["rewind_epoch"], strict=True)) == {(0.8, 0)}
    narrow = made(pipeline.store.root, hidden=[16, 16])
    shown = STUDY.page_cells([pipeline, narrow], OPTIONS)
    assert [(c.sparsity, c.k) for c in shown if c.bench is narrow] == [(0.8, 0), (0.8, 1)]
    assert all(c.arms == arms.MAIN and not c.members for c in shown if c.bench is narrow)


def test_arms_begin_with_the_signs_that_they_are_named_for(table: pd.DataFrame) -> None:
    own = table[(table["ticket"] == "own") & (table["rewind_epoch"] == 0)]
    agreement = own.groupby("arm")["agreement"].mean()
    assert agreement[arms.NAIVE_A.name] > 0.999 and agreement[arms.PERMUTED_A.name] > 0.999
    # B's own signs, and random ones, agree by chance.
    for arm in (arms.NAIVE, arms.PERMUTED_RANDOM):
        assert 0.4 < agreement[arm.name] < 0.6


def test_where_arms_end_by_hand(pipeline: Pipeline, table: pd.DataFrame) -> None:
    networks = unpack(signs(pipeline, 0.8, 0, OPTIONS.arms).load("final"))
    test = list(pipeline.batches(pipeline.data.test))
    names = [arm.name for arm in OPTIONS.arms]
    seeds = pipeline.experiment.seeds
    rows = table[(table["sparsity"] == 0.8) & (table["rewind_epoch"] == 0)].set_index(
        ["ticket", "arm", "seed"]
    )
    i, arm = 1, arms.PERMUTED_A.name
    ticket, weights = (networks[names.index(n) * 3 + i] for n in ("lth", arm))
    row = rows.loc[("own", arm, seeds[i])]
    for end, suffix in (
        (ticket, ""),
        (permute(ticket, pipeline.spec, pipeline.match()[i]), "_permuted"),
    ):
        curve = loss_barrier(pipeline.model, end, weights, {"test": test}, (0.0, 0.5, 1.0))
        height = barrier_height(curve).iloc[0]
        assert row[f"accuracy_barrier{suffix}"] == pytest.approx(height["accuracy_barrier"])
        middle = curve["loss"].iloc[1] - (curve["loss"].iloc[0] + curve["loss"].iloc[2]) / 2
        assert row[f"loss_barrier{suffix}"] == pytest.approx(middle, rel=1e-5)
        apart = sum(
            float((end[n] - weights[n]).square().sum()) for n in end if n.endswith("weight")
        )
        size = sum(float(end[n].square().sum()) for n in end if n.endswith("weight"))
        assert row[f"distance{suffix}"] == pytest.approx((apart / size) ** 0.5, rel=1e-5)
    probs = [probabilities(pipeline.network(w), [x for x, _ in test]) for w in (ticket, weights)]
    assert row["disagreement"] == pytest.approx(disagreement(np.stack(probs)))
    # The ticket is no distance from itself, and its copy is the same function elsewhere.
    itself = rows.loc[("own", "lth", seeds[i])]
    assert itself["distance"] == itself["accuracy_barrier"] == itself["disagreement"] == 0
    assert itself["distance_permuted"] > 0.5


def test_members_are_compared_as_ensembles_are(pipeline: Pipeline, table: pd.DataFrame) -> None:
    networks = unpack(members(pipeline, 0.8, 0).load("final"))
    test = pipeline.data.test
    probs = np.stack(
        [probabilities(pipeline.network(w), pipeline.batches(test).inputs()) for w in networks[3:6]]
    )
    rows = table[(table["ticket"] == "first") & (table["arm"] == arms.MAIN[1].name)]
    assert rows["between"].mean() == pytest.approx(disagreement(probs))
    assert rows["ensemble"].to_list() == pytest.approx(
        [ensemble_accuracy(probs, test.targets.numpy())] * 3
    )
    assert rows["accuracy"].to_list() == pytest.approx(
        (probs.argmax(2) == test.targets.numpy()).mean(1).tolist(), abs=1e-6
    )


def test_batch_norms_are_reset_between_networks(tmp_path: Path) -> None:
    """A permuted copy of a network is a barrier away from it unless its norms are those of the middle."""
    pipeline = made(
        tmp_path,
        model="resnet8",
        width=0.25,
        hidden=None,
        seeds=[3],
        rewind_epoch=1,
        epochs=2,
        sparsity=0.5,
        train_size=300,
        test_size=100,
    )
    rows = ends(pipeline, 0.5, 1, arms.MAIN).results["rows"]
    network = unpack(signs(pipeline, 0.5, 1, arms.MAIN).load("final"))
    curve = loss_barrier(
        pipeline.model,
        network[0],
        network[2],
        {"test": list(pipeline.batches(pipeline.data.test))},
        (0.5,),
        repair="bn",
        statistics=list(pipeline.batches(pipeline.data.train).inputs()),
    )
    (row,) = (r for r in rows if r["arm"] == "naive" and r["ticket"] == "as found")
    evaluations = signs(pipeline, 0.5, 1, arms.MAIN).results["evaluations"]["1"]["accuracy"]
    wanted = (evaluations[0] + evaluations[2]) / 2 - curve["accuracy"].iloc[0]
    assert row["accuracy_barrier"] == pytest.approx(wanted, abs=1e-6)


def made_up(**accuracies: float) -> pd.DataFrame:
    """A cell of two seeds in which arms have known accuracies."""
    known = {
        "lth": 0.54,
        "permuted": 0.37,
        "naive": 0.34,
        arms.NAIVE_A.name: 0.55,
        arms.PERMUTED_A.name: 0.56,
        arms.PERMUTED_WRONG.name: 0.36,
        arms.PERMUTED_RANDOM.name: 0.38,
        arms.PERMUTED_B.name: 0.48,
        arms.LTH_A.name: 0.57,
    } | accuracies
    rows = []
    for ticket in ("own", "first"):
        for arm, accuracy in known.items():
            for seed in (0, 1):
                value = accuracy + seed / 1000
                rows.append(
                    {
                        "sparsity": 0.9,
                        "rewind_epoch": 0,
                        "ticket": ticket,
                        "seed": seed,
                        "arm": arm,
                        "accuracy": value,
                        "accuracy_barrier": 0.6 - accuracy,
                        "accuracy_barrier_permuted": 0.6 - accuracy,
                        "disagreement": 0.6 - accuracy,
                        "between": 0.6 - accuracy,
                    }
                )
    return pd.DataFrame(rows)


def judged(found: pd.DataFrame) -> dict[str, str]:
    return {words.split(":")[0]: str(verdict) for words, verdict in found["verdict"].items()}


def test_predictions_are_judged_by_the_numbers() -> None:
    predictions = load_predictions(FOLDER, MEASURES)
    found = judged(verdicts(predictions, MEASURES, {"here": made_up()}))
    assert len(found) == len(predictions.all) == 12
    agree = {f"S {n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12)}
    assert {n for n, verdict in found.items() if verdict == "agrees"} == agree
    assert found["S 10"] == "not run here"
    worse = made_up(**{arms.NAIVE_A.name: 0.2})
    found = judged(verdicts(predictions, MEASURES, {"here": worse}))
    assert found["S 1"] == found["S 2"] == found["S 7"] == found["S 9"] == "opposite"


def test_the_ledgers_second_part_follows_recorded_runs() -> None:
    claims = own_claims()
    assert len({claim.number for claim in claims}) == len(claims) == 53
    assert {claim.theme for claim in claims} == {THEME}
    sources = Sources.load()
    experiment = {"data": {"name": "mnist1d"}, "model": {"name": "mlp", "width": 1.0}}
    run = Run("x", "signs", "recorded, mnist1d", experiment, made_up())
    alone = Sources(sources.cells, sources.diversity, sources.early, sources.barriers, (run,))
    by_number = {row.claim.number: row for row in own_ledger(alone)}
    assert by_number["S 1"].verdict == "agrees" and by_number["C 1"].verdict == "not run here"
    assert by_number["S 1"].recorded[0].source == "recorded, mnist1d (x)"
    assert by_number["S 1"].theirs == () and by_number["S 1"].tables is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"controls": ["randm"]}, "unknown control 'randm'"),
        ({"controls": ["random", "random"]}, "no name twice"),
        ({"ensembles": 1}, "expected true or false"),
    ],
)
def test_wrong_options_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        SignsOptions.parse(given)


def test_one_seed_has_no_other_member(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="two seeds or more"):
        members(made(tmp_path, seeds=[3]), 0.8, 0)


def test_figures_show_their_numbers(table: pd.DataFrame) -> None:
    own = table[table["sparsity"] == 0.8]
    figure = charts.accuracies(own, title="Title")
    at_zero = by_arm(own[own["rewind_epoch"] == 0])
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    shown = dict(zip(labels, figure.axes[0].containers, strict=True))
    for label, arm in (("naive: B, mask", "naive"), (arms.PERMUTED_A.name,) * 2):
        assert shown[label].lines[0].get_xdata()[0] == pytest.approx(interval(at_zero[arm])[0])
    figure = charts.whose_basin(own, title="Title")
    # The ticket itself isn't drawn.
    assert len(figure.axes[0].containers) == len(OPTIONS.arms) - 1
    barrier = by_arm(own[own["rewind_epoch"] == 0], "accuracy_barrier")
    drawn = [float(c.lines[0].get_xdata()[0]) for c in figure.axes[0].containers]
    assert sorted(drawn) == pytest.approx(sorted(barrier.drop(columns="lth").mean()))
    figure = charts.gains(table, title="Title")
    assert len(figure.axes[0].get_yticks()) == 4
    plt.close("all")
