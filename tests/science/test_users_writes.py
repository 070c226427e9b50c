"""Networks that write into tensors, whole or in part, as users' loops do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from science.users import (
    IMAGE,
    TOKENS,
    Case,
    Net,
    X,
    check_sizes,
    convolution,
    dense,
    image,
    outputs,
    tokens,
)
from torch import Tensor, nn
from torch.nn import functional as F

from lotperm.science.exporting import tensors_in
from lotperm.science.graphs import compile_graph
from lotperm.science.state_dicts import copy_of
from lotperm.science.symmetry import PermutationSpec

Body = Callable[..., Tensor]


def filled(m: Any, x: Tensor) -> Tensor:
    """Two layers' units, in a tensor that was made before."""
    units = torch.zeros(x.shape[0], 12, dtype=x.dtype)
    units[:, :8] = m.i(x).relu()
    units[:, 8:] = m.j(x)
    return m.o(units.tanh())


def narrowed(m: Any, x: Tensor) -> Tensor:
    units = torch.empty(x.shape[0], 12, dtype=x.dtype)
    units.narrow(1, 0, 8).copy_(m.i(x))
    units.narrow(1, 8, 4).copy_(m.j(x))
    return m.o(units.relu())


def tails(m: Any, x: Tensor) -> Tensor:
    """Outputs that are written part by part."""
    h, out = m.i(x).relu(), x.new_empty(x.shape[0], 5)
    out[:, :2] = m.j(h)[:, :2]
    out[:, 2:] = m.o(h)[:, 2:].log_softmax(1)
    return out


def states(m: Any, x: Tensor, *, first: bool = False) -> Tensor:
    """The state of each step, in a tensor of all of them."""
    h = x.new_zeros(x.shape[0], 8)
    seen = x.new_zeros(6, x.shape[0], 8) if first else x.new_zeros(x.shape[0], 6, 8)
    for step in range(6):
        h = torch.tanh(m.i(x[:, step]) + m.r(h))
        if first:
            seen[step] = h
        else:
            seen[:, step] = h
    return m.o(seen.mean(0) if first else seen)


def stacked(m: Any, x: Tensor) -> Tensor:
    """Two layers' states in one tensor, each step written over the one before."""
    h = x.new_zeros(2, x.shape[0], 8)
    for step in range(6):
        h[0] = torch.tanh(m.i(x[:, step]) + m.r(h[0]))
        h[1] = torch.tanh(m.s(h[0]) + m.u(h[1]))
    return m.o(h[1])


def shifted(after: Body) -> Body:
    """Each token's units, one token later."""

    def body(m: Any, x: Tensor) -> Tensor:
        units = m.i(x)
        later = torch.zeros_like(units)
        later[:, 1:] = units[:, :-1]
        return after(m, later)

    return body


def shifted_in_parts(m: Any, x: Tensor) -> Tensor:
    units = m.i(x)
    moved = torch.zeros_like(units)
    moved[:, :-1, :3] = units[:, 1:, :3]
    moved[:, 1:, 3:6] = units[:, :-1, 3:6]
    moved[:, :, 6:] = units[:, :, 6:]
    return m.o(moved.relu())


def changed(change: Callable[[Any, Tensor, Tensor], object], n: int = 8) -> Body:
    """What is computed of units, which were changed in place."""

    def body(m: Any, x: Tensor) -> Tensor:
        units = m.i(x).relu().clone()
        change(m, x, units)
        return m.o(units[..., :n])

    return body


def assign(place: Any, value: Callable[[Any, Tensor], Any]) -> Callable[..., None]:
    def change(m: Any, x: Tensor, units: Tensor) -> None:
        units[place] = value(m, x)

    return change


def earlier_view(m: Any, x: Tensor) -> Tensor:
    """A view of a view, both taken before what they show is written into."""
    units = m.i(x)
    part = units.view(-1, 2, 4)[:, 1]
    units[:, 6:].mul_(3)
    units.tanh_()
    return m.o(part)


def canvas(after: Body) -> Body:
    def body(m: Any, x: Tensor) -> Tensor:
        larger = x.new_zeros(x.shape[0], 8, 14, 14)
        larger[:, :, 2:12, 2:12] = x.relu()
        return after(m, larger)

    return body


def padded_channels(m: Any, x: Tensor) -> Tensor:
    """The shortcut of a residual block, with channels of zeros around it."""
    wider = x.new_zeros(x.shape[0], 12, *x.shape[2:])
    wider[:, 2:10] = x
    return (wider + m.k(x)).relu()


def heads(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.i(x).chunk(3, -1)
    out = torch.empty_like(v)
    for head in (slice(0, 4), slice(4, 8)):
        scores = q[..., head] @ k[..., head].transpose(1, 2)
        out[..., head] = scores.softmax(-1) @ v[..., head]
    return m.o(out)


def scores(m: Any, x: Tensor) -> Tensor:
    """Attention in which a mask's scores are written over."""
    q, k, v = m.i(x).chunk(3, -1)
    found = q @ k.transpose(1, 2)
    found[(x[..., 0] < -1)[:, None].expand_as(found)] = -9.0
    return m.o(found.softmax(-1) @ v)


def lstm_by_hand(m: Any, x: Tensor) -> Tensor:
    h = x.new_zeros(2, x.shape[0], 8)
    c, seen = h.clone(), []
    for y in x.unbind(1):
        for layer in range(2):
            gates = (m.w[layer](y) + m.u[layer](h[layer])).chunk(4, -1)
            i, f, o, g = gates
            c[layer] = f.sigmoid() * c[layer].clone() + i.sigmoid() * g.tanh()
            h[layer] = y = o.sigmoid() * c[layer].tanh()
        seen.append(y)
    return m.o(torch.stack(seen, 1))


def borders(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 0] = 0
    x[:, :, :, -1] = 0
    return x


def linears(n: int, width: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(8, width) for _ in range(n))


CASES: dict[str, Case] = {
    "two layers in one tensor": (lambda: dense(filled, 8, 12, j=nn.Linear(20, 4)), X, [8, 4]),
    "narrowed": (lambda: dense(narrowed, 8, 12, j=nn.Linear(20, 4)), X, [8, 4]),
    "outputs in parts": (lambda: dense(tails, j=nn.Linear(8, 5)), X, [8, 3, 2]),
    "adaptive softmax": (
        lambda: dense(
            lambda m, x: m.a.log_prob(m.i(x).relu()),
            a=nn.AdaptiveLogSoftmaxWithLoss(8, 12, [4, 8], div_value=2.0),
        ),
        X,
        [8, 4, 2],
    ),
    "states": (lambda: tokens(states, r=nn.Linear(8, 8)), TOKENS, [8]),
    "states, steps first": (
        lambda: tokens(lambda m, x: states(m, x, first=True), r=nn.Linear(8, 8)),
        TOKENS,
        [8],
    ),
    "states of two layers": (
        lambda: tokens(stacked, r=nn.Linear(8, 8), s=nn.Linear(8, 8), u=nn.Linear(8, 8)),
        TOKENS,
        [8, 8],
    ),
    "an LSTM by hand": (
        lambda: Net(lstm_by_hand, w=linears(2, 32), u=linears(2, 32), o=nn.Linear(8, 5)),
        TOKENS,
        [8, 8],
    ),
    "shifted": (
        lambda: tokens(shifted(lambda m, later: m.o(m.n(later).relu())), n=nn.Linear(8, 8)),
        TOKENS,
        [8, 8],
    ),
    "shifted, mean": (
        lambda: tokens(shifted(lambda m, later: m.o(later.relu().mean(1)))),
        TOKENS,
        [8],
    ),
    "shifted, normed": (
        lambda: tokens(shifted(lambda m, later: m.o(m.n(later))), n=nn.LayerNorm(8)),
        TOKENS,
        [8],
    ),
    "shifted in parts": (lambda: tokens(shifted_in_parts), TOKENS, [3, 3, 2]),
    "added to a part": (
        lambda: dense(changed(lambda m, x, units: units[:, :4].add_(m.j(x))), j=nn.Linear(20, 4)),
        X,
        [4, 4],
    ),
    "a part of zeros": (
        lambda: dense(changed(assign((..., slice(3)), lambda m, x: 0.0))),
        X,
        [3, 5],
    ),
    "a token that another layer makes": (
        lambda: tokens(
            changed(assign((slice(None), -1), lambda m, x: m.j(x[:, 0]))), j=nn.Linear(8, 8)
        ),
        TOKENS,
        [8],
    ),
    "a view of halves": (
        lambda: dense(changed(lambda m, x, units: units.view(-1, 2, 4)[:, 0].mul_(2))),
        X,
        [4, 4],
    ),
    "transposed tokens": (
        lambda: tokens(changed(lambda m, x, units: units.transpose(1, 2)[:, :, 0].mul_(2))),
        TOKENS,
        [8],
    ),
    "turned tokens": (
        lambda: tokens(changed(lambda m, x, units: units.permute(2, 0, 1)[..., 0].mul_(2))),
        TOKENS,
        [8],
    ),
    "moved tokens": (
        lambda: tokens(changed(lambda m, x, units: units.movedim(1, 0)[0].mul_(2))),
        TOKENS,
        [8],
    ),
    "without a record": (
        lambda: dense(changed(lambda m, x, units: units.detach()[:, :3].mul_(2))),
        X,
        [3, 5],
    ),
    "a copy": (
        lambda: tokens(changed(lambda m, x, units: units.transpose(1, 2).reshape(-1, 6).zero_())),
        TOKENS,
        [8],
    ),
    "a diagonal": (
        lambda: dense(changed(lambda m, x, units: units.view(-1, 2, 4).diagonal(0, 1, 2).zero_())),
        X,
        [],
    ),
    "a view from before": (lambda: dense(earlier_view, 8, 4), X, [4, 2, 2]),
    "some numbers": (
        lambda: dense(changed(assign((..., [1, 3]), lambda m, x: 0.0))),
        X,
        [6, 2],
    ),
    "units at some numbers": (
        lambda: dense(changed(assign((..., [1, 3]), lambda m, x: m.j(x))), j=nn.Linear(20, 2)),
        X,
        [6, 2, 2],
    ),
    "tokens at some numbers": (
        lambda: tokens(
            changed(assign((slice(None), [0, 2]), lambda m, x: m.j(x[:, :2]))), j=nn.Linear(8, 8)
        ),
        TOKENS,
        [8],
    ),
    "numbers in a buffer": (
        lambda: dense(
            lambda m, x: changed(assign((..., m.n), lambda m, x: 0.0))(m, x), n=torch.tensor([1, 3])
        ),
        X,
        [],
    ),
    "a mask of values": (
        lambda: dense(changed(lambda m, x, units: units.__setitem__(units > 1, 1.0))),
        X,
        [8],
    ),
    "a mask of tokens": (
        lambda: tokens(changed(lambda m, x, units: units.__setitem__(x[..., 0] < 0, 0.0))),
        TOKENS,
        [8],
    ),
    "a mask of scores": (lambda: tokens(scores, 24, 8), TOKENS, [8, 8]),
    "heads, one by one": (lambda: tokens(heads, 24, 8), TOKENS, [4, 4, 4, 4]),
    "a larger canvas": (
        lambda: image(
            canvas(lambda m, larger: m.k(F.max_pool2d(larger, 2))), 6, k=convolution(8, 6)
        ),
        IMAGE,
        [8, 6],
    ),
    "a larger canvas, normed": (
        lambda: image(canvas(lambda m, larger: m.b(larger)), b=nn.BatchNorm2d(8)),
        IMAGE,
        [8],
    ),
    "channels of zeros": (
        lambda: image(padded_channels, 12, k=nn.Conv2d(8, 12, 1)),
        IMAGE,
        [8, 4],
    ),
    "borders of zeros": (
        lambda: image(lambda m, x: m.k(borders(x)), 6, k=nn.Conv2d(8, 6, 1)),
        IMAGE,
        [8, 6],
    ),
}


class Changed(nn.Conv2d):
    """A convolution that changes its own kernel, and then uses it."""

    def __init__(self, change: Callable[[Any], Any], inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.change = change
        mask = torch.ones_like(self.weight)
        mask[:, :, 1, 2] = mask[:, :, 2] = 0.0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.change(self)
        return super().forward(x)


def masked_data(m: Any) -> None:
    m.weight.data *= m.mask  # as in PixelCNN


def masked_in_place(m: Any) -> None:
    m.weight.mul_(m.mask)


def masked_anew(m: Any) -> None:
    m.weight.data = m.weight.data * m.mask


def bounded(m: Any) -> None:
    m.weight.data = torch.renorm(m.weight.data, 2, 0, 1.0)  # as in EEGNet


def normed(m: Any) -> None:
    m.weight.div_(m.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1))


def standardized(m: Any) -> None:
    w = m.weight.data
    w -= w.mean((1, 2, 3), keepdim=True)
    w /= w.std((1, 2, 3), keepdim=True) + 1e-5


def clamped(m: Any) -> None:
    m.weight.data.clamp_(-0.1, 0.1)
    m.bias.data.clamp_(0.0, 0.1)


def changed_kernels(change: Callable[[Any], Any]) -> Case:
    return (
        lambda: nn.Sequential(
            *(Changed(change, 3, 8), nn.ReLU(), Changed(change, 8, 6), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
        ),
        IMAGE,
        [8, 6],
    )


CASES |= {
    f"a kernel, {change.__name__}": changed_kernels(change)
    for change in (
        masked_data,
        masked_in_place,
        masked_anew,
        bounded,
        normed,
        standardized,
        clamped,
    )
}


@pytest.mark.filterwarnings("ignore:no unit moves")
@pytest.mark.parametrize("name", CASES)
def test_writes(name: str) -> None:
    check_sizes(CASES[name])


@pytest.mark.filterwarnings("ignore:no unit moves")
@pytest.mark.parametrize("name", CASES)
def test_the_graph_computes_what_the_network_does(name: str) -> None:
    torch.manual_seed(0)
    make, batch, _ = CASES[name]
    model = make().eval()
    spec = PermutationSpec.trace(model, batch)
    graph = compile_graph(spec.network.graph, spec.tensors(copy_of(model)))
    with torch.no_grad():
        got = graph(*spec.network.form.leaves(batch))
    torch.testing.assert_close(tensors_in(got), outputs(model, batch))
