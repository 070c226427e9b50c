"""Products and computed weights in all their forms: f(permute(A)) == f(A), and units found again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from science.test_any_network import IMAGE, Net, X, spec_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm

from lotperm.science.symmetry import PermutationSpec, permute

TOKENS = torch.randn(16, 5, 8, generator=torch.Generator().manual_seed(0))
WORDS = torch.randint(0, 20, (16, 5), generator=torch.Generator().manual_seed(0))


def weights(body: Callable[..., Tensor], *shapes: tuple[int, ...], out: int = 12) -> nn.Module:
    """A function of the input and parameters ``a``, ``b``, ..., and a classifier."""
    own = {name: nn.Parameter(torch.randn(s)) for name, s in zip("abc", shapes, strict=False)}
    return Net(lambda m, x: m.o(body(m, x)), o=nn.Linear(out, 5), **own)


CONTRACTIONS: dict[str, tuple[Callable[[], nn.Module], Tensor, list[int]]] = {
    "ellipsis": (
        lambda: weights(lambda m, x: torch.einsum("...i,oi->...o", x, m.a).tanh(), (12, 8)),
        TOKENS,
        [12],
    ),
    "no arrow": (
        lambda: weights(lambda m, x: torch.einsum("bi,ij", x, m.a).tanh(), (20, 12)),
        X,
        [12],
    ),
    "three factors": (
        lambda: weights(
            lambda m, x: torch.einsum("bi,ij,jk->bk", x, m.a, m.b).tanh(), (20, 9), (9, 12)
        ),
        X,
        [9, 12],
    ),
    "axes apart": (
        lambda: weights(
            lambda m, x: torch.einsum(
                "bthd,hde->bte", torch.einsum("btc,hcd->bthd", x, m.a).softmax(-1), m.b
            ),
            (3, 8, 4),
            (3, 4, 12),
        ),
        TOKENS,
        [3, 12, 12],
    ),
    "a kernel for each unit": (
        lambda: weights(
            lambda m, x: torch.einsum("bi,kij,bj->bk", x.tanh(), m.a, x).tanh(), (12, 20, 20)
        ),
        X,
        [12],
    ),
    "tensordot": (
        lambda: weights(lambda m, x: torch.tensordot(x, m.a, dims=([1], [1])).tanh(), (12, 20)),
        X,
        [12],
    ),
    "inner": (lambda: weights(lambda m, x: torch.inner(x, m.a).tanh(), (12, 20)), X, [12]),
    "batched": (
        lambda: weights(
            lambda m, x: ((x[:, None] @ m.a).tanh() @ m.b).transpose(1, 2).flatten(2).tanh(),
            (3, 8, 6),
            (3, 6, 4),
        ),
        TOKENS,
        [6, 6, 6, 4, 4, 4],
    ),
    "batched, repeated": (
        lambda: weights(lambda m, x: torch.bmm(x, m.a.expand(x.shape[0], 8, 12)).tanh(), (1, 8, 12)),
        TOKENS,
        [12],
    ),
    "experts by number": (
        lambda: weights(
            lambda m, x: sum((x @ m.a[i]).tanh() @ m.b[i] for i in range(2)), (2, 20, 8), (2, 8, 12)
        ),
        X,
        [8, 12, 8],
    ),
    "joined": (
        lambda: weights(lambda m, x: F.linear(x, torch.cat([m.a, m.b])).tanh(), (7, 20), (5, 20)),
        X,
        [7, 5],
    ),
    "stacked": (
        lambda: weights(
            lambda m, x: F.linear(x, torch.stack([m.a, m.b]).mean(0)).tanh(), (12, 20), (12, 20)
        ),
        X,
        [12],
    ),
    "distances": (
        lambda: weights(
            lambda m, x: (m.a.pow(2).sum(1) - 2 * F.linear(x, m.a)).tanh(), (12, 20)
        ),
        X,
        [12],
    ),
    "an adjacency": (
        lambda: weights(
            lambda m, x: (m.a.softmax(-1) @ F.linear(m.a @ x, m.b)).tanh(), (5, 5), (12, 8)
        ),
        TOKENS,
        [12],
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:no unit moves")
@pytest.mark.parametrize("name", CONTRACTIONS)
def test_products(name: str) -> None:
    torch.manual_seed(0)
    make, x, sizes = CONTRACTIONS[name]
    assert list(spec_of(make(), x, lambda m: m(x)).sizes.values()) == sizes


def test_a_bilinear_layer() -> None:
    model = Net(
        lambda m, x: m.o(m.b(m.i(x).tanh(), m.j(x).tanh()).tanh()),
        i=nn.Linear(20, 8), j=nn.Linear(20, 6), b=nn.Bilinear(8, 6, 10), o=nn.Linear(10, 5),
    )  # fmt: skip
    spec = spec_of(model, X, lambda m: m(X))
    assert spec.sizes == {"i": 8, "j": 6, "b": 10}
    assert spec.axes["b.weight"] == ("b", "i", "j")


@pytest.mark.parametrize("norm", [spectral_norm, old_spectral_norm])
@pytest.mark.parametrize(
    ("layers", "sizes"),
    [
        ((nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, groups=2)), {"0": 4, "2/0": 6, "2/1": 6}),
        ((nn.ConvTranspose2d(3, 8, 3), nn.ConvTranspose2d(8, 12, 3)), {"0": 8, "2": 12}),
    ],
)
def test_spectral_norm_of_kernels(
    norm: Callable[[nn.Module], nn.Module], layers: tuple[nn.Module, ...], sizes: dict[str, int]
) -> None:
    """The vector of the power iteration over inputs and their places goes with the inputs."""
    torch.manual_seed(0)
    first, second = (norm(type(layer)(**_options(layer))) for layer in layers)
    model = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Flatten(2), nn.Conv1d(12, 5, 1))
    spec = spec_of(model, IMAGE, lambda m: m(IMAGE))
    assert spec.sizes == sizes
    assert not spec.fixed


def _options(layer: Any) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "groups")
    return {name: getattr(layer, name) for name in names}


CHANNELS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "channel shuffle": (lambda m, x: F.channel_shuffle(x, 2), 8),
    "patches": (lambda m, x: F.fold(F.unfold(x, 2, stride=2), 14, 2, stride=2), 8),
    "windows": (lambda m, x: x.unfold(2, 2, 2).mean(-1), 8),
    "sampled": (
        lambda m, x: F.grid_sample(x, m.grid.expand(x.shape[0], 4, 4, 2), align_corners=False),
        8,
    ),
    "unpooled": (lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), 8),
    "resized": (lambda m, x: F.interpolate(x, (5, 5), mode="bicubic", antialias=True), 8),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_operations_on_channels(name: str) -> None:
    body, size = CHANNELS[name]
    torch.manual_seed(0)
    model = Net(
        lambda m, x: m.o(body(m, m.c(x)).tanh()), c=nn.Conv2d(3, 8, 3), o=nn.Conv2d(8, 5, 1)
    )
    model.register_buffer("grid", torch.rand(1, 4, 4, 2))
    assert spec_of(model, IMAGE, lambda m: m(IMAGE)).sizes == {"c": size}


def test_an_embedding_bag() -> None:
    model = nn.Sequential(nn.EmbeddingBag(20, 8), nn.Tanh(), nn.Linear(8, 5))
    assert spec_of(model, WORDS, lambda m: m(WORDS)).sizes == {"0": 8}


class Positions(nn.Module):
    """Attention to what came before, for as many positions as there are, of 9."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(8, 12), nn.Linear(12, 5)
        self.places = nn.Parameter(torch.randn(1, 9, 12))
        self.register_buffer("before", torch.tril(torch.ones(9, 9)))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        h = self.i(x) + self.places[:, :n]
        scores = (h @ h.mT).masked_fill(self.before[:n, :n] == 0, -torch.inf)
        return self.o((scores.softmax(-1) @ h).mean(1))


def test_what_the_example_does_not_use_serves_longer_ones() -> None:
    """Rows for later positions go with the units, and the rest of a mask stays."""
    torch.manual_seed(0)
    model = Positions().eval()
    spec = spec_of(model, TOKENS, lambda m: m(TOKENS))
    assert spec.sizes == {"i": 12}
    longer = torch.randn(4, 9, 8)
    with torch.no_grad():
        before = model(longer)
        state = permute(model, spec, spec.random(torch.Generator().manual_seed(0)))
        assert torch.equal(state["before"], model.before)
        model.load_state_dict(state)
        torch.testing.assert_close(model(longer), before)


class OneKey(nn.Module):
    """Three heads of queries on one of keys and values, repeated for each of them."""

    def __init__(self, repeat: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.i, self.q, self.o = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 5)
        self.k, self.v, self.repeat = nn.Linear(12, 4), nn.Linear(12, 4), repeat

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        q, k, v = (
            layer(x).unflatten(-1, (heads, 4)).transpose(1, 2)
            for layer, heads in ((self.q, 3), (self.k, 1), (self.v, 1))
        )
        y = F.scaled_dot_product_attention(q, self.repeat(k), self.repeat(v))
        return self.o(y.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize(
    "repeat",
    [
        lambda k: k,
        lambda k: k.expand(-1, 3, -1, -1),
        lambda k: k.repeat(1, 3, 1, 1),
        lambda k: k.repeat_interleave(3, 1),
    ],
)
def test_one_key_for_all_queries(repeat: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    spec = spec_of(OneKey(repeat), TOKENS, lambda m: m(TOKENS))
    assert spec.sizes == {"i": 12, "q/heads": 3, "q": 12, "k": 4, "v": 4, "o": 12}


def test_initial_states_that_are_learned() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h, self.c = (nn.Parameter(torch.randn(2, 1, 6)) for _ in range(2))
            self.r = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
            self.o = nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            state = tuple(s.expand(-1, x.shape[0], -1).contiguous() for s in (self.h, self.c))
            return self.o(self.r(x, state)[0].mean(1))

    spec = spec_of(Recurrent(), TOKENS, lambda m: m(TOKENS))
    assert spec.sizes == {"r.l0": 6, "r.l0_reverse": 6}
    assert spec.axes["h"] == (None, None, "r.l0, r.l0_reverse")


def test_zeros_that_join_units() -> None:
    """Equal values may be those of any units, behind the last position too."""

    def body(m: Any, x: Tensor) -> Tensor:
        h = m.i(x)
        return m.o(torch.cat([h, torch.zeros(h.shape[0], 1, 8)], 1).tanh().mean(1))

    model = Net(body, i=nn.Linear(8, 8), o=nn.Linear(8, 5))
    assert PermutationSpec.trace(model, TOKENS).sizes == {"i": 8}
