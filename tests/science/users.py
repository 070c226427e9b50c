"""What the tests of users' networks share: forms of networks, batches, and the check of a spec."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lotperm.science.exporting import tensors_in
from lotperm.science.matching import match_activations, match_weights
from lotperm.science.state_dicts import copy_of
from lotperm.science.symmetry import PermutationSpec, invert, permute

GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR)


X, TOKENS, IMAGE = draw(16, 20), draw(16, 6, 8), draw(16, 3, 12, 12)
SIGNAL, VOLUME = draw(16, 3, 20), draw(16, 2, 6, 6, 6)
WORDS = torch.randint(0, 20, (16, 7), generator=GENERATOR)


class Net(nn.Module):
    """A function of layers, parameters (an `nn.Parameter`), buffers (any other tensor) and inputs."""

    def __init__(self, body: Callable[..., Any], /, **own: Any) -> None:
        super().__init__()
        self.body = body
        for name, value in own.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.body(self, *args, **kwargs)


def weights(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def dense(body: Callable[..., Any], n: int = 8, n_out: int | None = None, /, **own: Any) -> Net:
    return Net(body, i=nn.Linear(20, n), o=nn.Linear(n_out or n, 5), **own)


def tokens(body: Callable[..., Any], n: int = 8, n_out: int | None = None, /, **own: Any) -> Net:
    return Net(body, i=nn.Linear(8, n), o=nn.Linear(n_out or n, 5), **own)


def image(body: Callable[..., Any], n_out: int = 8, /, **own: Any) -> Net:
    """Pass the channels of a convolution on to a function, and its channels to a classifier."""
    return Net(
        lambda m, x: m.o(body(m, m.c(x)).tanh().mean((2, 3))),
        c=nn.Conv2d(3, 8, 3),
        **own,
        o=nn.Linear(n_out, 5),
    )


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 9), nn.Tanh(), nn.Linear(9, 5))


def convolution(inputs: int, outputs: int, kernel: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **more)


Case = tuple[Callable[[], nn.Module], Any, list[int]]


def in_double(batch: Any) -> Any:
    def cast(leaf: Any) -> Any:
        floats = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.double() if floats else copy.copy(leaf)

    return pytree.tree_map(cast, batch)


def outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    with torch.no_grad():
        result = model(*batch) if isinstance(batch, tuple) else model(batch)
    return tensors_in(result)


def found(model: nn.Module, batch: Any) -> PermutationSpec:
    """Trace a network; permuted at random it computes the same, and is matched back."""
    model.eval()
    with torch.no_grad():  # norms and biases as training leaves them
        for tensor in model.parameters():
            if tensor.dim() < 2 or tensor.min() == tensor.max():
                tensor.add_(0.1 + torch.rand(tensor.shape))
    spec = PermutationSpec.trace(model, batch)
    p = spec.random(torch.Generator().manual_seed(1))
    exact, inputs = copy_of(model).double(), in_double(batch)
    state = {name: tensor.clone() for name, tensor in exact.state_dict().items()}
    before = outputs(exact, inputs)
    exact.load_state_dict(permute(state, spec, p))
    torch.testing.assert_close(outputs(exact, inputs), before, rtol=1e-9, atol=1e-11)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moved = permute(state, spec, p)
    if spec.sizes:
        by_activations = match_activations(moved, state, [batch], spec)
        by_weights = match_weights(moved, state, spec)
        for group, order in invert(p).items():
            assert torch.equal(by_weights[group], order), f"{group}, by weights"
            seen = group not in by_activations or torch.equal(by_activations[group], order)
            # A unit that is never used in these examples can't be told from another.
            assert seen or by_activations.scores[group] < 0.95, f"{group}, by activations"
    return spec


def check_sizes(case: Case) -> None:
    """Check that the groups of a network have the sizes that its case says, as `found` finds them."""
    torch.manual_seed(0)
    make, batch, sizes = case
    got = list(found(make(), batch).sizes.values())
    assert got == sizes, f"groups of {got} units, expected {sizes}"  # pytest rewrites tests alone
