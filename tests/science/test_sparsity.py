"""Masks: exact sparsity, ties, prunable tensors, counts, files."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lotperm.engine.models import build
from lotperm.errors import IntegrityError, ParameterError, UnsupportedModelError
from lotperm.science.ranking import kept_after
from lotperm.science.sparsity import (
    apply_mask,
    count,
    full_mask,
    magnitude_prune,
    prunable_parameters,
    round_sparsities,
)
from lotperm.store.files import save_tensors
from lotperm.store.masks import load_mask, save_mask

shapes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)


def tensors(shapes, seed, levels=None):
    """Random weights; with few levels there are many ties."""
    generator = torch.Generator().manual_seed(seed)
    found = {f"t{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}
    return {n: t if levels is None else (t * levels).round() / levels for n, t in found.items()}


@settings(max_examples=200, deadline=None)
@given(shapes, st.integers(0, 10**6), st.floats(0, 0.99), st.booleans())
def test_global_pruning_is_exact_and_keeps_the_largest(shapes, seed, sparsity, ties):
    weights = tensors(shapes, seed, levels=2 if ties else None)
    mask = magnitude_prune(weights, full_mask(weights, weights), sparsity)
    total = sum(w.numel() for w in weights.values())
    # A plain reference: a stable sort, so that the earlier of two equals stays.
    pool = np.concatenate([w.abs().flatten().numpy() for w in weights.values()])
    expected = np.zeros(total, dtype=bool)
    expected[np.argsort(-pool, kind="stable")[: kept_after(total, sparsity)]] = True
    assert np.array_equal(np.concatenate([m.flatten().numpy() for m in mask.values()]), expected)


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(0, 10**6), st.floats(0, 0.99))
def test_layerwise_pruning_is_exact_in_every_tensor(shapes, seed, sparsity):
    weights = tensors(shapes, seed)
    mask = magnitude_prune(weights, full_mask(weights, weights), sparsity, scope="layerwise")
    for name, kept in mask.items():
        assert int(kept.sum()) == kept_after(kept.numel(), sparsity)
        if 0 < int(kept.sum()) < kept.numel():
            assert weights[name].abs()[kept].min() >= weights[name].abs()[~kept].max()


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(0, 10**6), st.floats(0, 0.5), st.floats(0.5, 0.99))
def test_what_is_pruned_stays_pruned(shapes, seed, first, second):
    weights = tensors(shapes, seed)
    before = magnitude_prune(weights, full_mask(weights, weights), first)
    grown = {
        name: torch.where(before[name], w, torch.full_like(w, 1e6)) for name, w in weights.items()
    }
    after = magnitude_prune(grown, before, second)
    assert all(bool((before[name] | ~after[name]).all()) for name in weights)


def test_zeros_that_are_kept_rank_above_pruned_ones():
    weights = {"w": torch.zeros(6)}
    before = {"w": torch.tensor([False, True, False, True, True, False])}
    assert magnitude_prune(weights, before, 4 / 6)["w"].tolist() == [
        False,
        True,
        False,
        True,
        False,
        False,
    ]


def test_refusals():
    weights = {"w": torch.randn(10)}
    mask = full_mask(weights, ["w"])
    with pytest.raises(ParameterError, match="0 <= sparsity < 1"):
        magnitude_prune(weights, mask, 1.0)
    with pytest.raises(ParameterError, match="0 <= sparsity < 1"):
        magnitude_prune(weights, mask, float("nan"))
    with pytest.raises(ParameterError, match="only 2 are left"):
        magnitude_prune(weights, magnitude_prune(weights, mask, 0.8), 0.5)
    with pytest.raises(ParameterError, match="not finite"):
        magnitude_prune({"w": torch.full((10,), float("nan"))}, mask, 0.5)
    with pytest.raises(ParameterError, match="Did you mean 'global'"):
        magnitude_prune(weights, mask, 0.5, scope="globl")
    with pytest.raises(ParameterError, match="Did you mean 'weight'"):
        magnitude_prune(
            {"weight": torch.randn(10)}, {"weigth": torch.ones(10, dtype=torch.bool)}, 0.5
        )


def test_the_papers_rule_and_counts():
    model = build("resnet20", input_shape=(3, 32, 32), classes=10)
    weights = model.state_dict()
    mask = magnitude_prune(weights, full_mask(weights, prunable_parameters(model)), 0.97)
    counts = count(model, mask)
    # Facts about the authors' network: 268,336 prunable weights, 23,040 dense ones on the
    # shortcuts.
    assert (counts.prunable, counts.dense) == (268_336, 23_040)
    assert counts.kept == 268_336 - round(0.97 * 268_336)
    assert counts.sparsity == pytest.approx(0.97, abs=1 / 268_336)
    assert counts.sparsity_of_all == pytest.approx(0.893, abs=5e-4)
    assert set(prunable_parameters(model, "all")) - set(mask) == {
        "layer2.0.shortcut.0.weight",
        "layer3.0.shortcut.0.weight",
    }


def test_rounds_of_the_protocol():
    assert [len(round_sparsities(s)) for s in (0.80, 0.90, 0.95, 0.97)] == [8, 11, 14, 16]
    for target in (0.80, 0.90, 0.95, 0.97):
        sparsities = round_sparsities(target)
        assert sparsities[-1] == target
        assert sparsities == sorted(set(sparsities))
        assert sparsities[0] == pytest.approx(0.2)
    assert round_sparsities(0.1) == [0.1]


def test_files(tmp_path):
    mask = {"a.weight": torch.rand(5, 3) < 0.5, "b.weight": torch.rand(2, 2, 3, 3) < 0.5}
    save_mask(tmp_path / "mask.safetensors", mask)
    loaded = load_mask(tmp_path / "mask.safetensors")
    assert loaded.keys() == mask.keys()
    assert all(torch.equal(loaded[name], mask[name]) for name in mask)
    save_tensors(tmp_path / "weights.safetensors", {"a.weight": torch.randn(5, 3)})
    with pytest.raises(IntegrityError, match="a mask holds bool tensors"):
        load_mask(tmp_path / "weights.safetensors")


def test_apply_mask_copies():
    weights = {"w": torch.tensor([1.0, -2.0]), "b": torch.tensor([3.0])}
    masked = apply_mask(weights, {"w": torch.tensor([True, False])})
    assert masked["w"].tolist() == [1.0, 0.0]
    masked["b"].zero_()
    assert weights["b"].item() == 3.0


def test_a_mask_that_does_not_fit_is_not_applied():
    weights = {"a": torch.ones(2, 3)}
    with pytest.raises(ParameterError, match="unknown weight of the mask 'b'"):
        apply_mask(weights, {"b": torch.zeros(2, 3, dtype=torch.bool)})
    with pytest.raises(ParameterError, match=r"the mask of a has shape \(3,\), expected \(2, 3\)"):
        apply_mask(weights, {"a": torch.zeros(3, dtype=torch.bool)})


def test_layers_that_share_a_weight_have_no_mask():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
    model[2].weight = model[0].weight
    with pytest.raises(UnsupportedModelError, match="layers '0' and '2' share a weight"):
        prunable_parameters(model)
