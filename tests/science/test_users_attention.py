"""Attention and code books as users write them: heads, units inside them, and words that are chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from science.users import (
    GENERATOR,
    TOKENS,
    WORDS,
    Case,
    Net,
    X,
    check_sizes,
    dense,
    draw,
    weights,
)
from torch import Tensor, nn
from torch.nn import functional as F

PADDED = torch.rand(16, 6, generator=GENERATOR) > 0.7
PADDED[:, 0] = False

# Attention in a residual stream of 12 channels, 3 heads of 4.
Heads = Callable[[Any, Tensor], Tensor]


def attention(body: Heads, **own: Any) -> Net:
    layers = {name: nn.Linear(12, 12) for name in "qkvp"} if "qkv" not in own else {}
    return Net(
        lambda m, x: (h := m.e(x)) is None or m.o((h + body(m, h)).mean(1)),
        e=nn.Linear(8, 12),
        o=nn.Linear(12, 5),
        **(layers | own),
    )


def split(x: Tensor, heads: int = 3) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    return (q @ k.transpose(-1, -2) / 2 + bias).softmax(-1) @ v


def by_heads(m: Any, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return split(m.q(h)), split(m.k(h)), split(m.v(h))


DISTANCES = (torch.arange(6)[:, None] - torch.arange(6)).abs()


def rotated(x: Tensor, form: str) -> Tensor:
    """Rotary positions as GPT-NeoX, LLaMA and GPT-J write them."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] / 100 ** (torch.arange(half) / half)
    if form == "llama":
        both = torch.cat([angles, angles], -1)
        a, b = x.chunk(2, -1)
        return x * both.cos() + torch.cat([-b, a], -1) * both.sin()
    a, b = (x[..., :half], x[..., half:]) if form == "neox" else (x[..., ::2], x[..., 1::2])
    parts = [a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()]
    return torch.cat(parts, -1) if form == "neox" else torch.stack(parts, -1).flatten(-2)


def rotary(form: str) -> Callable[[], Net]:
    def body(m: Any, h: Tensor) -> Tensor:
        q, k, v = by_heads(m, h)
        return m.p(merged(attend(rotated(q, form), rotated(k, form), v)))

    return lambda: attention(body)


def written_in_one(m: Any, h: Tensor) -> Tensor:
    """One matrix for all, as timm has it."""
    q, k, v = m.qkv(h).reshape(-1, 6, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return m.p(merged(attend(q, k, v)))


def by_einsum(m: Any, h: Tensor) -> Tensor:
    q, k, v = (torch.einsum("btd,dhe->bhte", h, w) for w in (m.q, m.k, m.v))
    scores = torch.einsum("bhte,bhse->bhts", q, k).softmax(-1)
    return torch.einsum("bhte,hed->btd", torch.einsum("bhts,bhse->bhte", scores, v), m.p)


def linear_attention(m: Any, h: Tensor) -> Tensor:
    q, k, v = by_heads(m, h)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return m.p(merged((q @ (k.transpose(-1, -2) @ v)) / (q @ k.sum(-2)[..., None])))


def talking(m: Any, h: Tensor) -> Tensor:
    q, k, v = by_heads(m, h)
    scores = torch.einsum("bhij,hg->bgij", q @ k.transpose(-1, -2), m.t)
    return m.p(merged(scores.softmax(-1) @ v))


def grouped(expand: Callable[[Tensor], Tensor]) -> Callable[[], Net]:
    """Two heads of keys and values for four of queries."""

    def body(m: Any, h: Tensor) -> Tensor:
        k, v = (expand(split(f(h), 2)) for f in (m.k, m.v))
        return m.p(merged(F.scaled_dot_product_attention(split(m.q(h), 4), k, v)))

    shapes = {"q": (12, 16), "k": (12, 8), "v": (12, 8), "p": (16, 12)}
    return lambda: attention(body, **{name: nn.Linear(*shape) for name, shape in shapes.items()})


def decoder(m: Any, x: Tensor) -> Tensor:
    """Token by token, with what was computed before."""
    h, keys, values, out = m.e(x), [], [], []
    for t in range(3):
        q, k, v = (split(f(h[:, t : t + 1])) for f in (m.q, m.k, m.v))
        keys.append(k)
        values.append(v)
        out.append(m.p(merged(attend(q, torch.cat(keys, 2), torch.cat(values, 2)))))
    return m.o(h[:, :3] + torch.cat(out, 1))


# Code books, whose words are chosen by numbers.
def quantizer(look_up: Callable[[Any, Tensor], Tensor], **own: Any) -> Callable[[], Net]:
    """The word of a code book that is nearest to what a layer gives, with its gradient."""
    return lambda: dense(
        lambda m, x: (z := m.i(x)) is None or m.o(z + (look_up(m, z) - z).detach()),
        6,
        **({"book": nn.Embedding(9, 6)} | own),
    )


def apart(m: Any, z: Tensor) -> Tensor:
    w = m.book.weight
    return z.square().sum(1, keepdim=True) + w.square().sum(1) - 2 * z @ w.t()


def by_ones(m: Any, z: Tensor) -> Tensor:
    nearest = apart(m, z).argmin(1).unsqueeze(1)
    ones = torch.zeros(nearest.shape[0], 9, dtype=z.dtype).scatter_(1, nearest, 1)
    return ones @ m.book.weight


def several_words(m: Any, z: Tensor) -> Tensor:
    best = (z @ m.book.weight.t()).topk(3, 1)
    return (m.book(best.indices) * best.values.softmax(1)[..., None]).sum(1)


def sparse_gates(m: Any, z: Tensor) -> Tensor:
    scores = z @ m.book.weight.t()
    best = scores.topk(3, 1)
    return torch.zeros_like(scores).scatter(1, best.indices, best.values.softmax(1)) @ m.book.weight


def residual_books(m: Any, z: Tensor) -> Tensor:
    left, found = z, torch.zeros_like(z)
    for book in m.books:
        word = book(torch.cdist(left, book.weight).argmin(1))
        left, found = left - word, found + word
    return found


def experts(m: Any, x: Tensor) -> Tensor:
    """The two experts with the largest gates."""
    best = m.g(x).topk(2, -1)
    every = torch.stack([f(x).tanh() for f in m.e], 1)
    taken = every.gather(1, best.indices[..., None].expand(-1, -1, 8))
    return m.o((best.values.softmax(-1)[..., None] * taken).sum(1))


CASES: dict[str, Case] = {
    # Attention: the stream, the heads, the units of queries and keys, and those of values.
    "one matrix for queries, keys and values": (
        lambda: attention(written_in_one, qkv=nn.Linear(12, 36), p=nn.Linear(12, 12)),
        TOKENS, [12, 3, 12, 12],
    ),
    "attention by einsum": (
        lambda: attention(by_einsum, **{n: weights(12, 3, 4) for n in "qkv"}, p=weights(3, 4, 12)),
        TOKENS, [12, 3, 12, 12],
    ),
    "slopes of distance": (
        lambda: attention(
            lambda m, h: m.p(merged(attend(*by_heads(m, h), m.s[:, None, None] * DISTANCES))),
            s=weights(3),
        ),
        TOKENS, [12, 3, 12, 12],
    ),
    "a table of distances": (
        lambda: attention(
            lambda m, h: m.p(merged(attend(*by_heads(m, h), m.s(m.at).permute(2, 0, 1)))),
            s=nn.Embedding(6, 3), at=DISTANCES,
        ),
        TOKENS, [12, 3, 12, 12],
    ),
    "rotary, halves": (rotary("neox"), TOKENS, [12, 3, 3, 3, 12]),
    "rotary, turned halves": (rotary("llama"), TOKENS, [12, 3, 3, 3, 12]),
    "rotary, neighbours": (rotary("gptj"), TOKENS, [12, 3, 3, 3, 12]),
    "normed queries and keys": (
        lambda: attention(
            lambda m, h: (s := by_heads(m, h)) is None
            or m.p(merged(attend(m.n(s[0]), m.r(s[1]), s[2]))),
            n=nn.LayerNorm(4), r=nn.RMSNorm(4),
        ),
        TOKENS, [12, 3, 12, 12, 4],
    ),
    "linear attention": (lambda: attention(linear_attention), TOKENS, [12, 3, 12, 12]),
    "heads that mix": (lambda: attention(talking, t=weights(3, 3)), TOKENS, [12, 3, 12, 12, 3]),
    "groups of queries, repeated": (
        grouped(lambda x: x.repeat_interleave(2, 1)), TOKENS, [12, 2, 8, 8, 4, 16, 16],
    ),
    "groups of queries, expanded": (
        grouped(lambda x: x[:, :, None].expand(-1, 2, 2, 6, 4).reshape(-1, 4, 6, 4)),
        TOKENS, [12, 2, 8, 8, 4, 16, 16],
    ),
    "keys from another stream": (
        lambda: Net(
            lambda m, x, y: (h := m.e(x)) is None
            or m.o((h + m.a(h, z := m.m(y), z, need_weights=False)[0]).mean(1)),
            e=nn.Linear(8, 12), m=nn.Linear(8, 10), o=nn.Linear(12, 5),
            a=nn.MultiheadAttention(12, 3, batch_first=True, kdim=10, vdim=10),
        ),
        (TOKENS, draw(16, 9, 8)), [12, 10, 3, 12, 12],
    ),
    "keys and values from before": (
        lambda: Net(decoder, e=nn.Embedding(20, 12), **{n: nn.Linear(12, 12) for n in "qkvp"},
                    o=nn.Linear(12, 20)),
        WORDS, [12, 3, 12, 12],
    ),
    "padded tokens": (
        lambda: Net(
            lambda m, x, pad: (h := m.e(x)) is None
            or m.o((h + m.a(h, h, h, key_padding_mask=pad)[0]).mean(1)),
            e=nn.Linear(8, 12), a=nn.MultiheadAttention(12, 3, batch_first=True), o=nn.Linear(12, 5),
        ),
        (TOKENS, PADDED), [12, 3, 12, 12],
    ),
    "padded tokens, time first": (
        lambda: Net(
            lambda m, x, pad: (h := m.e(x).transpose(0, 1)) is None
            or m.o((h + m.a(h, h, h, key_padding_mask=pad)[0]).mean(0)),
            e=nn.Linear(8, 12), a=nn.MultiheadAttention(12, 3), o=nn.Linear(12, 5),
        ),
        (TOKENS, PADDED), [12, 3, 12, 12],
    ),
    "keys of zeros": (
        lambda: Net(
            lambda m, x: (h := m.e(x)) is None or m.o((h + m.a(h, h, h)[0]).mean(1)), e=nn.Linear(8, 12),
            a=nn.MultiheadAttention(12, 3, batch_first=True, add_zero_attn=True), o=nn.Linear(12, 5),
        ),
        TOKENS, [12, 3, 12, 12],
    ),
    "an encoder with a mask": (
        lambda: Net(
            lambda m, x: m.o(m.t(m.e(x), mask=m.mask).mean(1)), e=nn.Linear(8, 12),
            t=nn.TransformerEncoder(
                nn.TransformerEncoderLayer(12, 3, 14, batch_first=True), 1
            ),
            mask=torch.full((6, 6), -torch.inf).triu(1), o=nn.Linear(12, 5),
        ),
        TOKENS, [12, 3, 12, 12, 14],
    ),
    "experts, weighed": (
        lambda: Net(
            lambda m, x: m.o(
                (m.g(x).softmax(-1)[..., None] * torch.stack([f(x).tanh() for f in m.e], 1)).sum(1)
            ),
            g=nn.Linear(20, 4), e=nn.ModuleList([nn.Linear(20, 8) for _ in range(4)]),
            o=nn.Linear(8, 5),
        ),
        X, [8],
    ),
    "the best experts": (
        lambda: Net(experts, g=nn.Linear(20, 4), o=nn.Linear(8, 5),
                    e=nn.ModuleList([nn.Linear(20, 8) for _ in range(4)])),
        X, [8],
    ),
    # Numbers by which units are chosen.
    "the nearest word": (
        quantizer(lambda m, z: m.book(torch.cdist(z, m.book.weight).argmin(1))), X, [6, 9, 54],
    ),
    "the nearest word, by products": (
        quantizer(lambda m, z: F.one_hot(apart(m, z).argmin(1), 9).to(z) @ m.book.weight),
        X, [6, 9],
    ),
    "the nearest word, by ones": (quantizer(by_ones), X, [6, 9]),
    "the nearest row": (
        quantizer(lambda m, z: m.book.weight[(z @ m.book.weight.t()).max(1).indices]),
        X, [6, 9, 54],
    ),
    "the nearest row of a buffer": (
        quantizer(lambda m, z: F.embedding(torch.cdist(z, m.book).argmin(1), m.book),
                  book=draw(9, 6)),
        X, [6, 9, 54],
    ),
    "words of another book": (
        quantizer(lambda m, z: m.other((z @ m.book.weight.t()).argmax(1)),
                  other=nn.Embedding(9, 6)),
        X, [6, 9],
    ),
    "several words": (quantizer(several_words), X, [6, 9]),
    "two ways to choose": (
        quantizer(
            lambda m, z: m.book(
                torch.stack([(s * z @ m.book.weight.t()).argmax(1) for s in (1, -1)], 1)
            ).mean(1)
        ),
        X, [6, 9],
    ),
    "gates of the best": (quantizer(sparse_gates), X, [6, 9]),
    "books of what is left": (
        quantizer(residual_books, book=None,
                  books=nn.ModuleList([nn.Embedding(9, 6) for _ in range(2)])),
        X, [6, 9, 54, 9, 54],
    ),
    "the bias of an expert": (
        lambda: dense(lambda m, x: m.o(m.i(x) * m.b[m.g(x).argmax(1)][:, None]), g=nn.Linear(20, 9),
                      b=weights(9)),
        X, [8, 9],
    ),
    "the value of the best": (
        quantizer(lambda m, z: z * (s := z @ m.book.weight.t()).gather(1, s.argmax(1, True))),
        X, [6, 9],
    ),
    # What looks alike, but uses the numbers themselves.
    "numbers that are added to": (
        quantizer(lambda m, z: m.book(((z @ m.book.weight.t()).argmax(1) + 1) % 9)), X, [6],
    ),
    "numbers as values": (
        quantizer(lambda m, z: m.book(n := (z @ m.book.weight.t()).argmax(1)) * n[:, None]),
        X, [6],
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:no unit moves", "ignore:.*nested_tensor")
@pytest.mark.parametrize("name", CASES)
def test_kinds(name: str) -> None:
    check_sizes(CASES[name])
