"""The bench of matchings: its permutations, its table and its quantities."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from little import little

from lotperm import Pipeline
from lotperm.data.batches import normalize
from lotperm.errors import ParameterError
from lotperm.science.matching import Signal, match_gradients, match_weights, weight_agreement
from lotperm.science.sparsity import apply_mask
from lotperm.store.tasks import unpack
from lotperm.studies import matchers
from lotperm.studies.arms.permutations import check_source, permutations
from lotperm.studies.matchers.measures import CONTRASTS, MEASURES
from lotperm.studies.matchers.study import STUDY, MatchersOptions, arms, barriers, trained
from lotperm.studies.predictions import effects, load_predictions
from lotperm.studies.stages import dense, ticket_masks

CELL = (0.8, 1)
OPTIONS = MatchersOptions(
    matchers=("random", "weights", "weights-best-3", "weights-joint", "weights-kept")
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return little(tmp_path_factory.mktemp("matchers"), epochs=3)


@pytest.fixture(scope="module")
def table(pipeline: Pipeline) -> pd.DataFrame:
    return STUDY.table(pipeline, OPTIONS)


def test_every_matching_has_a_row_for_each_seed(table: pd.DataFrame) -> None:
    assert set(table["arm"]) == {"lth", "naive", "permuted", *OPTIONS.matchers}
    assert (table.groupby("arm")["seed"].nunique() == 2).all()
    assert not table[list(STUDY.columns)].duplicated().any()
    about_b = table[table["arm"] != "lth"]
    assert about_b[["correlation", "barrier", "train_barrier", "agreement"]].notna().all(axis=None)


def test_each_matching_wins_by_what_it_maximizes(table: pd.DataFrame) -> None:
    mean = table.groupby("arm")[["correlation", "agreement"]].mean()
    assert mean["correlation"].idxmax() == "permuted"
    by_seed = table.pivot(index="seed", columns="arm", values="agreement")
    assert (by_seed["weights-best-3"] >= by_seed["weights"] - 1e-9).all()
    assert (by_seed["weights"] > by_seed["permuted"]).all()
    assert (by_seed["permuted"] > by_seed["random"]).all()


def test_only_kept_weights_count_where_they_should(pipeline: Pipeline) -> None:
    found = unpack(
        trained(pipeline, *CELL, OPTIONS).inputs["permutations"].task.load("weights-kept")
    )
    a, b = dense(pipeline).weights()
    masks = ticket_masks(pipeline, *CELL)
    for permutation, x, y, mask in zip(found, a, b, masks, strict=True):
        expected = match_weights(apply_mask(x, mask), y, pipeline.spec)
        assert all(torch.equal(permutation[g], p) for g, p in expected.items())
        kept = apply_mask(x, mask)
        plain = match_weights(x, y, pipeline.spec)
        # By its own measure it is better than the matching by all weights.
        assert weight_agreement(kept, y, pipeline.spec, permutation) >= weight_agreement(
            kept, y, pipeline.spec, plain
        )


@pytest.mark.parametrize("arm", ["gradients", "attributions"])
def test_gradients_are_those_of_the_cross_entropy_of_the_examples(
    pipeline: Pipeline, arm: Signal
) -> None:
    found = unpack(permutations(pipeline, [arm]).load(arm))
    data = pipeline.data.train
    inputs, targets = normalize(data.inputs, pipeline.data), data.targets
    a, b = dense(pipeline).weights()
    for permutation, x, y in zip(found, a, b, strict=True):
        expected = match_gradients(x, y, [(inputs, targets)], pipeline.spec, signal=arm)
        assert all(torch.equal(permutation[g], p) for g, p in expected.items())
        assert any((permutation[g] != torch.arange(len(p))).any() for g, p in expected.items())


def test_barriers_share_their_permutations_with_the_training(pipeline: Pipeline) -> None:
    one, other = (make(pipeline, *CELL, OPTIONS) for make in (trained, barriers))
    sources = [task.inputs["permutations"] for task in (one, other)]
    assert sources[0].task is sources[1].task


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wieghts", "Did you mean 'weights'"),
        ("weights-best", "weights-best-N"),
        ("weights-best-0", "expected 1 or more orders"),
        ("weights-3", "permutation"),
        ("gradient", "Did you mean 'gradients'"),
        ("attributions-3", "permutation"),
    ],
)
def test_unknown_permutations_are_refused(pipeline: Pipeline, name: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        check_source(pipeline, name)


@pytest.mark.parametrize("given", [[], ["weights", "weights"], [1]])
def test_options_are_checked(given: list[object]) -> None:
    with pytest.raises(ParameterError, match="expected names of permutations, none twice"):
        MatchersOptions.parse({"matchers": given})


def test_predictions_speak_of_arms_that_are_there(pipeline: Pipeline) -> None:
    predictions = load_predictions(Path(matchers.__file__).parent, MEASURES)
    names = {arm.name for arm in arms(pipeline, MatchersOptions())}
    assert {arm for pair in CONTRASTS.values() for arm in pair} <= names
    assert {p.measure for p in predictions.all} <= set(MEASURES)


def test_gradients_have_predictions_that_were_stated_later() -> None:
    predictions = load_predictions(Path(matchers.__file__).parent, MEASURES)
    days = {p.number: p.stated for p in predictions.all}
    assert days["M 1"] == predictions.stated < days["M 14"] == days["M 17"] == "2026-11-30"
    accuracy = {"permuted": 0.5, "gradients": 0.44, "attributions": 0.51, "weights": 0.53}
    rows = pd.DataFrame(
        {"sparsity": 0.9, "rewind_epoch": 8, "seed": seed, "arm": arm, "accuracy": value + jitter,
         "barrier": 1 - value}
        for seed, jitter in ((0, 0.0), (1, 0.01)) for arm, value in accuracy.items()
    )  # fmt: skip
    found = {p.number: effects(p, MEASURES, rows, "here") for p in predictions.all}
    shown = {number: found[number][0].value for number in ("M 14", "M 15", "M 16", "M 17")}
    assert shown == pytest.approx({"M 14": 6, "M 15": 1, "M 16": 2, "M 17": 0.06})
    # Other quantities of these arms are there, those of absent arms aren't.
    assert found["M 1"][0].value == pytest.approx(3) and found["M 12"] == []


def test_contrasts_are_differences_in_points(table: pd.DataFrame) -> None:
    predictions = load_predictions(Path(matchers.__file__).parent, MEASURES)
    (first,) = [p for p in predictions.all if p.measure == "weights − activations"]
    (effect,) = effects(first, MEASURES, table, "here")
    wide = table.pivot(index="seed", columns="arm", values="accuracy")
    assert effect.value == pytest.approx(100 * (wide["weights"] - wide["permuted"]).mean())
