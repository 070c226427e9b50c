"""What experiments will cost, before anything runs and without their data: images, FLOPs, hours, memory, disk.

The stages are those that would be computed (`Pipeline.tasks`), so that what is shared is counted once. The arithmetic
of a network is measured on PyTorch's meta device at its true input shape. Hours come from a speed that was measured
for this network on this device (``book/results/throughput.json``, or `measure`); where there is none they are an
estimate by roofline (Williams et al. 2009), given as a range, whose assumptions are named with the result.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lotperm.config import DataConfig, Experiment, ModelConfig, Seeds
from lotperm.data import Dataset, Split, info
from lotperm.errors import StorageError, unknown_name
from lotperm.experiments import Pipeline, Task, chain
from lotperm.masks import prunable_parameters
from lotperm.models import build, initialize
from lotperm.reference import book_folder
from lotperm.store import Store
from lotperm.training import Runtime, train

TRAIN_FACTOR = 3
"""A training image costs three forward passes: one forward, and two products of the same size backward."""
_GROUPS = {
    "dense": "dense A and B", "imp": "IMP rounds", "match": "matching", "sparse": "sparse arms",
    "early": "early matching", "diversity": "diversity", "connectivity": "connectivity",
}  # fmt: skip


# --- networks and devices ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """What one image costs in a network, and what its weights take.

    Attributes
    ----------
    parameters, prunable : numbers of weights, and of those that may be pruned
    state_bytes : of its weights and buffers in a file
    layers : convolutions and linear layers
    forward_flops : of one image, a multiplication and an addition counted as two
    outputs : values that these layers put out for one image
    saved : values that the backward pass needs of one image
    largest : values of its largest activation
    """

    parameters: int
    prunable: int
    state_bytes: int
    layers: int
    forward_flops: int
    outputs: int
    saved: int
    largest: int


@cache
def network(model: ModelConfig, data: DataConfig, prunable: str = "paper") -> Network:
    """Measure a network on the meta device, which knows shapes and computes nothing.

    Raises
    ------
    ParameterError
        If the network has no form for the data.
    """
    of = info(data)
    with torch.device("meta"):
        net = build(
            model.name,
            input_shape=of.shape,
            classes=of.classes,
            width=model.width,
            hidden=model.hidden or (1,),
        )
    state = net.state_dict()
    outputs, largest, layers = 0, 0, 0

    def seen(module: nn.Module, _: Any, result: Tensor) -> None:
        nonlocal outputs, largest, layers
        largest = max(largest, result.numel())
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            outputs, layers = outputs + result.numel(), layers + 1

    hooks = [m.register_forward_hook(seen) for m in net.modules() if not list(m.children())]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(torch.empty(1, *of.shape, device="meta"))
    for hook in hooks:
        hook.remove()
    # Two images: batch norm refuses one where nothing else is left to average over.
    weights = {p.untyped_storage()._cdata for p in net.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = net.train()(torch.empty(2, *of.shape, device="meta"))
    names = prunable_parameters(net, "all" if prunable == "all" else "paper")
    found = Network(
        parameters=sum(p.numel() for p in net.parameters()),
        prunable=sum(state[name].numel() for name in names),
        state_bytes=sum(t.numel() * t.itemsize for t in state.values()),
        layers=layers,
        forward_flops=int(counter.get_total_flops()),
        outputs=outputs,
        saved=sum(t.numel() for t in kept.values()) // 2,
        largest=largest,
    )
    del result
    return found


@dataclass(frozen=True)
class Device:
    """A device as the roofline sees it.

    Attributes
    ----------
    words : its name in full
    flops : peak FLOP/s at each precision of a recipe; empty: no estimate can be made
    bandwidth : bytes/s of its memory
    memory : bytes of it
    source : where these figures come from
    """

    words: str
    flops: Mapping[str, float]
    bandwidth: float
    memory: float
    source: str


_TF32 = "float32: TF32 in convolutions, PyTorch's default, as published"
DEVICES: Mapping[str, Device] = {
    "h100": Device(
        "NVIDIA H100", {"bfloat16": 798e12, "float32": 494e12}, 3.0e12, 80e9,
        f"bfloat16 and memory as seen on such a card; {_TF32}",
    ),
    "h200": Device(
        "NVIDIA H200", {"bfloat16": 798e12, "float32": 494e12}, 4.8e12, 141e9,
        f"bfloat16 as seen on an H100; memory as published; {_TF32}",
    ),
    "a100": Device(
        "NVIDIA A100", {"bfloat16": 312e12, "float32": 156e12}, 2.0e12, 80e9, f"as published; {_TF32}"
    ),
    "cpu": Device("CPU", {}, 0.0, math.inf, "none: its speed must be measured"),
}  # fmt: skip

PASSES = 13
"""How often a training step reads or writes as many values as the layers put out (assumption of the roofline)."""
LAUNCHES, LAUNCH_SECONDS = 7, 3e-6
"""Kernels of a step for each layer, and seconds that the shortest one takes (assumption): what binds small networks."""
SHARE = (0.4, 0.6)
"""Share of the roofline that training reaches (assumption; 0.38 to 0.67 in comparable code)."""
ASSUMPTIONS = (
    f"Estimated hours: the larger of arithmetic at the device's peak, {PASSES} passes over all layers' outputs at its "
    f"memory's rate, and {LAUNCHES} kernels a layer and step of {LAUNCH_SECONDS * 1e6:g} µs, of which "
    f"{100 * SHARE[0]:.0f} to {100 * SHARE[1]:.0f} % is reached. A forward image costs a third of a training image. "
    "Correlations, assignments, files and starting up are not counted."
)


# --- measured speeds --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """A measured speed of training.

    Attributes
    ----------
    device : a name of `DEVICES`
    model, width, hidden, input_shape, precision : of the network
    members : networks trained at once
    images_per_second : training images, all members counted
    source : what measured it, where and when
    """

    device: str
    model: str
    width: float
    hidden: tuple[int, ...]
    input_shape: tuple[int, ...]
    precision: str
    members: int
    images_per_second: float
    source: str

    def fits(self, device: str, experiment: Experiment) -> bool:
        """Whether it is of this device and this experiment's network."""
        e = experiment
        return (self.device, self.model, self.width, self.hidden, self.input_shape, self.precision) == (
            device, e.model.name, e.model.width, e.model.hidden, info(e.data).shape, e.dense.precision
        )  # fmt: skip


def recorded_speeds() -> list[Speed]:
    """The rows of ``book/results/throughput.json``; none without the repository."""
    try:
        path = book_folder() / "results" / "throughput.json"
    except StorageError:
        return []
    if not path.exists():
        return []
    names = {field.name for field in dataclasses.fields(Speed)}
    return [
        Speed(**{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in row.items() if name in names
        })
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]
    ]  # fmt: skip


def measure(
    experiment: Experiment, members: int, device: str, runtime: Runtime | None = None, *, seconds: float = 2.0
) -> Speed:
    """Train networks for a few steps, on noise in the shape of the data, and time it.

    Parameters
    ----------
    experiment : whose network and recipe
    members : networks trained at once
    device : the name under which the speed is kept, e.g. ``"cpu"``
    runtime : how to compute
    seconds : about how long to measure, after as much warming up as one step is
    """
    of, recipe = info(experiment.data), experiment.dense
    generator = torch.Generator().manual_seed(0)

    def noise(examples: int) -> Split:
        inputs = torch.randint(256, (examples, *of.shape), dtype=torch.uint8, generator=generator)
        return Split(inputs, torch.randint(of.classes, (examples,), generator=generator))

    channels = torch.full((of.shape[0],), 0.5)
    pipeline = Pipeline(experiment)
    start = [initialize(pipeline.build, i) for i in range(members)]
    seeds = [Seeds.of("speed", i) for i in range(members)]

    def timed(steps: int) -> float:
        data = Dataset("noise", noise(steps * recipe.batch_size), noise(1), of.classes, channels, channels)
        began = time.perf_counter()
        train(pipeline.model, start, data, recipe, seeds, until=1, evaluate_at=(), runtime=runtime)
        return time.perf_counter() - began

    timed(1)
    steps = max(2, min(200, round(seconds / timed(1))))
    rate = steps * recipe.batch_size * members / timed(steps)
    e = experiment
    where = f"measured now, {steps} steps, PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
    return Speed(
        device, e.model.name, e.model.width, e.model.hidden, of.shape, recipe.precision, members, rate, where
    )


# --- the plan ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Something to be planned: experiments, and which tasks of each are asked for.

    Attributes
    ----------
    name : of a figure, or an entry of a campaign
    experiments : one for each width
    own : the tasks of a pipeline that are asked for; those before them follow
    """

    name: str
    experiments: tuple[Experiment, ...]
    own: Callable[[Pipeline], list[Task]]

    def tasks(self, store: Store) -> list[Task]:
        """The tasks that are asked for, without those before them."""
        return [task for e in self.experiments for task in self.own(Pipeline(e, store))]


def figure(name: str, **parameters: Any) -> Part:
    """A figure of the book with the stages that its notebook computes.

    Raises
    ------
    ParameterError
        As `Experiment.for_figure`.
    """
    experiments = Experiment.for_figure(name, **parameters)

    def own(pipeline: Pipeline) -> list[Task]:
        e = pipeline.experiment
        first, k = e.sparsities[0], e.rewind_epochs[0]
        if name == "diversity":
            return [pipeline.diversity_task(first, k)]
        if name == "mode_connectivity":
            count = min(3, len(e.seeds))
            asked = [pipeline.connectivity_task([i / 10 for i in range(11)], replicates=count)]
            if e == experiments[0]:
                total = len(pipeline.imp_rounds(first, k))
                for r in sorted({0, *range(2, total, 2), total}):
                    asked.append(
                        pipeline.connectivity_task([0.0, 0.5, 1.0], ["bn"], replicates=count, round_number=r)
                    )
            return asked
        asked = [pipeline.sparse(sparsity, k) for sparsity in e.sparsities for k in e.rewind_epochs]
        if name == "early_matching":
            epochs = e.dense.epochs
            shares = (0, 0.025, 0.1, 0.2, 0.5, 1)
            at = [5, 20, 50, 100, 200] if epochs == 200 else sorted({round(epochs * s) for s in shares})
            asked.append(pipeline.early_task(e.sparsities[-1], k, at))
        return asked

    return Part(name, tuple(experiments), own)


@dataclass(frozen=True)
class Line:
    """Cost of some stages.

    Attributes
    ----------
    network, group : what is trained, and which stages
    stages, networks, epochs : numbers; an epoch is one of one network
    train_images, forward_images : as in `Work`
    flops : of both
    seconds : shortest and longest; equal where the speed was measured; None where nothing is known
    least : seconds that the roofline allows; 0 where it says nothing
    measured : whether all of it comes from measured speeds
    device_bytes, host_bytes : largest of any stage: on the device, and what it keeps in the host's memory
    disk_bytes : in the store, when all is computed
    """

    network: str
    group: str
    stages: int = 0
    networks: int = 0
    epochs: int = 0
    train_images: int = 0
    forward_images: int = 0
    flops: float = 0.0
    seconds: tuple[float, float] | None = (0.0, 0.0)
    least: float = 0.0
    measured: bool = True
    device_bytes: float = 0.0
    host_bytes: float = 0.0
    disk_bytes: float = 0.0

    def __add__(self, other: Line) -> Line:
        """Both; the larger memory."""
        both = None
        if self.seconds and other.seconds:
            both = (self.seconds[0] + other.seconds[0], self.seconds[1] + other.seconds[1])
        return Line(
            self.network, self.group, self.stages + other.stages, self.networks + other.networks,
            self.epochs + other.epochs, self.train_images + other.train_images,
            self.forward_images + other.forward_images, self.flops + other.flops, both, self.least + other.least,
            self.measured and other.measured, max(self.device_bytes, other.device_bytes),
            max(self.host_bytes, other.host_bytes), self.disk_bytes + other.disk_bytes,
        )  # fmt: skip


def _name(e: Experiment) -> str:
    size = f" {'-'.join(map(str, e.model.hidden))}" if e.model.hidden else ""
    return f"{e.model.name}{size} ×{e.model.width:g}, {e.data.name}"


class Estimator:
    """Turns tasks into costs on a device.

    Parameters
    ----------
    device : a name of `DEVICES`
    speeds : measured ones; None: those that are recorded
    members : networks at once at the most, as in `Runtime`

    Raises
    ------
    ParameterError
        If the device is unknown.
    """

    def __init__(
        self, device: str, speeds: Sequence[Speed] | None = None, members: int | None = None
    ) -> None:
        if device not in DEVICES:
            raise unknown_name("device", device, DEVICES)
        self.name, self.device, self.members = device, DEVICES[device], members
        self.speeds = recorded_speeds() if speeds is None else speeds

    def speed(self, experiment: Experiment, members: int) -> Speed | None:
        """The measured speed with the nearest number of members."""
        fitting = [s for s in self.speeds if s.fits(self.name, experiment)]
        return min(fitting, key=lambda s: abs(math.log(s.members / members)), default=None)

    def line(self, task: Task) -> Line:
        """The cost of one stage."""
        e, w = task.experiment, task.work
        net = network(e.model, e.data, e.pruning.prunable)
        of, batch = info(e.data), e.dense.batch_size
        images = w.train_images + w.forward_images / TRAIN_FACTOR
        at_once = max(1, min(w.networks, self.members or w.networks))
        width = 2 if e.dense.precision == "bfloat16" else 4
        seconds, least, known = None, 0.0, None
        if self.device.flops:
            arithmetic = TRAIN_FACTOR * net.forward_flops / self.device.flops[e.dense.precision]
            traffic = PASSES * net.outputs * width / self.device.bandwidth
            steps = w.train_images / (batch * at_once)
            least = max(images * arithmetic, images * traffic, steps * net.layers * LAUNCHES * LAUNCH_SECONDS)
            seconds = (least / SHARE[1], least / SHARE[0])
        if (known := self.speed(e, at_once)) is not None:
            seconds = (images / known.images_per_second,) * 2
        # Weights, momentum and mask of all; gradients, twice, and an update of those that are computed at once.
        device_bytes = 4.0 * net.parameters * 3 * (w.networks + at_once) + of.bytes
        training = batch * (width * net.saved + 3 * width * net.largest) if w.networks else 0
        evaluating = 1000 * 3 * 4 * net.largest
        device_bytes += at_once * max(training, evaluating)
        return Line(
            _name(e), _GROUPS.get(task.name, task.name), 1, w.networks, w.networks * w.epochs, w.train_images,
            w.forward_images, (TRAIN_FACTOR * w.train_images + w.forward_images) * net.forward_flops, seconds, least,
            known is not None or not images, device_bytes, (w.kept + w.networks) * net.state_bytes,
            w.kept * net.state_bytes + w.masks * net.prunable,
        )  # fmt: skip

    def total(self, tasks: Iterable[Task], group: str = "total") -> Line:
        """The cost of several stages together."""
        total = Line("", group)
        for task in tasks:
            total = total + self.line(task)
        return total


@dataclass(frozen=True)
class Plan:
    """What something will cost.

    Attributes
    ----------
    title : what
    lines : by network and kind of stage
    total : their sum
    there : stages of them that the store has already
    separately : what it is without sharing -> total
    notes : what the numbers rest on
    """

    title: str
    lines: list[Line]
    total: Line
    there: int
    separately: dict[str, Line]
    notes: list[str]

    def rows(self) -> list[dict[str, str]]:
        """The table as text, the total last."""
        return [_row(line) for line in (*self.lines, self.total)]

    def comparison(self) -> list[dict[str, str]]:
        """What sharing saves, as text."""
        total, rows = self.total, []
        for what, line in {"every stage once": total, **self.separately}.items():
            factor = f"{line.flops / total.flops:.2f}" if total.flops else "–"
            rows.append({
                "how": what, "epochs": f"{line.epochs:,}", "FLOP": _flop(line.flops), "hours": hours(line),
                "× the plan": factor,
            })  # fmt: skip
        return rows


def hours(line: Line) -> str:
    """Device-hours as text: a number if it was measured, a range if it is estimated."""
    if line.seconds is None:
        return "not measured"
    low, high = (_significant(s / 3600) for s in line.seconds)
    return low if low == high else f"{low}–{high}"


def _significant(value: float) -> str:
    """Two digits, three from 100 on, and no exponent."""
    if value == 0:
        return "0"
    if value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _flop(value: float) -> str:
    return f"{value:.2e}" if value else "0"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def _row(line: Line) -> dict[str, str]:
    return {
        "network": line.network, "stages of": line.group, "stages": f"{line.stages:,}",
        "networks": f"{line.networks:,}", "epochs": f"{line.epochs:,}",
        "training images": f"{line.train_images:,}", "forward images": f"{line.forward_images:,}",
        "FLOP": _flop(line.flops), "hours": hours(line), "device memory": _bytes(line.device_bytes),
        "host memory": _bytes(line.host_bytes), "disk": _bytes(line.disk_bytes),
    }  # fmt: skip


def plan(parts: Sequence[Part], estimator: Estimator, store: Store | None = None, title: str = "") -> Plan:
    """What some parts cost together, stages that they share counted once.

    Parameters
    ----------
    parts : what to plan
    estimator : on which device
    store : where what is there already is looked up; None: the default store
    title : None: the parts' names
    """
    store = store or Store.default()
    asked = [part.tasks(store) for part in parts]
    tasks = chain(task for own in asked for task in own)
    lines: dict[tuple[str, str], Line] = {}
    for task in tasks:
        line = estimator.line(task)
        key = (line.network, line.group)
        lines[key] = lines[key] + line if key in lines else line
    places = {name: i for i, name in enumerate(_GROUPS.values())}
    networks = list(dict.fromkeys(line.network for line in lines.values()))
    ordered = sorted(lines.values(), key=lambda x: (networks.index(x.network), places.get(x.group, 99)))
    once_per_mask = (t for own in asked for group in _by_mask(own) for t in chain(group))
    once_per_arm = (t for own in asked for task in own for t in _every_arm(task))
    separately = {
        "dense networks and mask again for every sparsity": estimator.total(once_per_mask),
        "dense networks and mask again for every arm": estimator.total(once_per_arm),
    }
    there = sum(task.exists() for task in tasks)
    return Plan(
        title or ", ".join(part.name for part in parts), ordered, estimator.total(tasks), there, separately,
        _notes(tasks, estimator),
    )  # fmt: skip


def _every_arm(task: Task) -> Iterator[Task]:
    """The tasks of one run for each arm, if every run computes all that it needs itself."""
    arms = max(1, task.work.networks // len(task.experiment.seeds))
    for before in chain(task.after):
        yield from [before] * arms
    yield task


def _by_mask(asked: Iterable[Task]) -> list[list[Task]]:
    """The tasks in groups that need the same mask: what a script does that starts anew for every sparsity."""
    groups: dict[tuple[str | None, Experiment], list[Task]] = {}
    for task in asked:
        masks = [before.key for before in chain([task]) if before.name == "imp"]
        groups.setdefault((masks[-1] if masks else None, task.experiment), []).append(task)
    return list(groups.values())


def _notes(tasks: Sequence[Task], estimator: Estimator) -> list[str]:
    """What the numbers rest on, and what won't fit."""
    notes, device = [], estimator.device
    lines = [estimator.line(task) for task in tasks]
    speeds = {
        s for t in tasks if (s := estimator.speed(t.experiment, max(1, t.work.networks))) and t.work.networks
    }
    for s in sorted(speeds, key=lambda s: (s.model, s.width, s.members)):
        notes.append(
            f"Measured: {s.model} ×{s.width:g}, {s.members} at once, {s.images_per_second:,.0f} images/s on "
            f"{device.words} ({s.source})."
        )
    guessed = sorted({line.network for line in lines if not line.measured})
    if guessed and device.flops:
        least = sum(line.least for line in lines if not line.measured)
        at = ", ".join(f"{flops / 1e12:g} TFLOP/s {name}" for name, flops in device.flops.items())
        notes.append(
            f"Not measured on {device.words}, so estimated, at least {_significant(least / 3600)} h: "
            f"{'; '.join(guessed)}. Assumed: {at}, {device.bandwidth / 1e12:g} TB/s ({device.source})."
        )
        notes.append(ASSUMPTIONS)
    elif guessed:
        notes.append(f"Not measured on {device.words}: {'; '.join(guessed)}. Measure it: --measure.")
    for task, line in zip(tasks, lines, strict=True):
        if line.device_bytes > device.memory:
            at_once = estimator.members or task.work.networks
            fits = next(
                (m for m in range(at_once, 0, -1)
                 if Estimator(estimator.name, [], m).line(task).device_bytes <= device.memory), None,
            )  # fmt: skip
            hint = f"--members {fits} fits" if fits else "one network alone is too large"
            notes.append(
                f"{line.network}, {line.group}: {_bytes(line.device_bytes)} is more than the device has "
                f"({_bytes(device.memory)}); {hint}."
            )
            break
    return notes


def growth(part: Part, estimator: Estimator, store: Store | None = None) -> list[dict[str, str]]:
    """How the cost of a part's first experiment grows: one more seed, rewind point and round of pruning, twice the width.

    Seeds are trained together, so a seed that is added later is a new experiment: plan for all of them at once.

    Returns
    -------
    list of dict
        One row each as text: what, epochs, FLOP, hours, and how much more than without it in percent.
    """
    store = store or Store.default()
    e = part.experiments[0]
    k = next((k for k in range(0, e.dense.epochs, 5) if k not in e.rewind_epochs), None)
    deeper = 1 - (1 - max(e.sparsities)) * (1 - e.pruning.fraction)
    changed = {
        f"first network alone: {_name(e)}": e,
        "one more seed": dataclasses.replace(e, seeds=(*e.seeds, max(e.seeds) + 1)),
        f"one more sparsity, a round beyond the last ({deeper:.3f})": dataclasses.replace(
            e, sparsities=(*e.sparsities, deeper)
        ),
        "twice the width": dataclasses.replace(
            e, model=dataclasses.replace(e.model, width=2 * e.model.width)
        ),
    }
    if k is not None:
        again = {"rewind_epochs": tuple(sorted({*e.rewind_epochs, k}))}
        if getattr(e, "keep", None) is not None:
            again["keep"] = tuple(sorted({*e.keep, k}))
        changed[f"one more rewind point (k = {k})"] = dataclasses.replace(e, **again)
    rows, first = [], None
    for what, experiment in changed.items():
        own = dataclasses.replace(part, experiments=(experiment,)).tasks(store)
        line = estimator.total(chain(own))
        first = first or line
        more = "" if line is first else f"+{100 * (line.flops / first.flops - 1):.0f} %"
        rows.append({
            "what": what, "epochs": f"{line.epochs:,}", "FLOP": _flop(line.flops), "hours": hours(line), "more": more,
        })  # fmt: skip
    return rows
