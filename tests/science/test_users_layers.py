"""Layers that users bring: which units are free, f(permute(A)) == f(A), and A is found again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from science.users import (
    IMAGE,
    SIGNAL,
    TOKENS,
    VOLUME,
    WORDS,
    Case,
    Net,
    X,
    check_sizes,
    convolution,
    dense,
    draw,
    image,
    mlp,
    tokens,
    weights,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from lotperm.errors import ParameterError
from lotperm.science.matching import match_activations, match_weights
from lotperm.science.symmetry import PermutationSpec, invert, permute

GATES = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1])


def parametrized(make: Callable[[Any], nn.Module], name: str = "weight") -> nn.Module:
    model = mlp()
    parametrize.register_parametrization(model[2], name, make(model[2]))
    return model


class Scaled(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.g = weights(layer.out_features, 1)

    def forward(self, w: Tensor) -> Tensor:
        return w * self.g.exp()


class Kept(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("mask", torch.rand_like(layer.weight) < 0.8)

    def forward(self, w: Tensor) -> Tensor:
        return w * self.mask


class LowRank(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.a, self.b = weights(layer.out_features, 2), weights(2, layer.in_features)

    def forward(self, w: Tensor) -> Tensor:
        return w + self.a @ self.b


def recurrent_with_norm() -> nn.Module:
    lstm = nn.LSTM(8, 6, batch_first=True)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        parametrizations.weight_norm(lstm, name)
    return Net(lambda m, x: m.o(m.l(x)[0][:, -1]), l=lstm, o=nn.Linear(6, 5))


def normed_responses(m: Any, h: Tensor) -> Tensor:
    """Global response normalization, of ConvNeXt V2."""
    norms = h.norm(dim=(2, 3), keepdim=True)
    scale = norms / (norms.mean(1, keepdim=True) + 1e-6)
    return m.g * (h * scale) + m.b + h


def coordinates(m: Any, h: Tensor) -> Tensor:
    """Attention along either coordinate."""
    a = m.d(torch.cat([h.mean(3), h.mean(2)], 2)[..., None]).tanh()
    return h * m.u(a[:, :, :10]).sigmoid() * m.v(a[:, :, 10:].transpose(2, 3)).sigmoid()


def not_local(m: Any, h: Tensor) -> Tensor:
    a, b, g = (f(h).flatten(2) for f in (m.a, m.b, m.g))
    return h + m.u((g @ (a.transpose(1, 2) @ b).softmax(-1).transpose(1, 2)).view(-1, 4, 10, 10))


def wavenet(m: Any, x: Tensor) -> Tensor:
    h, total = m.i(x), torch.zeros(())
    for k in range(2):
        z = m.d[k](F.pad(h, (2**k, 0)))
        gated = z[:, :8].tanh() * z[:, 8:].sigmoid()
        total, h = total + m.s[k](gated), h + m.r[k](gated)
    return m.o(total.tanh().mean(2))


def spectral(m: Any, x: Tensor) -> Tensor:
    """A layer of a Fourier neural operator."""
    h = m.i(x)
    low = torch.einsum(
        "bik,iok->bok", torch.fft.rfft(h, dim=2)[:, :, :4], torch.view_as_complex(m.w)
    )
    return m.o((torch.fft.irfft(F.pad(low, (0, 7)), n=20, dim=2) + m.l(h)).tanh().mean(2))


def graph_attention(m: Any, x: Tensor) -> Tensor:
    h = m.i(x)
    scores = F.leaky_relu(m.a(h) + m.b(h).transpose(1, 2), 0.2).softmax(-1)
    return m.o((scores @ h).mean(1))


def crossed(m: Any, x: Tensor) -> Tensor:
    """Two layers of a deep & cross network."""
    x0 = m.i(x)
    x1 = x0 * m.w(x0) + x0
    return m.o(x0 * m.v(x1) + x1)


def highway(m: Any, x: Tensor) -> Tensor:
    h = m.i(x)
    gate = m.t(h).sigmoid()
    return m.o(gate * m.h(h).tanh() + (1 - gate) * h)


def concatenated(m: Any, h: Tensor) -> Tensor:
    for layer in (m.d, m.f):
        h = torch.cat([h.tanh(), layer(h.tanh())], 1)
    return h


def unet(m: Any, x: Tensor) -> Tensor:
    a = m.a(x).tanh()
    return m.o(torch.cat([m.u(m.b(F.max_pool2d(a, 2)).tanh()), a], 1))


def products_3(of: int) -> Callable[[Any, Tensor], Tensor]:
    """Cross products of four vectors, whose numbers lie along one of two dimensions."""
    shape = (-1, 4, 3) if of == 2 else (-1, 3, 4)
    return lambda m, x: m.o(
        torch.linalg.cross(m.i(x).view(shape), m.j(x).view(shape), dim=of).flatten(1)
    )


def for_each_example(h: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each example with kernels of its own, of shape (examples, filters, channels, 3, 3)."""
    together, rows = h.flatten(0, 1)[None], kernels.flatten(0, 1)
    out = F.conv2d(together, rows, padding=1, groups=len(h))
    return out.view(len(h), -1, *h.shape[2:])


def modulated(m: Any, h: Tensor) -> Tensor:
    """As in StyleGAN2: kernels scaled by each example's style, then normed."""
    kernels = m.w * m.m(h.mean((2, 3))).view(h.shape[0], 1, -1, 1, 1)
    norm = kernels.square().sum((2, 3, 4), keepdim=True)
    return for_each_example(h, kernels * torch.rsqrt(norm + 1e-8)).relu()


def mixed_kernels(m: Any, h: Tensor) -> Tensor:
    """As in dynamic convolutions: each example's mixture of a few kernels."""
    shares = m.b(m.a(h.mean((2, 3))).relu()).softmax(1)
    kernels = torch.mm(shares, m.w.view(4, -1)).view(h.shape[0], 6, 8, 3, 3)
    return for_each_example(h, kernels).relu()


def correlated(m: Any, x: Tensor) -> Tensor:
    """As in SiamFC: features of a part are the kernel for those of the whole."""
    h, part = m.c(x).relu(), m.c(x[:, :, :4, :4]).relu()
    found = F.conv2d(h.flatten(0, 1)[None], part, groups=x.shape[0])
    return m.o(found.reshape(x.shape[0], -1))


CASES: dict[str, Case] = {
    # Weights that are used twice, or computed.
    "tied to its transpose": (
        lambda: Net(lambda m, x: F.conv_transpose2d(m.c(x).tanh(), m.c.weight), c=convolution(3, 8)),
        IMAGE, [8],
    ),
    "two layers in one matrix": (
        lambda: dense(
            lambda m, x: (h := m.i(x).tanh()) is None
            or m.o(F.linear(h, m.w[:8]).tanh() + F.linear(h, m.w[8:]).sigmoid()),
            w=weights(16, 8),
        ),
        X, [8, 8],
    ),
    "a symmetric weight": (
        lambda: dense(lambda m, x: m.o(F.linear(m.i(x), m.w + m.w.t()).tanh()), w=weights(8, 8)),
        X, [8],
    ),
    "positive weights": (
        lambda: dense(lambda m, x: m.o(F.linear(m.i(x).tanh(), F.softplus(m.w))), 8, 9,
                      w=weights(9, 8)),
        X, [8, 9],
    ),
    "one bias for two layers": (
        lambda: dense(lambda m, x: m.o(F.linear(m.i(x).tanh(), m.w, m.i.bias).tanh()),
                      w=weights(8, 8)),
        X, [8],
    ),
    "an outer weight as a bias": (
        lambda: dense(lambda m, x: m.o((m.i(x) + m.o.weight.mean(0)).tanh())), X, [8],
    ),
    "twins": (
        lambda: Net(lambda m, a, b: m.o((m.i(a).tanh() - m.i(b).tanh()).abs()),
                    i=nn.Linear(20, 8), o=nn.Linear(8, 5)),
        (X, draw(16, 20)), [8],
    ),
    "weights that another network makes": (
        lambda: Net(lambda m, x, z: (m.h(z).view(-1, 5, 8) @ m.i(x).tanh()[..., None])[..., 0],
                    i=nn.Linear(20, 8), h=nn.Linear(6, 40)),
        (X, draw(16, 6)), [8],
    ),
    "one layer for two": (
        lambda: dense(lambda m, x: m.o(m.h(m.h(m.i(x)).tanh()).tanh()), h=nn.Linear(8, 8)), X, [8],
    ),
    "weights read as data": (
        lambda: dense(lambda m, x: m.o(F.linear(x, m.i.weight.data, m.i.bias.data).tanh())),
        X, [8],
    ),
    "parametrized by a scale": (lambda: parametrized(Scaled), X, [8, 9]),
    "parametrized by a mask": (lambda: parametrized(Kept), X, [8, 9]),
    "parametrized bias": (lambda: parametrized(lambda layer: nn.Tanh(), "bias"), X, [8, 9]),
    "weight norm along inputs": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(20, 8), dim=1), nn.Tanh(),
                              parametrizations.weight_norm(nn.Linear(8, 5), dim=1)),
        X, [8],
    ),
    "weight norm of all values": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(20, 8), dim=None), nn.Tanh(),
                              nn.Linear(8, 5)),
        X, [8],
    ),
    "weight norm of a recurrent layer": (recurrent_with_norm, TOKENS, [6]),
    "spectral norm, transposed": (
        lambda: nn.Sequential(convolution(3, 8), nn.Tanh(),
                              parametrizations.spectral_norm(nn.ConvTranspose2d(8, 6, 3)),
                              nn.Tanh(), convolution(6, 2)),
        IMAGE, [8, 6],
    ),
    "pruned in training": (
        lambda: (m := mlp()) is None or prune.random_unstructured(m[2], "weight", 0.3) is None or m,
        X, [8, 9],
    ),
    "lists and dicts of parameters": (
        lambda: Net(
            lambda m, x: F.linear(F.linear(F.linear(x, m.w[0], m.b["a"]).tanh(), m.w[1]).tanh(),
                                  m.w[2], m.b["c"]),
            w=nn.ParameterList([weights(8, 20), weights(9, 8), weights(5, 9)]),
            b=nn.ParameterDict({"a": weights(8), "c": weights(5)}),
        ),
        X, [8, 9],
    ),
    "lazy layers, called once": (
        lambda: (m := nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.Tanh(),
                                    nn.Flatten(), nn.LazyLinear(5))).eval()(IMAGE) is None or m,
        IMAGE, [8],
    ),
    # Buffers, also of whole numbers, with a value for each unit.
    "statistics in buffers": (
        lambda: dense(lambda m, x: m.o(((m.i(x) - m.mean) / m.std).tanh()), mean=draw(8),
                      std=draw(8).exp()),
        X, [8],
    ),
    "gates of whole numbers": (lambda: dense(lambda m, x: m.o(m.i(x) * m.g), g=GATES), X, [8]),
    "gates of channels": (
        lambda: image(lambda m, h: h * m.g[None, :, None, None], g=GATES.bool()), IMAGE, [8],
    ),
    "units that are masked out": (
        lambda: dense(lambda m, x: m.o(m.i(x).masked_fill(m.g, 0.5)), g=GATES.bool()), X, [8],
    ),
    "offsets of fields": (
        lambda: Net(lambda m, x: m.o(m.e(x % 5 + m.at).sum(1).tanh()), e=nn.Embedding(40, 8),
                    o=nn.Linear(8, 5), at=torch.arange(7) * 5),
        WORDS, [8],
    ),
    # Norms.
    "a norm for each channel's group": (
        lambda: image(lambda m, h: m.n(h), n=nn.GroupNorm(8, 8)), IMAGE, [8],
    ),
    "groups in groups": (
        lambda: image(lambda m, h: m.n(h) + m.k(h), n=nn.GroupNorm(4, 8), k=nn.GroupNorm(2, 8)),
        IMAGE, [2, 4, 8],
    ),
    "a group norm over two layers": (
        lambda: image(lambda m, h: m.n(torch.cat([h, m.d(h)], 1)), 12, d=convolution(8, 4),
                      n=nn.GroupNorm(3, 12)),
        IMAGE, [2, 8, 4],
    ),
    "layer norm of space": (
        lambda: image(lambda m, h: m.n(h), n=nn.LayerNorm([10, 10])), IMAGE, [8],
    ),
    "layer norm of tokens and units": (
        lambda: tokens(lambda m, x: m.o(m.n(m.i(x)).tanh().mean(1)), n=nn.LayerNorm([6, 8])),
        TOKENS, [8],
    ),
    "batch norm of tokens": (
        lambda: tokens(lambda m, x: m.o(m.n(m.i(x)).tanh().mean(1)), n=nn.BatchNorm1d(6)),
        TOKENS, [8],
    ),
    "tracked instance norm": (
        lambda: image(
            lambda m, h: m.n(h), n=nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
        ),
        IMAGE, [8],
    ),
    "norms of responses": (
        lambda: image(normed_responses, g=weights(8, 1, 1), b=weights(8, 1, 1)), IMAGE, [8],
    ),
    # Channels.
    "two filters for each channel": (
        lambda: image(lambda m, h: m.d(h), 16, d=convolution(8, 16, groups=8)), IMAGE, [8, 16],
    ),
    "filters of filters": (
        lambda: image(lambda m, h: m.e(m.d(h).tanh()), 32, d=convolution(8, 16, groups=8),
                      e=convolution(16, 32, groups=16)),
        IMAGE, [8, 16, 32],
    ),
    "four filters for each color": (
        lambda: Net(lambda m, x: m.o(m.d(x).tanh().mean((2, 3))), d=convolution(3, 12, groups=3),
                    o=nn.Linear(12, 5)),
        IMAGE, [4, 4, 4],
    ),
    "two filters for each channel, transposed": (
        lambda: image(lambda m, h: m.d(h), 16, d=nn.ConvTranspose2d(8, 16, 3, groups=8)),
        IMAGE, [8, 16],
    ),
    "filters of channels, some of which stay": (
        lambda: Net(
            lambda m, x: m.o(m.d(torch.cat([m.c(x).tanh(), x], 1)).tanh().mean((2, 3))),
            c=convolution(3, 5), d=convolution(8, 16, groups=8), o=nn.Linear(16, 5),
        ),
        IMAGE, [5, 10, 2, 2, 2],
    ),
    "shuffled into space": (
        lambda: image(lambda m, h: m.d(F.pixel_shuffle(h, 2)), 4, d=convolution(2, 4)),
        IMAGE, [2, 4],
    ),
    "shuffled out of space": (
        lambda: image(lambda m, h: m.d(F.pixel_unshuffle(h, 2)), 4, d=convolution(32, 4)),
        IMAGE, [8, 4],
    ),
    "shuffled by hand": (
        lambda: image(
            lambda m, h: m.d(h.view(-1, 2, 4, 10, 10).transpose(1, 2).reshape(-1, 8, 10, 10)),
            d=convolution(8, 8, groups=2),
        ),
        IMAGE, [2, 8, 32, 8],
    ),
    "squeezed and excited": (
        lambda: image(
            lambda m, h: h * m.u(m.d(F.adaptive_avg_pool2d(h, 1)).tanh()).sigmoid(),
            d=nn.Conv2d(8, 2, 1), u=nn.Conv2d(2, 8, 1),
        ),
        IMAGE, [8, 2],
    ),
    "attention in space": (
        lambda: image(
            lambda m, h: h * m.d(torch.cat([h.mean(1, True), h.amax(1, True)], 1)).sigmoid(),
            d=convolution(2, 1),
        ),
        IMAGE, [8],
    ),
    "attention along coordinates": (
        lambda: image(coordinates, d=nn.Conv2d(8, 4, 1), u=nn.Conv2d(4, 8, 1),
                      v=nn.Conv2d(4, 8, 1)),
        IMAGE, [8, 4],
    ),
    "attention of all places": (
        lambda: image(not_local, **{n: nn.Conv2d(8, 4, 1) for n in "abg"}, u=nn.Conv2d(4, 8, 1)),
        IMAGE, [8, 4, 4],
    ),
    "densely connected": (
        lambda: image(concatenated, 16, d=convolution(8, 4), f=convolution(12, 4)),
        IMAGE, [8, 4, 4],
    ),
    "down and up": (
        lambda: Net(unet, a=convolution(3, 8), b=convolution(8, 12),
                    u=nn.ConvTranspose2d(12, 8, 2, stride=2), o=nn.Conv2d(16, 2, 1)),
        IMAGE, [8, 12, 8],
    ),
    "modulated features": (
        lambda: Net(
            lambda m, x, z: (p := m.f(z).chunk(2, 1)) is None
            or m.o((m.c(x) * p[0][..., None, None] + p[1][..., None, None]).tanh().mean((2, 3))),
            c=convolution(3, 8), f=nn.Linear(6, 16), o=nn.Linear(8, 5),
        ),
        (IMAGE, draw(16, 6)), [8],
    ),
    "style in instance norms": (
        lambda: Net(
            lambda m, x, z: (p := m.f(z).view(-1, 2, 8, 1, 1)) is None
            or m.o((F.instance_norm(m.c(x)) * p[:, 0] + p[:, 1]).tanh().mean((2, 3))),
            c=convolution(3, 8), f=nn.Linear(6, 16), o=nn.Linear(8, 5),
        ),
        (IMAGE, draw(16, 6)), [8],
    ),
    "products of channels": (
        lambda: Net(
            lambda m, x: (h := m.c(x).flatten(2)) is None
            or m.o((h @ h.transpose(1, 2) / 144).flatten(1)),
            c=convolution(3, 6), o=nn.Linear(36, 5),
        ),
        IMAGE, [6, 36],
    ),
    "a transposed signal": (
        lambda: Net(
            lambda m, x: m.o(m.t(m.c(x).tanh()).tanh().mean(2)), c=nn.Conv1d(3, 8, 3, stride=2),
            t=nn.ConvTranspose1d(8, 6, 4, stride=2, output_padding=1), o=nn.Linear(6, 5),
        ),
        SIGNAL, [8, 6],
    ),
    "volumes": (
        lambda: Net(
            lambda m, x: m.o(m.b(m.t(m.c(x).tanh())).tanh().mean((2, 3, 4))), c=nn.Conv3d(2, 8, 3),
            t=nn.ConvTranspose3d(8, 6, 2, stride=2), b=nn.BatchNorm3d(6), o=nn.Linear(6, 5),
        ),
        VOLUME, [8, 6],
    ),
    "dilated, gated and skipped": (
        lambda: Net(
            wavenet, i=nn.Conv1d(3, 6, 1), o=nn.Linear(7, 5),
            d=nn.ModuleList([nn.Conv1d(6, 16, 2, dilation=2**k) for k in range(2)]),
            s=nn.ModuleList([nn.Conv1d(8, 7, 1) for _ in range(2)]),
            r=nn.ModuleList([nn.Conv1d(8, 6, 1) for _ in range(2)]),
        ),
        SIGNAL, [6, 8, 7, 8],
    ),
    "low frequencies": (
        lambda: Net(spectral, i=nn.Conv1d(3, 6, 1), w=weights(6, 6, 4, 2), l=nn.Conv1d(6, 6, 1),
                    o=nn.Linear(6, 5)),
        SIGNAL, [6, 6, 36],
    ),
    # Units in parts, pairs and triples.
    "parts of unequal sizes": (
        lambda: dense(
            lambda m, x: (s := m.i(x).split([3, 5, 8], 1)) is None
            or m.o(torch.cat([s[2].tanh(), s[0].sigmoid(), s[1].exp()], 1)), 16,
        ),
        X, [3, 5, 8],
    ),
    "parts by their limits": (
        lambda: dense(
            lambda m, x: (s := torch.tensor_split(m.i(x), (5, 9), 1)) is None
            or m.o(torch.cat([s[2].tanh(), s[0].sigmoid(), s[1].exp()], 1)), 16,
        ),
        X, [5, 4, 7],
    ),
    "the largest of three layers": (
        lambda: dense(lambda m, x: m.o(torch.stack([m.i(x), m.j(x), m.k(x)]).max(0).values),
                      j=nn.Linear(20, 8), k=nn.Linear(20, 8)),
        X, [8],
    ),
    "units and their mirror": (
        lambda: dense(lambda m, x: (h := m.i(x)) is None or m.o((h + h.flip(1)).tanh())), X, [4],
    ),
    "units and those half a turn away": (
        lambda: dense(lambda m, x: (h := m.i(x)) is None or m.o((h * h.roll(4, 1)).tanh())),
        X, [4],
    ),
    "tokens and their neighbours": (
        lambda: tokens(
            lambda m, x: (h := m.i(x)) is None or m.o((h - h.roll(1, 1)).tanh().mean(1))
        ),
        TOKENS, [8],
    ),
    "units in another order": (
        lambda: dense(lambda m, x: m.o(m.i(x)[:, [3, 1, 2, 0, 7, 6, 5, 4]].tanh())), X, [8],
    ),
    "pairs by a list": (
        lambda: dense(
            lambda m, x: (h := m.i(x)) is None
            or m.o(h + h[:, [1, 0, 3, 2, 5, 4, 7, 6]].tanh())
        ),
        X, [4],
    ),
    "every other unit": (
        lambda: dense(lambda m, x: m.o(m.i(x)[:, torch.arange(0, 8, 2)].tanh()), 8, 4),
        X, [4, 4],
    ),
    "some units, selected": (
        lambda: dense(lambda m, x: m.o(m.i(x).index_select(1, torch.tensor([3, 1, 2]))), 8, 3),
        X, [5, 3],
    ),
    "the larger of neighbours": (
        lambda: dense(lambda m, x: m.o(m.i(x).view(-1, 8, 2).amax(2)), 16, 8), X, [8, 16],
    ),
    "both signs": (
        lambda: dense(lambda m, x: (h := m.i(x)) is None or m.o(torch.cat([h.exp(), (-h).exp()], 1)),
                      8, 16),
        X, [8],
    ),
    "gates beside their units": (
        lambda: dense(lambda m, x: (h := m.i(x)) is None or m.o(h[:, ::2] * F.silu(h[:, 1::2])),
                      16, 8),
        X, [8],
    ),
    "gates along space": (
        lambda: image(lambda m, h: F.glu(h, 3)), IMAGE, [8],
    ),
    "cross products": (lambda: dense(products_3(2), 12, j=nn.Linear(20, 12)), X, [4]),
    "cross products, axes first": (lambda: dense(products_3(1), 12, j=nn.Linear(20, 12)), X, [4]),
    "cross products over places": (
        lambda: tokens(
            lambda m, x: m.o(
                torch.cross(m.i(x).view(-1, 2, 3, 8), m.j(x).view(-1, 2, 3, 8), dim=2).mean((1, 2))
            ),
            j=nn.Linear(8, 8),
        ),
        TOKENS, [8],
    ),
    "capsules": (
        lambda: dense(
            lambda m, x: (u := m.i(x).view(-1, 4, 3)) is None
            or m.o((u * u.norm(dim=-1, keepdim=True).tanh()).flatten(1)), 12,
        ),
        X, [4, 12],
    ),
    "products of all pairs": (
        lambda: dense(
            lambda m, x: m.o(torch.einsum("bi,bj->bij", m.i(x), m.j(x)).flatten(1)), 6, 24,
            j=nn.Linear(20, 4),
        ),
        X, [6, 4, 24],
    ),
    "highway": (lambda: dense(highway, t=nn.Linear(8, 8), h=nn.Linear(8, 8)), X, [8]),
    "deep and cross": (lambda: dense(crossed, w=nn.Linear(8, 8), v=nn.Linear(8, 8)), X, [8]),
    "a neighbourhood of words": (
        lambda: Net(
            lambda m, x: (e := m.e(x)) is None
            or (e.sum(1).square() - e.square().sum(1)).sum(1, keepdim=True) + m.o(e.flatten(1)),
            e=nn.Embedding(20, 8), o=nn.Linear(56, 1),
        ),
        WORDS, [8],
    ),
    "kernels as wide as words": (
        lambda: Net(
            lambda m, x: m.o(
                torch.cat([c(m.e(x)[:, None]).relu().squeeze(3).amax(2) for c in m.c], 1)
            ),
            e=nn.Embedding(20, 8), o=nn.Linear(12, 5),
            c=nn.ModuleList(nn.Conv2d(1, 6, (k, 8), padding=(k - 2, 0)) for k in (2, 3)),
        ),
        WORDS, [8, 6, 6],
    ),
    "a kernel over two kinds of words": (
        lambda: tokens(
            lambda m, x: m.o(m.c(torch.stack([m.i(x), m.i(x).tanh()], 1)).relu().amax((2, 3))),
            8, 6, c=nn.Conv2d(2, 6, (2, 8), padding="valid"),
        ),
        TOKENS, [8, 6],
    ),
    "a kernel as wide, beside the words": (
        lambda: tokens(
            lambda m, x: m.o(m.c(m.i(x)[:, None]).relu().amax((2, 3))),
            8, 6, c=nn.Conv2d(1, 6, (2, 8), padding=(0, 1), stride=(1, 4)),
        ),
        TOKENS, [6],
    ),
    "other names of the same": (
        lambda: tokens(
            lambda m, x: m.o(
                torch.cat(m.i(x).swapdims(1, 2).moveaxis(1, 2).dsplit(2), 2)
                * (x > 1).any(1, keepdim=True).any(2, keepdim=True)
            ),
        ),
        TOKENS, [4, 4],
    ),
    "letters of five kinds": (
        lambda: Net(
            lambda m, x: m.o(
                torch.einsum("btd,dhk,hkf->bthf", m.i(x), m.w, m.v).tanh().flatten(2).mean(1)
            ),
            i=nn.Linear(8, 8), w=weights(8, 2, 4), v=weights(2, 4, 5), o=nn.Linear(10, 5),
        ),
        TOKENS, [8, 4, 4, 5, 5],
    ),
    "functions alone": (
        lambda: Net(
            lambda m, x: F.linear(
                F.batch_norm(F.conv2d(x, m.w, m.b), m.mean, m.var, m.g, m.h).tanh().mean((2, 3)), m.v
            ),
            **{n: weights(8) for n in "bgh"}, w=weights(8, 3, 3, 3), v=weights(5, 8),
            mean=draw(8), var=draw(8).exp(),
        ),
        IMAGE, [8],
    ),
    "sets of points": (
        lambda: Net(lambda m, x: m.o(m.p(m.i(x).tanh()).amax(1).tanh()), i=nn.Linear(8, 8),
                    p=nn.Linear(8, 7), o=nn.Linear(7, 5)),
        TOKENS, [8, 7],
    ),
    "attention on a graph": (
        lambda: Net(graph_attention, i=nn.Linear(8, 8), a=nn.Linear(8, 1), b=nn.Linear(8, 1),
                    o=nn.Linear(8, 5)),
        TOKENS, [8],
    ),
    # As in efficient-kan: weights of each unit's basis functions, times a scale of the unit's own.
    "basis functions": (
        lambda: Net(
            lambda m, x: F.linear(torch.stack([(h := m.i(x)).sin(), h.cos()], -1).flatten(1),
                                  (m.w * m.s[..., None]).view(5, 16)),
            i=nn.Linear(20, 8), w=weights(5, 8, 2), s=weights(5, 8),
        ),
        X, [8],
    ),
    "basis functions, scaled outside": (
        lambda: Net(
            lambda m, x: m.o(F.linear(torch.stack([x.sin(), x.cos()], -1).flatten(1),
                                      (m.w * m.s[:, None, None]).view(8, 40)).tanh()),
            w=weights(8, 20, 2), s=weights(8), o=nn.Linear(8, 5),
        ),
        X, [8],
    ),
    "Chebyshev polynomials": (
        lambda: Net(
            lambda m, x: F.linear((m.i(x).tanh()[..., None].acos() * m.degrees).cos().flatten(1),
                                  m.w.flatten(1)),
            i=nn.Linear(20, 8), w=weights(5, 8, 4), degrees=torch.arange(4),
        ),
        X, [8, 32, 4],
    ),
    "scales of members": (
        lambda: dense(lambda m, x: m.o(F.relu(m.i(x) * m.s.repeat_interleave(4, 0))),
                      s=weights(4, 8)),
        X, [8],
    ),
    "members with biases": (
        lambda: Net(
            lambda m, x: torch.bmm(F.relu(torch.baddbmm(m.b, x.expand(3, -1, -1), m.w)), m.v).sum(0),
            w=weights(3, 20, 24), b=weights(3, 1, 24), v=weights(3, 24, 5),
        ),
        X, [24, 24, 24],
    ),
    # Kernels of each example, whose convolutions are the groups of one.
    "modulated kernels": (
        lambda: image(modulated, 6, m=nn.Linear(8, 8), w=weights(1, 6, 8, 3, 3)),
        IMAGE, [8, 6, 48],
    ),
    "mixed kernels": (
        lambda: image(mixed_kernels, 6, a=nn.Linear(8, 3), b=nn.Linear(3, 4),
                      w=weights(4, 6, 8, 3, 3)),
        IMAGE, [8, 3, 4, 6, 48],
    ),
    "a kernel that is flipped": (
        lambda: image(lambda m, h: F.conv2d(h.relu(), m.w.flip(0)), 8, w=weights(8, 8, 1, 1)),
        IMAGE, [8, 8, 64],
    ),
    "a kernel from a network": (
        lambda: image(lambda m, h: F.conv2d(h, m.h(m.z).view(6, 8, 3, 3), m.b, padding=1), 6,
                      h=nn.Linear(4, 6 * 8 * 9), z=weights(4), b=weights(6)),
        IMAGE, [8, 4, 6, 48],
    ),
    "correlated with a part": (
        lambda: Net(correlated, c=convolution(3, 8), o=nn.Linear(81, 5)),
        IMAGE, [8],
    ),
    "quantized units": (
        lambda: dense(
            lambda m, x: m.o(torch.fake_quantize_per_tensor_affine(m.i(x), 1e-3, 0, -10000, 10000))
        ),
        X, [8],
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:no unit moves", "ignore:.*nested_tensor")
@pytest.mark.parametrize("name", CASES)
def test_kinds(name: str) -> None:
    check_sizes(CASES[name])


def test_complex_layers() -> None:
    """They are matched by activations alone, which is said."""
    torch.manual_seed(0)
    layers = {
        "a": nn.Linear(20, 8, dtype=torch.cfloat),
        "b": nn.Linear(8, 5, dtype=torch.cfloat),
    }
    model = Net(lambda m, x: m.b(m.a(torch.complex(x, -x)).tanh()).abs(), **layers).eval()
    spec = PermutationSpec.trace(model, X)
    assert spec.sizes == {"a": 8}
    p = spec.random(torch.Generator().manual_seed(1))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moved = permute(state, spec, p)
    matched = match_activations(moved, state, [X], spec)
    assert torch.equal(matched["a"], invert(p)["a"])
    with pytest.raises(ParameterError, match=r"^a\.weight is complex.*match by activations\.$"):
        match_weights(moved, state, spec)


@pytest.mark.filterwarnings("error:no unit moves")
def test_outputs_that_are_averaged_are_merely_outputs() -> None:
    model = Net(
        lambda m, x: torch.bmm(torch.bmm(x.expand(3, -1, -1), m.w).relu(), m.v).mean(0),
        w=weights(3, 20, 8),
        v=weights(3, 8, 5),
    )
    assert PermutationSpec.trace(model.eval(), X).fixed == ()
