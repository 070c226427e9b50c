"""Networks as users write them by hand: which units are free, and f(permute(A)) == f(A)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from science.test_any_network import IMAGE, Net, X, spec_of
from torch import Tensor, nn
from torch.nn import functional as F

from lotperm.errors import ParameterError
from lotperm.science.matching import match_weights
from lotperm.science.symmetry import PermutationSpec

GENERATOR = torch.Generator().manual_seed(0)
TOKENS = torch.randn(16, 6, 8, generator=GENERATOR)
WORDS = torch.randint(0, 20, (16, 7), generator=GENERATOR)
KEPT = torch.rand(16, 20, generator=GENERATOR) < 0.5
EDGES = torch.randint(0, 6, (2, 9), generator=GENERATOR)


def dense(body: Callable[[Any, Tensor], Tensor], n: int, **own: Any) -> Net:
    """A layer ``i`` of n units, other layers and parameters, and a function of them."""
    return net(body, i=nn.Linear(20, n), o=nn.Linear(n, 5), **own)


def tokens(body: Callable[[Any, Tensor], Tensor], n: int, **own: Any) -> Net:
    return net(body, i=nn.Linear(8, n), o=nn.Linear(n, 5), **own)


def image(body: Callable[[Any, Tensor], Tensor], n: int, **own: Any) -> Net:
    return net(body, **({"c": nn.Conv2d(3, 8, 3)} | own), o=nn.Linear(n, 5))


def net(body: Callable[[Any, Tensor], Tensor], **own: Any) -> Net:
    """Layers and bare tensors: of floats parameters, of other numbers buffers."""
    held = {n: t for n, t in own.items() if isinstance(t, Tensor) and not t.is_floating_point()}
    rest = {n: t for n, t in own.items() if n not in held}
    model = Net(
        body, **{n: nn.Parameter(t) if isinstance(t, Tensor) else t for n, t in rest.items()}
    )
    for name, tensor in held.items():
        model.register_buffer(name, tensor)
    return model


def weighted(body: Callable[[Any, Tensor], Tensor], **own: Any) -> Net:
    """Weights ``w`` of 16 units of 20 inputs that are computed before they are used."""
    w = torch.randn(16, 20, generator=GENERATOR)
    return net(lambda m, x: m.o(F.linear(x, body(m, m.w)).tanh()), w=w, o=nn.Linear(16, 5), **own)


def selective(m: Any, x: Tensor) -> Tensor:
    """A scan whose state has an axis for channels and another for its size."""
    u, dt, into, out = F.silu(m.i(x)), F.softplus(m.dt(x)), m.b(x), m.c(x)
    h, ys = torch.zeros(x.shape[0], 10, 4), []
    for t in range(3):
        h = h * torch.exp(-dt[:, t, :, None] * m.a.exp())
        h = h + dt[:, t, :, None] * into[:, t, None] * u[:, t, :, None]
        ys.append((h * out[:, t, None]).sum(-1))
    return m.o(torch.stack(ys, 1).mean(1))


def standardized(m: Any, x: Tensor) -> Tensor:
    """Weight standardization as a batch norm of weights, as timm has it."""
    w, n = m.c.weight, m.c.weight.shape[0]
    w = F.batch_norm(w.reshape(1, n, -1), None, None, m.g.view(-1), training=True).reshape_as(w)
    return m.o(F.conv2d(x, w).relu().mean((2, 3)))


def folded(m: Any, x: Tensor) -> Tensor:
    """A batch norm that is folded into a convolution at each call."""
    scale = m.b.weight / torch.sqrt(m.b.running_var + m.b.eps)
    bias = (m.c.bias - m.b.running_mean) * scale + m.b.bias
    return m.o(F.conv2d(x, m.c.weight * scale.view(-1, 1, 1, 1), bias).relu().mean((2, 3)))


def written(m: Any, w: Tensor) -> Tensor:
    """Zeros where a mask says so, written into a copy that is used by its old name."""
    w = w.clone()
    w.masked_fill_(m.kept, 0.0)
    return w


def quantized(m: Any, x: Tensor) -> Tensor:
    """The nearest word of a code book, with a straight-through gradient."""
    z = m.i(x)
    nearest = (z[:, None] - m.book.weight).square().sum(-1).argmin(1)
    return m.o(z + (m.book(nearest) - z).detach())


def ternary(m: Any, w: Tensor) -> Tensor:
    scale = w.abs().mean()
    return torch.where(w.abs() > 0.7 * scale, w.sign(), torch.zeros_like(w)) * scale


def filtered(m: Any, x: Tensor) -> Tensor:
    """Frequencies along space, each with weights of its own."""
    h = torch.fft.rfft2(m.c(x).permute(0, 2, 3, 1), dim=(1, 2))
    h = h * torch.view_as_complex(m.w)
    return m.o(torch.fft.irfft2(h, s=(4, 4), dim=(1, 2)).relu().mean((1, 2)))


def between_nodes(m: Any, x: Tensor) -> Tensor:
    h = m.i(x)
    sums = torch.zeros_like(h).index_add(1, m.edges[1], h[:, m.edges[0]])
    return m.o((h + sums).relu().sum(1))


def brightest(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).flatten(2)
    at = h.norm(dim=1, keepdim=True).argmax(2, keepdim=True)
    return m.o(h.gather(2, at.expand(-1, 8, 1)).squeeze(2).relu())


def words(m: Any, x: Tensor) -> Tensor:
    kinds = torch.zeros_like(x)
    return m.o(m.n(m.e(x) + m.p(torch.arange(7))[None] + m.k(kinds))[:, 0].tanh())


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, list[int]]] = {
    "rotated": (
        lambda: image(lambda m, x: m.o(torch.rot90(m.c(x).relu(), 1, (2, 3)).mean((2, 3))), 8),
        IMAGE, [8],
    ),
    "branches that are averaged": (
        lambda: dense(lambda m, x: m.o(torch.stack([m.i(x), m.j(x)], -1).mean(-1).relu()), 8,
                      j=nn.Linear(20, 8)),
        X, [8],
    ),
    "prototypes": (
        lambda: net(lambda m, x: -(m.i(x).relu()[:, None] - m.p).square().sum(-1),
                    i=nn.Linear(20, 8), p=torch.randn(5, 8)),
        X, [8],
    ),
    "the largest values": (lambda: dense(lambda m, x: m.o(m.i(x).topk(8, 1).values), 8), X, [8]),
    "sorted values": (lambda: dense(lambda m, x: m.o(m.i(x).sort(1).values), 8), X, [8]),
    "a quantile": (
        lambda: dense(lambda m, x: m.o(m.i(x) - m.i(x).quantile(0.5, dim=1, keepdim=True)), 8),
        X, [8],
    ),
    "frequencies over tokens": (
        lambda: tokens(lambda m, x: m.o(torch.fft.fft(m.i(x), dim=1).real.relu().mean(1)), 8),
        TOKENS, [8],
    ),
    "a filter of frequencies": (
        lambda: image(filtered, 8, c=nn.Conv2d(3, 8, 4, 4), w=torch.randn(4, 3, 8, 2)), IMAGE, [8],
    ),
    "tokens mixed by einsum": (
        lambda: tokens(
            lambda m, x: m.o(torch.einsum("bnd,nm->bmd", m.i(x), m.w).relu().mean(1)), 8,
            w=torch.randn(6, 7),
        ),
        TOKENS, [8, 7],
    ),
    "a selective scan": (
        lambda: tokens(selective, 10, dt=nn.Linear(8, 10), b=nn.Linear(8, 4), c=nn.Linear(8, 4),
                       a=torch.randn(10, 4)),
        TOKENS, [10, 4, 40],
    ),
    "ternary weights": (lambda: weighted(ternary), X, [16]),
    "a threshold of weights": (
        lambda: weighted(lambda m, w: w * (w.abs() >= w.abs().flatten().kthvalue(99).values)),
        X, [16],
    ),
    "an integer mask": (
        lambda: weighted(lambda m, w: torch.where(m.kept == 1, w, 0.0), kept=KEPT.int()), X, [16],
    ),
    "a mask that is written": (lambda: weighted(written, kept=KEPT), X, [16]),
    "rows of zeros": (
        lambda: net(lambda m, x: m.o(F.linear(x, torch.cat([m.w, torch.zeros(4, 20)])).tanh()),
                    w=torch.randn(12, 20), o=nn.Linear(16, 5)),
        X, [12],
    ),
    "weights that a layer makes": (
        lambda: net(lambda m, x: m.o(F.linear(x[:, :2], m.h(m.z).view(16, 2)).tanh()),
                    z=torch.randn(6), h=nn.Linear(6, 32), o=nn.Linear(16, 5)),
        X, [6, 16, 16, 16],  # rows, and in each of them two that go with it
    ),
    "standardized by a batch norm": (
        lambda: image(standardized, 8, g=torch.rand(8, 1, 1, 1)), IMAGE, [8],
    ),
    "standardized": (
        lambda: image(
            lambda m, x: (vm := torch.var_mean(m.c.weight, (1, 2, 3), keepdim=True)) is None
            or m.o(F.conv2d(x, (m.c.weight - vm[1]) * vm[0].rsqrt()).relu().mean((2, 3))), 8,
        ),
        IMAGE, [8],
    ),
    "a batch norm that is folded": (lambda: image(folded, 8, b=nn.BatchNorm2d(8)), IMAGE, [8]),
    "a kernel that is padded": (
        lambda: image(
            lambda m, x: m.o(
                F.conv2d(m.c(x).relu(), m.d.weight + F.pad(m.e.weight, (1, 1, 1, 1)))
                .relu().mean((2, 3))
            ),
            6, d=nn.Conv2d(8, 6, 3), e=nn.Conv2d(8, 6, 1),
        ),
        IMAGE, [8, 6],
    ),
    "complex numbers": (
        lambda: dense(lambda m, x: m.o(torch.complex(m.i(x), m.j(x)).abs()), 8,
                      j=nn.Linear(20, 8)),
        X, [8],
    ),
    "a cosine": (
        lambda: net(lambda m, x: F.cosine_similarity(m.i(x), m.j(x)), i=nn.Linear(20, 8),
                    j=nn.Linear(20, 8)),
        X, [8],
    ),
    "a distance of twins": (
        lambda: net(lambda m, x: F.pairwise_distance(m.i(x[:, :10]), m.i(x[:, 10:])),
                    i=nn.Linear(10, 8)),
        X, [8],
    ),
    "taken at a place": (lambda: image(brightest, 8), IMAGE, [8]),
    "sums over edges": (lambda: tokens(between_nodes, 10, edges=EDGES), TOKENS, [10]),
    "pooled by a vector": (
        lambda: tokens(
            lambda m, x: (h := m.i(x).tanh()) is None
            or m.o((h * (h @ m.q).softmax(1)[..., None]).sum(1)), 10, q=torch.randn(10),
        ),
        TOKENS, [10],
    ),
    "embeddings of words, places and kinds": (
        lambda: net(words, e=nn.Embedding(20, 8), p=nn.Embedding(10, 8), k=nn.Embedding(2, 8),
                    n=nn.LayerNorm(8), o=nn.Linear(8, 5)),
        WORDS, [8],
    ),
    "a code book": (lambda: dense(quantized, 6, book=nn.Embedding(9, 6)), X, [6, 9, 54]),
    "gates alone are nonlinear": (
        lambda: image(
            lambda m, x: (h := m.c(x)) is None
            or m.o((h * m.u(m.d(h.mean((2, 3)))).sigmoid()[..., None, None]).mean((2, 3))), 8,
            d=nn.Linear(8, 2), u=nn.Linear(2, 8),
        ),
        IMAGE, [8, 2],
    ),
    # For a batch of one size alone.
    "distances from rows": (
        lambda: net(lambda m, x: -torch.cdist(m.i(x).relu(), m.p), i=nn.Linear(20, 8),
                    p=torch.randn(5, 8)),
        X, [8],
    ),
    "a batch that is counted": (
        lambda: image(lambda m, x: m.o(m.c(x).relu().view(16, -1)), 72, c=nn.Conv2d(3, 8, 5, 4)),
        IMAGE, [8],
    ),
    "one example": (
        lambda: image(lambda m, x: m.o(m.c(x).relu().view(1, -1)), 72, c=nn.Conv2d(3, 8, 5, 4)),
        IMAGE[:1], [8],
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:no unit moves")
@pytest.mark.parametrize("name", CASES)
def test_by_hand(name: str) -> None:
    torch.manual_seed(0)
    make, x, sizes = CASES[name]
    assert list(spec_of(make(), x, lambda m: m(x)).sizes.values()) == sizes


def test_nodes_of_a_graph_as_examples() -> None:
    """An adjacency has the number of nodes twice, so that it isn't free."""

    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.o = nn.Linear(8, 10), nn.Linear(10, 5)

        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            return adjacency @ self.o((adjacency @ self.i(x)).tanh())

    batch = (TOKENS[:, 0], torch.rand(16, 16, generator=GENERATOR))
    torch.manual_seed(0)
    spec = spec_of(Convolution(), batch, lambda m: m(*batch))
    assert spec.sizes == {"i": 10}


def test_a_failing_export_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    model = Net(lambda m, x: m.o(x) if x.sum() > 0 else x, o=nn.Linear(20, 5))
    with pytest.raises(ParameterError, match="control flow"):
        PermutationSpec.trace(model, X)
    assert capfd.readouterr() == ("", "")


def test_weights_without_values_and_weights_that_are_not_finite() -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 5))
    spec = PermutationSpec.trace(model, X)
    odd = {name: tensor * math.nan for name, tensor in model.state_dict().items()}
    with pytest.raises(ParameterError, match=r"^the weights of B are not finite, in 0\.weight"):
        match_weights(model, odd, spec)
    with pytest.raises(ParameterError, match=r"0\.weight is on the meta device"):
        PermutationSpec.trace(model.to("meta"), X)
