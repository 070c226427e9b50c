"""Grouped convolutions: blocks of channels trade places as wholes, and units inside them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from lotperm.engine.models import build
from lotperm.science import block_assignment
from lotperm.science.frank_wolfe import match_weights_jointly
from lotperm.science.matching import match_activations, match_gradients, match_weights
from lotperm.science.symmetry import PermutationSpec, permute

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class Block(nn.Module):
    """A block of ResNeXt."""

    def __init__(self, channels: int, width: int, groups: int) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.g = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False)
        self.ng = nn.BatchNorm2d(width)
        self.b, self.nb = nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ng(self.g(self.na(self.a(x)).relu())).relu()
        return (x + self.nb(self.b(h))).relu()


class ResNeXt(nn.Module):
    def __init__(self, channels: int = 16, width: int = 24, groups: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(channels, width, groups) for _ in range(2)))
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def resnext() -> ResNeXt:
    """ResNeXt with random weights, norms included, in eval mode."""
    torch.manual_seed(0)
    model = ResNeXt()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        model.train()(IMAGES)
    return model.eval()


def small(last: nn.Module, out: int = 12) -> nn.Sequential:
    """A convolution with 8 outputs, a grouped one, and a classifier."""
    torch.manual_seed(0)
    first, head = nn.Conv2d(3, 8, 3), nn.Linear(out, 5)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(first, nn.Tanh(), last, nn.Tanh(), pool, head)


def sizes(model: nn.Module) -> dict[str, int]:
    return PermutationSpec.trace(model, IMAGES[:3]).sizes


def test_the_groups_of_a_resnext() -> None:
    model = resnext()
    spec = PermutationSpec.trace(model, IMAGES[:3])
    of_block = {"a/blocks": 6, "a": 24, "g/weights": 96, "g": 24}
    assert spec.sizes == {"stem": 16} | {
        f"blocks.{i}.{name}": n for i in range(2) for name, n in of_block.items()
    }
    assert not spec.fixed
    assert [above.group for above in spec.inside["blocks.0.g/weights"]] == [
        "blocks.0.g",
        "blocks.0.a",
    ]
    # A single weight isn't observed.
    assert spec.points["blocks.0.g"] and not spec.points["blocks.0.g/weights"]


def test_whole_blocks_trade_places_and_the_function_stays() -> None:
    model = resnext().double()
    spec = PermutationSpec.trace(model, IMAGES[:3].double())
    p = spec.random(torch.Generator().manual_seed(1))
    assert (p["blocks.0.a/blocks"] != torch.arange(6)).any()
    before = model(IMAGES.double())
    model.load_state_dict(permute(model.state_dict(), spec, p))
    torch.testing.assert_close(model(IMAGES.double()), before, rtol=1e-9, atol=1e-9)


MATCHERS = {
    "weights": match_weights,
    "all weights at once": lambda a, b, spec: match_weights_jointly(
        a.state_dict(), b.state_dict(), spec
    ),
    "activations": lambda a, b, spec: match_activations(a, b, [IMAGES], spec),
    "gradients": lambda a, b, spec: match_gradients(
        a, b, [(IMAGES, torch.arange(len(IMAGES)) % 5)], spec
    ),
}


def assert_found_again(a: nn.Module, spec: PermutationSpec, by: str) -> None:
    """Move all units of a copy at random, and match."""
    b = copy.deepcopy(a)
    b.load_state_dict(permute(a.state_dict(), spec, spec.random(torch.Generator().manual_seed(1))))
    moved = permute(a.state_dict(), spec, MATCHERS[by](a, b, spec))
    for name, weights in b.state_dict().items():
        torch.testing.assert_close(moved[name], weights)


@pytest.mark.parametrize("by", MATCHERS)
def test_blocks_that_were_moved_are_found_again(by: str) -> None:
    a = resnext()
    assert_found_again(a, PermutationSpec.trace(a, IMAGES[:3]), by)


def test_a_mask_goes_where_its_weights_go() -> None:
    model = resnext()
    spec = PermutationSpec.trace(model, IMAGES[:3])
    p = spec.random(torch.Generator().manual_seed(1))
    weights = model.state_dict()
    mask = {
        name: torch.rand(w.shape, generator=torch.Generator().manual_seed(len(name))) < 0.5
        for name, w in weights.items()
        if w.dim() == 4
    }
    masked = {name: w * mask[name] if name in mask else w for name, w in weights.items()}
    moved = permute(masked, spec, p)
    for name, kept in permute(mask, spec, p).items():
        assert torch.equal(kept, moved[name] != 0)


def test_many_pairs_of_blocks_are_assigned_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is inside a pair is assigned in two steps there, and looked up in parts."""
    a, b = resnext(), resnext()
    spec = PermutationSpec.trace(a, IMAGES[:3])
    p = spec.random(torch.Generator().manual_seed(1))
    noisy = permute(a.state_dict(), spec, p)
    generator = torch.Generator().manual_seed(2)
    b.load_state_dict(
        {
            name: w + 0.3 * w.std() * torch.randn(w.shape, generator=generator)
            if w.dim() > 1
            else w
            for name, w in noisy.items()
        }
    )
    exact = match_weights(a, b, spec)
    monkeypatch.setattr(block_assignment, "MANY_PAIRS", 0)
    monkeypatch.setattr(block_assignment, "AT_ONCE", 1)
    coarse = match_weights(a, b, spec)
    for group, order in p.items():
        assert torch.equal(exact[group], order)
        assert torch.equal(coarse[group], order)


KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "transposed": (
        lambda: small(nn.ConvTranspose2d(8, 12, 3, groups=2)),
        {"0/blocks": 2, "0": 8, "2/weights": 48, "2": 12},
    ),
    "one output for each block": (
        lambda: small(nn.Conv2d(8, 4, 3, groups=4), 4),
        {"0": 8, "2": 4},
    ),
    "pruned": (
        lambda: small(prune.random_unstructured(nn.Conv2d(8, 12, 3, groups=2), "weight", 0.5)),
        {"0/blocks": 2, "0": 8, "2/weights": 48, "2": 12},
    ),
    "with weight norm": (
        lambda: small(weight_norm(nn.Conv2d(8, 12, 3, groups=2))),
        {"0/blocks": 2, "0": 8, "2/weights": 48, "2": 12},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str) -> None:
    make, wanted = KINDS[kind]
    # Tracing checks that random permutations leave the function as it is.
    assert sizes(make()) == wanted


class Again(nn.Module):
    """A grouped convolution that is used twice, or whose outputs are added to its inputs."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, out = how, 12 if how == "on two inputs" else 8
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.g = nn.Conv2d(8, out, 3, padding=1, groups=2)
        self.norm, self.h = nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1, groups=4)
        self.head = nn.Linear(out, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).tanh()
        if self.how == "on two inputs":
            h = self.g(a).tanh() + self.g(self.b(x).tanh()).tanh()
        elif self.how == "on its outputs":
            h = self.g(self.g(a).tanh()).tanh()
        else:
            h = self.h(a + self.norm(self.g(a)).relu()).tanh()
        return self.head(h.mean((2, 3)))


AGAIN = {
    "on two inputs": {"a/blocks": 2, "a": 8, "g/weights": 48, "g": 12},
    "on its outputs": {"a/blocks": 2, "a": 8, "g/weights": 32},
    "beside them": {
        "a/blocks0": 2,
        "a/blocks1": 4,
        "a": 8,
        "g/weights": 32,
        "h/weights": 16,
        "h": 8,
    },
}


@pytest.mark.parametrize("by", MATCHERS)
@pytest.mark.parametrize("how", AGAIN)
def test_blocks_that_are_used_again(how: str, by: str) -> None:
    """A single weight may then belong to two units of the same group, as input and as output."""
    torch.manual_seed(0)
    a = Again(how)
    spec = PermutationSpec.trace(a, IMAGES[:3])
    assert spec.sizes == AGAIN[how]
    assert_found_again(a, spec, by)


def test_blocks_of_outputs_stay_where_outputs_stay() -> None:
    """Inputs still trade places inside their blocks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 12, 3, groups=2))
    spec = PermutationSpec.trace(model, IMAGES[:3])
    units = {group: n for group, n in spec.sizes.items() if not group.endswith("/weights")}
    assert units == {"0/0": 4, "0/1": 4}


def test_a_depthwise_convolution_has_no_blocks() -> None:
    model = build("resnet8", input_shape=(3, 8, 8), classes=5, width=0.25)
    assert not any("/" in group for group in sizes(model))
    assert sizes(small(nn.Conv2d(8, 8, 3, groups=8), 8)) == {"0": 8}
