from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from science.settled import settle
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from typechecking import unchecked

from lotperm.engine.models import build
from lotperm.errors import ParameterError
from lotperm.science import correlation
from lotperm.science.assignment import assign
from lotperm.science.correlation import CorrelationAccumulator, correlate
from lotperm.science.folding import fold_batch_norms
from lotperm.science.matching import Matching, match_activations, match_weights
from lotperm.science.mixing import mixes_examples
from lotperm.science.symmetry import PermutationSpec, permute

SHAPES = {"mlp": (1, 20), "resnet8": (3, 12, 12), "vgg11": (1, 32)}


def network(name: str, seed: int) -> nn.Module:
    """A float64 network with weights, biases and batch-norm statistics that are not those of a
    fresh one.
    """
    torch.manual_seed(seed)
    model = build(name, input_shape=SHAPES[name], classes=4, width=0.25, hidden=(48, 40)).double()
    return settle(model, inputs(name, 64, seed=seed))


def inputs(name: str, n: int, seed: int = 0) -> Tensor:
    return torch.randn(
        n, *SHAPES[name], generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.fixture(scope="module", params=list(SHAPES))
def pair(request: pytest.FixtureRequest) -> tuple[str, nn.Module, nn.Module, PermutationSpec]:
    name = request.param
    a, b = network(name, 1), network(name, 2)
    return name, a, b, PermutationSpec.trace(a, inputs(name, 2))


def reference_correlation(a: Tensor, b: Tensor) -> np.ndarray:
    """Unit of B by unit of A, from whole float64 activations (B, n, *spatial)."""
    x, y = (v.double().movedim(1, 0).flatten(1).numpy() for v in (a, b))
    n = len(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(np.corrcoef(y, x)[:n, n:])


# -------------------------------------------------------------------------------------------- assignment

# Few distinct values, so that ties are common; a zero row or column is a dead unit.
similarities = st.integers(1, 6).flatmap(
    lambda n: hnp.arrays(float, (n, n), elements=st.sampled_from([-0.5, -0.0, 0.0, 0.25, 1.0]))
)


@settings(max_examples=150, deadline=None)
@given(similarities, st.integers(0, 5), st.integers(0, 5))
def test_assignment_is_optimal_and_keeps_the_order_of_equal_units(
    matrix: np.ndarray, row: int, column: int
) -> None:
    n = len(matrix)
    matrix[row % n] = 0
    matrix[:, column % n] = 0
    p = assign(torch.from_numpy(matrix)).numpy()
    best = max(matrix[np.arange(n), q].sum() for q in map(list, itertools.permutations(range(n))))
    assert sorted(p) == list(range(n))
    assert matrix[np.arange(n), p].sum() == pytest.approx(best, abs=1e-12)
    where = np.argsort(p)
    for i, j in itertools.combinations(range(n), 2):
        assert p[i] < p[j] or not np.array_equal(matrix[i], matrix[j])
        assert where[i] < where[j] or not np.array_equal(matrix[:, i], matrix[:, j])


@settings(max_examples=10, deadline=None)
@given(hnp.arrays(float, (7, 7), elements=st.floats(-1, 1)))
def test_assignment_of_seven_is_optimal(matrix: np.ndarray) -> None:
    p = assign(torch.from_numpy(matrix)).numpy()
    best = max(sum(matrix[i, q[i]] for i in range(7)) for q in itertools.permutations(range(7)))
    assert matrix[np.arange(7), p].sum() == pytest.approx(best, abs=1e-12)


def test_assignment_direction_and_dead_units() -> None:
    # Row 0 (unit of B) is like column 2 (unit of A): A's unit 2 moves to position 0.
    assert assign(torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])).tolist() == [2, 0, 1]
    assert assign(torch.zeros(5, 5)).tolist() == [0, 1, 2, 3, 4]
    matrix = torch.zeros(5, 5)
    matrix[3, 1] = 1
    assert assign(matrix).tolist() == [0, 2, 3, 1, 4]


@pytest.mark.parametrize("bad", [torch.zeros(2, 3), torch.full((2, 2), torch.nan), torch.zeros(3)])
def test_assignment_refuses(bad: Tensor) -> None:
    with pytest.raises(ParameterError, match="square matrix of finite numbers"):
        assign(bad)


# ------------------------------------------------------------------------------------------- accumulator


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_accumulator_against_numpy_where_the_mean_is_large(
    dtype: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(600, 8, 3, 5, generator=generator, dtype=torch.float64)
    a = (100 + common).to(dtype)
    b = (
        -100 + common.flip(1) + torch.randn(common.shape, generator=generator, dtype=torch.float64)
    ).to(dtype)
    accumulator = CorrelationAccumulator()
    for x, y in zip(a.split(64), b.split(64), strict=True):
        accumulator.update(x, y)
    assert accumulator.count == 600 * 15
    found = accumulator.correlation()
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, reference_correlation(a, b), atol=tolerance)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 99))
def test_merged_parts_are_the_whole(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        torch.randn(sum(sizes) + 5, 4, 2, generator=generator, dtype=torch.float64) + 3
        for _ in range(2)
    )
    merged = CorrelationAccumulator()
    merged.merge(CorrelationAccumulator())
    for x, y in zip(a.split([*sizes, 5]), b.split([*sizes, 5]), strict=True):
        part = CorrelationAccumulator()
        part.update(x, y)
        before = part.correlation()
        merged.merge(part)
        torch.testing.assert_close(part.correlation(), before, rtol=0, atol=0)
    assert merged.count == 2 * len(a)
    np.testing.assert_allclose(merged.correlation(), reference_correlation(a, b), atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, -1234.5])
def test_dead_units_have_no_correlation(dtype: torch.dtype, constant: float) -> None:
    a, b = (
        torch.randn(1000, 5, 7, generator=torch.Generator().manual_seed(s)).to(dtype)
        for s in (0, 1)
    )
    a[:, 2], b[:, 4] = constant, constant
    accumulator = CorrelationAccumulator()
    for x, y in zip(a.split(123), b.split(123), strict=True):
        accumulator.update(x, y)
    found = accumulator.correlation()
    assert not found[:, 2].any()
    assert not found[4].any()
    alive = found[:4][:, [0, 1, 3, 4]]
    assert alive.abs().min() > 0
    np.testing.assert_allclose(alive, reference_correlation(a, b)[:4][:, [0, 1, 3, 4]], atol=1e-6)


def test_accumulator_refuses() -> None:
    accumulator = CorrelationAccumulator()
    with pytest.raises(ParameterError, match="no samples"):
        accumulator.correlation()
    with pytest.raises(ParameterError, match="must have the same shape"):
        accumulator.update(torch.zeros(3, 2), torch.zeros(3, 4))
    accumulator.update(torch.tensor([[0.0], [torch.inf]]), torch.ones(2, 1))
    with pytest.raises(ParameterError, match="NaN or infinite"):
        accumulator.correlation()


def test_memory_of_the_accumulator_does_not_grow() -> None:
    def state_bytes(samples: int) -> int:
        accumulator = CorrelationAccumulator()
        for _ in range(samples // 100):
            accumulator.update(torch.randn(100, 8, 4), torch.randn(100, 8, 4))
        return sum(v.nbytes if isinstance(v, Tensor) else 0 for v in vars(accumulator).values())

    assert 0 < state_bytes(200) == state_bytes(5000)


def test_data_are_not_held() -> None:
    model = build("mlp", input_shape=(20,), classes=4)
    spec = PermutationSpec.trace(model, torch.zeros(2, 20))
    batches: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def stream() -> Iterator[Tensor]:
        for _ in range(10):
            batch = torch.randn(64, 20)
            batches.append(weakref.ref(batch))
            yield batch
            del batch
            alive.append(sum(ref() is not None for ref in batches))

    match_activations(model, model, stream(), spec)
    assert len(alive) == 10
    assert max(alive) <= 1


# ------------------------------------------------------------------------------------ activation matching


def layer_by_layer(
    spec: PermutationSpec,
    weights_a: Mapping[str, Tensor],
    weights_b: Mapping[str, Tensor],
    x: Tensor,
) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """The plain method: one pass per group, over A as permuted so far, statistics from whole
    activations.
    """
    permutation, correlations = {}, {}
    for group, nodes in spec.points.items():
        permuted = permute(weights_a, spec, permutation)
        point = {group: nodes[-1]}
        a, b = (spec.activations(weights, x, point)[group] for weights in (permuted, weights_b))
        correlations[group] = reference_correlation(a, b)
        permutation[group] = assign(torch.from_numpy(correlations[group]))
    return permutation, correlations


def test_one_pass_equals_layer_by_layer(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec],
) -> None:
    name, a, b, spec = pair
    x = inputs(name, 100)
    found = match_activations(a, b, x.split(30), spec, keep_correlations=True, dtype=torch.float64)
    expected, correlations = layer_by_layer(spec, a.state_dict(), b.state_dict(), x)
    assert found.keys() == expected.keys() == spec.sizes.keys()
    assert found.correlations is not None
    for group, p in found.items():
        matrix = correlations[group]
        np.testing.assert_allclose(found.correlations[group], matrix, atol=1e-9)
        rows = np.arange(len(p))
        assert matrix[rows, p].mean() == pytest.approx(
            matrix[rows, expected[group]].mean(), abs=1e-9
        )
        assert found.scores[group] == pytest.approx(matrix[rows, p].mean(), abs=1e-9)
        assert found.identity_scores[group] == pytest.approx(np.diag(matrix).mean(), abs=1e-9)
        assert found.scores[group] >= found.identity_scores[group] - 1e-12
    assert any(not torch.equal(p, torch.arange(len(p))) for p in found.values())


def test_order_and_size_of_batches_do_not_matter(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, a, b, spec = pair
    x = inputs(name, 90)
    ways = [[x], x.split(7), list(x.split(13))[::-1], [(x, torch.zeros(90))]]
    found = [
        match_activations(a, b, w, spec, keep_correlations=True, dtype=torch.float64) for w in ways
    ]
    monkeypatch.setattr(correlation, "ROWS", 50)
    monkeypatch.setattr(correlation, "CHUNK", 11)
    found.append(match_activations(a, b, [x], spec, keep_correlations=True, dtype=torch.float64))
    assert found[0].correlations is not None
    for other in found[1:]:
        assert other.correlations is not None
        for group, matrix in found[0].correlations.items():
            torch.testing.assert_close(other.correlations[group], matrix, rtol=0, atol=1e-9)
            assert other.scores[group] == pytest.approx(found[0].scores[group], abs=1e-9)


@pytest.mark.parametrize("by", ["activations", "weights"])
def test_a_planted_permutation_is_found(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec], by: str
) -> None:
    name, a, _, spec = pair
    generator = torch.Generator().manual_seed(3)
    planted = spec.random(generator)
    weights_b = {
        k: v * (1 + 1e-3 * torch.randn(v.shape, generator=generator, dtype=v.dtype))
        if v.is_floating_point()
        else v
        for k, v in permute(a.state_dict(), spec, planted).items()
    }
    x = inputs(name, 256)
    found = (
        match_activations(a, weights_b, [x], spec)
        if by == "activations"
        else match_weights(a.state_dict(), weights_b, spec)
    )
    if by == "activations":  # a unit that is dead on these inputs can't be told from another one
        acts = spec.activations(
            a.state_dict(), x, {g: nodes[-1] for g, nodes in spec.points.items()}
        )
        alive = {g: v.movedim(1, 0).flatten(1).std(1) > 1e-9 for g, v in acts.items()}
    else:
        alive = {g: torch.ones(n, dtype=torch.bool) for g, n in spec.sizes.items()}
    assert sum(int(v.sum()) for v in alive.values()) > 0.8 * sum(spec.sizes.values())
    for group, p in planted.items():
        here = alive[group][p]
        assert torch.equal(found[group][here], p[here])
        assert found.scores[group] > 0.99 * alive[group].double().mean()
        assert found.identity_scores[group] < found.scores[group]


def test_points(pair: tuple[str, nn.Module, nn.Module, PermutationSpec]) -> None:
    name, a, b, spec = pair
    x = [inputs(name, 40)]
    last = {group: nodes[-1] for group, nodes in spec.points.items()}
    earlier = {group: nodes[max(0, len(nodes) - 2)] for group, nodes in spec.points.items()}
    scores = {k: match_activations(a, b, x, spec, points=k).scores for k in ("last", "penultimate")}  # type: ignore[arg-type]
    assert scores["last"] == match_activations(a, b, x, spec, points=last).scores
    assert scores["penultimate"] == match_activations(a, b, x, spec, points=earlier).scores
    assert (scores["last"] == scores["penultimate"]) == (last == earlier)
    group = next(iter(last))
    part = match_activations(a, b, x, spec, points={group: earlier[group]}).scores
    assert part[group] == pytest.approx(scores["penultimate"][group])
    with unchecked(), pytest.raises(ParameterError, match="Did you mean 'last'"):
        match_activations(a, b, x, spec, points="lasst")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="group"):
        match_activations(a, b, x, spec, points={"no such layer": "relu"})


class Watched:
    """Outputs of modules during one pass, in the order of the calls."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.seen: list[Tensor] = []
        for module in modules:
            module.register_forward_hook(lambda *call: self.seen.append(call[2]))


def as_the_authors_match(a: nn.Module, b: nn.Module, batches: list[Tensor]) -> list[Tensor]:
    """Match two ResNet20s as calgaryml/sparse-rebasin does, written anew from a description of it.

    Each block's first ReLU has a permutation of its own. Of the three residual streams, the first
    two are observed after blocks 3 and 6, the last of their stages, and the third after block 8 of
    9. Means, standard deviations and products of each batch are averaged over batches, and the
    covariance is divided by the product of the standard deviations plus 1e-4.
    """
    networks = [copy.deepcopy(model).double().eval() for model in (a, b)]
    watched = []
    for model in networks:
        blocks = [block for stage in (model.layer1, model.layer2, model.layer3) for block in stage]
        # A block's ReLU runs twice: inside, then on the residual sum.
        watched.append(Watched([block.relu for block in blocks]))
    inside, streams = [2 * i for i in range(9)], [2 * (k - 1) + 1 for k in (3, 6, 8)]
    moments: dict[int, list[list[Tensor]]] = {call: [] for call in (*inside, *streams)}
    for batch in batches:
        for model, watch in zip(networks, watched, strict=True):
            watch.seen.clear()
            with torch.no_grad():
                model(batch.double())
        for call, found in moments.items():
            x, y = (watch.seen[call].movedim(1, -1).flatten(0, -2) for watch in watched)
            found.append([x.mean(0), y.mean(0), x.std(0), y.std(0), x.T @ y / len(x)])
    permutations = []
    for found in moments.values():
        mean_a, mean_b, std_a, std_b, product = (
            torch.stack(values).mean(0) for values in zip(*found, strict=True)
        )
        covariance = product - torch.outer(mean_a, mean_b)
        correlation = covariance / (torch.outer(std_a, std_b) + 1e-4)
        # Row i of the transposed matrix is unit i of B; its column is the unit of A that goes there.
        permutations.append(torch.tensor(linear_sum_assignment(correlation.T, maximize=True)[1]))
    return permutations


def resnet20(seed: int, shape: tuple[int, ...] = (3, 12, 12)) -> nn.Module:
    """A ResNet20 at width 1 whose batch norms have seen data."""
    torch.manual_seed(seed)
    model = build("resnet20", input_shape=shape, classes=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.randn(64, *shape))
    return model.eval()


def test_the_authors_points_give_the_authors_permutations() -> None:
    a, b = resnet20(1), resnet20(2)
    batches = list(torch.randn(90, 3, 12, 12, generator=torch.Generator().manual_seed(3)).split(30))
    spec = PermutationSpec.trace(a, batches[0])
    found = match_activations(a, b, batches, spec, points="authors", dtype=torch.float64)
    streams = ["conv1", "layer2.0.conv2", "layer3.0.conv2"]
    inside = [group for group in spec.sizes if group not in streams]
    theirs = dict(zip([*inside, *streams], as_the_authors_match(a, b, batches), strict=True))
    assert sum(len(p) for p in theirs.values()) == 448
    assert {group: p.tolist() for group, p in found.items()} == {
        group: p.tolist() for group, p in theirs.items()
    }
    # No other choice by name does as they do.
    for points, odd in (("last", {"layer3.0.conv2"}), ("penultimate", set(streams[:2]))):
        other = match_activations(a, b, batches, spec, points=points, dtype=torch.float64)  # type: ignore[arg-type]
        assert {group for group, p in other.items() if not torch.equal(p, theirs[group])} == odd


def test_the_authors_points_are_those_of_resnet20_alone(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec],
) -> None:
    name, a, b, spec = pair
    with pytest.raises(ParameterError, match="defined for ResNet20 alone") as caught:
        match_activations(a, b, [inputs(name, 8)], spec, points="authors")
    assert ("at 2 places" in str(caught.value)) == (name == "resnet8")


def test_float32_is_close_and_inputs_are_untouched(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec],
) -> None:
    name, a, b, spec = pair
    x = inputs(name, 100)
    before, x_before = copy.deepcopy(a.state_dict()), x.clone()
    exact = match_activations(a, b, [x], spec, keep_correlations=True, dtype=torch.float64)
    single = match_activations(a.float(), b.float(), [x], spec, keep_correlations=True)
    a.double().load_state_dict(before)
    b.double()
    assert exact.correlations is not None
    assert single.correlations is not None
    for group, matrix in exact.correlations.items():
        torch.testing.assert_close(single.correlations[group], matrix, rtol=0, atol=1e-4)
    assert torch.equal(x, x_before)


def test_correlate_in_parts_then_merge(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec],
) -> None:
    name, a, b, spec = pair
    points = {group: nodes[-1] for group, nodes in spec.points.items()}
    x = inputs(name, 60)
    whole, first, second = (
        correlate(a, b, [v], spec, points, dtype=torch.float64) for v in (x, x[:40], x[40:])
    )
    for group, accumulator in first.items():
        accumulator.merge(second[group])
        torch.testing.assert_close(
            accumulator.correlation(), whole[group].correlation(), rtol=0, atol=1e-9
        )


def test_errors_name_the_group() -> None:
    model = build("mlp", input_shape=(20,), classes=4)
    spec = PermutationSpec.trace(model, torch.zeros(2, 20))
    with pytest.raises(ParameterError, match=r"group 'features\.1'.*no samples"):
        match_activations(model, model, [], spec)
    with pytest.raises(ParameterError, match=r"group 'features\.1'.*NaN"):
        match_activations(model, model, [torch.full((4, 20), torch.nan)], spec)


class Branches(nn.Module):
    """Batch norms that can be folded (one without parameters) and that can't (two readers, no
    conv).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, bias=True)
        self.norm1 = nn.BatchNorm2d(6, affine=False)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=3, bias=False)
        self.norm2 = nn.BatchNorm2d(6, eps=0.1)
        self.norm3 = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        y = self.conv2(x)
        return self.head(
            torch.relu(self.norm3(torch.relu(self.norm2(y)))).amax((2, 3)) + y.mean((2, 3))
        )


def test_folding_changes_no_activation(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec],
) -> None:
    name, a, _, spec = pair
    branches = Branches().double()
    branches.train()(torch.randn(50, 3, 8, 8).double() * 2 + 1)
    branches.eval()
    cases = [
        (a, spec, inputs(name, 20)),
        (
            branches,
            PermutationSpec.trace(branches, torch.randn(2, 3, 8, 8).double()),
            torch.randn(9, 3, 8, 8).double(),
        ),
    ]
    for model, its_spec, x in cases:
        state = model.state_dict()
        candidates = {node for nodes in its_spec.points.values() for node in nodes}
        graph = its_spec.network.graph
        graphs = graph, fold_batch_norms(graph, state, candidates)[0]
        norms = [
            str([node.target for node in graph.nodes]).count("aten.batch_norm") for graph in graphs
        ]
        total = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
        # Of Branches' three, the second shares its input and the third follows no convolution.
        assert norms == ([3, 2] if model is branches else [total, 0])
        for i in (0, -1):
            points = {group: nodes[i] for group, nodes in its_spec.points.items() if nodes}
            plain = its_spec.activations(state, x, points)
            single = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
            with torch.no_grad():
                folded = its_spec.extractor(state, points, fold=True)(x)
                folded_single = its_spec.extractor(single, points, fold=True)(x.float())
            for group, values in plain.items():
                torch.testing.assert_close(folded[group], values, rtol=1e-9, atol=1e-9)
                assert (folded_single[group] - values).abs().max() <= 1e-5 * values.abs().max()


# ------------------------------------------------------------------------------ networks of one's own


class Own(nn.Module):
    """A convolution, something of one's own, and a classifier."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.conv, self.middle, self.out = nn.Conv2d(3, 16, 3), middle, nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.middle(self.conv(x)).mean((2, 3)))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.randn(1, 16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() * self.gate.sigmoid()


class Scale(nn.Module):
    """A buffer that no state dict holds, a constant, and a counter that every pass moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "scale", torch.linspace(0.5, 1.5, 36).view(1, 1, 6, 6), persistent=False
        )
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return (x * self.scale * torch.tensor([2.0])).relu()


class InPlace(nn.Module):
    """Normalizes its input where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.own = Own(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x.sub_(0.5).div_(0.25))


def own(make: type[nn.Module] | None = None, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    if make is InPlace:
        return InPlace().eval()
    middle = (
        nn.Sequential(nn.BatchNorm2d(16, track_running_stats=False), nn.ReLU())
        if make is None
        else make()
    )
    model = Own(middle)
    nn.init.constant_(model.conv.bias, -1.0)  # what the statistics of the batch take away again
    return model.eval()


@pytest.mark.parametrize("make", [None, Gate, Scale, InPlace])
@pytest.mark.parametrize("how", ["activations", "weights"])
def test_a_planted_permutation_is_found_in_any_network(
    make: type[nn.Module] | None, how: str
) -> None:
    """Statistics of the batch, gates that are parameters, buffers outside of the state dict,
    writing in place.
    """
    b, x = own(make), torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    spec = PermutationSpec.trace(b, x[:2].clone())
    (group,) = spec.sizes
    p = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    before, state = x.clone(), copy.deepcopy(b.state_dict())
    # Weights as a file gives them: in another order than the model's.
    a = dict(sorted(permute(b.state_dict(), spec, {group: p}).items()))
    found = (
        match_activations(a, b, [x], spec)
        if how == "activations"
        else match_weights(a, b.state_dict(), spec)
    )
    assert torch.equal(p[found[group]], torch.arange(16))
    assert found.scores[group] == pytest.approx(1, abs=1e-5)
    assert torch.equal(x, before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in b.state_dict().items())


def test_only_what_depends_on_the_input_is_a_point() -> None:
    spec = PermutationSpec.trace(own(Gate), torch.randn(2, 3, 8, 8))
    assert list(spec.points.values()) == [("relu",)]


def test_constants_follow_the_dtype() -> None:
    model, x = own(Scale), torch.randn(16, 3, 8, 8)
    spec = PermutationSpec.trace(model, x)
    found = match_activations(model, model, [x], spec, dtype=torch.bfloat16)
    assert all(torch.equal(p, torch.arange(16)) for p in found.values())


def test_without_groups_there_is_nothing_to_match() -> None:
    model = nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 3))
    spec = PermutationSpec.trace(model, torch.randn(2, 6))
    assert match_activations(model, model, [torch.randn(8, 6)], spec) == {}
    assert match_weights(model.state_dict(), model.state_dict(), spec) == {}


def test_weights_that_do_not_belong_together_are_named(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec],
) -> None:
    name, a, b, spec = pair
    part = dict(a.state_dict())
    lost = next(iter(part))
    del part[lost]
    with pytest.raises(ParameterError, match=f"the weights lack '{lost}' of the traced network"):
        match_activations(part, b, [inputs(name, 8)], spec, dtype=torch.float64)
    with pytest.raises(ParameterError, match=f"one architecture: {lost} is in one of them alone"):
        match_weights(part, b.state_dict(), spec)


def test_a_group_that_no_activation_shows_stays_as_it_is() -> None:
    class Constant(nn.Module):
        """A gate that is computed from a constant alone."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(1, 8), nn.Linear(8, 16)
            self.register_buffer("c", torch.ones(1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x.relu() * self.outer(self.inner(self.c).relu()).sigmoid()[..., None, None]

    model, x = own(Constant), torch.randn(16, 3, 8, 8)
    spec = PermutationSpec.trace(model, x)
    shown = {group for group, nodes in spec.points.items() if nodes}
    for points in ("last", "penultimate"):
        found = match_activations(model, model, [x], spec, points=points)  # type: ignore[arg-type]
        assert found.keys() == shown < spec.sizes.keys()
    assert permute(model.state_dict(), spec, found).keys() == model.state_dict().keys()


def test_an_empty_batch_is_passed_over(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec],
) -> None:
    name, a, b, spec = pair
    x = inputs(name, 40)
    some, all_of_it = (
        match_activations(a, b, batches, spec, dtype=torch.float64)
        for batches in ([x[:0], x, x[:0]], [x])
    )
    assert some.scores == all_of_it.scores


def test_precision_is_whole_meanwhile_and_as_it_was_afterwards() -> None:
    """Convolutions stay with cuDNN, and either of PyTorch's interfaces may have been used
    before.
    """
    # A choice can't be taken back: each has a process of its own, forked from one that has
    # imported PyTorch.
    program = """
import os, sys, torch
from lotperm.science import correlation
for choice in ("legacy high", "new tf32", "default"):
    if (child := os.fork()) == 0:
        break
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, choice
else:
    sys.exit()
if choice == "legacy high":
    torch.set_float32_matmul_precision("high")
elif choice == "new tf32":
    torch.backends.cuda.matmul.fp32_precision = "tf32"
kinds = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul]
before = [kind.fp32_precision for kind in kinds]
with correlation.full_precision():
    assert [kind.fp32_precision for kind in kinds] == ["ieee"] * 3
    assert torch.backends.cudnn.enabled
    assert not torch.backends.cudnn.allow_tf32
assert [kind.fp32_precision for kind in kinds] == before
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------------------- weight matching


def test_weight_matching_never_gets_worse_and_ends_at_an_optimum(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec],
) -> None:
    _, a, b, spec = pair
    weights_a, weights_b = a.state_dict(), b.state_dict()

    def objective(permutation: Mapping[str, Tensor]) -> float:
        moved = permute(weights_a, spec, permutation)
        return sum(
            (moved[k] * v).sum().item()
            for k, v in weights_b.items()
            if v.is_floating_point() and "running" not in k
        )

    path = [
        objective(match_weights(weights_a, weights_b, spec, seed=4, max_sweeps=k)) for k in range(5)
    ]
    final = match_weights(weights_a, weights_b, spec, seed=4)
    path.append(objective(final))
    assert path[0] >= objective(spec.identity())
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(path))
    assert path[-1] > path[0]
    # No exchange of two units improves a local optimum of the assignment problem.
    generator = torch.Generator().manual_seed(0)
    for group, p in final.items():
        for _ in range(5):
            i, j = torch.randperm(len(p), generator=generator)[:2]
            q = p.clone()
            q[i], q[j] = p[j], p[i]
            assert objective({**final, group: q}) <= path[-1] + 1e-9


def residual(blocks: int, n: int, h: int, bias: bool) -> nn.Module:
    """A residual MLP without nonlinearities on its stream, where many descents end too early."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.o = nn.Linear(12, n, bias), nn.Linear(n, 5)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(n, h, bias), nn.ReLU(), nn.Linear(h, n, bias))
                for _ in range(blocks)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.i(x)
            for block in self.blocks:
                x = x + block(x)
            return self.o(x)

    return Net()


@pytest.mark.parametrize(("blocks", "n", "h", "bias"), [(6, 30, 50, False), (6, 8, 12, True)])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_weight_matching_finds_every_permuted_copy(
    blocks: int, n: int, h: int, bias: bool, noise: float
) -> None:
    torch.manual_seed(0)
    spec = PermutationSpec.trace(residual(blocks, n, h, bias), torch.randn(2, 12))
    draw = torch.Generator().manual_seed(0)
    for _ in range(8):
        weights, p = residual(blocks, n, h, bias).state_dict(), spec.random(draw)
        copy_ = {
            name: t + noise * t.std() * torch.randn(t.shape, generator=draw)
            for name, t in permute(weights, spec, p).items()
        }
        found = match_weights(weights, copy_, spec)
        assert all(torch.equal(found[group], p[group]) for group in spec.sizes)
        assert min(found.scores.values()) > 1 - 2 * noise - 1e-6


def test_weight_matching_skips_only_what_can_not_change(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec],
) -> None:
    """The plain algorithm visits every group in every sweep, with products in float64."""
    _, a, b, spec = pair
    weights = [
        {
            k: t.double()
            for k, t in net.state_dict().items()
            if t.is_floating_point() and "running" not in k
        }
        for net in (a, b)
    ]
    moved, plain = dict(weights[0]), spec.identity()
    groups, generator = list(spec.sizes), np.random.default_rng(3)
    improved = True
    while improved:
        improved = False
        for index in generator.permutation(len(groups)):
            group = groups[index]
            pairs = zip(
                spec.unit_weights(moved, group), spec.unit_weights(weights[1], group), strict=True
            )
            step = assign(sum(y @ x.T for (_, x), (_, y) in pairs))
            trial = permute(moved, spec, {group: step})
            gain = sum(((trial[k] - moved[k]) * weights[1][k]).sum().item() for k in moved)
            if gain > 1e-9:
                moved, improved = trial, True
                plain[group] = plain[group][step]
    found = match_weights(a.state_dict(), b.state_dict(), spec, seed=3)
    assert all(torch.equal(found[group], plain[group]) for group in spec.sizes)


def test_weight_matching_is_reproducible_and_ignores_running_statistics(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec],
) -> None:
    _, a, b, spec = pair
    weights_b = b.state_dict()
    first = match_weights(a.state_dict(), weights_b, spec, seed=1)
    moved = {k: v * 50 + 3 if "running" in k else v for k, v in weights_b.items()}
    again = match_weights(a.state_dict(), moved, spec, seed=1)
    assert all(torch.equal(first[g], again[g]) for g in spec.sizes)
    assert first.scores == again.scores
    itself = match_weights(weights_b, weights_b, spec)
    assert all(torch.equal(p, torch.arange(len(p))) for p in itself.values())
    assert itself.scores == pytest.approx(dict.fromkeys(spec.sizes, 1.0))


def test_matching_survives_pickle_and_is_a_permutation() -> None:
    found = Matching({"layer": torch.tensor([1, 0])}, {"layer": 0.5}, {"layer": 0.1})
    again = pickle.loads(pickle.dumps(found))
    assert isinstance(again, dict)
    assert torch.equal(again["layer"], found["layer"])
    assert (again.scores, again.identity_scores, again.correlations) == (
        {"layer": 0.5},
        {"layer": 0.1},
        None,
    )


def mean_over_batch() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.h, self.o = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.i(x)
            return self.o(torch.relu(self.h(torch.relu(h - h.mean(0, keepdim=True)))))

    return Net()


@pytest.mark.parametrize("what", ["norm", "norm of images", "mean"])
@pytest.mark.parametrize("size", [4, 8, 64])
def test_a_network_that_mixes_examples_gets_whole_batches(what: str, size: int) -> None:
    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        if what == "mean":
            return mean_over_batch().eval()
        if what == "norm":
            own = nn.BatchNorm1d(16, track_running_stats=False)
            return nn.Sequential(nn.Linear(6, 16), own, nn.ReLU(), nn.Linear(16, 5)).eval()
        own2 = nn.BatchNorm2d(16, track_running_stats=False)
        layers = [nn.Conv2d(2, 16, 3), own2, nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)]
        return nn.Sequential(*layers).eval()

    shape = (2, 4, 4) if what == "norm of images" else (6,)
    a, b = network(0), network(1)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(size, *shape, generator=generator) for _ in range(64 // size)]
    spec = PermutationSpec.trace(a, batches[0])
    found = match_activations(a, b, batches, spec, keep_correlations=True)
    assert found.correlations
    for group, correlations in found.correlations.items():
        point = {group: spec.points[group][-1]}
        x, y = (
            torch.cat(
                [spec.activations(net.state_dict(), batch, point)[group] for batch in batches]
            )
            .movedim(1, -1)
            .flatten(0, -2)
            .double()
            for net in (a, b)
        )
        n = x.shape[1]
        expected = torch.corrcoef(torch.cat([y, x], 1).T)[:n, n:].nan_to_num()
        torch.testing.assert_close(correlations, expected, atol=1e-4, rtol=0)


def test_usual_networks_are_cut_into_chunks(
    pair: tuple[str, nn.Module, nn.Module, PermutationSpec],
) -> None:
    _, a, _, spec = pair
    last = {group: nodes[-1] for group, nodes in spec.points.items() if nodes}
    assert not mixes_examples(spec, a.state_dict(), last)
