"""Matching by weights with all groups at once, and of many networks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lotperm.engine.models import build
from lotperm.errors import ParameterError
from lotperm.science.frank_wolfe import match_weights_jointly
from lotperm.science.matching import match_weights, weight_agreement
from lotperm.science.merging import match_many
from lotperm.science.symmetry import PermutationSpec, compose, invert, permute


def _mlp() -> tuple[nn.Module, Tensor]:
    return build("mlp", input_shape=(1, 12), classes=3, hidden=(14, 10)), torch.randn(2, 1, 12)


def _resnet() -> tuple[nn.Module, Tensor]:
    network = build("resnet8", input_shape=(3, 8, 8), classes=3, width=0.25)
    return network, torch.randn(2, 3, 8, 8)


def _encoder() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(12, 3, 10, dropout=0, batch_first=True)
    return nn.Sequential(layer, nn.Linear(12, 3)), torch.randn(2, 5, 12)


NETWORKS = {"mlp": _mlp, "resnet": _resnet, "encoder": _encoder}


@pytest.fixture(scope="module", params=list(NETWORKS))
def traced(
    request: pytest.FixtureRequest,
) -> tuple[Callable[[int], dict[str, Tensor]], PermutationSpec]:
    """A function that makes random weights of an architecture, and its symmetries."""
    torch.manual_seed(0)
    network, inputs = NETWORKS[request.param]()
    spec = PermutationSpec.trace(network, inputs)
    shapes = {name: p.shape for name, p in network.named_parameters()}

    def weights(seed: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}

    return weights, spec


def test_a_permuted_copy_is_recovered(
    traced: tuple[Callable[[int], dict[str, Tensor]], PermutationSpec],
) -> None:
    weights, spec = traced
    a = weights(1)
    hidden = spec.random(torch.Generator().manual_seed(2))
    b = permute(a, spec, hidden)
    found = match_weights_jointly(a, b, spec)
    assert weight_agreement(a, b, spec, found) == pytest.approx(1, abs=1e-6)
    assert all(torch.equal(permute(a, spec, found)[name], b[name]) for name in b)


def test_independent_networks_are_matched_about_as_well_as_group_by_group(
    traced: tuple[Callable[[int], dict[str, Tensor]], PermutationSpec],
) -> None:
    weights, spec = traced
    a, b = weights(3), weights(4)
    joint = weight_agreement(a, b, spec, match_weights_jointly(a, b, spec))
    single = weight_agreement(a, b, spec, match_weights(a, b, spec))
    assert joint > 0.9 * single > 0
    # The same problem from the other side: nothing depends on which of the two is moved.
    back = weight_agreement(b, a, spec, match_weights_jointly(b, a, spec))
    assert back == pytest.approx(joint, rel=0.1)


def test_one_group_is_matched_exactly() -> None:
    """With one hidden layer there is one assignment, so the relaxed problem is the real one."""
    torch.manual_seed(0)
    network = build("mlp", input_shape=(1, 6), classes=2, hidden=(5,))
    spec = PermutationSpec.trace(network, torch.randn(2, 1, 6))
    a, b = (
        {name: torch.randn(p.shape, dtype=torch.float64) for name, p in network.named_parameters()}
        for _ in range(2)
    )
    (group,) = spec.sizes
    best = max(
        weight_agreement(a, b, spec, {group: torch.tensor(p)})
        for p in itertools.permutations(range(5))
    )
    for match in (match_weights, match_weights_jointly):
        assert weight_agreement(a, b, spec, match(a, b, spec)) == pytest.approx(best, abs=1e-12)


def test_a_descent_never_ends_below_its_start(
    traced: tuple[Callable[[int], dict[str, Tensor]], PermutationSpec],
) -> None:
    weights, spec = traced
    a, b = weights(5), weights(6)
    start = match_weights_jointly(a, b, spec)
    refined = match_weights(a, b, spec, init=start)
    before, after = (weight_agreement(a, b, spec, p) for p in (start, refined))
    assert after >= before - 1e-9
    # With no sweep at all the start comes back, whatever it is.
    assert all(
        torch.equal(p, start[g])
        for g, p in match_weights(a, b, spec, init=start, max_sweeps=0).items()
    )


def test_many_copies_come_into_one_order(
    traced: tuple[Callable[[int], dict[str, Tensor]], PermutationSpec],
) -> None:
    weights, spec = traced
    base = weights(7)
    draw = torch.Generator().manual_seed(8)
    hidden = [spec.random(draw) for _ in range(3)]
    networks = [permute(base, spec, p) for p in hidden]
    orders = match_many(networks, spec)
    # The first network gives the order.
    assert all(torch.equal(p, torch.arange(len(p))) for p in orders[0].values())
    for i, j in itertools.permutations(range(3), 2):
        way = compose(invert(orders[j]), orders[i])
        moved = permute(networks[i], spec, way)
        assert all(torch.equal(moved[name], networks[j][name]) for name in moved)


def test_many_networks_may_count_batches() -> None:
    """A batch norm's counter is a whole number; the mean of several networks has none."""

    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        layers = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)
        return nn.Sequential(*layers)

    spec = PermutationSpec.trace(made(0), torch.randn(3, 4))
    base, hidden = made(1).state_dict(), spec.random(torch.Generator().manual_seed(2))
    orders = match_many([base, permute(base, spec, hidden), made(3)], spec)
    assert all(torch.equal(orders[1][g], invert(hidden)[g]) for g in spec.sizes)


def test_many_needs_two() -> None:
    torch.manual_seed(0)
    network, inputs = _mlp()
    with pytest.raises(ParameterError, match="got 1 networks; expected two or more"):
        match_many([network], PermutationSpec.trace(network, inputs))
