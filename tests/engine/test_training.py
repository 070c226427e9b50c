"""Training M networks at once against training one at a time with plain PyTorch."""

import dataclasses
import gc
import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from toys import IMAGE, SIGNAL, factory, toy

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.augment import augment, draw_augmentation
from lotperm.data.batches import normalize
from lotperm.engine import checkpoints as engine_checkpoints
from lotperm.engine import compiled as engine_compiled
from lotperm.engine.models import initialize
from lotperm.engine.partition import networks_at_once, partition
from lotperm.engine.runtime import Runtime
from lotperm.engine.schedule import draw_order, learning_rate
from lotperm.engine.stacking import StackedNetworks
from lotperm.engine.training import train
from lotperm.errors import DivergedError, ParameterError, PreemptedError
from lotperm.science.sparsity import full_mask, magnitude_prune, prunable_parameters


def plain_training(model, start, data, recipe, seeds, mask, epochs):
    """The ordinary loop: one nn.Module, torch.optim.SGD, the mask multiplied in after every
    step.
    """
    model.load_state_dict(start)
    parameters = dict(model.named_parameters())

    def prune():
        with torch.no_grad():
            for name, kept in (mask or {}).items():
                parameters[name].mul_(kept)

    prune()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    size = len(data.train.targets)
    for epoch in range(epochs):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        order = draw_order(size, seeds.order, epoch)
        draws = draw_augmentation(size, seeds.augment, epoch, recipe.augment)
        for step in range(size // recipe.batch_size):
            rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            x = data.train.inputs[rows]
            if recipe.augment != "none":
                x = augment(x, *(d[rows] for d in draws))
            logits = model(normalize(x, data, next(model.parameters()).dtype))
            loss = nn.functional.cross_entropy(logits, data.train.targets[rows])
            optimizer.zero_grad()
            loss.backward()
            for name, kept in (mask or {}).items():
                parameters[name].grad.mul_(kept)
            optimizer.step()
            prune()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def double(weights):
    return {name: t.double() if t.is_floating_point() else t for name, t in weights.items()}


def distance(a, b):
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


CASES = [
    ("mlp", SIGNAL, "none"),
    ("resnet8", SIGNAL, "none"),
    ("vgg11", SIGNAL, "none"),
    ("vit_tiny", SIGNAL, "none"),
    ("mlp", IMAGE, "none"),
    ("resnet8", IMAGE, "flip_crop"),
    ("resnet20", IMAGE, "crop"),
    ("vgg11", IMAGE, "flip_crop"),
]


@pytest.mark.parametrize(("name", "shape", "augmentation"), CASES)
def test_many_at_once_equals_the_plain_loop(name, shape, augmentation):
    """The same equations, not merely close: in float64 the weights and batch-norm statistics agree
    to 1e-9.

    (In float32 rounding grows with every step of a ReLU network, so nothing sharp can be said
    there.)
    """
    data, make = toy(shape), factory(name, shape)
    recipe = Recipe(epochs=3, lr=0.02, batch_size=32, augment=augmentation)
    starts = [double(initialize(make, i)) for i in range(3)]
    seeds = [Seeds.of("test", i) for i in range(3)]
    full = full_mask(starts[0], prunable_parameters(make()))
    masks = [magnitude_prune(starts[0], full, 0.8), None, magnitude_prune(starts[2], full, 0.5)]
    together = train(make().double(), starts, data, recipe, seeds, masks=masks, until=2)
    for i in range(3):
        alone = plain_training(make().double(), starts[i], data, recipe, seeds[i], masks[i], 2)
        assert alone.keys() == together.weights[i].keys()
        assert distance(alone, together.weights[i]) < 1e-9
        assert distance(alone, starts[i]) > 1e-2, "nothing was trained"


@pytest.mark.parametrize(("name", "shape"), [("mlp", SIGNAL), ("resnet8", IMAGE)])
def test_a_member_does_not_depend_on_its_company(name, shape):
    data, make = toy(shape), factory(name, shape)
    recipe = Recipe(epochs=2, lr=0.02, batch_size=32)
    starts, seeds = [initialize(make, i) for i in range(5)], [Seeds.of("test", i) for i in range(5)]
    five = train(make(), starts, data, recipe, seeds)
    for chosen in ([1], [4, 1, 0]):
        some = train(make(), [starts[i] for i in chosen], data, recipe, [seeds[i] for i in chosen])
        for position, i in enumerate(chosen):
            assert distance(some.weights[position], five.weights[i]) < 2e-4
            accuracy = [run.evaluations[2]["accuracy"] for run in (some, five)]
            assert accuracy[0][position] == pytest.approx(accuracy[1][i], abs=0.05)


def test_memory_bound_and_threads_change_nothing(two_threads):
    data, make = toy(IMAGE), factory("resnet8", IMAGE)
    recipe = Recipe(epochs=2, lr=0.02, batch_size=32, augment="flip_crop")
    starts, seeds = [initialize(make, i) for i in range(4)], [Seeds.of("test", i) for i in range(4)]
    results = []
    for members, count in ((None, 1), (1, 1), (None, 2), (3, 2)):
        torch.set_num_threads(count)
        results.append(
            train(
                make(), starts, data, recipe, seeds, runtime=Runtime(members=members), save_at=(1,)
            )
        )
        assert torch.get_num_threads() == count
    for other in results[1:]:
        assert all(
            distance(a, b) < 2e-4 for a, b in zip(results[0].weights, other.weights, strict=True)
        )
        assert all(
            distance(a, b) < 2e-4
            for a, b in zip(results[0].checkpoints[1], other.checkpoints[1], strict=True)
        )


@pytest.mark.parametrize("augmentation", ["none", "flip_crop"])
def test_pruned_weights_are_zero_at_every_epoch(augmentation):
    data, make = toy(IMAGE), factory("resnet8", IMAGE)
    start = initialize(make, 0)
    mask = magnitude_prune(start, full_mask(start, prunable_parameters(make())), 0.9)
    recipe = Recipe(epochs=3, lr=0.1, batch_size=32, weight_decay=0.01, augment=augmentation)
    trained = train(
        make(), [start], data, recipe, [Seeds.of("t", 0)], masks=[mask], save_at=range(4)
    )
    for epoch in range(4):
        weights = trained.checkpoints[epoch][0]
        for name, kept in mask.items():
            assert int(torch.count_nonzero(weights[name][~kept])) == 0
            assert epoch == 0 or not torch.equal(weights[name], start[name] * kept)


def test_checkpoints_are_at_exact_epochs():
    data, make = toy(SIGNAL), factory("mlp", SIGNAL)
    start, seeds = [initialize(make, 0)], [Seeds.of("t", 0)]
    recipe = Recipe(epochs=4, lr=0.05, batch_size=32)
    trained = train(make(), start, data, recipe, seeds, save_at=(0, 3, 4), evaluate_at=(0, 4))
    assert sorted(trained.checkpoints) == [0, 3, 4]
    assert distance(trained.checkpoints[0][0], start[0]) == 0
    assert distance(trained.checkpoints[4][0], trained.weights[0]) == 0
    short = train(make(), start, data, recipe, seeds, until=3)
    assert distance(trained.checkpoints[3][0], short.weights[0]) == 0
    assert sorted(trained.evaluations) == [0, 4]
    assert len(trained.train_loss) == 4


class Interrupted(Exception):
    pass


class Notebook:
    """Keeps the newest state in memory, and breaks off after so many."""

    def __init__(self, breaks=None):
        self.kept, self.breaks = None, breaks

    def checkpoint(self, tensors, info):
        self.kept = ({n: t.clone() for n, t in tensors.items()}, info)
        if self.breaks is not None:
            self.breaks -= 1
            if self.breaks == 0:
                raise Interrupted

    def latest(self):
        return self.kept


@pytest.mark.parametrize(("name", "shape"), [("mlp", SIGNAL), ("resnet8", IMAGE)])
def test_a_broken_run_ends_like_an_unbroken_one(name, shape):
    data, make = toy(shape), factory(name, shape)
    recipe = Recipe(
        epochs=5, lr=0.05, batch_size=32, augment="none" if shape == SIGNAL else "flip_crop"
    )
    starts, seeds = [initialize(make, i) for i in range(3)], [Seeds.of("t", i) for i in range(3)]
    options = {"save_at": (1, 4), "evaluate_at": (2, 5), "checkpoint_seconds": 0.0}
    whole = train(make(), starts, data, recipe, seeds, **options)
    notebook = Notebook(breaks=8)  # in the middle of an epoch
    with pytest.raises(Interrupted):
        train(make(), starts, data, recipe, seeds, checkpoints=notebook, **options)
    assert notebook.kept[1]["epoch"] > 0
    assert max(notebook.kept[1]["steps"]) > 0
    notebook.breaks = None
    resumed = train(make(), starts, data, recipe, seeds, checkpoints=notebook, **options)
    assert all(distance(a, b) == 0 for a, b in zip(whole.weights, resumed.weights, strict=True))
    assert whole.train_loss == resumed.train_loss
    assert whole.evaluations == resumed.evaluations
    assert resumed.checkpoints.keys() == whole.checkpoints.keys()
    for epoch, states in whole.checkpoints.items():
        assert all(
            distance(a, b) == 0 for a, b in zip(states, resumed.checkpoints[epoch], strict=True)
        )


@pytest.mark.parametrize("together", [None, 1])
def test_a_stopped_run_goes_on_from_the_very_step(together):
    data, make = toy(SIGNAL), factory("mlp", SIGNAL)
    recipe = Recipe(epochs=3, lr=0.05, batch_size=32)
    starts, seeds = [initialize(make, i) for i in range(3)], [Seeds.of("t", i) for i in range(3)]
    whole = train(make(), starts, data, recipe, seeds, save_at=(0, 2), evaluate_at=(0, 3))
    notebook, stops = Notebook(breaks=None), 0
    while True:
        asked = itertools.count()
        runtime = Runtime(members=together, stop=lambda asked=asked: next(asked) >= 2)
        try:
            resumed = train(
                make(),
                starts,
                data,
                recipe,
                seeds,
                save_at=(0, 2),
                evaluate_at=(0, 3),
                runtime=runtime,
                checkpoints=notebook,
                checkpoint_seconds=1e9,
            )
        except PreemptedError:
            stops += 1
        else:
            break
    assert stops >= 2
    assert all(distance(a, b) == 0 for a, b in zip(whole.weights, resumed.weights, strict=True))
    assert (whole.train_loss, whole.evaluations) == (resumed.train_loss, resumed.evaluations)
    for epoch, states in whole.checkpoints.items():
        assert all(
            distance(a, b) == 0 for a, b in zip(states, resumed.checkpoints[epoch], strict=True)
        )


def test_weights_that_diverge_in_the_last_step_are_found():
    data, make = toy(SIGNAL), factory("mlp", SIGNAL)
    size = len(data.train.targets)
    recipe = Recipe(epochs=1, lr=1e38, batch_size=size)  # one step: its loss is that of the start
    start = {name: tensor * 1e3 for name, tensor in initialize(make, 0).items()}
    with pytest.raises(DivergedError, match="weights are not finite at step 0"):
        train(make(), [start], data, recipe, [Seeds.of("t", 0)])


def test_networks_in_several_threads_share_a_compiled_step(two_threads, monkeypatch):
    """One program for each size of a part, here of one and of two networks; each has two parts."""
    count = 6

    def make():
        convolution = nn.Conv2d(3, 4, 3, stride=4, padding=1, bias=False)
        return nn.Sequential(
            convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
        )

    compilations = []
    compiler = engine_compiled.compile_step
    monkeypatch.setattr(
        engine_compiled, "compile_step", lambda *given: compilations.append(0) or compiler(*given)
    )
    monkeypatch.setattr(engine_compiled, "PROGRAMS", {})
    data, starts = toy(IMAGE), [initialize(make, i) for i in range(count)]
    masks = [
        magnitude_prune(start, full_mask(start, prunable_parameters(make())), 0.5)
        for start in starts
    ]
    recipe, seeds = (
        Recipe(epochs=2, lr=0.02, batch_size=32),
        [Seeds.of("t", i) for i in range(count)],
    )
    run = partial(train, make(), starts, data, recipe, seeds, masks=masks)
    runtime = Runtime(compile=True, members=2)
    parts = partition(make(), (32, *IMAGE), count, precision="float32", runtime=runtime).parts
    assert [part.stop - part.start for part in parts] == [1, 2, 1, 2]
    eager, compiled = run(), run(runtime=runtime)
    assert len(compilations) == 2
    assert all(distance(a, b) < 1e-3 for a, b in zip(eager.weights, compiled.weights, strict=True))
    assert min(distance(a, b) for a, b in itertools.combinations(compiled.weights, 2)) > 0.1
    # Broken off after a step, perhaps with one thread ahead of the other.
    notebook = Notebook()
    with pytest.raises(PreemptedError):
        run(runtime=dataclasses.replace(runtime, stop=lambda: True), checkpoints=notebook)
    assert max(notebook.kept[1]["steps"]) > 0
    resumed = run(runtime=runtime, checkpoints=notebook)
    assert all(distance(a, b) == 0 for a, b in zip(compiled.weights, resumed.weights, strict=True))


def test_a_program_is_compiled_once_for_all_trainings_that_it_fits(monkeypatch):
    """Whether it fits is told by all that the step depends on, and not by the weights."""
    recipe = Recipe(epochs=1, lr=0.05, batch_size=32)

    def run(first=0, count=2, slope=0.1, recipe=recipe, shape=SIGNAL, compile=True, **options):
        def make():
            layers = nn.Linear(math.prod(shape), 8), nn.LeakyReLU(slope), nn.Linear(8, 5)
            return nn.Sequential(nn.Flatten(), *layers)

        members = range(first, first + count)
        starts, seeds = [initialize(make, i) for i in members], [Seeds.of("t", i) for i in members]
        runtime = Runtime(compile=compile, members=2, microbatch=options.pop("microbatch", None))
        return train(make(), starts, toy(shape), recipe, seeds, runtime=runtime, **options)

    def compiles(**options):
        """Tell it by a compiler that can only fail, after which the plain step is taken."""
        with monkeypatch.context() as patch:
            patch.setattr(engine_compiled, "compile_step", refuse)
            return run(**options).mode == "plain"

    def refuse(*_):
        raise Interrupted

    monkeypatch.setattr(engine_compiled, "PROGRAMS", {})
    run()
    mask = {"1.weight": torch.ones(8, 40).tril()}
    others = {"first": 7, "masks": [mask, None], "recipe": dataclasses.replace(recipe, lr=0.2)}
    assert not compiles(**others)
    plain, again = run(**others, compile=False), run(**others)
    assert all(distance(a, b) < 1e-5 for a, b in zip(again.weights, plain.weights, strict=True))
    assert distance(again.weights[0], again.weights[1]) > 0.1
    assert compiles(slope=0.2)
    assert compiles(count=1)
    assert compiles(shape=(1, 20))
    assert compiles(microbatch=16)
    for name, value in (("momentum", 0.5), ("weight_decay", 0.0), ("precision", "bfloat16")):
        assert compiles(recipe=dataclasses.replace(recipe, **{name: value})), name
    assert compiles(recipe=dataclasses.replace(recipe, batch_size=16))
    assert not compiles()
    # As a new process has it: no programs, but the compiler's folder.
    engine_compiled.PROGRAMS.clear()
    before = counters["inductor"]["fxgraph_cache_hit"]
    assert run(**others).mode == "compiled"
    assert counters["inductor"]["fxgraph_cache_hit"] == before + 1


def test_the_compiler_gets_no_product_with_a_bias(monkeypatch):
    seen = []

    def compiler(graph, *_, **__):
        seen.extend(node.target for node in graph.graph.nodes)
        raise Interrupted

    monkeypatch.setattr(engine_compiled, "PROGRAMS", {})
    monkeypatch.setattr(torch._inductor, "compile", compiler)
    starts, seeds = [initialize(factory("mlp", SIGNAL), 0)] * 2, [Seeds.of("t", i) for i in (0, 1)]
    recipe, runtime = Recipe(epochs=1, lr=0.05, batch_size=32), Runtime(compile=True)
    train(factory("mlp", SIGNAL)(), starts, toy(SIGNAL), recipe, seeds, runtime=runtime)
    aten = torch.ops.aten
    assert aten.bmm.default in seen and aten.baddbmm.default not in seen


def test_a_step_that_cannot_be_compiled_runs_plain_and_says_why_in_one_line(monkeypatch, caplog):
    """And the compiler, which takes as long to fail as to succeed, is asked once."""
    asked = []

    def fail(*_):
        asked.append(0)
        raise RuntimeError("no compiler here\nand how to install one")

    monkeypatch.setattr(engine_compiled, "compile_step", fail)
    monkeypatch.setattr(engine_compiled, "PROGRAMS", {})
    data, make = toy(SIGNAL), factory("mlp", SIGNAL)
    starts, seeds = [initialize(make, i) for i in range(4)], [Seeds.of("t", i) for i in range(4)]
    run = partial(train, make(), starts, data, Recipe(epochs=2, lr=0.05, batch_size=32), seeds)
    plain, broken = run(), run(runtime=Runtime(compile=True, members=1), label="round 3")
    again = run(runtime=Runtime(compile=True, members=1), label="round 4")
    assert (plain.mode, broken.mode, again.mode) == ("plain", "plain", "plain")
    assert len(asked) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"round {n}: the step can't be compiled: RuntimeError: no compiler here" for n in (3, 4)
    ]
    assert all(distance(a, b) < 1e-5 for a, b in zip(plain.weights, broken.weights, strict=True))


@pytest.mark.parametrize("before", [True, False])
def test_nothing_is_collected_while_the_compiler_runs(monkeypatch, before):
    """Also where it fails, things are as before."""
    seen = []

    def fail(*_, **__):
        seen.append(gc.isenabled())
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("torch._inductor.compile", fail)
    monkeypatch.setattr(engine_compiled, "PROGRAMS", {})
    make = factory("mlp", SIGNAL)
    enabled = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        train(
            make(),
            [initialize(make, 0)],
            toy(SIGNAL),
            Recipe(epochs=1, lr=0.05, batch_size=32),
            [Seeds.of("t", 0)],
            runtime=Runtime(compile=True),
        )
        assert seen == [False]
        assert gc.isenabled() == before
    finally:
        (gc.enable if enabled else gc.disable)()


def test_the_forms_of_a_step_that_a_device_has():
    assert Runtime().modes == ("plain",)
    assert Runtime(compile=True).modes == ("compiled", "plain")
    assert Runtime(device="cuda").modes == ("graph", "plain")
    assert Runtime(device="cuda", compile=True).modes == ("compiled", "graph", "plain")
    assert Runtime(device="cuda", graph=False).modes == ("plain",)


def test_checkpoints_take_a_fiftieth_of_the_time_at_most(monkeypatch):
    """By a clock of its own: the first save takes ten seconds, and the next comes 500 later."""
    now = [0.0]

    class Slow(Notebook):
        def checkpoint(self, tensors, info):
            now[0] += 10

    monkeypatch.setattr(engine_checkpoints.time, "monotonic", lambda: now[0])
    keeper = engine_checkpoints.Keeper(Slow(), 60.0, None)
    monkeypatch.setattr(engine_checkpoints, "pack", lambda *_: ({}, {}))
    waits = []
    for _ in range(2):
        begin = now[0]
        while not keeper.wanted():
            now[0] += 1
        waits.append(now[0] - begin)
        keeper.save_if_wanted([], None, 0)
    assert waits == [61, 501]


def test_a_layer_with_hooks_or_of_ones_own_is_not_taken_for_another():
    def stacked(change):
        model = nn.Sequential(nn.Flatten(), nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 5))
        change(model)
        return StackedNetworks(model, [model.state_dict()])

    class Twice(nn.ReLU):
        def forward(self, x):
            return 2 * super().forward(x)

    def own(model):
        model[2] = Twice()

    plain = stacked(lambda model: None).form()
    assert plain is not None and plain == stacked(lambda model: None).form()
    assert stacked(lambda model: model[2].register_forward_hook(lambda *_: None)).form() is None
    assert stacked(own).form() not in (None, plain)


def test_bfloat16_steps_learn_the_same_compiled_or_not():
    data, make = toy(SIGNAL, n=256), factory("mlp", SIGNAL)
    starts, seeds = [initialize(make, i) for i in range(4)], [Seeds.of("t", i) for i in range(4)]
    recipe = Recipe(epochs=6, lr=0.05, batch_size=32)
    eager = train(make(), starts, data, recipe, seeds)
    low = dataclasses.replace(recipe, precision="bfloat16")
    half = train(make(), starts, data, low, seeds)
    compiled_half = train(make(), starts, data, low, seeds, runtime=Runtime(compile=True))
    assert (
        max(distance(a, b) for a, b in zip(half.weights, compiled_half.weights, strict=True)) < 0.05
    )
    assert (
        min(distance(a, b) for a, b in zip(eager.weights, compiled_half.weights, strict=True))
        > 1e-4
    )
    accuracies = [torch.tensor(run.evaluations[6]["accuracy"]) for run in (eager, half)]
    assert accuracies[0].min() > 0.5
    assert torch.allclose(*accuracies, atol=0.08)
    assert half.weights[0]["classifier.weight"].dtype == torch.float32


@pytest.mark.parametrize(("name", "compiled"), [("vgg11", False), ("mlp", True)])
def test_gradients_of_parts_add_up_to_the_batch(name, compiled):
    """Without batch norm a step in parts is the step, up to rounding; 32 in parts of 20 leaves
    one of 12.
    """
    shape, kind = (SIGNAL, "none") if name == "mlp" else (IMAGE, "flip_crop")
    data, make = toy(shape), factory(name, shape)
    recipe = Recipe(epochs=2, lr=0.02, batch_size=32, augment=kind)
    starts, seeds = (
        [double(initialize(make, i)) for i in range(2)],
        [Seeds.of("t", i) for i in range(2)],
    )
    runtimes = [Runtime(), Runtime(microbatch=20, compile=compiled), Runtime(microbatch=99)]
    whole, parts, large = (
        train(make().double(), starts, data, recipe, seeds, runtime=runtime) for runtime in runtimes
    )
    for i in range(2):
        assert distance(whole.weights[i], parts.weights[i]) < 1e-9
        assert distance(whole.weights[i], large.weights[i]) == 0
        assert distance(whole.weights[i], starts[i]) > 1e-3
    assert torch.allclose(torch.tensor(whole.train_loss), torch.tensor(parts.train_loss))


def test_batch_norm_takes_the_statistics_of_each_part():
    data, make = toy(IMAGE), factory("resnet8", IMAGE)
    recipe, seeds = Recipe(epochs=1, lr=0.02, batch_size=32), [Seeds.of("t", 0)]
    whole, parts = (
        train(make(), [initialize(make, 0)], data, recipe, seeds, runtime=Runtime(microbatch=n))
        for n in (None, 8)
    )
    counts = [int(run.weights[0]["bn1.num_batches_tracked"]) for run in (whole, parts)]
    assert counts == [3, 12]
    assert distance(whole.weights[0], parts.weights[0]) > 1e-4
    with pytest.raises(ParameterError, match="microbatch is 0; expected 1 or more"):
        train(make(), [initialize(make, 0)], data, recipe, seeds, runtime=Runtime(microbatch=0))


def test_networks_with_convolutions_run_together_while_they_fit_into_the_cache():
    def at_once(name, shape, batch=128, precision="float32", **runtime):
        return networks_at_once(
            factory(name, shape)(), (batch, *shape), precision, Runtime(**runtime)
        )

    assert at_once("mlp", SIGNAL) is at_once("mlp", SIGNAL, device="cuda") is None
    # The largest activation of a network: 128 × 4 channels × 40 values, 80 KiB; and 2 MiB of
    # images.
    assert at_once("resnet8", SIGNAL) == 12
    assert at_once("resnet8", SIGNAL, batch=256) == 6
    assert at_once("resnet8", IMAGE) == 1
    assert at_once("resnet8", IMAGE, precision="bfloat16") == 4
    assert at_once("resnet8", SIGNAL, precision="bfloat16") == 102
    assert at_once("resnet8", SIGNAL, device="cuda") == 1
    assert at_once("resnet8", IMAGE, compile=True) == 1
    model = factory("resnet8", SIGNAL)()
    for count, expected in ((12, 2), (13, 2), (25, 4), (37, 4), (49, 6)):
        parts, threads = partition(
            model, (128, *SIGNAL), count, precision="float32", runtime=Runtime()
        )
        assert [part.stop for part in parts][-1] == count
        if torch.get_num_threads() > 1:
            assert (len(parts), threads) == (expected, 2)
    one_by_one = Runtime(members=1)
    parts, _ = partition(model, (128, *SIGNAL), 5, precision="float32", runtime=one_by_one)
    assert len(parts) == 5


def test_compiled_convolutions_take_a_thread_for_every_core(two_threads):
    torch.set_num_threads(4)
    conv, mlp = factory("resnet8", IMAGE)(), factory("mlp", SIGNAL)()
    for model, shape, compiled, expected in (
        (conv, IMAGE, True, (8, 4)),
        (conv, IMAGE, False, (8, 2)),
        (mlp, SIGNAL, True, (2, 2)),
    ):
        runtime = Runtime(compile=compiled)
        parts, threads = partition(model, (128, *shape), 8, precision="float32", runtime=runtime)
        assert (len(parts), threads) == expected


def test_learning_rates():
    cosine = Recipe(epochs=10, lr=0.1)
    assert [learning_rate(cosine, e) for e in (0, 5)] == pytest.approx([0.1, 0.05])
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, 10)
    for epoch in range(10):
        assert learning_rate(cosine, epoch) == pytest.approx(schedule.get_last_lr()[0])
        reference.step()
        schedule.step()
    step = Recipe(epochs=90, lr=0.04, schedule="step", milestones=(31, 62), warmup_epochs=5)
    assert [learning_rate(step, e) for e in (0, 4, 5, 30, 31, 62)] == pytest.approx(
        [0.008, 0.04, 0.04, 0.04, 0.004, 0.0004]
    )
    assert learning_rate(Recipe(epochs=5, lr=0.1, schedule="constant"), 4) == 0.1


def test_order_belongs_to_seed_and_epoch():
    assert sorted(draw_order(50, 3, 0).tolist()) == list(range(50))
    assert torch.equal(draw_order(50, 3, 1), draw_order(50, 3, 1))
    assert not torch.equal(draw_order(50, 3, 0), draw_order(50, 3, 1))
    assert not torch.equal(draw_order(50, 3, 0), draw_order(50, 4, 0))


def test_divergence_is_found_and_named():
    data, make = toy(SIGNAL), factory("mlp", SIGNAL)
    with pytest.raises(DivergedError, match=r"loss is not finite at step \d+ .*Lower lr") as caught:
        train(
            make(),
            [initialize(make, 0)],
            data,
            Recipe(epochs=5, lr=1e12, batch_size=32),
            [Seeds.of("t", 0)],
        )
    assert caught.value.exit_code == 4


def test_wrong_calls_are_refused():
    data, make = toy(SIGNAL), factory("mlp", SIGNAL)
    start, seed = initialize(make, 0), Seeds.of("t", 0)
    with pytest.raises(ParameterError, match="expected the same number"):
        train(make(), [start], data, Recipe(epochs=1, lr=0.1), [seed, seed])
    with pytest.raises(ParameterError, match="batch_size is 1000"):
        train(make(), [start], data, Recipe(epochs=1, lr=0.1, batch_size=1000), [seed])


def test_batch_norm_after_a_linear_layer():
    """The stack of (M, B, F) activations keeps each member's own statistics."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(40, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)
    )
    data = toy(SIGNAL)

    def make():
        return nn.Sequential(
            nn.Flatten(), nn.Linear(40, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)
        )

    recipe = Recipe(epochs=2, lr=0.05, batch_size=32)
    starts, seeds = [initialize(make, i) for i in range(2)], [Seeds.of("t", i) for i in range(2)]
    together = train(model, starts, data, recipe, seeds)
    for i in range(2):
        assert (
            distance(
                plain_training(make(), starts[i], data, recipe, seeds[i], None, 2),
                together.weights[i],
            )
            < 1e-4
        )


def test_progress_counts_every_image():
    seen = []

    class Bar:
        def __init__(self, label, total):
            self.total, self.n, self.closed = total, 0, False
            seen.append(self)

        def update(self, n):
            self.n += n

        def set_postfix_str(self, s):
            assert "loss" in s

        def close(self):
            self.closed = True

    data, make = toy(SIGNAL), factory("mlp", SIGNAL)
    starts, seeds = [initialize(make, i) for i in range(3)], [Seeds.of("t", i) for i in range(3)]
    train(
        make(),
        starts,
        data,
        Recipe(epochs=2, lr=0.05, batch_size=32),
        seeds,
        runtime=Runtime(progress=Bar),
    )
    assert len(seen) == 1
    assert seen[0].n == seen[0].total == 2 * 96 * 3
    assert seen[0].closed
    assert math.isfinite(seen[0].n)
