"""Attention, recurrence and embeddings: their symmetries, found, applied and matched again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer, VisionTransformer

from lotperm.errors import ParameterError
from lotperm.science.block_assignment import assign_blocks
from lotperm.science.matching import match_activations, match_weights
from lotperm.science.pairs import Inside
from lotperm.science.symmetry import PermutationSpec, compose, invert, permute

GENERATOR = torch.Generator().manual_seed(0)
TOKENS = torch.randn(16, 5, 8, generator=GENERATOR)
IMAGE = torch.randn(4, 3, 16, 16, generator=GENERATOR)
WORDS = torch.randint(0, 20, (16, 6), generator=GENERATOR)


def proven(
    model: nn.Module, batch: Any, *, blind: tuple[str, ...] = (), local: bool = False
) -> PermutationSpec:
    """Trace a network; permuted at random it computes the same, trains the same, and is found.

    `blind` are groups that no activation shows; with `local`, matching by weights may end in a
    local optimum.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.dim() < 2 or tensor.min() == tensor.max():
                tensor += 0.2 + 0.5 * torch.rand(tensor.shape)
    for module in model.modules():
        for name in ("p", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    spec = PermutationSpec.trace(model, batch)
    p = spec.random(torch.Generator().manual_seed(1))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moved = permute(weights, spec, p)

    def gradient(state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        model.load_state_dict(state)
        model.zero_grad()
        output = model(*batch) if isinstance(batch, tuple) else model(batch)
        output.square().sum().backward()
        slopes = {n: w.grad for n, w in model.named_parameters() if w.grad is not None}
        return output.detach(), slopes

    for mode in (False, True):
        model.train(mode)
        (a, slope_a), (b, slope_b) = gradient(weights), gradient(moved)
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
        if mode:  # so training goes on in step
            for name, slope in permute(slope_a, spec, p).items():
                scale = max(float(slope.abs().max()), 1e-2)
                torch.testing.assert_close(slope_b[name], slope, rtol=1e-2, atol=1e-3 * scale)
    model.load_state_dict(weights)
    model.eval()
    found = match_activations(moved, weights, [batch], spec)
    assert spec.sizes.keys() - found.keys() == set(blind)
    for group, order in invert(p).items():
        assert group in blind or torch.equal(found[group], order), group
    found = match_weights(moved, weights, spec)
    for group, order in invert(p).items():
        assert local or torch.equal(found[group], order), group
    return spec


def blocks(spec: PermutationSpec) -> dict[str, list[str]]:
    return {group: [a.group for a in above] for group, above in spec.inside.items()}


def merged(x: Tensor) -> Tensor:
    """Heads behind each other again, (B, h, T, d) -> (B, T, h d)."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


class Attention(nn.Module):
    """Attention in a residual stream, written by hand."""

    def __init__(
        self, attend: Callable[..., Tensor], heads: int = 3, groups: int | None = None, d: int = 4
    ) -> None:
        super().__init__()
        width, self.heads, self.groups = heads * d, heads, groups or heads
        self.attend = attend
        self.i, self.n = nn.Linear(8, width), nn.LayerNorm(width)
        self.q, self.o = nn.Linear(width, width), nn.Linear(width, width)
        self.k, self.v = (nn.Linear(width, self.groups * d) for _ in range(2))
        self.out = nn.Linear(width, 5)
        self.scale = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        y = self.n(x)
        q, k, v = (
            layer(y).view(y.shape[0], y.shape[1], heads, -1).transpose(1, 2)
            for layer, heads in (
                (self.q, self.heads), (self.k, self.groups), (self.v, self.groups),
            )
        )  # fmt: skip
        return self.out((x + self.o(merged(self.attend(self, q, k, v)))).mean(1))


def matmul(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    return F.dropout(scores.masked_fill(future, float("-inf")).softmax(-1), 0.0) @ v


def einsum(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhts,bhsd->bhtd", torch.einsum("bhid,bhjd->bhij", q, k).softmax(3), v)


def bmm(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.reshape(-1, *t.shape[2:]) for t in (q, k, v))
    return torch.bmm(torch.bmm(q, k.mT).softmax(-1), v).unflatten(0, (-1, m.heads))


def fused(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize("attend", [matmul, einsum, bmm, fused])
def test_written_by_hand(attend: Callable[..., Tensor]) -> None:
    spec = proven(Attention(attend), TOKENS)
    assert spec.sizes == {"i": 12, "q/heads": 3, "q": 12, "v": 12}
    assert blocks(spec) == {"q": ["q/heads"], "v": ["q/heads"]}
    assert spec.axes["q.weight"] == spec.axes["k.weight"] == ("q", "i")
    assert (spec.axes["v.weight"], spec.axes["o.weight"]) == (("v", "i"), ("i", "v"))
    assert spec.axes["n.weight"] == ("i",)
    assert not spec.fixed


def repeated(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (t.repeat_interleave(m.heads // m.groups, 1) for t in (k, v))
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def expanded(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    B, G, T, d = k.shape
    more = (B, G, m.heads // m.groups, T, d)
    k, v = (t[:, :, None].expand(more).reshape(B, m.heads, T, d) for t in (k, v))
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def grouped(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


@pytest.mark.parametrize("attend", [repeated, expanded, grouped])
def test_several_queries_on_a_key(attend: Callable[..., Tensor]) -> None:
    """Heads of keys change places with their queries; these do among themselves, too."""
    spec = proven(Attention(attend, heads=4, groups=2), TOKENS)
    assert spec.sizes == {
        "i": 16, "k/heads": 2, "k": 8, "v": 8, "q/heads": 4, "q": 16, "o": 16,
    }  # fmt: skip
    assert blocks(spec) == {
        "k": ["k/heads"],
        "v": ["k/heads"],
        "q/heads": ["k/heads"],
        "q": ["k", "q/heads"],  # which have no order of their own
        "o": ["v", "q/heads"],
    }


def rotary(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    T, d = q.shape[-2:]
    angles = torch.arange(T)[:, None] / 10.0 ** torch.arange(d // 2)
    cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))
    half = d // 2
    q, k = (t * cos + torch.cat([-t[..., half:], t[..., :half]], -1) * sin for t in (q, k))
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def turned(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Rotary positions as products of complex numbers, of neighbouring units."""
    T, d = q.shape[-2:]
    angles = torch.arange(T)[:, None] / 10.0 ** torch.arange(d // 2)
    factors = torch.polar(torch.ones_like(angles), angles)
    pairs = (torch.view_as_complex(t.reshape(*t.shape[:-1], -1, 2)) * factors for t in (q, k))
    q, k = (torch.view_as_real(t).flatten(-2) for t in pairs)
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def slopes(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    places = torch.arange(q.shape[2])
    far = (places[None] - places[:, None]).abs() * 2.0 ** -torch.arange(3)[:, None, None]
    return (q @ k.transpose(-2, -1) - far).softmax(-1) @ v


def normed(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = (F.rms_norm(t, t.shape[-1:], m.scale) for t in (q, k))
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def cosine(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = (F.normalize(t, dim=-1) for t in (q, k))
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def channels(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention between units, as in XCiT."""
    return ((q.mT @ k).softmax(-1) @ v.mT).mT


@pytest.mark.parametrize(
    ("attend", "sizes", "inside"),
    [
        # Pairs of units are one, in their order in the head; heads move.
        (rotary, {"i": 12, "q/heads": 3, "q/0": 3, "q/1": 3, "v": 12}, ["q/heads"]),
        (turned, {"i": 12, "q/heads": 3, "q/0": 3, "q/1": 3, "v": 12}, ["q/heads"]),
        # Each head has a slope of its own, so it stays; units inside move.
        (slopes, {"i": 12} | {f"{x}/{h}": 4 for x in "qv" for h in range(3)}, []),
        (normed, {"i": 12, "q/heads": 3, "q": 12, "v": 12, "scale": 4}, ["q/heads", "scale"]),
        (cosine, {"i": 12, "q/heads": 3, "q": 12, "v": 12}, ["q/heads"]),
        (channels, {"i": 12, "q/heads": 3, "q": 12, "k": 12}, ["q/heads"]),
    ],
)
def test_positions_and_norms_inside_heads(
    attend: Callable[..., Tensor], sizes: dict[str, int], inside: list[str]
) -> None:
    spec = proven(Attention(attend), TOKENS)
    assert spec.sizes == sizes
    assert {a for above in blocks(spec).values() for a in above} == set(inside)


def test_layers_of_pytorch() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16)  # time first
    model = nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 3))
    spec = proven(model, TOKENS)
    layers = [
        {f"{name}.self_attn/heads": 2, f"{name}.self_attn/qk": 8, f"{name}.self_attn/v": 8,
         f"{name}.linear1": 16}
        for name in ("1.layers.0", "1.layers.1")
    ]  # fmt: skip
    assert spec.sizes == {"0": 8, **layers[0], **layers[1]}
    assert not spec.fixed


@pytest.mark.filterwarnings("ignore:no unit moves", "ignore:enable_nested_tensor")
def test_a_transformer_of_pytorch() -> None:
    """Inputs meet the stream without a layer, which fixes the stream, and it alone."""
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    spec = proven(model, (TOKENS, TOKENS[:, :4].flip(0)))
    kinds = ("encoder.layers.0.self_attn", "decoder.layers.0.self_attn")
    parts = {f"{kind}/{part}": n for kind in (*kinds, "decoder.layers.0.multihead_attn")
             for part, n in (("heads", 2), ("qk", 8), ("v", 8))}  # fmt: skip
    assert spec.sizes == {
        **parts, "encoder.layers.0.linear1": 16, "decoder.layers.0.linear1": 16,
    }  # fmt: skip
    assert {fixed.layer.rpartition(".")[2] for fixed in spec.fixed} == {"out_proj", "linear2"}


def test_vision_transformer() -> None:
    spec = proven(VisionTransformer(16, 8, 2, 3, 12, 24, num_classes=5), IMAGE)
    expected = {"conv_proj": 12}
    for i in range(2):
        name = f"encoder.layers.encoder_layer_{i}"
        expected |= {f"{name}.self_attention/heads": 3, f"{name}.mlp.0": 24}
        expected |= {f"{name}.self_attention/{part}": 12 for part in ("qk", "v")}
    assert spec.sizes == expected
    assert not spec.fixed
    assert spec.axes["encoder.pos_embedding"] == (None, None, "conv_proj")
    assert spec.axes["class_token"] == (None, None, "conv_proj")


def test_swin() -> None:
    """Heads take their biases along, and windows, shifted or not, leave units free."""
    model = SwinTransformer([4, 4], 8, [2, 1], [2, 2], [2, 2], num_classes=5)
    spec = proven(model, IMAGE, local=True)
    expected = {"features.0.0": 8, "features.2.reduction": 16}
    for name, width in (("features.1.0", 8), ("features.1.1", 8), ("features.3.0", 16)):
        expected |= {f"{name}.attn.qkv/heads": 2, f"{name}.mlp.0": 4 * width}
        expected |= {f"{name}.attn.qkv/{part}": width for part in ("qk", "v")}
    assert spec.sizes == expected
    table = spec.axes["features.1.1.attn.relative_position_bias_table"]
    assert table == (None, "features.1.1.attn.qkv/heads")


class Conv1D(nn.Module):
    """GPT-2's linear layer, whose weight is (in, out)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(n_in, n_out))
        self.bias, self.width = nn.Parameter(torch.zeros(n_out)), n_out

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.size()[:-1], self.width)


class Decoder(nn.Module):
    """Words in, scores of the next word out, by the same embedding."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(20, width), nn.Embedding(6, width)
        self.n1, self.n2, self.n3 = (nn.LayerNorm(width) for _ in range(3))
        self.c_attn, self.c_proj = Conv1D(width, 3 * width), Conv1D(width, width)
        self.c_fc, self.c_out = Conv1D(width, 24), Conv1D(24, width)
        self.head = nn.Linear(width, 20, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.wte(words) + self.wpe(torch.arange(words.shape[1]))
        q, k, v = self.c_attn(self.n1(x)).split(x.shape[-1], dim=2)
        q, k, v = (t.view(*t.shape[:2], 3, -1).transpose(1, 2) for t in (q, k, v))
        x = x + self.c_proj(merged(matmul(self, q, k, v)))
        return self.head(self.n3(x + self.c_out(F.gelu(self.c_fc(self.n2(x))))))


def test_decoder_with_tied_embeddings() -> None:
    spec = proven(Decoder(), WORDS)
    assert spec.sizes == {
        "wte": 12, "c_attn/heads": 3, "c_attn/qk": 12, "c_attn/v": 12, "c_fc": 24,
    }  # fmt: skip
    assert spec.axes["wte.weight"] == spec.axes["head.weight"] == (None, "wte")
    assert spec.axes["wpe.weight"] == (None, "wte")
    assert not spec.fixed


class Recurrent(nn.Module):
    """A recurrent network, and a layer on the mean of its outputs over time."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.r = getattr(nn, kind)(8, 6, **options)
        width = (options.get("proj_size") or 6) * (1 + options.get("bidirectional", False))
        self.o, self.time = nn.Linear(width, 3), int(options.get("batch_first", False))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.r(x)[0].mean(self.time))


BOTH = {"num_layers": 2, "bidirectional": True, "batch_first": True}


@pytest.mark.parametrize(
    ("kind", "options", "sizes"),
    [
        ("LSTM", BOTH, {f"r.l{i}{way}": 6 for i in range(2) for way in ("", "_reverse")}),
        ("GRU", {"num_layers": 2}, {"r.l0": 6, "r.l1": 6}),
        ("RNN", {"batch_first": True}, {"r.l0": 6}),
        ("LSTM", {"proj_size": 4, "batch_first": True}, {"r.l0": 6, "r.weight_hr_l0": 4}),
    ],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_recurrent_layers(kind: str, options: dict[str, Any], sizes: dict[str, int]) -> None:
    """The gates of a unit move together, and all layers are seen."""
    steps = TOKENS[:, :3] if options.get("batch_first") else TOKENS[:, :3].transpose(0, 1)
    spec = proven(Recurrent(kind, **options), steps)
    assert spec.sizes == sizes
    assert spec.axes["r.weight_hh_l0"] == ("r.l0", list(sizes)["proj_size" in options])
    assert not spec.fixed


class Steps(nn.Module):
    """A cell, called for each step."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell, self.o = getattr(nn, kind)(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.o(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_recurrent_cells(kind: str) -> None:
    spec = proven(Steps(kind), TOKENS[:, :3])
    assert spec.sizes == {"cell": 6}
    assert spec.axes["cell.weight_hh"] == ("cell", "cell")


def test_heads_that_are_cut_apart() -> None:
    """Written as a list of heads, they stay in their order; units inside move."""

    def body(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = zip(q.unbind(1), k.unbind(1), v.unbind(1), strict=True)
        return torch.stack([(a @ b.mT).softmax(-1) @ c for a, b, c in heads], 1)

    spec = proven(Attention(body), TOKENS)
    assert sorted(spec.sizes.values()) == [4] * 6 + [12]


def test_permutations_of_blocks() -> None:
    """They compose and invert as others do; blocks follow their units, and none may be torn."""
    model = Attention(matmul).eval()
    spec = PermutationSpec.trace(model, TOKENS)
    weights = model.state_dict()
    draw = torch.Generator().manual_seed(0)
    p, q = spec.random(draw), spec.random(draw)
    heads, units = p["q/heads"], p["q"].view(3, 4)
    assert torch.equal(units // 4, heads[:, None].expand(3, 4))
    once = permute(permute(weights, spec, p), spec, q)
    for name, tensor in permute(weights, spec, compose(q, p)).items():
        assert torch.equal(tensor, once[name])
    for name, tensor in permute(once, spec, invert(compose(q, p))).items():
        assert torch.equal(tensor, weights[name])
    parts = {group: p[group] for group in ("q", "v")}  # the heads follow
    both = permute(weights, spec, {**parts, "q/heads": heads})
    assert all(torch.equal(t, both[n]) for n, t in permute(weights, spec, parts).items())
    swapped = torch.arange(12)
    swapped[[0, 4]] = torch.tensor([4, 0])
    for torn in ({"q": swapped}, {"q": p["q"]}, {"q/heads": torch.tensor([1, 0, 2])}):
        with pytest.raises(ParameterError, match=r"the permutation of '[qv]' takes units out"):
            permute(weights, spec, torn)
    assert "q: 12 units on q.weight[0], q.bias[0], k.weight[0], k.bias[0], in blocks" in repr(spec)


def test_a_mask_moves_with_the_heads() -> None:
    model = Attention(matmul).eval()
    spec = PermutationSpec.trace(model, TOKENS)
    weights = model.state_dict()
    mask = {name: torch.rand(w.shape, generator=GENERATOR) < 0.5 for name, w in weights.items()}
    p = spec.random(torch.Generator().manual_seed(0))
    moved, moved_mask = permute(weights, spec, p), permute(mask, spec, p)
    outputs = []
    for w, m in ((weights, mask), (moved, moved_mask)):
        model.load_state_dict({name: tensor * m[name] for name, tensor in w.items()})
        outputs.append(model(TOKENS))
    torch.testing.assert_close(*outputs)


def test_blocks_are_assigned_by_the_best_order_inside() -> None:
    """All permutations of 3 blocks of 2 units, and of 2 of 2 with both kinds of units."""
    draw = torch.Generator().manual_seed(0)
    for heads, units in ((3, 2), (2, 2)):
        n = heads * units
        head = torch.arange(n) // units
        inside = {group: (Inside("heads", head),) for group in ("qk", "v")}
        for _ in range(5):
            s = {g: torch.rand(n, n, generator=draw).double() for g in ("qk", "v")}
            s["heads"] = torch.rand(heads, heads, generator=draw).double()
            found = assign_blocks(s, inside)
            best = -math.inf
            for order in itertools.permutations(range(heads)):
                value = float(s["heads"][torch.arange(heads), list(order)].sum())
                for group in ("qk", "v"):
                    for i, j in enumerate(order):
                        rows = [i * units + a for a in range(units)]
                        value += max(
                            float(
                                sum(
                                    s[group][r, j * units + a]
                                    for r, a in zip(rows, inner, strict=True)
                                )
                            )
                            for inner in itertools.permutations(range(units))
                        )
                best = max(best, value)
            total = sum(float(s[g][torch.arange(len(p)), p].sum()) for g, p in found.items())
            assert total == pytest.approx(best)
            assert torch.equal(head[found["qk"]], found["heads"][head])
            assert torch.equal(head[found["v"]], found["heads"][head])
