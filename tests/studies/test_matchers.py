"""The bench of matchings: its permutations, its table and its quantities."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from little import little

from lotperm import Pipeline
from lotperm.errors import ParameterError
from lotperm.science.matching import match_weights, weight_agreement
from lotperm.science.sparsity import apply_mask
from lotperm.store.tasks import unpack
from lotperm.studies import matchers
from lotperm.studies.arms.permutations import check_source
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


def test_contrasts_are_differences_in_points(table: pd.DataFrame) -> None:
    predictions = load_predictions(Path(matchers.__file__).parent, MEASURES)
    (first,) = [p for p in predictions.all if p.measure == "weights − activations"]
    (effect,) = effects(first, MEASURES, table, "here")
    wide = table.pivot(index="seed", columns="arm", values="accuracy")
    assert effect.value == pytest.approx(100 * (wide["weights"] - wide["permuted"]).mean())
