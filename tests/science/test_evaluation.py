from __future__ import annotations

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from torch import Tensor, nn
from typechecking import unchecked

from lotperm.errors import ParameterError
from lotperm.science.barrier import accuracy_barriers, barrier_height, interpolate, loss_barrier
from lotperm.science.diversity import disagreement, ensemble_accuracy, js_divergence, kl_divergence
from lotperm.science.evaluation import evaluate, probabilities
from lotperm.science.repair import preactivation_statistics, repaired, reset_batch_norm
from lotperm.science.statistics import gap_closed, interval, paired, ratio_of_means


def small_network(seed: int, norm: bool = True) -> nn.Sequential:
    """Convolutional network; its running statistics are those of random inputs, so they mean
    something.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 12),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(12, 4),
    )
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    reset_batch_norm(model, [torch.randn(64, 3, 8, 8)])
    return model


def batches(n: int = 90, size: int = 32, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, 8, 8, generator=generator)
    y = torch.randint(4, (n,), generator=generator)
    return list(zip(x.split(size), y.split(size), strict=True))


# ------------------------------------------------------------------------------------------ accuracy, loss


@pytest.mark.parametrize("size", [1, 7, 32, 90])
def test_evaluate_weights_every_sample_the_same(size: int) -> None:
    model = small_network(0)
    ((x, y),) = batches(size=90)
    logits = model.eval()(x)
    model.train()
    result = evaluate(model, batches(size=size))
    assert result.samples == 90
    assert result.accuracy == pytest.approx(
        (logits.argmax(1) == y).double().mean().item(), abs=1e-12
    )
    assert result.loss == pytest.approx(nn.functional.cross_entropy(logits, y).item(), rel=1e-5)
    assert all(module.training for module in model.modules())


def test_evaluate_leaves_no_gradient_and_refuses_no_data() -> None:
    model = small_network(0)
    with pytest.raises(ParameterError, match="no samples"):
        evaluate(model, [])
    model[0].eval()
    evaluate(model, batches())
    assert not model[0].training and model[1].training


def test_probabilities_are_softmax_of_logits_in_order() -> None:
    model = small_network(1)
    found = probabilities(model, [x for x, _ in batches(size=40)])
    ((x, _),) = batches(size=90)
    expected = model.eval()(x).softmax(1).detach().numpy()
    assert found.shape == (90, 4)
    np.testing.assert_allclose(found, expected, atol=1e-6)


# ------------------------------------------------------------------------------------------------ barrier


@pytest.mark.parametrize("repair", ["none", "bn", "repair"])
def test_no_barrier_between_equal_networks(repair: str) -> None:
    model = small_network(2)
    weights = model.state_dict()
    data = {"train": batches(seed=1), "test": batches(seed=2)}
    curve = loss_barrier(model, weights, weights, data, [0, 0.3, 0.5, 1], repair=repair)
    assert (
        len(curve) == 8
        and set(curve["split"]) == {"train", "test"}
        and set(curve["repair"]) == {repair}
    )
    height = barrier_height(curve)
    assert height["loss_barrier"].abs().max() < 1e-6
    assert height["accuracy_barrier"].abs().max() < 1e-12
    if repair == "none":
        test = curve[curve["split"] == "test"]
        assert test["loss"].to_numpy() == pytest.approx(
            evaluate(model, data["test"]).loss, rel=1e-6
        )


def test_curve_is_the_networks_on_the_line() -> None:
    a, b = small_network(3), small_network(4)
    before = copy.deepcopy(a.state_dict())
    curve = loss_barrier(a, a.state_dict(), b.state_dict(), {"test": batches()}, [0, 0.25, 1])
    middle = small_network(0)
    middle.load_state_dict(
        {
            k: 0.75 * v + 0.25 * b.state_dict()[k] if v.is_floating_point() else v
            for k, v in before.items()
        }
    )
    expected = [evaluate(m, batches()).loss for m in (a, middle, b)]
    assert curve["loss"].to_numpy() == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in a.state_dict().items())


def test_interpolate_keeps_integer_buffers() -> None:
    a, b = small_network(3).state_dict(), small_network(4).state_dict()
    b["1.num_batches_tracked"] += 7
    middle = interpolate(a, b, 0.5)
    assert middle["1.num_batches_tracked"] == a["1.num_batches_tracked"]
    assert middle["1.num_batches_tracked"].dtype == torch.int64
    torch.testing.assert_close(middle["0.weight"], (a["0.weight"] + b["0.weight"]) / 2)


def test_barrier_height_by_hand() -> None:
    curve = pd.DataFrame(
        {"alpha": [0, 0.25, 0.5, 1], "repair": "none", "split": "test"}
        | {"loss": [1.0, 2.0, 1.5, 3.0], "accuracy": [0.9, 0.5, 0.4, 0.7]}
    )
    height = barrier_height(curve).iloc[0]
    assert height["loss_barrier"] == pytest.approx(2.0 - 1.5)
    assert height["accuracy_barrier"] == pytest.approx(0.8 - 0.4)
    assert math.isnan(barrier_height(curve[curve["alpha"] != 0.5]).iloc[0]["accuracy_barrier"])
    with pytest.raises(ParameterError, match="alpha 0 and 1"):
        barrier_height(curve[curve["alpha"] != 0])


def test_accuracy_barriers_are_the_ends_less_the_middle_of_each_line() -> None:
    lines = pd.DataFrame(
        [
            {
                "width": 2.0,
                "seed": seed,
                "ends": ends,
                "repair": "bn",
                "alpha": alpha,
                "accuracy": value - 0.1 * seed,
            }
            for seed in (0, 1)
            for ends, middle in (("as trained", 0.3), ("permuted", 0.6))
            for alpha, value in ((0.0, 0.9), (0.25, 0.1), (0.5, middle), (1.0, 0.7))
        ]
    )
    found = accuracy_barriers(lines, ["width"])
    assert list(found.columns) == ["width", "seed", "ends", "repair", "barrier"] and len(found) == 4
    barrier = found.set_index(["ends", "seed"])["barrier"]
    assert barrier["as trained", 0] == pytest.approx(0.5) and barrier[
        "permuted", 1
    ] == pytest.approx(0.2)


def test_barrier_refuses_what_it_cannot_do() -> None:
    model = small_network(0)
    weights = model.state_dict()
    with unchecked(), pytest.raises(ParameterError, match="Did you mean 'repair'"):
        loss_barrier(model, weights, weights, {"test": batches()}, repair="repairs")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="needs training inputs"):
        loss_barrier(model, weights, weights, {"test": batches()}, repair="bn")
    with pytest.raises(ParameterError, match=r"\[0, 1\]"):
        loss_barrier(model, weights, weights, {"test": batches()}, [0, 2])


def test_reset_batch_norm_is_the_average_over_batches() -> None:
    model = small_network(5)
    inputs = [x for x, _ in batches(n=96, size=32)]
    momentum = model[1].momentum
    reset_batch_norm(model, inputs)
    outputs = [model[0](x) for x in inputs]
    torch.testing.assert_close(
        model[1].running_mean, torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0)
    )
    torch.testing.assert_close(
        model[1].running_var, torch.stack([y.var((0, 2, 3)) for y in outputs]).mean(0)
    )
    assert model[1].momentum == momentum and model.training


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_repair_restores_the_statistics(norm: bool, count: int) -> None:
    a, b = small_network(6, norm).double(), small_network(7, norm).double()
    inputs = [x.double() for x, _ in batches(n=96, size=96 // count)]
    ends = [preactivation_statistics(m, inputs) for m in (a, b)]
    target = {
        name: tuple(0.4 * x + 0.6 * y for x, y in zip(ends[0][name], ends[1][name], strict=True))
        for name in ends[0]
    }
    assert list(target) == (
        ["0", "1", "3", "4", "8"] if norm else ["0", "3", "8"]
    )  # not the output layer
    middle = copy.deepcopy(a)
    middle.load_state_dict(interpolate(a.state_dict(), b.state_dict(), 0.6))
    plain = middle.eval()(inputs[0])

    def distance() -> float:
        found = preactivation_statistics(middle, inputs)
        return max(
            ((x - y).abs() / target[n][1]).max().item()
            for n in found
            for x, y in zip(found[n], target[n], strict=True)
        )

    unrepaired = distance()
    with repaired(middle, target, inputs):
        # The hooks of the repair run before those that measure, so what is measured is repaired.
        assert distance() < (1e-9 if count == 1 else 0.2 * unrepaired)
        assert not torch.allclose(middle(inputs[0]), plain)
    torch.testing.assert_close(middle(inputs[0]), plain)


def test_repair_lowers_the_loss_of_a_collapsed_network() -> None:
    # Halving every weight shrinks the preactivations layer by layer, as interpolation does.
    a = small_network(8, norm=False).double()
    inputs = [x.double() for x, _ in batches()]
    target = preactivation_statistics(a, inputs[:1])
    shrunk = copy.deepcopy(a)
    hidden = [m for m in shrunk if isinstance(m, nn.Conv2d | nn.Linear)][:-1]
    with torch.no_grad():
        for module in hidden:
            module.weight *= 0.5
            module.bias *= 0.5
    assert not torch.allclose(shrunk.eval()(inputs[0]), a.eval()(inputs[0]), atol=1e-3)
    with repaired(shrunk, target, inputs[:1]):
        torch.testing.assert_close(shrunk(inputs[0]), a(inputs[0]))


# ---------------------------------------------------------------------------------- statistics over seeds

accuracies = hnp.arrays(float, 5, elements=st.floats(0.125, 1, width=16))


@settings(deadline=None)
@given(accuracies)
def test_interval_agrees_with_scipy(values: np.ndarray) -> None:
    mean, half = interval(values, 0.9)
    assert mean == pytest.approx(values.mean())
    if values.std() > 1e-9:
        low, high = stats.t.interval(0.9, 4, loc=values.mean(), scale=stats.sem(values))
        assert (mean - half, mean + half) == pytest.approx((low, high))
    else:
        assert half == pytest.approx(0, abs=1e-9)


def test_interval_of_one_seed_and_none() -> None:
    mean, half = interval([0.5])
    assert mean == 0.5 and math.isnan(half)
    with pytest.raises(ParameterError, match="one value per seed"):
        interval([])
    with pytest.raises(ParameterError, match="confidence"):
        interval([1.0, 2.0], 95)


@settings(deadline=None)
@given(accuracies, accuracies)
def test_paired_agrees_with_scipy(a: np.ndarray, b: np.ndarray) -> None:
    found = paired(a, b)
    assert found.mean == pytest.approx((a - b).mean())
    if np.ptp(a - b) > 0:
        expected = stats.ttest_rel(a, b)
        low, high = expected.confidence_interval(0.95)
        assert found.p_value == pytest.approx(expected.pvalue)
        assert found.half_width == pytest.approx((high - low) / 2)


def test_paired_without_spread_or_with_other_seeds() -> None:
    assert paired([0.5, 0.5], [0.5, 0.5]).p_value == 1
    assert paired([0.75, 0.5], [0.5, 0.25]).p_value == 0
    assert math.isnan(paired([0.75], [0.5]).p_value)
    with pytest.raises(ParameterError, match="same seeds"):
        paired([1.0, 2.0], [1.0])


def test_gap_closed_per_seed() -> None:
    found = gap_closed(
        lth=[0.9, 0.8, 0.5, 0.6], naive=[0.5, 0.6, 0.5, 0.7], permuted=[0.7, 0.65, 0.6, 0.6]
    )
    np.testing.assert_allclose(found.per_seed, [0.5, 0.25, np.nan, np.nan])
    assert (found.mean, found.half_width) == pytest.approx(interval([0.5, 0.25]))
    none = gap_closed([0.5], [0.6], [0.5])
    assert math.isnan(none.mean) and math.isnan(none.half_width)


@settings(deadline=None)
@given(accuracies, accuracies, st.floats(-3, 3))
def test_a_ratio_is_covered_if_the_difference_from_it_is_not_significant(
    x: np.ndarray, y: np.ndarray, ratio: float
) -> None:
    """The set of ratios is the one that paired t-tests accept."""
    rest = x - ratio * y
    t = abs(rest.mean()) / (rest.std(ddof=1) / math.sqrt(5)) if np.ptp(rest) > 1e-9 else math.nan
    edge = stats.t.ppf(0.975, 4)
    if abs(t - edge) > 1e-6 * edge:  # which a NaN is not
        assert ratio_of_means(x, y).covers(ratio) == (t < edge)


@pytest.mark.parametrize(
    ("gap", "spread", "correlation"),
    [(1.0, 0.2, 0.0), (1.0, 0.5, 0.9), (1.0, 2.0, 0.5), (0.0, 1.0, 0.0)],
)
def test_the_set_of_a_ratio_has_its_coverage(gap: float, spread: float, correlation: float) -> None:
    """Five seeds, drawn 2,000 times: from a clear gap to none at all."""
    generator, draws, ratio = np.random.default_rng(0), 2000, 0.4
    covariance = spread**2 * np.array([[1, correlation], [correlation, 1]])
    mean = [ratio * gap, gap]
    pairs = generator.multivariate_normal(mean, covariance, size=(draws, 5))
    found = [ratio_of_means(*pair.T, confidence=0.9) for pair in pairs]
    covered = np.mean([one.covers(ratio) for one in found])
    # Within four standard deviations of a share of 2,000 draws. Of 0 / 0 every ratio is as true.
    assert covered == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / draws))
    bounded = np.mean([one.kind == "interval" for one in found])
    assert (bounded > 0.99) == (spread < 0.5)
    # A bounded interval is only given where the gap differs significantly from 0.
    significant = [paired(pair[:, 1], np.zeros(5)).p_value < 0.1 for pair in pairs]
    assert significant == [one.kind == "interval" for one in found]


def test_kinds_of_the_set_of_a_ratio() -> None:
    clear = ratio_of_means([0.9, 1.0, 1.1], [2.0, 2.1, 1.9])
    assert clear.kind == "interval" and clear.pieces == (clear.bounds,)
    assert clear.ratio == pytest.approx(0.5) and clear.covers(0.5) and not clear.covers(1)
    rays = ratio_of_means([0.9, 1.0, 1.1], [-1.0, 0.1, 1.2])
    assert rays.kind == "two rays" and rays.covers(10) and rays.covers(-10) and not rays.covers(0)
    assert rays.bounds == (-math.inf, math.inf)
    nothing_known = ratio_of_means([-1.0, 0.0, 1.5], [1.2, -1.0, 0.1])
    assert nothing_known.kind == "everything" and nothing_known.covers(0)
    assert ratio_of_means([0.3], [0.5]) == (0.6, ((-math.inf, math.inf),))
    impossible = ratio_of_means([1.0, 1.0], [0.0, 0.0])
    assert impossible.kind == "nothing" and not impossible.covers(0)
    assert math.isnan(impossible.bounds[0])
    # A constant denominator leaves the interval of a mean.
    mean, half = interval([1.0, 2.0, 4.0])
    assert ratio_of_means([1.0, 2.0, 4.0], [2.0] * 3).bounds == pytest.approx(
        ((mean - half) / 2, (mean + half) / 2)
    )
    with pytest.raises(ParameterError, match="one pair of values per seed"):
        ratio_of_means([1.0, 2.0], [1.0])
    with pytest.raises(ParameterError, match="finite"):
        ratio_of_means([1.0, math.nan], [1.0, 2.0])
    with pytest.raises(ParameterError, match="confidence"):
        ratio_of_means([1.0, 2.0], [1.0, 2.0], 95)


# ---------------------------------------------------------------------------------------------- diversity


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(1, 5), st.integers(2, 4), st.integers(0, 99))
def test_diversity_agrees_with_brute_force(
    members: int, samples: int, classes: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.ones(classes), (members, samples))
    y = generator.integers(classes, size=samples)
    differ, kl, js = [], [], []
    for i in range(members):
        for j in range(members):
            for n in range(samples):
                if i == j:
                    continue
                differ.append(p[i, n].argmax() != p[j, n].argmax())
                kl.append(stats.entropy(p[i, n], p[j, n]))
                m = (p[i, n] + p[j, n]) / 2
                js.append((stats.entropy(p[i, n], m) + stats.entropy(p[j, n], m)) / 2)
    assert disagreement(p) == pytest.approx(np.mean(differ))
    assert kl_divergence(p) == pytest.approx(np.mean(kl))
    assert js_divergence(p) == pytest.approx(np.mean(js))
    votes = [sum(p[i, n] for i in range(members)).argmax() == y[n] for n in range(samples)]
    assert ensemble_accuracy(p, y) == pytest.approx(np.mean(votes))


def test_diversity_of_certain_members_is_finite() -> None:
    p = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert disagreement(p) == 1
    assert np.isfinite(kl_divergence(p)) and kl_divergence(p) > 20
    assert js_divergence(p) == pytest.approx(math.log(2))
    assert kl_divergence(p[[0, 0]]) == disagreement(p[[0, 0]]) == 0
    with pytest.raises(ParameterError, match="members >= 2"):
        disagreement(p[:1])


@pytest.mark.parametrize("repair", ["bn", "repair"])
def test_a_repair_without_data_is_refused(repair: str) -> None:
    model = small_network(0)
    pairs = {"test": [(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.long))]}
    state = model.state_dict()
    with pytest.raises(ParameterError, match="got no batches of inputs"):
        loss_barrier(model, state, state, pairs, repair=repair, statistics=[])  # type: ignore[arg-type]


def test_batch_norm_is_as_it_was_if_resetting_it_fails() -> None:
    model = small_network(0)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = copy.deepcopy(model.state_dict())
    used = iter([torch.randn(4, 3, 8, 8)])
    next(used)
    with pytest.raises(ParameterError, match="got no batches of inputs"):
        reset_batch_norm(model, used)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(RuntimeError):
        reset_batch_norm(model, [torch.randn(4, 5, 8, 8)])
    assert [norm.momentum for norm in norms] == [0.1] * len(norms)


class _Shared(nn.Module):
    """A hidden layer that runs several times, its norm too."""

    def __init__(self, times: int, norm: bool) -> None:
        super().__init__()
        self.i, self.h, self.o = nn.Linear(20, 16), nn.Linear(16, 16), nn.Linear(16, 5)
        self.norm = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        for _ in range(self.times):
            x = torch.relu(self.norm(self.h(x)))
        return self.o(x)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_repair_of_a_module_that_runs_several_times(times: int, norm: bool) -> None:
    """The line from A to A has A's loss everywhere."""
    torch.manual_seed(0)
    model = _Shared(times, norm)
    x = torch.randn(256, 20)
    y = (x @ torch.randn(20, 5)).argmax(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    a, data = model.state_dict(), {"train": list(zip(x.split(128), y.split(128), strict=True))}
    plain, corrected = (
        loss_barrier(model, a, a, data, (0.0, 0.5, 1.0), repair=repair).loss.to_numpy()  # type: ignore[arg-type]
        for repair in ("none", "repair")
    )
    # Two batches: each is first corrected with its own statistics, which isn't quite exact.
    np.testing.assert_allclose(corrected, plain, atol=0.02)
    whole = {"train": [(x, y)]}
    exact = loss_barrier(model, a, a, whole, (0.5,), repair="repair").loss
    np.testing.assert_allclose(exact, loss_barrier(model, a, a, whole, (0.5,)).loss, rtol=1e-5)


def _norm_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Linear(8, 5))


@pytest.mark.parametrize("sizes", [[64, 1], [1, 64], [1, 1], [64, 1, 64, 1]])
def test_a_batch_of_one_example_is_joined_to_another(sizes: list[int]) -> None:
    x = torch.randn(sum(sizes), 20, generator=torch.Generator().manual_seed(0))
    model, expected = _norm_network(), _norm_network()
    reset_batch_norm(model, x.split(sizes))
    joined = [x] if len(sizes) < 4 else x.split(65)
    reset_batch_norm(expected, joined)
    torch.testing.assert_close(model.state_dict(), expected.state_dict())
    data = {"train": [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(sizes)]}
    assert (
        loss_barrier(model, model.state_dict(), model.state_dict(), data, repair="bn")
        .loss.notna()
        .all()
    )


def test_one_example_in_all_resets_no_batch_norm() -> None:
    model = _norm_network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ParameterError, match="got one example in all"):
        reset_batch_norm(model, [torch.randn(1, 20)])
    torch.testing.assert_close(model.state_dict(), before)
    images = small_network(0)  # whose norms see many positions of one example
    reset_batch_norm(images, [torch.randn(1, 3, 8, 8)] * 3)
    assert [
        int(m.num_batches_tracked) for m in images.modules() if isinstance(m, nn.BatchNorm2d)
    ] == [3] * sum(isinstance(m, nn.BatchNorm2d) for m in images.modules())
