"""Networks without stacking rules: M of them at once, or one at a time, against single ones."""

import itertools
import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.dataset import Dataset, Split
from lotperm.engine.models import initialize
from lotperm.engine.runtime import Runtime
from lotperm.engine.schedule import draw_order, learning_rate
from lotperm.engine.stacking import StackedNetworks, stack
from lotperm.engine.training import train
from lotperm.engine.ways import Way, choose
from lotperm.errors import PreemptedError, UnsupportedModelError
from lotperm.store.workspace import Workspace

IMAGE, ROWS, MEMBERS = (3, 12, 12), (6, 8), 3


class Net(nn.Module):
    """A network whose forward pass is a function of itself and its input."""

    def __init__(self, body, **layers):
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.body(self, x)


def conv(body, features, **layers):
    return Net(body, c=nn.Conv2d(3, 4, 3), **layers, o=nn.Linear(features, 5))


def rows(body, **layers):
    return Net(body, **layers, o=nn.Linear(8, 5))


def sequential(*layers):
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers)


def lenet():
    return conv(lambda m, x: m.o(F.max_pool2d(F.relu(m.c(x)), 2).view(x.size(0), -1)), 100)


def buffered():
    net = rows(lambda m, x: m.o(m.i(x).mean(1) * m.scale))
    net.i = nn.Linear(8, 8)
    net.register_buffer("scale", torch.tensor(2.0), persistent=False)
    return net


def written(m, x):
    h = m.i(x.flatten(1)).clone()
    h[:, 0] = 0.0
    return m.o(h)


def tied():
    net = rows(lambda m, x: m.o(m.b(F.relu(m.a(x.mean(1))))), a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    net.b.weight = net.a.weight
    return net


FORMS = {
    "view": (lenet, IMAGE),
    "shape": (lambda: conv(lambda m, x: m.o(m.c(x).reshape(x.shape[0], -1)), 400), IMAGE),
    "view(-1, n)": (lambda: conv(lambda m, x: m.o(m.c(x).view(-1, 400)), 400), IMAGE),
    "flatten by keyword": (
        lambda: conv(lambda m, x: m.o(torch.flatten(m.c(x), start_dim=1)), 400),
        IMAGE,
    ),
    "functional pools": (
        lambda: conv(
            lambda m, x: m.o(F.adaptive_avg_pool2d(F.avg_pool2d(m.c(x), 2), 1).flatten(1)), 4
        ),
        IMAGE,
    ),
    "mean": (lambda: conv(lambda m, x: m.o(m.c(x).mean((2, 3))), 4), IMAGE),
    "cat, pad": (
        lambda: conv(
            lambda m, x: m.o(torch.cat([F.pad(m.c(x), (1, 1, 1, 1)), x], 1).mean((2, 3))), 7
        ),
        IMAGE,
    ),
    "GroupNorm": (
        lambda: sequential(
            nn.GroupNorm(2, 4), nn.Mish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
        ),
        IMAGE,
    ),
    "InstanceNorm": (
        lambda: sequential(nn.InstanceNorm2d(4, affine=True), nn.Flatten(), nn.Linear(400, 5)),
        IMAGE,
    ),
    "LayerNorm, log_softmax": (
        lambda: sequential(nn.Flatten(), nn.LayerNorm(400), nn.Linear(400, 5), nn.LogSoftmax(1)),
        IMAGE,
    ),
    "batch norm of its own kinds": (
        lambda: sequential(
            nn.BatchNorm2d(4, affine=False),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4, track_running_stats=False),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(256, 5),
        ),
        IMAGE,
    ),
    "functional batch norm": (
        lambda: conv(
            lambda m, x: m.o(F.batch_norm(m.c(x), None, None, training=True).amax((2, 3))), 4
        ),
        IMAGE,
    ),
    "dropout off": (
        lambda: sequential(nn.Dropout2d(0.0), nn.Flatten(), nn.Dropout(0.0), nn.Linear(400, 5)),
        IMAGE,
    ),
    "transposed convolution": (
        lambda: sequential(nn.ConvTranspose2d(4, 2, 3), nn.Flatten(), nn.Linear(288, 5)),
        IMAGE,
    ),
    "convolution in 3-D": (
        lambda: Net(
            lambda m, x: m.o(m.c(x.unsqueeze(1)).flatten(1)),
            c=nn.Conv3d(1, 2, 3),
            o=nn.Linear(200, 5),
        ),
        IMAGE,
    ),
    "permute, transpose": (
        lambda: rows(
            lambda m, x: m.o(m.a(x.permute(0, 2, 1)).transpose(1, 2).mean(1)), a=nn.Linear(6, 4)
        ),
        ROWS,
    ),
    "linear at every position": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)),
        ROWS,
    ),
    "norm of raw signals": (
        lambda: nn.Sequential(
            nn.BatchNorm1d(6), nn.Conv1d(6, 4, 3), nn.Flatten(), nn.Linear(24, 5)
        ),
        ROWS,
    ),
    "linear along an image": (
        lambda: sequential(nn.Linear(10, 3), nn.Flatten(), nn.Linear(120, 5)),
        IMAGE,
    ),
    "attention": (
        lambda: rows(
            lambda m, x: m.o(m.a(x, x, x)[0].mean(1)),
            a=nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        ROWS,
    ),
    "transformer block": (
        lambda: rows(
            lambda m, x: m.o(m.a(x).mean(1)),
            a=nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True),
        ),
        ROWS,
    ),
    "scaled_dot_product_attention": (
        lambda: rows(
            lambda m, x: m.o(F.scaled_dot_product_attention(m.q(x), m.k(x), x).mean(1)),
            q=nn.Linear(8, 8),
            k=nn.Linear(8, 8),
        ),
        ROWS,
    ),
    "embedding": (
        lambda: rows(
            lambda m, x: m.o(m.e(x[..., 0].abs().long().clamp(max=9)).mean(1)),
            e=nn.Embedding(10, 8),
        ),
        ROWS,
    ),
    "bare parameters": (
        lambda: Net(
            lambda m, x: x.mean(1) @ m.w.T + m.b,
            w=nn.Parameter(torch.randn(5, 8)),
            b=nn.Parameter(torch.randn(5)),
        ),
        ROWS,
    ),
    "weight norm": (
        lambda: nn.Sequential(
            nn.Flatten(), weight_norm(nn.Linear(48, 8)), nn.ReLU(), nn.Linear(8, 5)
        ),
        ROWS,
    ),
    "in place": (lambda: rows(written, i=nn.Linear(48, 8)), ROWS),
    "a layer twice": (
        lambda: rows(lambda m, x: m.o(m.i(F.relu(m.i(x.mean(1))))), i=nn.Linear(8, 8)),
        ROWS,
    ),
    "tied": (tied, ROWS),
    "other buffers": (buffered, ROWS),
}


def members(make, count=MEMBERS):
    return [initialize(make, seed) for seed in range(count)]


def batch(shape, count=MEMBERS, examples=6):
    draw = torch.Generator().manual_seed(9)
    return torch.randn(examples, count, *shape, dtype=torch.double, generator=draw)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_every_member_computes_what_its_network_does(form, mode):
    make, shape = FORMS[form]
    weights = members(make)
    networks = StackedNetworks(make(), weights)
    networks.module.double().train(mode == "train")
    x = batch(shape)
    together = networks.module(x)
    networks.count_batches(1 if mode == "train" else 0)
    assert together.shape == (MEMBERS, 6, 5)
    parameters = dict(networks.module.named_parameters())
    gradients = torch.autograd.grad(together.square().sum(), parameters.values())
    for m in range(MEMBERS):
        alone = make().double().train(mode == "train")
        alone.load_state_dict(weights[m])
        logits = alone(x[:, m])
        torch.testing.assert_close(together[m], logits, rtol=1e-9, atol=1e-9)
        own = torch.autograd.grad(logits.square().sum(), alone.parameters())
        for together_, alone_ in zip(gradients, own, strict=True):
            torch.testing.assert_close(together_[m], alone_, rtol=1e-9, atol=1e-9)
        after = dict(networks.module.named_buffers())
        for name, buffer in alone.named_buffers():
            torch.testing.assert_close(after[name][m], buffer, rtol=1e-9, atol=1e-9)
    assert parameters.keys() == dict(make().named_parameters()).keys()
    assert networks.weights()[0].keys() == make().state_dict().keys()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_computed_together(form):
    make, shape = FORMS[form]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*one network at a time")
        way = choose(make(), 2, shape, lambda: torch.randn(4, *shape))
    assert way.name in ("stacked", "mapped")
    assert not way.random


def toy(shape, n=32, classes=5):
    draw = torch.Generator().manual_seed(0)
    patterns = torch.randn(classes, *shape, generator=draw)
    splits = []
    for size in (n, n):
        targets = torch.randint(classes, (size,), generator=draw)
        noise = torch.randn(size, *shape, generator=draw)
        splits.append(Split(patterns[targets] + noise, targets))
    return Dataset("toy", *splits, classes, torch.zeros(shape[0]), torch.ones(shape[0]))


RECIPE = Recipe(epochs=2, lr=0.05, batch_size=8, momentum=0.9, weight_decay=1e-3)


def trained(make, shape, count=MEMBERS, masks=None, **options):
    # The same seeds for the same member, however many there are.
    seeds = [Seeds.of(f"toy {member}", 0) for member in range(count)]
    return train(make(), members(make, count), toy(shape), RECIPE, seeds, masks=masks, **options)


def assert_equal(some, others, rtol=1e-4, atol=1e-5):
    for one, other in zip(some, others, strict=True):
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name], rtol=rtol, atol=atol)


def plainly(make, shape, member, mask):
    """The ordinary loop of PyTorch, for a network without augmentation."""
    model, data = make().train(), toy(shape)
    model.load_state_dict(initialize(make, member))
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, kept in mask.items():
            named[name].mul_(kept)
    sgd = torch.optim.SGD(model.parameters(), 1.0, momentum=0.9, weight_decay=1e-3)
    for epoch in range(RECIPE.epochs):
        sgd.param_groups[0]["lr"] = learning_rate(RECIPE, epoch)
        for some in draw_order(32, Seeds.of(f"toy {member}", 0).order, epoch).split(8):
            loss = F.cross_entropy(model(data.train.inputs[some]), data.train.targets[some])
            sgd.zero_grad()
            loss.backward()
            with torch.no_grad():
                for name, kept in mask.items():
                    named[name].grad.mul_(kept)
            sgd.step()
            with torch.no_grad():
                for name, kept in mask.items():
                    named[name].mul_(kept)
    return model.state_dict()


def lstm():
    return rows(lambda m, x: m.o(m.l(x)[0][:, -1]), l=nn.LSTM(8, 8, batch_first=True))


@pytest.mark.parametrize(
    ("make", "shape", "said"),
    [(lenet, IMAGE, None), (tied, ROWS, None), (lstm, ROWS, "LSTM: PyTorch can't map aten::lstm")],
)
def test_a_training_is_that_of_the_plain_loop(make, shape, said, recwarn):
    draw = torch.Generator().manual_seed(1)
    mask = {"o.weight": torch.rand(make().o.weight.shape, generator=draw) < 0.5}
    together = trained(make, shape, masks=[mask, {}, mask]).weights
    assert_equal(together, [plainly(make, shape, m, (mask, {}, mask)[m]) for m in range(MEMBERS)])
    assert not together[0]["o.weight"][~mask["o.weight"]].any()
    told = [str(w.message) for w in recwarn if "at a time" in str(w.message)]
    assert len(told) == (said is not None)
    if said is not None:
        assert re.search(f"Net is trained one network at a time: {said}", told[0])


def test_a_stack_that_can_not_be_mapped_calls_each_network():
    def make():
        net = rows(lambda m, x: m.o(m.l(m.n(x))[0][:, -1]), n=nn.BatchNorm1d(6))
        net.l = nn.LSTM(8, 8, batch_first=True)
        return net

    weights = members(make)
    networks = StackedNetworks(make(), weights)
    networks.module.double().train()
    x = batch(ROWS)
    with pytest.warns(
        UserWarning, match="Net is called one network at a time: LSTM: PyTorch can't"
    ):
        together = networks.module(x)
    alone = [make().double().train() for _ in weights]
    for m, net in enumerate(alone):
        net.load_state_dict(weights[m])
        torch.testing.assert_close(together[m], net(x[:, m]), rtol=1e-9, atol=1e-9)
    # The batch norm before it saw the batch once, though mapping was tried first.
    after = dict(networks.module.named_buffers())
    for m, net in enumerate(alone):
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(after[name][m], buffer, rtol=1e-9, atol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        networks.module(x)


def dropping():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Dropout(0.5), nn.Linear(16, 5))


def test_dropout_draws_from_a_stream_of_each_member():
    with pytest.warns(
        UserWarning, match="Sequential is trained one network at a time: Dropout: it draws"
    ):
        three = trained(dropping, ROWS)
    with pytest.warns(UserWarning, match="at a time"):
        two = trained(dropping, ROWS, count=2)
    assert_equal(two.weights, three.weights[:2], rtol=0, atol=0)
    off = lambda: nn.Sequential(*list(dropping())[:2], nn.Identity(), nn.Linear(16, 5))  # noqa: E731
    # It does drop, and isn't noticed only where it is switched off.
    assert not torch.equal(trained(off, ROWS).weights[0]["1.weight"], three.weights[0]["1.weight"])


def test_an_interrupted_random_network_goes_on_as_if_it_had_not_been(tmp_path):
    with pytest.warns(UserWarning, match="at a time"):
        whole = trained(dropping, ROWS)
    workspace = Workspace(tmp_path / "work", "k")
    asked = itertools.count()
    with pytest.warns(UserWarning, match="at a time"), pytest.raises(PreemptedError):
        trained(
            dropping, ROWS, checkpoints=workspace, runtime=Runtime(stop=lambda: next(asked) > 5)
        )
    with pytest.warns(UserWarning, match="at a time"):
        resumed = trained(dropping, ROWS, checkpoints=workspace)
    assert_equal(resumed.weights, whole.weights, rtol=0, atol=0)


@pytest.mark.parametrize(
    "make", [dropping, lenet, lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 5))]
)
def test_what_is_frozen_stays_as_it_is(make):
    def frozen():
        model = make()
        next(model.parameters()).requires_grad_(False)
        return model

    shape = IMAGE if make is lenet else ROWS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = trained(frozen, shape).weights
    name = next(iter(dict(make().named_parameters())))
    for start, end in zip(members(frozen), found, strict=True):
        assert torch.equal(start[name], end[name])
        assert not torch.equal(list(start.values())[-1], list(end.values())[-1])


class Replacing(nn.Module):
    def __init__(self):
        super().__init__()
        self.o = nn.Linear(8, 5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        return self.o(x.mean(1))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (rows(lambda m, x: (m.o(x.mean(1)), x)), "returns tuple for 4 examples; training needs"),
        (rows(lambda m, x: m.o(x)), r"returns \(4, 6, 5\) for 4 examples; training needs logits"),
        (rows(lambda m, x: m.o(x[:, 0, :3])), "fails on 4 training examples of shape .*RuntimeErr"),
        (Replacing(), "Replacing can't be trained here: its buffer calls is another one"),
    ],
)
def test_what_cannot_be_trained_at_all_is_refused_in_a_line(model, said):
    for count in (1, 2):
        with pytest.raises(UnsupportedModelError, match=said) as caught:
            choose(model, count, ROWS, lambda: torch.randn(4, *ROWS))
        assert "\n" not in str(caught.value)


def test_a_branch_on_values_is_named_with_its_line():
    def body(m, x):
        return m.o(x.mean(1)) * (2 if x.sum() > 0 else 1)

    with pytest.warns(UserWarning, match=r"Net \(test_ways.py:\d+\): it branches on a value"):
        way = choose(rows(body), 3, ROWS, lambda: torch.randn(4, *ROWS))
    assert way == Way("single")


def test_rules_are_preferred_where_they_hold():
    def plain():
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))

    def never():
        raise AssertionError("the data were read")

    assert choose(plain(), 2, ROWS, never) == Way("stacked")
    assert stack(plain(), 2) is not None
