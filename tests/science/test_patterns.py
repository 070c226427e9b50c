"""N:M patterns: which permutations keep them, and the nearest mask that has one."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lotperm.errors import ParameterError
from lotperm.science.patterns import (
    Pattern,
    breaks_pattern,
    nearest_pattern,
    pattern_breakers,
    pattern_cost,
)
from lotperm.science.symmetry import PermutationSpec, permute

TWO_OF_FOUR = Pattern(2, 4)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(8, 12, 3),
        nn.ReLU(),
        nn.Conv2d(12, 8, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def dense_mask(model):
    return {
        n: torch.ones_like(p, dtype=torch.bool)
        for n, p in model.named_parameters()
        if n.endswith("weight")
    }


@pytest.fixture(scope="module")
def traced():
    model = network()
    return model, PermutationSpec.trace(model, torch.randn(2, 8, 4, 4))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(3, 5), st.integers(1, 9), st.integers(0, 10**6))
def test_no_other_mask_with_the_pattern_keeps_more(n, m, inputs, seed):
    draw = torch.Generator().manual_seed(seed)
    weights = {"w": torch.randn(2, inputs, generator=draw)}
    mask = {"w": torch.rand(2, inputs, generator=draw) < 0.7}
    pattern = Pattern(n, m)
    found = nearest_pattern(weights, mask, pattern)
    assert breaks_pattern(found, pattern) == {}
    assert not (found["w"] & ~mask["w"]).any()
    for row, kept, w in zip(found["w"], mask["w"], weights["w"].abs(), strict=True):
        for start in range(0, inputs, m):
            group = range(start, min(start + m, inputs))
            allowed = [i for i in group if kept[i]]
            best = max(
                float(sum(w[i] for i in some))
                for size in range(n + 1)
                for some in itertools.combinations(allowed, min(size, len(allowed)))
            )
            assert float(sum(w[i] for i in group if row[i])) == pytest.approx(best)
    cost = pattern_cost(weights, mask, found)
    assert cost.kept - cost.removed == int(found["w"].sum())
    gone = weights["w"].abs()[mask["w"] & ~found["w"]].sum()
    assert cost.magnitude == pytest.approx(
        float(gone / weights["w"].abs()[mask["w"]].sum()) if mask["w"].any() else 0
    )


def test_rows_run_along_the_inputs():
    mask = {"w": torch.zeros(3, 8, 2, 2, dtype=torch.bool), "b": torch.ones(9, dtype=torch.bool)}
    # Three of four neighbours at one place of the kernel, then of one column of the kernel.
    mask["w"][0, :3, 0, 1] = True
    assert breaks_pattern(mask, TWO_OF_FOUR) == {"w": 1}
    mask["w"].zero_()
    mask["w"][:, 0] = True
    assert breaks_pattern(mask, TWO_OF_FOUR) == {}


def test_moving_outputs_keeps_a_pattern_and_moving_inputs_does_not(traced):
    model, spec = traced
    mask = nearest_pattern(model, dense_mask(model), TWO_OF_FOUR)
    draw = torch.Generator().manual_seed(1)
    first, second = spec.sizes
    # The units of the second convolution are inputs of the linear layer, four places each: m of
    # these are one unit, so even that keeps the pattern.
    outputs = {second: torch.randperm(8, generator=draw)}
    assert pattern_breakers(spec, outputs, TWO_OF_FOUR) == []
    assert breaks_pattern(permute(mask, spec, outputs), TWO_OF_FOUR) == {}
    # Those of the first are inputs of the second.
    inputs = {first: torch.randperm(12, generator=draw)}
    assert pattern_breakers(spec, inputs, TWO_OF_FOUR) == ["2.weight"]
    moved = permute(mask, spec, inputs)
    assert breaks_pattern(moved, TWO_OF_FOUR).keys() == {"2.weight"}
    # Unless groups stay together, in whatever order.
    blocks = torch.tensor([2, 0, 1])[:, None] * 4 + torch.tensor([3, 1, 0, 2])
    together = {first: blocks.flatten()}
    assert pattern_breakers(spec, together, TWO_OF_FOUR) == []
    assert breaks_pattern(permute(mask, spec, together), TWO_OF_FOUR) == {}
    # And what was broken can be brought back, at a cost.
    weights = permute(model, spec, inputs)
    back = nearest_pattern(weights, moved, TWO_OF_FOUR)
    assert breaks_pattern(back, TWO_OF_FOUR) == {}
    cost = pattern_cost(weights, moved, back)
    assert 0 < cost.removed < cost.kept / 2
    assert 0 < cost.magnitude < 0.5


def test_a_last_group_that_is_smaller_counts_too():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    spec = PermutationSpec.trace(model, torch.randn(2, 3))
    # Units 4 and 5 are the last group; exchanging them with each other is fine, with others not.
    fine = {"0": torch.tensor([0, 1, 2, 3, 5, 4])}
    mixed = {"0": torch.tensor([4, 1, 2, 3, 0, 5])}
    assert pattern_breakers(spec, fine, TWO_OF_FOUR) == []
    assert pattern_breakers(spec, mixed, TWO_OF_FOUR) == ["2.weight"]


@pytest.mark.parametrize("text", ["2", "0:4", "5:4", "2:4:8", "a:b", "-1:4"])
def test_a_pattern_that_is_none_is_refused(text):
    with pytest.raises(ParameterError, match="expected n:m"):
        Pattern.parse(text)
    assert Pattern.parse("2:4") == TWO_OF_FOUR
