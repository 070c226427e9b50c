"""Networks that read activations at places which other tensors give: boxes, offsets, ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from science.users import IMAGE, TOKENS, Case, Net, check_sizes, convolution, image, tokens
from torch import Tensor, nn
from torchvision.ops import DeformConv2d, RoIAlign, RoIPool

# The number of the image, and two corners.
BOXES = torch.tensor([[0.0, 0, 0, 5, 5], [15, 1, 1, 8, 8], [15, 0, 2, 4, 7]])


def regions(pool: nn.Module) -> nn.Module:
    """A head over regions, as in Fast R-CNN."""
    return Net(
        lambda m, x, boxes: m.o(m.h(m.pool(m.c(x).relu(), boxes).flatten(1)).relu()),
        c=convolution(3, 8),
        pool=pool,
        h=nn.Linear(8 * 9, 16),
        o=nn.Linear(16, 5),
    )


def deformed(*, offset_groups: int = 1, groups: int = 1, weighed: bool = False) -> nn.Module:
    def body(m: Any, units: Tensor) -> Tensor:
        h = units.relu()
        return m.d(h, m.places(h).tanh(), m.weights(h).sigmoid() if weighed else None)

    return image(
        body,
        12,
        places=convolution(8, 2 * 9 * offset_groups),
        weights=convolution(8, 9 * offset_groups),
        d=DeformConv2d(8, 12, 3, padding=1, groups=groups),
    )


def by_mean(m: Any, x: Tensor, *, n: int | None = None) -> Tensor:
    """Tokens in the order of their units' mean, or the first of them."""
    h = m.i(x).relu()
    order = h.mean(-1, keepdim=True).argsort(1)[:, :n]
    return m.o(torch.take_along_dim(h, order, 1).flip(1).cumsum(1))


CASES: dict[str, Case] = {
    "tokens by mean": (lambda: tokens(by_mean), TOKENS, [8]),
    "the first tokens by mean": (lambda: tokens(lambda m, x: by_mean(m, x, n=3)), TOKENS, [8]),
    "units by value": (
        lambda: tokens(
            lambda m, x: m.o(torch.take_along_dim(h := m.i(x), h.argmax(-1, keepdim=True), -1) * h)
        ),
        TOKENS,
        [8],
    ),
    "each unit's tokens by value": (
        lambda: tokens(lambda m, x: m.o(torch.take_along_dim(h := m.i(x), h.argsort(1), 1))),
        TOKENS,
        [8],
    ),
    "the first of all values": (
        lambda: tokens(
            lambda m, x: m.o((h := m.i(x)) * torch.take_along_dim(h, m.at).tanh()),
            at=torch.zeros(1, dtype=torch.int64),
        ),
        TOKENS,
        [],
    ),
    "boxes": (lambda: regions(RoIAlign(3, 0.5, 2)), (IMAGE, BOXES), [8, 16]),
    "boxes, largest values": (lambda: regions(RoIPool(3, 1.0)), (IMAGE, BOXES), [8, 16]),
    "deformed": (deformed, IMAGE, [8, 12]),
    "deformed and weighed": (lambda: deformed(weighed=True), IMAGE, [8, 12]),
    "deformed in two groups of filters": (lambda: deformed(groups=2), IMAGE, [2, 8, 48, 12]),
    "deformed, channels in two groups": (lambda: deformed(offset_groups=2), IMAGE, [12]),
}


@pytest.mark.parametrize("name", CASES)
def test_units_are_followed_to_other_places(name: str) -> None:
    check_sizes(CASES[name])
