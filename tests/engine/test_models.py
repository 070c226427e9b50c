"""The networks: shapes, the paper's parameter counts, seeded initialization, errors."""

import itertools
import warnings

import pytest
import torch
import torchvision
from torch import nn

from lotperm.config.choices import MODELS
from lotperm.engine.models import NETWORKS, build, initialize
from lotperm.errors import ParameterError
from lotperm.science.sparsity import prunable_parameters

SHAPES = {
    "mlp": [(1, 40), (1, 28, 28)],
    "resnet8": [(1, 40), (3, 32, 32)],
    "resnet20": [(1, 40), (3, 32, 32)],
    "vgg11": [(1, 40), (3, 32, 32)],
    "resnet50": [(3, 64, 64), (3, 32, 32)],
    "vit_tiny": [(1, 40), (1, 28, 28), (3, 32, 32)],
}


def test_every_name_that_an_experiment_may_give_is_a_network():
    assert set(NETWORKS) == set(MODELS) == set(SHAPES)


@pytest.mark.parametrize(
    ("name", "shape"), [(n, s) for n, shapes in SHAPES.items() for s in shapes]
)
def test_logits(name, shape):
    model = build(
        name, input_shape=shape, classes=7, width=0.25 if name != "resnet50" else 1
    ).eval()
    assert model(torch.randn(3, *shape)).shape == (3, 7)


def resnet20_size(width):
    """Counted by hand: convolutions, batch norms, classifier; the shortcuts are 3x3
    convolutions.
    """
    c1, c2, c3 = 16 * width, 32 * width, 64 * width
    convs = 9 * (3 * c1 + 6 * c1 * c1 + c1 * c2 + 5 * c2 * c2 + c2 * c3 + 5 * c3 * c3)
    shortcuts = 9 * (c1 * c2 + c2 * c3)
    return convs + shortcuts + 2 * 7 * (c1 + c2 + c3) + 10 * c3 + 10


@pytest.mark.parametrize("width", [1, 2, 4])
def test_resnet20_has_the_papers_size(width):
    model = build("resnet20", input_shape=(3, 32, 32), classes=10, width=width)
    assert sum(p.numel() for p in model.parameters()) == resnet20_size(width)


def test_vgg11_has_the_papers_size():
    sizes = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    expected = sum(9 * a * b + b for a, b in itertools.pairwise(sizes)) + 512 * 10 + 10
    model = build("vgg11", input_shape=(3, 32, 32), classes=10)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_initialization_belongs_to_the_seed():
    torch.manual_seed(5)
    expected_next = torch.rand(1)
    torch.manual_seed(5)

    def factory():
        return build("resnet8", input_shape=(3, 32, 32), classes=10)

    first, again, other = initialize(factory, 1), initialize(factory, 1), initialize(factory, 2)
    assert torch.equal(torch.rand(1), expected_next), "the global generator moved"
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    # Kaiming normal over the fan-in: standard deviation sqrt(2 / 27) for 3 channels of 3x3.
    weight = torch.cat([initialize(factory, seed)["conv1.weight"].flatten() for seed in range(20)])
    assert weight.std().item() == pytest.approx((2 / 27) ** 0.5, rel=0.03)


def test_resnet50_is_torchvisions_at_every_width():
    for width, theirs in (
        (1, torchvision.models.resnet50),
        (2, torchvision.models.wide_resnet50_2),
    ):
        ours, plain = (
            build("resnet50", input_shape=(3, 64, 64), classes=1000, width=width),
            theirs(),
        )
        assert {n: t.shape for n, t in ours.state_dict().items()} == {
            n: t.shape for n, t in plain.state_dict().items()
        }
    narrow, whole = (
        build("resnet50", input_shape=(3, 64, 64), classes=8, width=w) for w in (0.125, 1)
    )
    assert narrow.state_dict().keys() == whole.state_dict().keys()
    for (name, small), large in zip(
        narrow.state_dict().items(), whole.state_dict().values(), strict=True
    ):
        if small.ndim:
            assert small.shape[0] == (
                8 if "fc" in name and len(small) == 8 else large.shape[0] // 8
            ), name
    assert [m.stride for m in narrow.modules() if isinstance(m, nn.Conv2d)] == [
        m.stride for m in whole.modules() if isinstance(m, nn.Conv2d)
    ]


def test_vit_prunes_weights_of_products_alone():
    model = build("vit_tiny", input_shape=(1, 40), classes=10, width=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = prunable_parameters(model)
    # Patches, classifier, and in both blocks q, k, v, out and the two layers of the MLP.
    assert len(names) == 2 + 2 * 6
    assert "positions" not in names and not any("norm" in name for name in names)
    assert model.classifier.weight.shape == (10, 4 * 16)


def test_errors():
    with pytest.raises(ParameterError, match="Did you mean 'resnet20'"):
        build("resnet21", input_shape=(3, 32, 32), classes=10)
    with pytest.raises(ParameterError, match="halves its input five times"):
        build("vgg11", input_shape=(1, 28, 28), classes=10)
    with pytest.raises(ParameterError, match="multiples of 4"):
        build("vit_tiny", input_shape=(3, 30, 32), classes=10)
    with pytest.raises(ParameterError, match="RGB images"):
        build("resnet50", input_shape=(3, 16, 16), classes=10)
