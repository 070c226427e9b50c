"""Operations under all of their names, as users write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from science.users import TOKENS, Net, X, check_sizes, dense, found, tokens, weights
from torch import Tensor, nn
from torch.nn import functional as F

Units = Callable[[Tensor], Tensor]

OF_UNITS: dict[str, Units] = {
    "multiply": lambda h: torch.multiply(h, 2),
    "multiply_": lambda h: h.clone().multiply_(2),
    "divide": lambda h: h.divide(3),
    "subtract": lambda h: torch.subtract(h, h.mean(-1, keepdim=True)),
    "negative": torch.negative,
    "absolute": lambda h: h.absolute(),
    "arctan": torch.arctan,
    "arctan2": lambda h: torch.arctan2(h, h.relu() + 1),
    "arcsinh": torch.arcsinh,
    "greater": lambda h: h * torch.greater(h, 0),
    "greater_equal": lambda h: h * h.greater_equal(0),
    "less": lambda h: h * h.less(0.5),
    "less_equal": lambda h: h * h.less_equal(0.5),
    "not_equal": lambda h: h * h.not_equal(0),
    "and": lambda h: h * ((h > -1) & (h < 1)),
    "or": lambda h: h * ((h > 0) | (h < -1)),
    "and, in place": lambda h: h * (h > -1).__iand__(h < 1),
    "fix": lambda h: h + 0.1 * (10 * h).fix(),
    "concatenate": lambda h: torch.concatenate([h, h.tanh()], 1)[:, :8],
    "column_stack": lambda h: torch.column_stack([h, h.tanh()])[:, :8],
    "ravel": lambda h: h.ravel().view(-1, 8),
    "atleast_2d": torch.atleast_2d,
    "special.expit": torch.special.expit,
    "special.erf": torch.special.erf,
    "special.log1p": lambda h: torch.special.log1p(h.relu()),
    "special.ndtr": torch.special.ndtr,
    "special.softmax": lambda h: torch.special.softmax(h, -1),
    "special.logsumexp": lambda h: h - torch.special.logsumexp(h, 1, keepdim=True),
    "linalg.norm": lambda h: h / torch.linalg.norm(h, dim=-1, keepdim=True),
    "linalg.norm of order 1": lambda h: h / torch.linalg.norm(h, ord=1, dim=[1], keepdim=True),
    "linalg.vecdot": lambda h: h * torch.linalg.vecdot(h, h.tanh())[:, None],
    "dist": lambda h: h * torch.dist(h, h.tanh()),
    "isclose": lambda h: h * torch.isclose(h, h.relu()),
    "nanquantile": lambda h: h - torch.nanquantile(h, 0.5, dim=1, keepdim=True),
    "bucketize": lambda h: h * torch.bucketize(h, torch.tensor([-1.0, 0.0, 1.0]).to(h)),
    "searchsorted": lambda h: h * torch.searchsorted(torch.tensor([-1.0, 0.0]).to(h), h),
}

OF_TOKENS: dict[str, Units] = {
    "matrix_norm": lambda h: h / torch.linalg.matrix_norm(h, keepdim=True),
    "linalg.norm of matrices": lambda h: h / torch.linalg.norm(h, dim=(1, 2), keepdim=True),
    "fftshift": lambda h: torch.fft.fftshift(h, dim=1),
    "dstack": lambda h: torch.dstack([h.mean(1), h.amax(1)]).transpose(1, 2),
    "unsafe_chunk": lambda h: torch.concatenate(h.unsafe_chunk(2, 1)[::-1], 1),
}

OF_WEIGHTS: dict[str, Callable[[Net], Tensor]] = {
    "linalg.norm": lambda m: m.w / torch.linalg.norm(m.w, dim=1, keepdim=True),
    "linalg.norm of all": lambda m: m.w / torch.linalg.norm(m.w),
    "multiply": lambda m: torch.multiply(m.w, m.w.greater(0)),
    "a mask of two conditions": lambda m: m.w * ((m.w > 0) & (m.w < 1)),
    "outer": lambda m: m.w + torch.outer(m.u, m.v),
}


@pytest.mark.parametrize("name", OF_UNITS)
def test_of_units(name: str) -> None:
    check_sizes((lambda: dense(lambda m, x: m.o(OF_UNITS[name](m.i(x)))), X, [8]))


@pytest.mark.parametrize("name", OF_TOKENS)
def test_of_tokens(name: str) -> None:
    check_sizes((lambda: tokens(lambda m, x: m.o(OF_TOKENS[name](m.i(x)))), TOKENS, [8]))


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_of_weights(name: str) -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        out: Tensor = m.o(F.linear(m.i(x).tanh(), OF_WEIGHTS[name](m)).relu())
        return out

    own = {"w": weights(9, 8), "u": weights(9), "v": weights(8)}
    check_sizes((lambda: dense(body, 8, 9, **own), X, [8, 9]))


@pytest.mark.filterwarnings("ignore:no unit moves")
@pytest.mark.parametrize("order", ["nuc", 2])
def test_a_norm_of_singular_values_keeps_rows_and_columns_in_place(order: str | int) -> None:
    model = tokens(
        lambda m, x: m.o((h := m.i(x)) / torch.linalg.matrix_norm(h, order, keepdim=True))
    )
    torch.manual_seed(0)
    assert found(model, TOKENS).sizes == {}


def spline_bases(x: Tensor, grid: Tensor, order: int) -> Tensor:
    """The basis functions of B-splines between the knots of each unit, by de Boor's recursion."""
    x = x[..., None]
    bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x)
    for k in range(1, order + 1):
        left = (x - grid[:, : -k - 1]) / (grid[:, k:-1] - grid[:, : -k - 1])
        right = (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:-k])
        bases = left * bases[..., :-1] + right * bases[..., 1:]
    return bases


class Splines(nn.Module):
    """A layer of a Kolmogorov–Arnold network: a spline for each pair of units."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-2.2, 2.2, 12).repeat(inputs, 1))
        self.base, self.scale = weights(outputs, inputs), weights(outputs, inputs)
        self.splines = weights(outputs, inputs, 8)

    def forward(self, x: Tensor) -> Tensor:
        bases = spline_bases(x, self.get_buffer("grid"), 3).flatten(1)
        splines = (self.splines * self.scale[..., None]).flatten(1)
        return F.linear(F.silu(x), self.base) + F.linear(bases, splines)


def test_a_network_of_splines() -> None:
    case = (lambda: nn.Sequential(Splines(20, 8), nn.Tanh(), Splines(8, 5)), X.clamp(-1, 1), [8])
    check_sizes(case)
