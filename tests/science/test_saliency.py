"""Scores of weights before training, and the masks that are made of them."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lotperm.engine.models import build
from lotperm.errors import ParameterError
from lotperm.science.ranking import (
    collapsed,
    erdos_renyi_densities,
    keep_highest,
    kept_after,
    random_mask,
)
from lotperm.science.saliency import grasp_scores, snip_scores, synflow_mask, synflow_scores
from lotperm.science.sparsity import prunable_parameters


def mlp(bias=True):
    torch.manual_seed(0)
    layers = [
        nn.Linear(6, 7, bias),
        nn.Tanh(),
        nn.Linear(7, 5, bias),
        nn.Tanh(),
        nn.Linear(5, 3, bias),
    ]
    return nn.Sequential(*layers).double()


def examples(n=12, shape=(6,), classes=3):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(n, *shape, generator=draw, dtype=torch.double)
    return x, torch.randint(classes, (n,), generator=draw)


def loss_of(model, x, y, temperature=1.0):
    return F.cross_entropy(model(x) / temperature, y)


def test_snip_is_gradient_times_weight_and_sums_to_one():
    model, (x, y) = mlp(), examples()
    names = prunable_parameters(model)
    # In two batches of different size: the loss is the mean over all examples.
    scores = snip_scores(model, [(x[:8], y[:8]), (x[8:], y[8:])], names)
    loss_of(model, x, y).backward()
    plain = {n: (p.grad * p).abs().detach() for n, p in model.named_parameters() if n in names}
    total = sum(score.sum() for score in plain.values())
    assert list(scores) == names
    for name, score in scores.items():
        torch.testing.assert_close(score, plain[name] / total)
    # The definition: the derivative with respect to a factor on one weight, at 1.
    factor = torch.ones((), dtype=torch.double, requires_grad=True)
    weight = model[2].weight.detach().clone()
    keep = torch.ones_like(weight)
    keep[1, 4] = 0
    changed = torch.func.functional_call(
        model, {"2.weight": weight * keep + factor * weight * (1 - keep)}, (x,)
    )
    (slope,) = torch.autograd.grad(F.cross_entropy(changed, y), factor)
    torch.testing.assert_close(scores["2.weight"][1, 4], slope.abs() / total)


def test_grasp_is_the_weight_times_a_hessian_product_as_finite_differences_find_it():
    model, (x, y) = mlp(), examples()
    names = prunable_parameters(model)
    scores = grasp_scores(model, [(x[:5], y[:5]), (x[5:], y[5:])], names, temperature=2.0)

    def gradient(network):
        network.zero_grad()
        loss_of(network, x, y, 2.0).backward()
        return {n: network.get_parameter(n).grad.clone() for n in names}

    g, step = gradient(model), 1e-5
    moved = []
    for sign in (1, -1):
        network = copy.deepcopy(model)
        with torch.no_grad():
            for name in names:
                network.get_parameter(name).add_(sign * step * g[name])
        moved.append(gradient(network))
    for name in names:
        product = (moved[0][name] - moved[1][name]) / (2 * step)
        expected = model.get_parameter(name).detach() * product
        torch.testing.assert_close(scores[name], expected, rtol=1e-6, atol=1e-10)


def test_grasp_keeps_what_raises_the_norm_of_the_gradient():
    # To first order, shrinking weight j by a share t changes |g|² by -2 t s_j.
    model, (x, y) = mlp(), examples()
    names = prunable_parameters(model)
    scores = grasp_scores(model, [(x, y)], names, temperature=1.0)

    def norm(network):
        slope = torch.autograd.grad(
            loss_of(network, x, y), [network.get_parameter(n) for n in names]
        )
        return sum(s.square().sum() for s in slope)

    shrunk = copy.deepcopy(model)
    with torch.no_grad():
        shrunk[0].weight[3, 2] *= 1 - 1e-6
    change = (norm(shrunk) - norm(model)) / 1e-6
    torch.testing.assert_close(change, -2 * scores["0.weight"][3, 2], rtol=1e-4, atol=1e-9)


def relu_net():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3, bias=False),
    )


def test_synflow_is_conserved_at_every_unit_and_through_every_layer():
    model = relu_net()
    names = prunable_parameters(model)
    scores = synflow_scores(model, (2, 8, 8), names)
    incoming, outgoing, last = scores["0.weight"], scores["3.weight"], scores["7.weight"]
    torch.testing.assert_close(incoming.sum((1, 2, 3)), outgoing.sum((0, 2, 3)))
    torch.testing.assert_close(outgoing.sum((1, 2, 3)), last.sum(0))
    positive = copy.deepcopy(model).double()
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
        flow = positive(torch.ones(1, 2, 8, 8, dtype=torch.double)).sum()
    for score in scores.values():
        torch.testing.assert_close(score.sum(), flow)


def test_synflow_in_rounds_avoids_the_collapse_of_a_single_one():
    # A wide layer between narrow ones; at this sparsity one round empties the wide layer.
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 4, False),
        nn.ReLU(),
        nn.Linear(4, 400, False),
        nn.ReLU(),
        nn.Linear(400, 400, False),
        nn.ReLU(),
        nn.Linear(400, 4, False),
    )
    names = prunable_parameters(model)
    once = synflow_mask(model, (4,), names, 0.9999, rounds=1)
    often = synflow_mask(model, (4,), names, 0.9999)
    assert "4.weight" in collapsed(once)
    assert collapsed(often) == []
    total = sum(kept.numel() for kept in often.values())
    for mask in (once, often):
        assert sum(int(kept.sum()) for kept in mask.values()) == kept_after(total, 0.9999)


@pytest.mark.parametrize("name", ["resnet8", "vgg11"])
def test_scores_leave_networks_with_batch_norm_as_they_are(name):
    model = build(name, input_shape=(1, 40), classes=3, width=0.125).eval()
    before = copy.deepcopy(model.state_dict())
    x, y = examples(8, (1, 40))
    names = prunable_parameters(model)
    batches = [(x.float(), y)]
    found = [
        snip_scores(model, batches, names),
        grasp_scores(model, batches, names),
        synflow_scores(model, (1, 40), names),
    ]
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not model.training
    for scores in found:
        assert list(scores) == names
        assert all(torch.isfinite(score).all() for score in scores.values())
        assert collapsed(keep_highest(scores, 0.5)) == []


def test_refusals():
    model, (x, y) = mlp(), examples()
    with pytest.raises(ParameterError, match=r"unknown parameter to score '0\.weigth'"):
        snip_scores(model, [(x, y)], ["0.weigth"])
    with pytest.raises(ParameterError, match="no examples"):
        grasp_scores(model, [], ["0.weight"])
    nn.init.zeros_(model[4].weight)
    with pytest.raises(ParameterError, match="depends on no weight"):
        snip_scores(model, [(x, y)], ["0.weight"])
    with pytest.raises(ParameterError, match="rounds is 0"):
        synflow_mask(model, (6,), ["0.weight"], 0.5, rounds=0)


SHAPES = {"conv": (16, 3, 3, 3), "wide": (64, 128), "head": (10, 64)}


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.995), st.integers(0, 2**31))
def test_erdos_renyi_densities_solve_the_sum_and_masks_have_them(sparsity, seed):
    sizes = {name: torch.Size(shape).numel() for name, shape in SHAPES.items()}
    densities = erdos_renyi_densities(SHAPES, sparsity)
    kept = sum(densities[name] * sizes[name] for name in SHAPES)
    assert kept == pytest.approx((1 - sparsity) * sum(sizes.values()))
    assert all(0 < d <= 1 for d in densities.values())
    # Where it isn't capped, a density is ε times sides over size.
    ratios = {n: densities[n] * sizes[n] / sum(SHAPES[n]) for n in SHAPES if densities[n] < 1}
    assert max(ratios.values(), default=1) == pytest.approx(min(ratios.values(), default=1))
    # And what is capped would have got more.
    for name in SHAPES.keys() - ratios.keys():
        assert max(ratios.values(), default=0) * sum(SHAPES[name]) <= sizes[name] * (1 + 1e-9) or (
            max(ratios.values()) * sum(SHAPES[name]) >= sizes[name] * (1 - 1e-9)
        )
    draw = torch.Generator().manual_seed(seed)
    mask = random_mask(SHAPES, densities, sparsity, draw)
    assert sum(int(m.sum()) for m in mask.values()) == kept_after(sum(sizes.values()), sparsity)
    for name, m in mask.items():
        assert m.shape == SHAPES[name]
        assert abs(int(m.sum()) - densities[name] * sizes[name]) <= 1


def test_random_masks_are_even_over_places_and_belong_to_their_seed():
    even = dict.fromkeys(SHAPES, 0.25)
    masks = [
        random_mask(SHAPES, even, 0.75, torch.Generator().manual_seed(seed)) for seed in range(300)
    ]
    again = random_mask(SHAPES, even, 0.75, torch.Generator().manual_seed(7))
    assert all(torch.equal(again[name], masks[7][name]) for name in SHAPES)
    share = torch.stack([mask["head"].double() for mask in masks]).mean(0)
    # 640 shares of 300 draws each: five standard deviations.
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / 300) ** 0.5


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.99), st.integers(0, 2**31))
def test_the_highest_scores_are_kept_whatever_their_sign(sparsity, seed):
    draw = torch.Generator().manual_seed(seed)
    scores = {"a": torch.randn(7, 3, generator=draw), "b": torch.randn(11, generator=draw)}
    kept = keep_highest(scores, sparsity)
    pool = torch.cat([s.flatten() for s in scores.values()])
    chosen = torch.cat([m.flatten() for m in kept.values()])
    assert int(chosen.sum()) == kept_after(32, sparsity)
    if 0 < int(chosen.sum()) < 32:
        assert pool[chosen].min() >= pool[~chosen].max()
    # What a mask removed stays removed, even below negative scores.
    half = keep_highest(scores, 0.3)
    for name, m in keep_highest(scores, max(sparsity, 0.3), among=half).items():
        assert not (m & ~half[name]).any()


def test_collapse_is_named():
    assert collapsed({"a": torch.zeros(2, 2).bool(), "b": torch.eye(2).bool()}) == ["a"]
