"""The question of attention: its arms, what a rotation does to a mask, its quantities."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from lotperm import Experiment, Pipeline, Store
from lotperm.engine.models import build, initialize
from lotperm.engine.transformer import VisionTransformer
from lotperm.errors import ParameterError
from lotperm.science.ranking import keep_highest
from lotperm.science.sparsity import prunable_parameters
from lotperm.science.symmetry import PermutationSpec, permute
from lotperm.studies import attention
from lotperm.studies.attention.measures import CONTRASTS, MEASURES
from lotperm.studies.attention.places import likeness_by_place
from lotperm.studies.attention.rotation import symmetries, what_a_mask_can_follow
from lotperm.studies.attention.study import (
    ATTENTION_ARMS,
    COPY,
    KINDS,
    STUDY,
    AttentionOptions,
    alike,
)
from lotperm.studies.predictions import load_predictions

SHAPE = (1, 40)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    (experiment,) = Experiment.for_figure(
        "attention",
        profile="smoke",
        widths=0.25,
        train_size=300,
        test_size=100,
        match_samples=100,
        batch_size=100,
        epochs=2,
        rewind_epoch=1,
    )
    return Pipeline(experiment, Store(tmp_path_factory.mktemp("attention")))


def test_the_arms_of_a_transformer(pipeline: Pipeline) -> None:
    table = STUDY.table(pipeline, AttentionOptions().completed(pipeline.experiment))
    assert (table.groupby("arm")["seed"].nunique() == 2).all()
    accuracy = table.pivot(index="seed", columns="arm", values="accuracy")
    assert set(accuracy) == {arm.name for arm in ATTENTION_ARMS}
    # The copy, moved by the permutation that is known, takes LTH's steps: one example may flip.
    assert (accuracy[COPY.name] - accuracy["lth"]).abs().max() <= 0.011
    likeness = table.dropna(subset="correlation").groupby("arm")[["correlation", *KINDS]].mean()
    assert set(likeness.index) == {"permuted", "weights", "naive"}
    for kind in KINDS:
        assert likeness[kind].idxmax() == "permuted", kind


def test_other_networks_are_refused() -> None:
    with pytest.raises(ParameterError, match="model is 'mlp'; expected vit_tiny"):
        AttentionOptions().completed(Experiment.from_parameters(model="mlp"))


def test_likeness_by_kind_of_unit() -> None:
    names = ["patches", "b.attention.query", "b.attention.query/heads", "b.attention.value"]
    order = torch.tensor([2, 0, 1])
    matrices = {name: torch.eye(3).double()[order] for name in [*names, "b.mlp.0"]}
    matrices["b.mlp.0"] = 0.5 * matrices["b.mlp.0"]
    found = alike(matrices, dict.fromkeys(matrices, order))
    assert found == {"correlation": 0.9, "stream": 1, "keys": 1, "values": 1, "mlp": 0.5}


def test_masks_and_likeness_follow_permutations_and_no_rotation() -> None:
    model = build("vit_tiny", input_shape=SHAPE, classes=10, width=0.5).double()
    weights = {n: t.double() for n, t in initialize(lambda: model, 0).items()}
    draw = torch.Generator().manual_seed(1)
    scores = {
        name: torch.rand(weights[name].shape, generator=draw) for name in prunable_parameters(model)
    }
    mask = keep_highest(scores, 0.5)
    inputs = torch.randn(4, *SHAPE, generator=draw, dtype=torch.double)
    spec = PermutationSpec.trace(model, inputs)
    table = what_a_mask_can_follow(
        model, weights, mask, spec, inputs, heads=VisionTransformer.HEADS
    )
    changes = table["largest change of an output"].astype(float)
    assert (changes < 1e-12).all()
    kept, moved, turned = table["zeros in queries and keys"].str.rstrip(" %").astype(float)
    assert kept == moved > 40
    assert turned < 10  # an input that a head of 4 units has lost stays lost
    groups = symmetries(spec)
    assert list(groups["units"]) == list(spec.sizes.values())
    # Patches' weight and bias, positions, 5 norms, 2 × (q, k, v in, out and its bias, MLP in, out
    # and its bias), classifier.
    assert groups.loc["patches", "tensors that move"] == 2 + 1 + 5 * 2 + 2 * (3 + 2 + 1 + 2) + 1

    permutation = spec.random(draw)
    pair = (weights, permute(weights, spec, permutation), permutation)
    places = likeness_by_place(model, [pair, pair], inputs)
    # The stream before and after the blocks; queries, keys, values and the MLP of each.
    assert places.shape == (3 + 2 * 4, 2)
    assert ((places - 1).abs() < 1e-6).all(axis=None)
    pair = (weights, permute(weights, spec, permutation), spec.identity())
    unmatched = likeness_by_place(model, [pair], inputs)
    assert (unmatched["joined by π"] < 0.9).all()
    assert ((unmatched["by this place alone"] - 1).abs() < 1e-6).all()


def test_predictions_are_about_quantities_of_the_table() -> None:
    found = load_predictions(Path(attention.__path__[0]), MEASURES)
    assert [p.number for p in found.all] == [f"A {i}" for i in range(1, 8)]
    values = {"lth": 0.8, COPY.name: 0.8, "permuted": 0.6, "weights": 0.55, "naive": 0.5}
    values["random"] = 0.45
    row = {"seed": 0, "mlp": 0.6, "keys": 0.4, "values": 0.5}
    rows = pd.DataFrame([{**row, "arm": arm, "accuracy": v} for arm, v in values.items()])
    got = {name: float(MEASURES[name].of(rows).iloc[0]) for name in MEASURES}
    assert got["permuted − naive"] == pytest.approx(10)
    assert got["half the gap − gain"] == pytest.approx(5)
    assert got["MLP − heads"] == pytest.approx(0.15)
    assert {p.measure for p in found.all} <= set(CONTRASTS) | {"half the gap − gain", "MLP − heads"}
