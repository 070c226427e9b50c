"""Matching by gradients, against float64 gradients that plain PyTorch takes of the network itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from science.settled import settle
from torch import Tensor, nn
from typechecking import unchecked

from lotperm.engine.models import build
from lotperm.errors import ParameterError
from lotperm.science import correlation
from lotperm.science.correlation import correlate
from lotperm.science.matching import match_activations, match_gradients
from lotperm.science.matching.gradients import Gradients
from lotperm.science.mixing import mixes_examples
from lotperm.science.preactivations import before_nonlinearities
from lotperm.science.symmetry import PermutationSpec, permute

SIGNALS = ("gradients", "attributions")
SHAPES = {"mlp": (1, 20), "resnet8": (3, 12, 12), "vgg11": (1, 32), "vit_tiny": (1, 40)}


def network(name: str, seed: int) -> nn.Module:
    """A float64 network whose batch norms aren't those of a fresh one."""
    torch.manual_seed(seed)
    model = build(name, input_shape=SHAPES[name], classes=4, width=0.25, hidden=(24, 20)).double()
    return settle(model, batch(name, 64, seed)[0])


@cache
def traced(name: str) -> PermutationSpec:
    return PermutationSpec.trace(network(name, 1), batch(name, 2)[0])


def batch(name: str, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *SHAPES[name], generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 4, (n,), generator=generator)


def relus(
    model: nn.Module, x: Tensor, y: Tensor, loss: Callable[..., Tensor] = F.cross_entropy
) -> list[tuple[Tensor, Tensor]]:
    """What each call of a ReLU puts out, and the gradient there, by hooks and `backward`."""
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: object, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.ReLU)]
    loss(model(x), y, reduction="sum").backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    assert all(value.grad is not None for value in seen)
    return [(value.detach(), value.grad) for value in seen]  # type: ignore[misc]


def reference(a: list[Tensor], b: list[Tensor]) -> np.ndarray:
    """Unit of B by unit of A, from whole float64 signals (B, n, *spatial)."""
    x, y = (v[0].movedim(1, 0).flatten(1).numpy() for v in (a, b))
    n = len(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(np.corrcoef(y, x)[:n, n:])


def signal_at(
    model: nn.Module, spec: PermutationSpec, group: str, node: str, x: Tensor, y: Tensor, what: str
) -> Tensor:
    """The signal of a group at a point, which is told from the other ReLUs by its values."""
    values = spec.activations(model.state_dict(), x, {group: node})[group]
    calls = relus(model, x, y)
    flat = (len(x), -1)
    (found,) = [
        gradient * (value if what == "attributions" else 1)
        for value, gradient in calls
        if value.numel() == values.numel()
        and torch.allclose(value.reshape(flat), values.reshape(flat))
    ]
    return found


@pytest.mark.parametrize("what", SIGNALS)
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("name", ["mlp", "resnet8", "vgg11"])
def test_signals_correlate_as_plain_gradients_do(name: str, place: int, what: str) -> None:
    """At the first and at the last point of each group: a residual stream has several."""
    a, b = network(name, 1), network(name, 2)
    x, y = batch(name, 70)
    spec = traced(name)
    points = {group: nodes[place] for group, nodes in spec.points.items()}
    found = match_gradients(
        a, b, [(x[:45], y[:45]), (x[45:], y[45:])], spec, signal=what, points=points,
        keep_correlations=True, dtype=torch.float64,
    )  # fmt: skip
    assert found.correlations is not None and found.correlations.keys() == spec.sizes.keys()
    for group, node in points.items():
        signals = [[signal_at(net, spec, group, node, x, y, what)] for net in (a, b)]
        expected = reference(*signals)
        assert np.abs(expected).max() > 0.002
        np.testing.assert_allclose(found.correlations[group], expected, atol=1e-9)


def test_residual_streams_have_other_gradients_at_each_point() -> None:
    a, b = network("resnet8", 1), network("resnet8", 2)
    data = [batch("resnet8", 40)]
    spec = traced("resnet8")
    assert max(map(len, spec.points.values())) > 1
    first = {group: nodes[0] for group, nodes in spec.points.items() if len(nodes) > 1}
    early, late = (
        match_gradients(a, b, data, spec, points=p, keep_correlations=True).correlations
        for p in (first, "last")
    )
    assert early and late
    for group in spec.sizes:
        assert torch.equal(early[group], late[group]) == (group not in first)


class Writes(nn.Module):
    """Writes into what its nonlinearities put out, or computes the same without writing."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.i, self.h, self.o = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        if not self.inplace:
            h = F.relu(self.i(x)) * 2
            return self.o(3 * (F.gelu(self.h(h)) + h))
        self.calls += 1
        h = F.relu(self.i(x))
        h *= 2
        g = F.gelu(self.h(h))
        g += h
        g *= 3
        return self.o(g)


@pytest.mark.parametrize("what", SIGNALS)
def test_what_is_written_into_later_has_the_gradient_of_its_point(what: str) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(80, 6), torch.randint(0, 4, (80,))
    written, plain = ([Writes(inplace) for _ in range(2)] for inplace in (True, False))
    for one, other in zip(written, plain, strict=True):
        other.load_state_dict(one.state_dict())
    found: dict[str, list[Tensor]] = {"relu": [], "gelu": []}
    for a, b in (written, plain):
        spec = PermutationSpec.trace(a, x[:2])
        assert spec.points == {"i": tuple(found)}
        for node, matrices in found.items():
            matching = match_gradients(
                a, b, [(x, y)], spec, signal=what, points={"i": node}, keep_correlations=True
            )
            assert matching.correlations
            matrices.append(matching.correlations["i"])
    for one, other in found.values():
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert not torch.allclose(found["relu"][0], found["gelu"][0], atol=0.1)


@pytest.mark.parametrize("what", SIGNALS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_permuted_copy_is_found(name: str, what: str) -> None:
    a = network(name, 3)
    x, y = batch(name, 120)
    spec = traced(name)
    planted = spec.random(torch.Generator().manual_seed(0))
    copy = permute(a.state_dict(), spec, planted)
    found = match_gradients(
        a, copy, [(x, y)], spec, signal=what, dtype=torch.float64, keep_correlations=True
    )
    assert found.keys() == planted.keys() and found.correlations
    for group, matrix in found.correlations.items():
        # Units that are never active have no attribution, and can't be told apart.
        alive = (matrix != 0).any(0)
        assert alive.all() or (what == "attributions" and alive.double().mean() > 0.8)
        here = planted[group][alive[planted[group]]]
        assert torch.equal(found[group][alive[planted[group]]], here)
        assert found.scores[group] == pytest.approx(alive.double().mean().item())
        assert found.identity_scores[group] < 0.9 * found.scores[group]


def test_before_their_nonlinearity_units_have_gradients_where_they_are_active() -> None:
    """At the ReLU's input the gradient is that at its output, but 0 where the unit is silent."""
    a, b = network("mlp", 1), network("mlp", 2)
    x, y = batch("mlp", 60)
    spec = traced("mlp")
    before = before_nonlinearities(spec)
    found = match_gradients(a, b, [(x, y)], before, keep_correlations=True, dtype=torch.float64)
    assert found.correlations
    for group, nodes in spec.points.items():
        signals = []
        for net in (a, b):
            value = spec.activations(net.state_dict(), x, {group: nodes[-1]})[group]
            gradient = signal_at(net, spec, group, nodes[-1], x, y, "gradients")
            signals.append([gradient * (value > 0)])
        np.testing.assert_allclose(found.correlations[group], reference(*signals), atol=1e-9)


def test_batches_and_threads_dont_matter() -> None:
    a, b = network("resnet8", 1), network("resnet8", 2)
    x, y = batch("resnet8", 150)
    spec = traced("resnet8")
    points = {group: nodes[-1] for group, nodes in spec.points.items()}

    def moments(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        found = correlate(a, b, pairs, spec, points, features=Gradients(), dtype=torch.float64)
        return {group: sums.correlation() for group, sums in found.items()}

    whole = moments([(x, y)])
    parts = moments([(x[50:], y[50:]), (x[:50], y[:50])])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        spread = moments([(x, y)])
    finally:
        torch.set_num_threads(threads)
    for group, matrix in whole.items():
        torch.testing.assert_close(parts[group], matrix, atol=1e-10, rtol=0)
        assert torch.equal(spread[group], matrix)


def test_each_network_runs_backward_once_for_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = network("mlp", 1), network("mlp", 2)
    x, y = batch("mlp", 3 * correlation.CHUNK)
    spec = traced("mlp")
    passes, grad = [], torch.autograd.grad

    def counted(outputs: Tensor, inputs: list[object], **options: object) -> object:
        passes.append(len(inputs))
        return grad(outputs, inputs, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.autograd, "grad", counted)
    match_gradients(a, b, [(x, y)], spec)
    # Four chunks at least, and all groups at once.
    assert passes == [len(spec.sizes)] * 2 * 4


def test_networks_stay_as_they_are() -> None:
    a, b = network("resnet8", 1).train(), network("resnet8", 2).train()
    before = {name: tensor.clone() for name, tensor in a.state_dict().items()}
    x, y = batch("resnet8", 20)
    spec = traced("resnet8")
    with torch.no_grad():
        match_gradients(a, b, [(x, y)], spec, dtype=torch.float64)
    assert a.training and all(p.grad is None and p.requires_grad for p in a.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in a.state_dict().items())


class TwoWays(nn.Module):
    """Takes two inputs and gives two outputs; the units of `idle` do nothing for the first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(5, 16), nn.Linear(3, 16), nn.Linear(16, 2)
        self.idle, self.end = nn.Linear(3, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.o(F.relu(self.a(x)) + F.relu(self.b(z))), self.end(F.relu(self.idle(z)))


def test_losses_of_ones_own_and_several_inputs_and_outputs() -> None:
    torch.manual_seed(0)
    a = TwoWays()
    x, z, y = torch.randn(90, 5), torch.randn(90, 3), torch.randn(90, 2)
    spec = PermutationSpec.trace(a, (x, z))
    planted = spec.random(torch.Generator().manual_seed(0))
    copy = permute(a.state_dict(), spec, planted)

    def squares(outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        return (outputs[0] - labels).square().sum(1)

    found = match_gradients(a, copy, [((x, z), y)], spec, loss=squares)
    (idle,) = [group for group, n in spec.sizes.items() if n == 6]
    for group, p in planted.items():
        # What the loss doesn't depend on stays where it is.
        expected = torch.arange(len(p)) if group == idle else p
        assert torch.equal(found[group], expected)
        assert found.scores[group] == pytest.approx(0 if group == idle else 1, abs=1e-5)


class BehindTheUnits(nn.Module):
    """Mixes the examples of a batch, but only behind its units."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.o(F.relu(self.i(x)))
        return y - 2 * y.mean(0, keepdim=True)


def test_examples_that_are_mixed_behind_the_units_run_together() -> None:
    torch.manual_seed(0)
    a, b = BehindTheUnits(), BehindTheUnits()
    x, y = torch.randn(48, 6), torch.randint(0, 4, (48,))
    spec = PermutationSpec.trace(a, x)
    points = {group: nodes[-1] for group, nodes in spec.points.items()}
    assert not mixes_examples(spec, a.state_dict(), points)
    assert mixes_examples(spec, a.state_dict(), None)
    found = match_gradients(a, b, [(x, y)], spec, keep_correlations=True, dtype=torch.float64)
    signals = []
    for net in (a.double(), b.double()):
        h = F.relu(net.i(x.double())).detach().requires_grad_()
        out = net.o(h)
        F.cross_entropy(out - 2 * out.mean(0, keepdim=True), y, reduction="sum").backward()
        signals.append([h.grad])
    assert found.correlations
    (matrix,) = found.correlations.values()
    np.testing.assert_allclose(matrix, reference(*signals), atol=1e-9)  # type: ignore[arg-type]


def test_what_cant_be_used_is_refused() -> None:
    a = network("mlp", 1)
    x, y = batch("mlp", 20)
    spec = traced("mlp")
    with pytest.raises(ParameterError, match=r"one tensor of shape .* pairs of inputs"):
        match_gradients(a, a, [x], spec)
    with pytest.raises(ParameterError, match=r"one tensor of shape .* pairs of inputs"):
        match_gradients(a, a, x, spec)
    with pytest.raises(ParameterError, match="expected a tensor that begins with the 20 examples"):
        match_gradients(a, a, [(x, y[:-1])], spec)
    with pytest.raises(ParameterError, match="a differentiable number for each example"):
        match_gradients(a, a, [(x, y)], spec, loss=F.cross_entropy, dtype=torch.float64)
    with pytest.raises(ParameterError, match="a differentiable number for each example"):
        match_gradients(a, a, [(x, y)], spec, loss=lambda out, _: out.detach())
    with unchecked(), pytest.raises(ParameterError, match="Did you mean 'gradients'"):
        match_gradients(a, a, [(x, y)], spec, signal="gradient")  # type: ignore[arg-type]


class InputsInParts:
    """Gives any rows of its inputs, and has no labels."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter([batch("mlp", 20)[0]])

    def parts(self, cut: Callable[[int], Sequence[slice]]) -> Iterator[list[Tensor]]:
        (x,) = self
        yield [x[rows] for rows in cut(20)]


def test_inputs_that_come_in_parts_have_no_labels() -> None:
    a = network("mlp", 1)
    assert match_activations(a, a, InputsInParts(), traced("mlp"))
    with pytest.raises(ParameterError, match="inputs alone; gradients need pairs"):
        match_gradients(a, a, InputsInParts(), traced("mlp"))


class Cut(nn.Module):
    """Cuts its units off from their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.relu(self.i(x).detach()))


def test_units_without_a_gradient_are_refused() -> None:
    a, x = Cut(), torch.randn(9, 6)
    spec = PermutationSpec.trace(a, x)
    match_activations(a, a, [x], spec)
    with pytest.raises(ParameterError, match="cuts their outputs off"):
        match_gradients(a, a, [(x, torch.zeros(9, dtype=torch.int64))], spec)
