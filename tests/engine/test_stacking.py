"""A stack of M networks against the M networks themselves."""

import pytest
import torch
from torch import nn

from lotperm.engine.models import build, initialize
from lotperm.engine.stacking import StackedNetworks, stack
from lotperm.errors import ParameterError, UnsupportedModelError

MEMBERS = 3
CASES = [
    ("mlp", (1, 40)),
    ("resnet8", (1, 40)),
    ("vgg11", (1, 40)),
    ("resnet20", (3, 32, 32)),
    ("vgg11", (3, 32, 32)),
    ("resnet50", (3, 64, 64)),
]


def make(name, shape):
    return build(name, input_shape=shape, classes=5, width=0.0625 if name == "resnet50" else 0.125)


def trained(name, shape, seed):
    """Weights of a network whose batch norm isn't where it started."""
    weights = initialize(lambda: make(name, shape), seed)
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in weights.items():
        if "running" in key:
            tensor.copy_(1 + 0.2 * torch.rand(tensor.shape, generator=generator))
    return weights


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_every_member_computes_what_its_network_does(name, shape, mode):
    weights = [trained(name, shape, seed) for seed in range(MEMBERS)]
    networks = StackedNetworks(make(name, shape), weights)
    networks.module.double().train(mode == "train")
    x = torch.randn(
        4, MEMBERS, *shape, dtype=torch.double, generator=torch.Generator().manual_seed(9)
    )
    together = networks.module(x)
    networks.count_batches(1 if mode == "train" else 0)
    assert together.shape == (MEMBERS, 4, 5)
    after = networks.module.state_dict()
    for m in range(MEMBERS):
        alone = make(name, shape).double().train(mode == "train")
        alone.load_state_dict(weights[m])
        torch.testing.assert_close(together[m], alone(x[:, m]), rtol=1e-9, atol=1e-9)
        for key, tensor in alone.state_dict().items():
            torch.testing.assert_close(after[key][m], tensor, rtol=1e-9, atol=1e-9)


def test_weights_come_back_as_they_went_in():
    weights = [trained("resnet8", (1, 40), seed) for seed in range(MEMBERS)]
    networks = StackedNetworks(make("resnet8", (1, 40)), weights)
    for back, start in zip(networks.weights(), weights, strict=True):
        assert back.keys() == start.keys()
        assert all(torch.equal(back[key], start[key]) for key in start)


def test_parameters_are_views_of_one_buffer():
    weights = [trained("mlp", (1, 40), seed) for seed in range(MEMBERS)]
    networks = StackedNetworks(make("mlp", (1, 40)), weights)
    assert networks.flat.numel() == MEMBERS * sum(
        p.numel() for p in make("mlp", (1, 40)).parameters()
    )
    networks.flat.zero_()
    assert all(not parameter.any() for parameter in networks.module.parameters())


def test_masks_are_laid_out_like_the_parameters():
    model = make("mlp", (1, 40))
    name, parameter = next(iter(model.named_parameters()))
    networks = StackedNetworks(model, [model.state_dict()] * 2)
    mask = torch.arange(parameter.numel()).view_as(parameter) % 2 == 0
    masks = networks.views(networks.spread([{name: mask}, None], 1.0))
    parameters = [key for key, _ in networks.module.named_parameters()]
    for key, spread in zip(parameters, masks, strict=True):
        assert torch.equal(
            spread[0].bool(), mask if key == name else torch.ones_like(spread[0]).bool()
        )
        assert spread[1].all()


def test_weights_of_another_network_are_refused():
    start = trained("mlp", (1, 40), 0)
    with pytest.raises(ParameterError, match=r"weights of member 1 don't fit the network: .*bias"):
        StackedNetworks(
            make("mlp", (1, 40)), [start, {n: t for n, t in start.items() if "bias" not in n}]
        )


class _Odd(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.inner, self.head = layer, nn.Linear(40, 5)

    def forward(self, x):
        return self.head(self.inner(x.flatten(1)))


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.LayerNorm(40), nn.Softmax(1)])
def test_layers_without_a_rule_are_refused(layer):
    with pytest.raises(UnsupportedModelError, match=f"layer {type(layer).__name__}.*no rule"):
        stack(_Odd(layer), 2)


@pytest.mark.parametrize("what", ["tied", "outputs"])
def test_what_would_train_otherwise_than_alone_is_refused(what):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            if what == "tied":
                self.b.weight = self.a.weight

        def forward(self, x):
            h = self.a(x)
            return (h, self.b(h)) if what == "outputs" else self.b(h)

    said = {"tied": "shares a parameter", "outputs": "more than one output"}[what]
    with pytest.raises(UnsupportedModelError, match=said):
        stack(Own(), 2)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            {"module.1.weight": torch.zeros(8, 6, dtype=torch.bool)},
            "unknown parameter 'module.1.weight'",
        ),
        (
            {"1.weight": torch.zeros(6, 8, dtype=torch.bool)},
            r"mask 1.weight of member 1 has shape \(6, 8\)",
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    networks = StackedNetworks(model, [model.state_dict()] * 2)
    with pytest.raises(ParameterError, match=message):
        networks.spread([None, mask], 1.0)
    wrong = {**model.state_dict(), "1.bias": torch.zeros(1)}
    with pytest.raises(
        ParameterError, match=r"weight 1.bias of member 1 has shape \(1,\), expected \(8,\)"
    ):
        StackedNetworks(model, [model.state_dict(), wrong])


def test_a_layer_that_is_used_twice_is_refused():
    class Twice(_Odd):
        def forward(self, x):
            return self.head(self.inner(self.inner(x.flatten(1))))

    with pytest.raises(UnsupportedModelError, match="used twice"):
        stack(Twice(nn.Linear(40, 40)), 2)
