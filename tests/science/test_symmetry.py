"""Permutation specs found by tracing: every symmetry claimed is checked by f(permute(A)) ==
f(A).
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from lotperm.engine.models import build
from lotperm.errors import ParameterError, UnsupportedModelError
from lotperm.science.labels import Labels, spread
from lotperm.science.rules import MATRIX_ARGUMENT, RULES, Call, rule
from lotperm.science.symmetry import PermutationSpec, compose, invert, permute


class Net(nn.Module):
    """A network from its layers and a function of them and the input."""

    def __init__(
        self, body: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module | nn.Parameter
    ) -> None:
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def conv(n_in: int, n_out: int, size: int = 3, **options: int) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, size, padding=size // 2, **options)


def randomized(model: nn.Module) -> nn.Module:
    """The network in float64, with norms and buffers that show a wrong order, and without
    randomness.
    """
    generator = torch.Generator().manual_seed(0)
    model = model.double()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point() and (tensor.dim() < 2 or tensor.min() == tensor.max()):
                tensor += 0.2 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    for module in model.modules():
        if hasattr(module, "p"):  # dropout, stochastic depth
            module.p = 0.0
    return model


def loaded(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    twin = copy.deepcopy(model)
    twin.load_state_dict(state)
    return twin


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() <= 1e-8 * b.norm())


def assert_symmetric(model: nn.Module, x: Tensor) -> PermutationSpec:
    """A random permutation moves many tensors, but not what the network computes, in eval and
    in train mode.
    """
    model, x = randomized(model), x.double()
    spec = PermutationSpec.trace(model, x)
    p = spec.random(torch.Generator().manual_seed(1))
    permuted = loaded(model, permute(model.state_dict(), spec, p))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(model.parameters(), permuted.parameters(), strict=True)
    )
    with torch.no_grad():
        for mode in (False, True):
            torch.manual_seed(2)
            expected = model.train(mode)(x)
            torch.manual_seed(2)
            assert close(permuted.train(mode)(x), expected)
    # Training mode has moved the running statistics of the one as those of the other.
    for name, tensor in permute(dict(model.named_buffers()), spec, p).items():
        assert torch.allclose(
            dict(permuted.named_buffers())[name].double(), tensor.double(), atol=1e-9
        )
    assert_activations_follow(spec, model, x, p)
    return spec


def assert_activations_follow(
    spec: PermutationSpec, model: nn.Module, x: Tensor, p: dict[str, Tensor]
) -> None:
    """At the first, second-last and last point, activations of the permuted network are
    permuted activations.
    """
    weights = model.state_dict()
    moved = permute(weights, spec, p)
    for place in (0, -2, -1) if any(len(nodes) > 1 for nodes in spec.points.values()) else (0,):
        points = {
            group: nodes[max(place, -len(nodes))] for group, nodes in spec.points.items() if nodes
        }
        a, b = spec.activations(weights, x, points), spec.activations(moved, x, points)
        assert a.keys() == b.keys() == points.keys()
        for group, values in a.items():
            assert values.shape[:2] == (len(x), spec.sizes[group])
            assert close(b[group], values[:, p[group]])


IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 5)
    )


def residual() -> nn.Module:
    """Stem, one block without and one with a 3x3 shortcut convolution, all in place, as
    ResNet20 has them.
    """

    def body(m: nn.Module, x: Tensor) -> Tensor:
        x = F.relu_(m.bn(m.stem(x)))
        y = m.b2(m.c2(F.relu_(m.b1(m.c1(x)))))
        y += x
        x = F.relu_(y)
        y = m.b4(m.c4(F.relu_(m.b3(m.c3(x))))).add_(m.bs(m.short(x)))
        return m.fc(F.adaptive_avg_pool2d(F.relu_(y), 1).flatten(1))

    norms = {f"b{i}": nn.BatchNorm2d(n) for i, n in enumerate((6, 6, 8, 8), 1)}
    return Net(
        body,
        stem=conv(3, 6),
        bn=nn.BatchNorm2d(6),
        c1=conv(6, 6),
        c2=conv(6, 6),
        c3=conv(6, 8, stride=2),
        c4=conv(8, 8),
        short=conv(6, 8, stride=2),
        bs=nn.BatchNorm2d(8),
        fc=nn.Linear(8, 5),
        **norms,
    )


def head(n: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 5))


def stem(
    body: Callable[[nn.Module, Tensor], Tensor], width: int = 8, **layers: nn.Module | nn.Parameter
) -> nn.Module:
    """3 -> 8 channels with a convolution and ReLU, then `body`, then pooling of n channels and
    a classifier.
    """
    return Net(
        lambda m, x: m.head(body(m, torch.relu(m.stem(x)))),
        stem=conv(3, 8),
        head=head(width),
        **layers,
    )


def tied() -> nn.Module:
    first = nn.Linear(8, 8)
    return Net(
        lambda m, x: m.out(torch.tanh(m.b(torch.tanh(m.a(torch.tanh(m.inp(x.flatten(1)))))))),
        inp=nn.Linear(192, 8),
        a=first,
        b=first,
        out=nn.Linear(8, 5),
    )


def tied_decoder() -> nn.Module:
    return Net(lambda m, x: torch.tanh(m.enc(x.flatten(1))) @ m.enc.weight, enc=nn.Linear(192, 8))


def shuffled(x: Tensor, groups: int) -> Tensor:
    return x.view(x.shape[0], groups, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


P = nn.Parameter
# name -> (network, sizes of the groups that must be found, by hand)
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "mlp": (mlp, {"1": 16, "3": 12}),
    "residual": (residual, {"stem": 6, "c1": 6, "c3": 8, "c4": 8}),
    "flatten with space": (
        lambda: nn.Sequential(
            conv(3, 6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(96, 7),
            nn.ReLU(),
            nn.Linear(7, 5),
        ),
        {"0": 6, "4": 7},
    ),
    "1-D": (
        lambda: nn.Sequential(
            nn.Flatten(2),
            nn.Conv1d(3, 6, 3),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.AvgPool1d(2),
            nn.Conv1d(6, 8, 3, stride=2, padding="valid"),
            nn.Hardswish(),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        ),
        {"1": 6, "5": 8},
    ),
    "grouped": (
        lambda: stem(lambda m, x: m.c(x).relu(), 12, c=conv(8, 12, groups=2)),
        {"stem/blocks": 2, "stem": 8, "c/weights": 48, "c": 12},
    ),
    "depthwise": (lambda: stem(lambda m, x: m.c(x).relu(), c=conv(8, 8, groups=8)), {"stem": 8}),
    "depthwise, multiplied": (
        lambda: stem(lambda m, x: m.c(x).relu(), 24, c=conv(8, 24, groups=8)),
        {"stem": 8, "c": 24},
    ),
    "group norm": (
        lambda: stem(lambda m, x: m.n(x).relu(), n=nn.GroupNorm(2, 8)),
        {"stem/blocks": 2, "stem": 8},
    ),
    "instance norm": (
        lambda: stem(lambda m, x: m.n(x), n=nn.InstanceNorm2d(8, affine=True)),
        {"stem": 8},
    ),
    "layer norm over all": (
        lambda: stem(lambda m, x: m.n(x), n=nn.LayerNorm([8, 8, 8])),
        {"stem": 8},
    ),
    "layer norm, channels last": (
        lambda: stem(
            lambda m, x: m.l(m.n(x.permute(0, 2, 3, 1))).relu().permute(0, 3, 1, 2),
            6,
            n=nn.LayerNorm(8),
            l=nn.Linear(8, 6),
        ),
        {"stem": 8, "l": 6},
    ),
    "layer norm in blocks": (
        lambda: stem(
            lambda m, x: F.layer_norm(x.mean((2, 3)).view(-1, 2, 4), (4,)).reshape(-1, 8, 1, 1)
        ),
        {"stem/blocks": 2, "stem": 8},
    ),
    "scale and bias": (
        lambda: stem(
            lambda m, x: m.s * x + m.b, s=P(torch.rand(8, 1, 1)), b=P(torch.rand(1, 8, 8, 8))
        ),
        {"stem": 8},
    ),
    "concatenation and sum": (
        lambda: stem(
            lambda m, x: torch.cat([m.a(x), m.b(x)], 1).relu() + m.c(x),
            10,
            a=conv(8, 4),
            b=conv(8, 6),
            c=conv(8, 10),
        ),
        {"stem": 8, "a": 4, "b": 6},
    ),
    "slices used in different ways": (
        lambda: stem(lambda m, x: torch.cat([x[:, :3].tanh(), x[:, 3:] ** 2], 1)),
        {"stem/0": 3, "stem/1": 5},
    ),
    "chunks summed": (lambda: stem(lambda m, x: sum(x.chunk(2, 1)), 4), {"stem": 4}),
    "written into in place": (
        lambda: stem(lambda m, x: (x[:, :4].mul_(2), x.tanh_())[1]),
        {"stem/0": 4, "stem/1": 4},
    ),
    "zero-padded shortcut": (
        lambda: stem(
            lambda m, x: (F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + m.c(x)).relu(),
            12,
            c=conv(8, 12, stride=2),
        ),
        {"stem": 8, "c": 4},
    ),
    "zeros concatenated": (
        lambda: stem(
            lambda m, x: (torch.cat([x, torch.zeros_like(x)], 1) + m.c(x)).relu(), 16, c=conv(8, 16)
        ),
        {"stem": 8, "c": 8},
    ),
    "space padded and cropped": (
        lambda: stem(
            lambda m, x: m.c(F.pad(F.pad(x, (1, 1, 2, 2), mode="reflect"), (-1, 0, -1, 0))),
            6,
            c=conv(8, 6),
        ),
        {"stem": 8, "c": 6},
    ),
    "shared layer": (tied, {"inp": 8}),
    "tied decoder": (tied_decoder, {"enc": 8}),
    "product with a parameter": (
        lambda: Net(
            lambda m, x: m.out((x.flatten(1) @ m.w).relu()),
            w=P(torch.randn(192, 6)),
            out=nn.Linear(6, 5),
        ),
        {"w": 6},
    ),
    "squeeze and excitation": (
        lambda: stem(
            lambda m, x: x * m.u(F.silu(m.d(x.mean((2, 3), keepdim=True)))).sigmoid(),
            d=conv(8, 4, 1),
            u=conv(4, 8, 1),
        ),
        {"stem": 8, "d": 4},
    ),
    "spatial attention": (
        lambda: stem(
            lambda m, x: (
                x * m.a(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()
            ),
            a=conv(2, 1),
        ),
        {"stem": 8},
    ),
    "softmax over channels": (lambda: stem(lambda m, x: x * x.softmax(1)), {"stem": 8}),
    "channel shuffle": (
        lambda: stem(lambda m, x: shuffled(x, 2) + m.c(x), c=conv(8, 8)),
        {"stem": 8},
    ),
    "shuffle before a layer": (
        lambda: stem(lambda m, x: m.c(shuffled(x, 2)).relu(), 6, c=conv(8, 6)),
        {"stem": 8, "c": 6},
    ),
    "pixel shuffle": (
        lambda: stem(lambda m, x: m.c(F.pixel_shuffle(x, 2)).relu(), 6, c=conv(2, 6)),
        {"stem": 2, "c": 6},
    ),
    "transposed convolution": (
        lambda: stem(
            lambda m, x: m.c(F.interpolate(x, scale_factor=2)).relu(),
            6,
            c=nn.ConvTranspose2d(8, 6, 2),
        ),
        {"stem": 8, "c": 6},
    ),
    "prelu": (lambda: stem(lambda m, x: m.a(m.b(x - 1)), a=nn.PReLU(8), b=nn.PReLU()), {"stem": 8}),
}


@pytest.mark.parametrize("name", CASES)
def test_small_networks(name: str) -> None:
    make, sizes = CASES[name]
    torch.manual_seed(0)
    assert assert_symmetric(make(), IMAGE).sizes == sizes


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp", (1, 40)),
        ("resnet8", (1, 40)),
        ("resnet20", (1, 40)),
        ("resnet20", (3, 16, 16)),
        ("vgg11", (1, 40)),
        ("vgg11", (3, 32, 32)),
        ("vit_tiny", (1, 40)),
        ("vit_tiny", (1, 28, 28)),
    ],
)
def test_our_networks(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build(name, input_shape=shape, classes=10, width=0.25)
    spec = assert_symmetric(model, torch.randn(4, *shape))
    if (
        name == "resnet20"
    ):  # one permutation per stage, and one for the first convolution of each block
        assert len(spec.sizes) == 3 + 9
        streams = [len(nodes) for nodes in spec.points.values() if len(nodes) > 1]
        assert streams == [4, 3, 3]  # post-ReLU: the stem, and each block of the stage
    if name == "vgg11":
        assert len(spec.sizes) == 8
    if name == "vit_tiny":
        # The stream; in each block heads, queries with keys and values inside them, and the MLP.
        assert len(spec.sizes) == 1 + 2 * 4
        assert spec.fixed == ()
        assert sorted(len(above) for above in spec.inside.values()) == [1] * 4


def _torchvision(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=10)
    if name == "vgg11_bn":  # the same layers, without 120 million weights
        model.classifier[0], model.classifier[3] = nn.Linear(25088, 64), nn.Linear(64, 48)
        model.classifier[6] = nn.Linear(48, 10)
    return model


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("resnet18", 4 + 8),  # the stem is in stage 1's stream; one more a block
        ("resnet50", 1 + 4 + 2 * 16),  # the stem, 4 streams, two a block
        ("vgg11_bn", 8 + 2),
        ("densenet121", 1 + 2 * 58 + 3),  # the stem, two a layer, the transitions
        ("mobilenet_v3_small", None),
        ("convnext_tiny", 4 + 18),  # the streams, one a block
        (
            "resnext50_32x4d",
            1 + 4 + 4 * 16,
        ),  # with the blocks of channels and the single weights of each grouped convolution
    ],
)
def test_torchvision(name: str, groups: int | None) -> None:
    size = 64 if name in ("resnet18", "mobilenet_v3_small") else 32
    spec = assert_symmetric(_torchvision(name), torch.randn(3, 3, size, size))
    assert groups is None or len(spec.sizes) == groups
    # A single weight has no activations, nor has a block.
    units = {group for group in spec.sizes if not group.endswith(("/blocks", "/weights"))}
    assert {group for group, points in spec.points.items() if points} == units
    if name == "resnet18":
        streams = {group: n for group, n in spec.sizes.items() if len(spec.points[group]) > 1}
        assert streams == {
            "conv1": 64,
            "layer2.0.conv2": 128,
            "layer3.0.conv2": 256,
            "layer4.0.conv2": 512,
        }
        assert spec.axes["layer2.0.downsample.0.weight"] == ("layer2.0.conv2", "conv1", None, None)
        assert spec.axes["fc.weight"] == (None, "layer4.0.conv2")
        assert spec.axes["fc.bias"] == (None,)


@pytest.mark.parametrize("width", [0.125, 1])
def test_groups_of_resnet50(width: float) -> None:
    """One stream a stage, two groups of its own a bottleneck, and the stem: 37 groups of the
    sizes of the channels.
    """
    torch.manual_seed(0)
    model = build("resnet50", input_shape=(3, 32, 32), classes=10, width=width)
    spec = PermutationSpec.trace(model, torch.randn(2, 3, 32, 32))
    channels = [round(64 * 2**stage * width) for stage in range(4)]
    streams = {group: n for group, n in spec.sizes.items() if len(spec.points[group]) > 1}
    assert list(streams.values()) == [4 * n for n in channels]
    assert [len(spec.points[group]) for group in streams] == [3, 4, 6, 3]
    inner = [n for group, n in spec.sizes.items() if group not in streams and group != "conv1"]
    blocks = [3, 4, 6, 3]
    assert inner == [n for n, count in zip(channels, blocks, strict=True) for _ in range(2 * count)]
    assert spec.sizes["conv1"] == channels[0] and len(spec.sizes) == 1 + 4 + 2 * 16
    assert sum(spec.sizes.values()) == channels[0] + sum(
        4 * n + 2 * count * n for n, count in zip(channels, blocks, strict=True)
    )
    for stage, stream in enumerate(streams, 1):
        assert spec.axes[f"layer{stage}.0.downsample.0.weight"][0] == stream
        assert spec.axes[f"layer{stage}.2.conv3.weight"][0] == stream
        assert spec.axes[f"layer{stage}.1.conv2.weight"][:2] == tuple(
            f"layer{stage}.1.conv{i}" for i in (2, 1)
        )
    assert spec.axes["fc.weight"] == (None, list(streams)[-1])


@functools.cache
def traced() -> tuple[nn.Module, PermutationSpec]:
    torch.manual_seed(0)
    model = randomized(residual())
    return model, PermutationSpec.trace(model, IMAGE.double())


def test_each_tensor_counts() -> None:
    """Leaving any single tensor where it was changes what the network computes."""
    model, spec = traced()
    weights = model.eval().state_dict()
    moved = permute(weights, spec, spec.random(torch.Generator().manual_seed(3)))
    names = [name for name, axes in spec.axes.items() if any(axes)]
    assert len(names) == len(weights) - 1 - 6  # not the classifier's bias nor the 6 batch counters
    with torch.no_grad():
        for name in names:
            assert not close(
                loaded(model, {**moved, name: weights[name]})(IMAGE.double()), model(IMAGE.double())
            )


def test_plain_reference() -> None:
    """The sum of all that `permute` does to an MLP, written out."""
    model = mlp()
    spec = PermutationSpec.trace(model, IMAGE)
    w, p = model.state_dict(), spec.random(torch.Generator().manual_seed(0))
    a, b = p["1"], p["3"]
    expected = {
        "1.weight": w["1.weight"][a],
        "1.bias": w["1.bias"][a],
        "3.weight": w["3.weight"][b][:, a],
        "3.bias": w["3.bias"][b],
        "5.weight": w["5.weight"][:, b],
        "5.bias": w["5.bias"],
    }
    got = permute(w, spec, p)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**31), density=st.floats(0, 1))
def test_masks_follow_weights(seed: int, density: float) -> None:
    model, spec = traced()
    generator = torch.Generator().manual_seed(seed)
    weights = dict(model.named_parameters())
    mask = {
        n: torch.rand(w.shape, generator=generator) < density
        for n, w in weights.items()
        if w.dim() > 1
    }
    p = spec.random(generator)
    whole = permute({n: weights[n] * m for n, m in mask.items()}, spec, p)
    moved_w, moved_m = permute(weights, spec, p), permute(mask, spec, p)
    for name, m in moved_m.items():
        assert m.dtype == torch.bool and m.sum() == mask[name].sum()
        assert torch.equal(whole[name], moved_w[name] * m)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_group_laws(seed: int) -> None:
    model, spec = traced()
    generator = torch.Generator().manual_seed(seed)
    weights, p, q = model.state_dict(), spec.random(generator), spec.random(generator)
    assert equal(permute(weights, spec, spec.identity()), weights)
    assert equal(permute(permute(weights, spec, p), spec, invert(p)), weights)
    assert equal(permute(permute(weights, spec, p), spec, q), permute(weights, spec, compose(q, p)))
    part = {"c1": p["c1"]}
    assert equal(
        permute(permute(weights, spec, part), spec, q), permute(weights, spec, compose(q, part))
    )
    assert equal(
        permute(permute(weights, spec, q), spec, part), permute(weights, spec, compose(part, q))
    )


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_activations_against_hooks() -> None:
    """What is recorded is what the layer put out, though the next operations write into it."""
    torch.manual_seed(0)
    model = randomized(
        stem(lambda m, x: m.n(m.c(x)).relu_().add_(x), c=conv(8, 8), n=nn.BatchNorm2d(8))
    ).eval()
    x = IMAGE.double()
    spec = PermutationSpec.trace(model, x)
    assert spec.sizes == {"stem": 8}
    seen: list[Tensor] = []
    model.n.register_forward_hook(lambda module, args, out: seen.append(out.clone().relu()))
    model.stem.register_forward_hook(lambda module, args, out: seen.append(out.clone().relu()))
    with torch.no_grad():
        model(x)
    first, last = spec.points["stem"]
    for node, expected in ((first, seen[0]), (last, seen[1])):
        assert torch.equal(
            spec.activations(model.state_dict(), x, {"stem": node})["stem"], expected
        )
    one = spec.activations(model.state_dict(), x[:1], {"stem": last})["stem"]
    assert torch.allclose(one, seen[1][:1])


def test_gates_are_no_points() -> None:
    make, _ = CASES["squeeze and excitation"]
    spec = PermutationSpec.trace(make(), IMAGE)
    assert spec.points["stem"] == ("relu",)
    assert spec.points["d"] == ("silu",)


def test_unit_weights() -> None:
    """Rows follow their units, and together they are all the weights that a group touches."""
    model, spec = traced()
    weights = model.state_dict()
    p = {"stem": spec.random(torch.Generator().manual_seed(0))["stem"]}
    before, after = (
        list(spec.unit_weights(w, "stem")) for w in (weights, permute(weights, spec, p))
    )
    touched = [name for name, axes in spec.axes.items() if "stem" in axes]
    assert {name for name, _ in before} == set(touched)
    for (name, a), (_, b) in zip(before, after, strict=True):
        assert a.shape == (6, weights[name].numel() // 6)
        assert torch.equal(a[p["stem"]], b)


def test_the_model_is_left_alone() -> None:
    model = residual()
    model.bs.eval()
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    PermutationSpec.trace(model, IMAGE)
    assert [module.training for module in model.modules()] == modes
    assert equal(model.state_dict(), before)
    assert all(
        parameter.grad is None and parameter.requires_grad for parameter in model.parameters()
    )


@pytest.mark.parametrize(
    ("body", "operation"),
    [
        (lambda m, x: torch.fft.fft(x, dim=1).abs(), "fft"),
        (lambda m, x: x * x.argsort(dim=1), "argsort"),
        (lambda m, x: x.cumsum(1), "cumsum"),
        (lambda m, x: torch.cdist(x.flatten(2), x.flatten(2))[..., None], "cdist"),
        (lambda m, x: x[:, torch.arange(8).flip(0)], "index"),
        (
            lambda m, x: F.pad(x.transpose(1, 2), (0, 0, 1, 0), mode="circular")[
                :, :, 1:
            ].transpose(1, 2),
            "pad",
        ),
        (lambda m, x: F.conv2d(x, m.w) + torch.msort(x.transpose(0, 1)).transpose(0, 1), "msort"),
    ],
)
def test_unknown_operations_fix_the_units_that_pass_them(
    body: Callable[[nn.Module, Tensor], Tensor], operation: str
) -> None:
    def before(m: nn.Module, x: Tensor) -> Tensor:
        return body(m, m.second(m.free(x).relu()).relu())

    layers = {"free": conv(8, 6), "second": conv(6, 8), "w": nn.Parameter(torch.randn(8, 8, 1, 1))}
    with pytest.warns(UserWarning, match=f"no unit moves in second: 8 of 8 .*{operation}"):
        spec = assert_symmetric(stem(before, **layers), IMAGE)
    assert spec.sizes == {"stem": 8, "free": 6}
    (fixed,) = (f for f in spec.fixed if f.layer == "second")
    assert fixed.units == tuple(range(8))
    assert operation in fixed.operation
    assert fixed.file == __file__
    assert "\n" not in str(fixed)


def test_rules_are_for_operations_that_there_are_and_one_each() -> None:
    ours = (torch.ops.aten, torch.ops.lotperm, torch.ops.torchvision)
    assert [name for name in RULES if not any(hasattr(ops, name) for ops in ours)] == []
    assert MATRIX_ARGUMENT.keys() <= RULES.keys()
    with pytest.raises(ValueError, match="'linear' has two rules"):
        rule("linear")(RULES["linear"])


def test_a_rule_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few lines beside the package make another operation known."""
    model = Net(lambda m, x: m.out(m.b(x, x).relu()), b=nn.Bilinear(7, 7, 6), out=nn.Linear(6, 5))
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    for table in (RULES, MATRIX_ARGUMENT):  # as if there were none for it yet
        monkeypatch.delitem(table, "bilinear")
    with pytest.warns(UserWarning, match=r"no unit moves in b: 6 of 6 .*bilinear"):
        assert PermutationSpec.trace(model, x).sizes == {}

    def bilinear(labels: Labels, call: Call) -> Tensor:
        weight, bias = call.args[2:]
        units = weight.produce(labels, 0, weight.shape[0])
        labels.unify(bias, units)
        return spread(units, call.shape, -1)

    # To be taken back afterwards, as `rule` has no way to.
    monkeypatch.setitem(RULES, "bilinear", RULES["linear"])
    monkeypatch.setitem(MATRIX_ARGUMENT, "bilinear", (2,))
    del RULES["bilinear"]
    rule("bilinear", matrix=2)(bilinear)
    spec = PermutationSpec.trace(model, x)
    assert spec.sizes == {"b": 6}
    assert spec.axes["b.weight"] == ("b", None, None)
    moved = permute(model.state_dict(), spec, {"b": torch.arange(5, -1, -1)})
    assert torch.equal(moved["b.weight"], model.b.weight.flip(0))


def test_unknown_operations_on_inputs_are_fine() -> None:
    model = Net(lambda m, x: m.body_(torch.fft.fft(x, dim=1).abs()), body_=mlp())
    assert assert_symmetric(model, IMAGE).sizes == {"body_.1": 16, "body_.3": 12}


def test_what_the_rules_do_not_see_is_refused_by_the_check() -> None:
    """Rolling a flattened map by one puts the positions of the units out of step."""
    model = Net(
        lambda m, x: m.fc(m.c(x).relu().flatten(1).roll(1, 1)), c=conv(3, 4), fc=nn.Linear(256, 5)
    )
    with pytest.raises(
        UnsupportedModelError, match="random permutation of the hidden units changes the output"
    ):
        PermutationSpec.trace(model, IMAGE)


def test_what_cannot_be_exported_is_refused() -> None:
    model = Net(lambda m, x: m.fc(x.flatten(1)) if x.sum() > 0 else x, fc=nn.Linear(192, 5))
    with pytest.raises(UnsupportedModelError, match=r"torch.export can't turn Net into a graph"):
        PermutationSpec.trace(model, IMAGE)


def test_weights_that_are_not_finite_or_not_there_are_refused() -> None:
    model = mlp()
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    with pytest.raises(ParameterError, match=r"weights of 1\.weight are not finite"):
        PermutationSpec.trace(model, IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, of a layer without values
        empty = nn.Sequential(nn.Flatten(), nn.Linear(192, 0), nn.Linear(0, 5))
    with pytest.raises(
        UnsupportedModelError, match=r"1\.weight has shape \(0, 192\), so no values"
    ):
        PermutationSpec.trace(empty, IMAGE)


@pytest.mark.parametrize("wrap", [torch.exp, torch.sigmoid])
def test_operations_on_a_parameter_of_one_axis_are_fine(wrap: Callable[[Tensor], Tensor]) -> None:
    model = stem(
        lambda m, x: x.relu() * wrap(m.g)[None, :, None, None], g=nn.Parameter(torch.randn(8))
    )
    spec = assert_symmetric(model, IMAGE)
    assert all("relu" in points[-1] for points in spec.points.values())


def test_errors_name_what_is_wrong() -> None:
    model, spec = traced()
    weights, p = model.state_dict(), spec.identity()
    for bad, message in [
        ({"c9": p["c1"]}, r"unknown permutation group 'c9'\. Did you mean 'c"),
        (
            {"c1": p["c1"][:-1]},
            r"'c1' must be an int64 tensor of shape \(6,\), got torch.int64 of shape \(5,\)",
        ),
        ({"c1": p["c1"].int()}, "must be an int64 tensor"),
        ({"c1": p["c1"] * 0}, r"must hold each of 0\.\.5 exactly once"),
    ]:
        with pytest.raises(ParameterError, match=message):
            permute(weights, spec, bad)
    with pytest.raises(ParameterError, match=r"unknown tensor of the traced network 'c1.wieght'"):
        permute({"c1.wieght": weights["c1.weight"]}, spec, p)
    with pytest.raises(ParameterError, match=r"'c1.weight' has shape"):
        permute({"c1.weight": weights["c1.weight"][:2]}, spec, p)
    with pytest.raises(ParameterError, match="unknown activation point of group 'c1' 'fc'"):
        spec.activations(weights, IMAGE, {"c1": "fc"})
    with pytest.raises(ParameterError, match=r"the weights lack 'stem.weight'"):
        spec.activations({}, IMAGE.double(), {"c1": spec.points["c1"][0]})
    with pytest.raises(ParameterError, match="at least one example"):
        PermutationSpec.trace(model, IMAGE[:0])


def test_repr() -> None:
    lines = repr(traced()[1]).splitlines()
    assert lines[0] == "PermutationSpec: 4 groups, 28 units"
    assert lines[2].startswith("  c1: 6 units on c1.weight[0], c1.bias[0], c2.weight[1], ")
