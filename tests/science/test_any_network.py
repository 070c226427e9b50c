"""Networks and batches in the forms that users have: their symmetries, and f(permute(A)) == f(A)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from lotperm.errors import ParameterError, UnsupportedModelError
from lotperm.science.matching import match_activations, match_weights
from lotperm.science.symmetry import PermutationSpec, invert, permute

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(16, 20, generator=GENERATOR)
Y = torch.randn(16, 6, generator=GENERATOR)
IMAGE = torch.randn(16, 3, 16, 16, generator=GENERATOR)


class Net(nn.Module):
    """A network from its layers and a function of them and the input."""

    def __init__(self, body: Callable[..., Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


class TwoInputs(nn.Module):
    """The sum of two layers, each of an input of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(20, 8), nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor, y: Tensor, scale: Tensor | None = None) -> Tensor:
        h = F.relu(self.a(x) + self.b(y))
        return self.o(h if scale is None else h * scale)


class Wrapper(nn.Module):
    """Passes everything on, as hand-written wrappers do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


@dataclass
class Output:
    logits: Tensor
    features: Tensor
    loss: Tensor | None = None


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5)
    )


def spec_of(model: nn.Module, batch: Any, call: Callable[[nn.Module], Any]) -> PermutationSpec:
    """Trace a network; permuted at random it computes the same, and matching finds it again."""
    torch.manual_seed(0)
    model.eval()
    spec = PermutationSpec.trace(model, batch)
    p = spec.random(torch.Generator().manual_seed(1))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moved = permute(weights, spec, p)
    with torch.no_grad():
        before = call(model)
        model.load_state_dict(moved)
        torch.testing.assert_close(call(model), before, rtol=1e-4, atol=1e-5)
    model.load_state_dict(weights)
    back = match_activations(moved, weights, [batch], spec)
    seen = {group: order for group, order in invert(p).items() if group in back}
    assert all(torch.equal(back[group], order) for group, order in seen.items())
    return spec


def flat(x: Tensor) -> Tensor:
    return x.view(x.size(0), -1)


@pytest.mark.parametrize(
    "flatten",
    [
        flat,
        lambda x: x.view(-1, 8 * 14 * 14),
        lambda x: x.view_as(x).view(x.size(0), 2, 4, -1).view(x.size(0), -1),
        lambda x: x.contiguous().view(x.shape[0], 8 * 196),
        lambda x: (x.flatten(2).mul_(2), flat(x))[1],  # a view that is written into
    ],
)
def test_view_after_a_convolution(flatten: Callable[[Tensor], Tensor]) -> None:
    model = Net(
        lambda m, x: m.o(F.relu(m.f(flatten(F.relu(m.c(x)))))),
        c=nn.Conv2d(3, 8, 3),
        f=nn.Linear(8 * 196, 12),
        o=nn.Linear(12, 5),
    )
    assert spec_of(model, IMAGE, lambda m: m(IMAGE)).sizes == {"c": 8, "f": 12}


@pytest.mark.parametrize(
    ("body", "sizes"),
    [
        (lambda m, x: (m.o(F.relu(m.i(x))), m.i(x)), {}),  # the units themselves are an output
        (lambda m, x: (h := F.relu(m.i(x))) is None or (m.o(h), m.p(h)), {"i": 8}),
        (lambda m, x: (h := F.relu(m.i(x))) is None or {"a": m.o(h), "b": [m.p(h), 3]}, {"i": 8}),
        (lambda m, x: (h := F.relu(m.i(x))) is None or Output(m.o(h), m.p(h)), {"i": 8}),
    ],
)
def test_several_outputs(body: Callable[[Any, Tensor], Any], sizes: dict[str, int]) -> None:
    model = Net(body, i=nn.Linear(20, 8), o=nn.Linear(8, 5), p=nn.Linear(8, 2))

    def tensors(m: nn.Module) -> list[Tensor]:
        out = m(X)
        values = vars(out) if isinstance(out, Output) else out
        parts = list(values.values()) if isinstance(values, dict) else list(values)
        flat = [p[0] if isinstance(p, list) else p for p in parts]
        return [part for part in flat if isinstance(part, Tensor)]

    spec = spec_of(model, X, tensors)
    assert spec.sizes == sizes


def test_a_network_without_a_tensor_in_its_output_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="Net returns of type NoneType, expected"):
        PermutationSpec.trace(Net(lambda m, x: None, i=nn.Linear(20, 8)), X)


def test_wrappers() -> None:
    for model, prefix in ((nn.DataParallel(mlp()), "module."), (Wrapper(mlp()), "inner.")):
        sizes = spec_of(model, X, lambda m: m(X)).sizes
        assert sizes == {f"{prefix}0": 16, f"{prefix}2": 12}


@pytest.mark.parametrize("wrap", [lambda net: net, Wrapper])
@pytest.mark.parametrize(
    "batch",
    [(X, Y), {"y": Y, "x": X}, (X, Y, torch.full((16, 1), 0.5))],
    ids=["tuple", "dict", "three"],
)
def test_several_inputs(wrap: Callable[[nn.Module], nn.Module], batch: Any) -> None:
    def call(m: nn.Module) -> Tensor:
        return m(**batch) if isinstance(batch, dict) else m(*batch)

    spec = spec_of(wrap(TwoInputs()), batch, call)
    assert list(spec.sizes.values()) == [8]


def test_batches_of_several_inputs() -> None:
    """Labels after the inputs, or beside them, change nothing."""
    a, b = TwoInputs().eval(), TwoInputs().eval()
    labels = torch.zeros(16)
    spec = PermutationSpec.trace(a, [X, Y, labels])
    expected = match_activations(a, b, [(X, Y)], spec)["a"]
    for batch in ((X, Y, labels), [[X, Y], labels]):
        assert torch.equal(match_activations(a, b, [batch], spec)["a"], expected)
    named = PermutationSpec.trace(a, {"x": X, "y": Y, "labels": labels})
    for batches in ([{"y": Y, "x": X}], [({"x": X, "y": Y}, labels)], {"x": X, "y": Y}):
        assert torch.equal(match_activations(a, b, batches, named)["a"], expected)
    one = PermutationSpec.trace(a, (X[:1], Y[:1]))
    assert torch.equal(match_activations(a, b, [(X, Y)], one)["a"], expected)


def test_forms_of_batches() -> None:
    model = mlp()
    spec = PermutationSpec.trace(model, [X, torch.zeros(16)])  # as next(iter(loader)) gives it
    assert spec.sizes == {"0": 16, "2": 12}
    one = match_activations(model, model, X, spec)  # the only batch
    assert torch.equal(one["0"], torch.arange(16))
    assert torch.equal(match_weights(model, model, spec)["0"], torch.arange(16))
    same = permute(model, spec, spec.identity())
    assert same.keys() == model.state_dict().keys()
    for batches, got in (([{"image": X}], "a dict with image"), (["x"], "of type str")):
        with pytest.raises(ParameterError, match=f"a batch is {got}, but .* with one tensor"):
            match_activations(model, model, batches, spec)
    with pytest.raises(ParameterError, match=r"has shape \(B, 4\), but .* with \(B, 20\)"):
        match_activations(model, model, [X[:, :4]], spec)
    two = PermutationSpec.trace(TwoInputs(), (X, Y))
    with pytest.raises(ParameterError, match=r"one tensor of shape .*, but .* with 2 inputs"):
        match_activations(TwoInputs(), TwoInputs(), [X], two)


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (TwoInputs(), X, r"TwoInputs fails on the example input.* missing .* argument: 'y'"),
        (mlp(), {"image": X}, r"Sequential fails on the example input, which is a dict with image"),
        (mlp(), X[:, :3], r"shape \(16, 3\): RuntimeError: mat1 and mat2 shapes"),
        (
            nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)),
            torch.full((4, 3), 9),
            r"Sequential fails on the example input.* IndexError: index out of range",
        ),
        (mlp(), "x", r"example_input is of type str, expected a batch"),
        (mlp(), (), r"at least one example, got a tuple of 0"),
        (nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), X, r"0.weight has no shape yet"),
        (
            Net(lambda m, x: m.o(F.dropout(m.i(x))), i=nn.Linear(20, 8), o=nn.Linear(8, 5)),
            X,
            r"two passes .* differ, so it is random, by aten.dropout.*test_any_network",
        ),
    ],
)
def test_errors_name_the_cause(model: nn.Module, batch: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as info:
        PermutationSpec.trace(model, batch)
    assert "\n" not in str(info.value)


def hidden(body: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    """A layer of 8 units, a function of them and the input, and a classifier."""
    return Net(lambda m, x: m.o(body(F.relu(m.i(x)), x)), i=nn.Linear(20, 8), o=nn.Linear(8, 5))


@pytest.mark.parametrize(
    "body",
    [
        lambda h, x: h / h.norm(dim=1, keepdim=True),
        lambda h, x: F.normalize(h, dim=1),
        lambda h, x: h - h.mean(1, keepdim=True).repeat(1, 8),
        lambda h, x: h * torch.stack([h.mean(1)] * 8, 1),
        lambda h, x: h * torch.cat([x.mean(1, keepdim=True)] * 8, 1).sigmoid(),
        lambda h, x: h * h.amax(1)[:, None].expand(-1, 8),
        lambda h, x: h * h.mean(1, keepdim=True).repeat_interleave(8, 1),
        lambda h, x: (
            (h - h.mean(1, keepdim=True).expand_as(h))
            / (h.std(1, keepdim=True) + 1e-3).expand_as(h).sqrt()
        ),
        lambda h, x: h * (h.mean(1, keepdim=True).expand_as(h) + x.mean(1, keepdim=True)),
        lambda h, x: h - torch.std_mean(h, 1, keepdim=True)[1].expand_as(h),
        lambda h, x: h - h.max(1, keepdim=True).values.expand_as(h),
    ],
)
def test_broadcast_statistics_leave_units_free(body: Callable[[Tensor, Tensor], Tensor]) -> None:
    spec = spec_of(hidden(body), X, lambda m: m(X))
    assert spec.sizes == {"i": 8}
    assert spec.fixed == ()


@pytest.mark.parametrize(
    ("body", "operation", "count"),
    [
        (lambda h, x: h * x[:, :8], "aten.mul.Tensor", 8),
        (lambda h, x: h + torch.arange(8.0), "aten.add.Tensor", 8),
        (lambda h, x: h.cumsum(1), "aten.cumsum.default", 8),
        (lambda h, x: h * h.argmax(1, keepdim=True), "aten.argmax.default", 8),
        (lambda h, x: h + h[:, :1], "aten.add.Tensor", 1),
        (lambda h, x: torch.cat([h[:, :1].exp(), h[:, 1:]], 1), "aten.slice.Tensor", 1),
        (
            lambda h, x: (
                F.batch_norm(h.mean(1, keepdim=True).expand_as(h), x[0, :8], x[0, :8] ** 2) * h
            ),
            "aten.mul.Tensor",
            8,
        ),
    ],
)
def test_what_is_fixed_is_said(
    body: Callable[[Tensor, Tensor], Tensor], operation: str, count: int
) -> None:
    model = hidden(body)
    if count == 8:
        with pytest.warns(UserWarning, match=r"no unit moves in i: 8 of 8 units fixed by aten"):
            spec = PermutationSpec.trace(model, X)
        assert spec.sizes == {}
    else:
        spec = spec_of(model, X, lambda m: m(X))
        assert spec.sizes == {"i": 8 - count}
    (fixed,) = spec.fixed
    assert (fixed.layer, len(fixed.units), fixed.total) == ("i", count, 8)
    assert fixed.operation == operation
    assert fixed.file == __file__
    assert str(fixed) in repr(spec)


def test_hidden_units_that_are_an_output_too_are_said() -> None:
    model = Net(lambda m, x: (m.o(h := m.i(x)), h), i=nn.Linear(20, 8), o=nn.Linear(8, 5))
    with pytest.warns(UserWarning, match="no unit moves in i: 8 of 8 units fixed by output"):
        (fixed,) = PermutationSpec.trace(model, X).fixed
    assert fixed.operation == "output"


class Mixer(nn.Module):
    """MLP-Mixer: tokens are mixed by linear layers over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.pe, self.n1, self.n2 = nn.Conv2d(3, 12, 4, 4), nn.LayerNorm(12), nn.LayerNorm(12)
        self.t1, self.t2 = nn.Linear(16, 10), nn.Linear(10, 16)
        self.c1, self.c2, self.o = nn.Linear(12, 14), nn.Linear(14, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pe(x).flatten(2).transpose(1, 2)
        x = x + self.t2(F.gelu(self.t1(self.n1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.c2(F.gelu(self.c1(self.n2(x))))
        return self.o(x.mean(1))


TIME = torch.randn(16, 6, 5, generator=GENERATOR)


@pytest.mark.parametrize(
    ("model", "x", "sizes"),
    [
        (Mixer(), IMAGE, {"pe": 12, "t1": 10, "c1": 14}),
        (
            Net(
                lambda m, x: m.o(torch.tanh(m.b(m.t(torch.tanh(m.i(x))))).mean(1)),
                i=nn.Linear(5, 8),
                t=nn.Conv1d(6, 6, 1),
                b=nn.BatchNorm1d(6),
                o=nn.Linear(8, 5),
            ),
            TIME,
            {"i": 8, "t": 6},
        ),
        (
            Net(
                lambda m, x: m.o(m.w(torch.tanh(m.c(x))).mean((2, 3))),
                c=nn.Conv2d(3, 8, 3),
                w=nn.Linear(14, 7),
                o=nn.Linear(8, 5),
            ),
            IMAGE,
            {"c": 8, "w": 7},
        ),
        (
            Net(
                lambda m, x: m.o(F.relu(m.i(x)).cumsum(1).max(1).values),
                i=nn.Linear(5, 8),
                o=nn.Linear(8, 5),
            ),
            TIME,
            {"i": 8},
        ),
    ],
    ids=["mixer", "convolution over tokens", "linear over width", "cumsum over time"],
)
def test_mixing_over_other_axes_leaves_units_free(
    model: nn.Module, x: Tensor, sizes: dict[str, int]
) -> None:
    assert spec_of(model, x, lambda m: m(x)).sizes == sizes


@pytest.mark.parametrize(
    ("model", "x", "sizes", "fixed"),
    [
        (nn.Sequential(nn.Linear(20, 8), nn.RMSNorm(8), nn.Linear(8, 5)), X, {"0": 8}, []),
        (nn.Sequential(nn.Linear(20, 16), nn.GLU(), nn.Linear(8, 5)), X, {"0": 8}, []),
        (
            nn.Sequential(
                nn.Conv2d(3, 8, 3),
                nn.ReLU(),
                nn.ConvTranspose2d(8, 8, 4, 2, groups=8),
                nn.Conv2d(8, 3, 3),
            ),
            IMAGE,
            {"0": 8},
            [],
        ),
        (
            nn.Sequential(
                nn.Conv2d(3, 8, 3),
                nn.ReLU(),
                nn.ConvTranspose2d(8, 12, 4, 2, groups=2),
                nn.ReLU(),
                nn.Conv2d(12, 3, 3),
            ),
            IMAGE,
            {"0/blocks": 2, "0": 8, "2/weights": 48, "2": 12},
            [],
        ),
    ],
    ids=[
        "RMSNorm",
        "GLU",
        "depthwise transposed",
        "grouped transposed",
    ],
)
@pytest.mark.filterwarnings("ignore:no unit moves")
def test_layers_without_a_rule_fix_their_own_units_alone(
    model: nn.Module, x: Tensor, sizes: dict[str, int], fixed: list[str]
) -> None:
    spec = spec_of(model, x, lambda m: m(x))
    assert spec.sizes == sizes
    assert [part.layer for part in spec.fixed] == fixed


def test_randomness_without_a_rule_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"it is random, by aten.randn_like"):
        PermutationSpec.trace(hidden(lambda h, x: h + torch.randn_like(h)), X)


class Masked(nn.Linear):
    """A linear layer that keeps its mask in a buffer."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.register_buffer("mask", (torch.rand(n_out, n_in) < 0.5).float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class Standardized(nn.Conv2d):
    """A convolution with weight standardization."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(
            x, w / (w.std((1, 2, 3), keepdim=True) + 1e-5), self.bias, groups=self.groups
        )


def pruned() -> nn.Module:
    model = mlp()
    for i in (0, 2, 4):
        prune.l1_unstructured(model[i], "weight", 0.5)
    return model


def matrices(body: Callable[[Any, Tensor], Tensor], w: tuple[int, int]) -> nn.Module:
    return Net(
        body,
        w=nn.Parameter(torch.randn(w)),
        v=nn.Parameter(torch.randn(5, 12)),
        s=nn.Parameter(torch.rand(12) + 0.5),
        o=nn.Linear(12, 5),
    )


class LowRank(nn.Module):
    """A linear layer with a low-rank update (Hu et al. 2022), added to weights or to outputs."""

    def __init__(self, n_in: int, n_out: int, merged: bool) -> None:
        super().__init__()
        self.base, self.merged = nn.Linear(n_in, n_out), merged
        self.A = nn.Parameter(torch.randn(4, n_in))
        self.B = nn.Parameter(torch.randn(n_out, 4))

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return F.linear(x, self.base.weight + 0.5 * (self.B @ self.A), self.base.bias)
        return self.base(x) + 0.5 * (x @ self.A.T) @ self.B.T


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (lambda: nn.Sequential(LowRank(20, 16, True), nn.ReLU(), LowRank(16, 5, True)), [4, 16, 4]),
        (
            lambda: nn.Sequential(LowRank(20, 16, False), nn.ReLU(), LowRank(16, 5, False)),
            [16, 4, 4],
        ),
        (
            lambda: nn.Sequential(
                spectral_norm(nn.Linear(20, 16)), nn.ReLU(), spectral_norm(nn.Linear(16, 5))
            ),
            [16],
        ),
        (
            lambda: nn.Sequential(
                old_spectral_norm(nn.Linear(20, 16)), nn.ReLU(), nn.Linear(16, 5)
            ),
            [16],
        ),
        (lambda: nn.Sequential(Masked(20, 16), nn.ReLU(), Masked(16, 5)), [16]),
        (lambda: nn.Sequential(weight_norm(nn.Linear(20, 16)), nn.Tanh(), nn.Linear(16, 5)), [16]),
        (pruned, [16, 12]),
        (
            lambda: Net(lambda m, x: F.linear(F.relu(m.e(x)), m.e.weight.t()), e=nn.Linear(20, 12)),
            [12],
        ),
        (lambda: matrices(lambda m, x: F.relu(x @ m.w.T) @ m.v.T, (12, 20)), [12]),
        (lambda: matrices(lambda m, x: (m.v @ F.relu(m.w @ x.T)).T, (12, 20)), [12]),
        (lambda: matrices(lambda m, x: m.o(F.relu(torch.mm(x, m.w))), (20, 12)), [12]),
        (lambda: matrices(lambda m, x: m.o(F.relu(torch.addmm(m.s, x, m.w))), (20, 12)), [12]),
        (
            lambda: matrices(lambda m, x: m.o(F.relu(F.linear(x, m.w * m.s[:, None]))), (12, 20)),
            [12],
        ),
        (
            lambda: matrices(lambda m, x: m.o(F.relu(torch.einsum("bi,oi->bo", x, m.w))), (12, 20)),
            [12],
        ),
        (
            lambda: matrices(
                lambda m, x: m.o(torch.einsum("io,bi->ob", m.w, x).T.relu()), (20, 12)
            ),
            [12],
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:no unit moves")
def test_computed_weights(make: Callable[[], nn.Module], sizes: list[int]) -> None:
    torch.manual_seed(0)
    assert list(spec_of(make(), X, lambda m: m(X)).sizes.values()) == sizes


def test_groups_are_named_after_layers() -> None:
    assert PermutationSpec.trace(pruned(), X).sizes == {"0": 16, "2": 12}
    normed = nn.Sequential(weight_norm(nn.Linear(20, 16)), nn.Linear(16, 5))
    assert PermutationSpec.trace(normed, X).sizes == {"0": 16}


def test_computed_kernels() -> None:
    model = nn.Sequential(
        Standardized(3, 8, 3),
        nn.ReLU(),
        Standardized(8, 12, 3, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )
    sizes = spec_of(model, IMAGE, lambda m: m(IMAGE)).sizes
    assert list(sizes.values()) == [2, 8, 48, 12]
