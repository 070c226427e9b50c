"""Masks that change during training, against RigL and movement written step by step for one network."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.batches import normalize
from lotperm.data.dataset import Dataset, Split
from lotperm.engine.models import build, initialize
from lotperm.engine.runtime import Runtime
from lotperm.engine.schedule import draw_order, learning_rate
from lotperm.engine.training import train
from lotperm.errors import ParameterError, PreemptedError
from lotperm.science.ranking import erdos_renyi_densities, random_mask
from lotperm.science.rewiring import RigL
from lotperm.science.sparsity import prunable_parameters

SHAPE = (1, 24)
# Six steps an epoch: with ΔT = 4 updates fall into the middle of epochs, and on their first step.
RECIPE = Recipe(epochs=4, lr=0.05, batch_size=16)
RULE = RigL(every=4, fraction=0.4, until=0.75)
STEPS = 24
UPDATES = [4, 8, 12, 16]


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(4, *SHAPE, generator=generator)

    def split(size):
        targets = torch.randint(4, (size,), generator=generator)
        noise = torch.randn(size, *SHAPE, generator=generator)
        return Split(patterns[targets] + noise, targets)

    return Dataset("toy", split(100), split(40), 4, torch.zeros(1), torch.ones(1))


def make(name="mlp"):
    width = {"mlp": 1.0, "resnet8": 0.25}[name]
    return build(name, input_shape=SHAPE, classes=4, width=width, hidden=(20, 16))


def double(weights):
    return {name: t.double() if t.is_floating_point() else t for name, t in weights.items()}


def starts(name="mlp", count=3):
    return [double(initialize(lambda: make(name), i)) for i in range(count)]


def erk(weights, names, sparsity, seed):
    shapes = {name: tuple(weights[name].shape) for name in names}
    draw = torch.Generator().manual_seed(seed)
    return random_mask(shapes, erdos_renyi_densities(shapes, sparsity), sparsity, draw)


def erks(states, name="mlp"):
    names = prunable_parameters(make(name))
    # Sparsities differ, so that members exchange different numbers of weights.
    return [
        erk(w, names, s, i) for i, (w, s) in enumerate(zip(states, (0.8, 0.6, 0.9), strict=False))
    ]


def reference(model, start, data, mask, seeds, log=None):
    """Algorithm 1 of Evci et al. for one network, weight by weight; the mask is changed in place."""
    model.load_state_dict(start)
    model.train()
    weights = dict(model.named_parameters())
    moving = {name: torch.zeros_like(w) for name, w in weights.items()}
    moved = {name: torch.zeros_like(w) for name, w in weights.items()}
    with torch.no_grad():
        for name, kept in mask.items():
            weights[name][~kept] = 0
    t = 0
    for epoch in range(RECIPE.epochs):
        order = draw_order(len(data.train), seeds.order, epoch)
        for rows in order[:96].split(RECIPE.batch_size):
            logits = model(normalize(data.train.inputs[rows], data, torch.float64))
            loss = nn.functional.cross_entropy(logits, data.train.targets[rows])
            gradients = dict(
                zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True)
            )
            if mask and t in UPDATES:
                share = 0.2 * (1 + math.cos(t * math.pi / 18))
                for name, kept in mask.items():
                    exchange(weights[name], gradients[name], moving[name], kept, share, log)
            else:
                rate = learning_rate(RECIPE, epoch)
                for name, w in weights.items():
                    g = gradients[name]
                    moved[name] -= g * w.detach()
                    kept = mask.get(name, torch.ones_like(w, dtype=torch.bool))
                    v = RECIPE.momentum * moving[name] + (g + RECIPE.weight_decay * w.detach())
                    moving[name] = torch.where(kept, v, 0)
                    with torch.no_grad():
                        w -= rate * moving[name]
            t += 1
    assert t == STEPS
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return state, moved


def exchange(weight, gradient, velocity, kept, share, log):
    """Drop and grow in one layer, by sorting lists of indices."""
    w, g, v, m = (x.detach().view(-1) for x in (weight, gradient, velocity, kept))
    before = [i for i in range(len(m)) if m[i]]
    count = int(share * len(before))
    dropped = sorted(before, key=lambda i: abs(w[i].item()))[:count]
    free = [i for i in range(len(m)) if not m[i] or i in set(dropped)]
    grown = sorted(free, key=lambda i: -abs(g[i].item()))[:count]
    for i in dropped:
        m[i] = False
    for i in grown:
        m[i] = True
    for i in set(dropped) - set(grown):
        w[i] = 0
        v[i] = 0
    for i in set(grown) - set(before):
        # Nothing is left of them from before.
        assert w[i] == 0
        assert v[i] == 0
    if log is not None:
        log.append((count, len(set(grown) - set(before))))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def distance(a, b):
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


@pytest.mark.parametrize("name", ["mlp", "resnet8"])
@pytest.mark.parametrize("members", [None, 1])
def test_many_networks_change_their_masks_as_one_does_step_by_step(name, members, data):
    states, model = starts(name), make(name).double()
    masks = erks(states, name)
    seeds = [Seeds.of("test", i) for i in range(3)]
    together = train(
        model,
        states,
        data,
        RECIPE,
        seeds,
        masks=masks,
        rewire=RULE,
        runtime=Runtime(members=members),
    )
    log = []
    for i in range(3):
        mask = {n: kept.clone() for n, kept in masks[i].items()}
        alone, _ = reference(make(name).double(), states[i], data, mask, seeds[i], log)
        assert distance(alone, together.weights[i]) < 1e-9
        assert same(together.masks[i], mask)
        for n, kept in mask.items():
            assert kept.sum() == masks[i][n].sum(), "each layer keeps as many"
            assert not together.weights[i][n][~kept].any()
    # Not only did something change: what is exchanged becomes less.
    assert any(not torch.equal(masks[0][n], together.masks[0][n]) for n in masks[0])
    assert sum(new for _, new in log) > 20


def test_the_share_decays_as_a_cosine_and_then_masks_stay():
    rule = RigL()
    assert [t for t in range(1000) if rule.due(t, 1000)] == [100, 200, 300, 400, 500, 600, 700]
    assert rule.share(0, 1000) == pytest.approx(0.3)
    assert rule.share(375, 1000) == pytest.approx(0.15)
    assert rule.share(250, 1000) == pytest.approx(0.15 * 1.5)
    assert rule.share(749, 1000) == pytest.approx(0, abs=1e-5)
    assert [t for t in range(STEPS) if RULE.due(t, STEPS)] == UPDATES


def test_a_layers_exchange_by_hand():
    # Two networks: one keeps four of six and exchanges two, the other keeps all.
    weight = torch.tensor([[0.5, 0.0, -0.1, 0.2, 0.0, -0.9], [1, 2, 3, 4, 5, 6]])
    gradient = torch.tensor([[9.0, 0.3, 0.1, -0.4, -0.2, 9.0], [1, 1, 1, 1, 1, 1]])
    kept = weight != 0
    rule = RigL(every=1, fraction=1.0, until=1.0)
    assert rule.share(5, 10) == pytest.approx(0.5)
    after = rule.mask(5, 10, weight, gradient, kept)
    # -0.1 and 0.2 are dropped; of the free ones 0.2's gradient is the largest, so it comes back.
    assert after.tolist() == [[True, True, False, True, False, True], [True] * 6]


def test_equal_numbers_and_odd_ones_keep_the_count():
    kept = torch.zeros(1, 40, dtype=torch.bool)
    kept[:, ::2] = True
    rule = RigL(every=1, fraction=1.0, until=1.0)
    for gradient in (torch.zeros(1, 40), torch.full((1, 40), math.nan)):
        assert rule.mask(1, 10, kept.float(), gradient, kept).sum() == 20
    # Nothing is kept, so nothing is exchanged.
    none = torch.zeros(1, 40, dtype=torch.bool)
    assert not rule.mask(1, 10, torch.zeros(1, 40), torch.ones(1, 40), none).any()


class Notebook:
    """Keeps one checkpoint as a file would: copies."""

    def __init__(self):
        self.last = None

    def checkpoint(self, tensors, info):
        self.last = ({name: t.clone() for name, t in tensors.items()}, info)

    def latest(self):
        return self.last


def stop_at(step):
    asked = itertools.count(1)
    return lambda: next(asked) >= step


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "options", [{"rewire": RULE}, {"movement": True}], ids=["rigl", "movement"]
)
def test_a_stopped_run_ends_with_the_same_bytes(options, compiled, data):
    states = [{n: t.float() for n, t in state.items()} for state in starts()]
    seeds = [Seeds.of("test", i) for i in range(3)]
    masks = erks(states) if "rewire" in options else None

    def run(checkpoints=None, stop=None):
        runtime = Runtime(compile=compiled, stop=stop)
        return train(
            make(),
            states,
            data,
            RECIPE,
            seeds,
            masks=masks,
            runtime=runtime,
            checkpoints=checkpoints,
            **options,
        )

    whole = run()
    assert whole.mode == ("compiled" if compiled else "plain")
    notebook, broken = Notebook(), 0
    while True:
        # After every second step: before and after those that change masks.
        try:
            again = run(notebook, stop_at(2))
            break
        except PreemptedError:
            broken += 1
    assert broken > 8
    for m in range(3):
        assert same(whole.weights[m], again.weights[m])
    for kind in ("masks", "movement"):
        first, second = getattr(whole, kind), getattr(again, kind)
        assert len(first) == len(second)
        assert all(same(a, b) for a, b in zip(first, second, strict=True))
    assert whole.masks if masks else whole.movement
    assert whole.train_loss == again.train_loss


@pytest.mark.parametrize(
    "options", [{"rewire": RULE}, {"movement": True}], ids=["rigl", "movement"]
)
def test_compiled_steps_change_masks_as_plain_ones_do(options, data):
    states, seeds = starts(), [Seeds.of("test", i) for i in range(3)]
    masks = erks(states) if "rewire" in options else None

    def run(compile):
        return train(
            make().double(),
            states,
            data,
            RECIPE,
            seeds,
            masks=masks,
            runtime=Runtime(compile=compile),
            **options,
        )

    plain, compiled = run(False), run(True)
    assert compiled.mode == "compiled"
    for m in range(3):
        assert distance(plain.weights[m], compiled.weights[m]) < 1e-9
        if masks:
            assert same(plain.masks[m], compiled.masks[m])
        else:
            assert distance(plain.movement[m], compiled.movement[m]) < 1e-9


@pytest.mark.parametrize("microbatch", [None, 5])
def test_movement_is_summed_up_as_step_by_step(microbatch, data):
    states, seeds = starts(), [Seeds.of("test", i) for i in range(3)]
    runtime = Runtime(microbatch=microbatch)
    trained = train(make().double(), states, data, RECIPE, seeds, movement=True, runtime=runtime)
    plain = train(make().double(), states, data, RECIPE, seeds, runtime=runtime)
    assert plain.movement == []
    for m in range(3):
        state, moved = reference(make().double(), states[m], data, {}, seeds[m])
        assert distance(state, trained.weights[m]) < 1e-9
        assert distance(moved, trained.movement[m]) < 1e-9
        assert same(plain.weights[m], trained.weights[m]), "the training itself is the same"
        assert min(score.abs().max() for score in moved.values()) > 1e-3


class Frozen(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(1), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 4))
        self[1].weight.requires_grad_(False)


def test_what_is_not_masked_is_left_alone(data):
    model = Frozen().double()
    start = {name: t.clone() for name, t in model.state_dict().items()}
    mask = erk(start, ["3.weight"], 0.5, 0)
    seeds = [Seeds.of("test", 0)]
    trained = train(model, [start], data, RECIPE, seeds, masks=[mask], rewire=RULE)
    assert torch.equal(trained.weights[0]["1.weight"], start["1.weight"])
    assert not torch.equal(trained.masks[0]["3.weight"], mask["3.weight"])
    masks = [erk(start, ["1.weight"], 0.5, 0)]
    with pytest.raises(ParameterError, match=r"the mask of 1\.weight can't change, as it isn't"):
        train(model, [start], data, RECIPE, seeds, masks=masks, rewire=RULE)


def test_what_cannot_be_combined_is_refused_in_a_line(data):
    states, seeds = starts(count=1), [Seeds.of("test", 0)]
    for masks in (None, [{}]):
        with pytest.raises(
            ParameterError, match=r"masks that change need an initial mask.*has none\.$"
        ):
            train(make().double(), states, data, RECIPE, seeds, masks=masks, rewire=RULE)
    with pytest.raises(ParameterError, match=r"Leave movement or rewire out\.$"):
        train(make().double(), states, data, RECIPE, seeds, rewire=RULE, movement=True)
    for wrong in ({"every": 0}, {"fraction": 0.0}, {"until": 1.5}):
        with pytest.raises(ParameterError, match=f"{next(iter(wrong))} is .*; expected"):
            RigL(**wrong)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(24, 24, bias=False), nn.Linear(24, 24, bias=False)
        self.second.weight = self.first.weight
        self.last = nn.Linear(24, 4)

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))))


def test_a_tied_weight_is_masked_by_either_name(data):
    torch.manual_seed(0)
    model = Tied().double()
    start = {name: t.clone() for name, t in model.state_dict().items()}
    kept = erk(start, ["first.weight"], 0.5, 0)["first.weight"]
    seeds, found = [Seeds.of("test", 0)], []
    for mask in ({"first.weight": kept}, {"second.weight": kept}):
        trained = train(model, [start], data, RECIPE, seeds, masks=[mask], rewire=RULE)
        after = trained.masks[0]["first.weight"]
        assert not trained.weights[0]["second.weight"][~after].any()
        assert not torch.equal(after, kept)
        found.append(trained)
    assert same(found[0].weights[0], found[1].weights[0])
    both = {"first.weight": kept, "second.weight": ~kept}
    with pytest.raises(ParameterError, match=r"first\.weight and second\.weight, which are one"):
        train(model, [start], data, RECIPE, seeds, masks=[both])


def test_a_mask_of_torch_prune_does_not_change(data):
    model = nn.Sequential(nn.Flatten(1), nn.Linear(24, 4))
    prune.random_unstructured(model[1], "weight", 0.5)
    mask = {"1.weight": model[1].weight_mask.bool()}
    arguments = (model, [model.state_dict()], data, RECIPE, [Seeds.of("test", 0)])
    with pytest.raises(
        ParameterError, match=r"1\.weight_orig has a mask of torch\.nn\.utils\.prune"
    ):
        train(*arguments, masks=[mask], rewire=RULE)


class Spare(nn.Module):
    """Has a layer that it doesn't use."""

    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(24, 4), nn.Linear(3, 3)

    def forward(self, x):
        return self.used(x.flatten(1))


@pytest.mark.parametrize("compiled", [False, True])
def test_layers_that_are_not_used_do_no_harm(compiled, data):
    torch.manual_seed(0)
    alone, spare = nn.Sequential(nn.Flatten(1), nn.Linear(24, 4)), Spare()
    start = [
        {name: torch.randn(t.shape) for name, t in spare.state_dict().items()} for _ in range(2)
    ]
    seeds, runtime = [Seeds.of("test", i) for i in range(2)], Runtime(compile=compiled)
    trained = train(spare, start, data, RECIPE, seeds, runtime=runtime)
    plain = [{n.replace("used", "1"): t for n, t in w.items() if "used" in n} for w in start]
    expected = train(alone, plain, data, RECIPE, seeds)
    assert trained.mode == ("compiled" if compiled else "plain")
    for mine, its in zip(trained.weights, expected.weights, strict=True):
        torch.testing.assert_close(mine["used.weight"], its["1.weight"])
        assert mine["spare.weight"].any()
