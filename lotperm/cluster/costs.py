"""What a network costs for each image, and how fast a device is: measured, or by roofline
(Williams et al. 2009).
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lotperm.config.experiment import DataConfig, Experiment, ModelConfig
from lotperm.config.seeds import Seeds
from lotperm.data.dataset import Dataset, Split
from lotperm.data.datasets import info
from lotperm.engine.models import build, initialize
from lotperm.engine.runtime import Runtime
from lotperm.engine.training import train
from lotperm.errors import StorageError
from lotperm.science.sparsity import prunable_parameters
from lotperm.store.files import write_atomic
from lotperm.studies.pipeline import Pipeline
from lotperm.studies.published import book_folder

TRAIN_FACTOR = 3
"""A training image costs three forward passes: one forward, and two products of the same size
backward.
"""


@dataclass(frozen=True)
class Network:
    """What one image costs in a network, and what its weights take.

    Attributes
    ----------
    parameters, prunable : int
        Numbers of weights, and of those that may be pruned.
    state_bytes : int
        Of its weights and buffers in a file.
    layers : int
        Convolutions and linear layers.
    forward_flops : int
        Of one image, a multiplication and an addition counted as two.
    outputs : int
        Values that these layers put out for one image.
    saved : int
        Values that the backward pass needs of one image.
    largest : int
        Values of its largest activation.
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
    words : str
        Its name in full.
    flops : Mapping[str, float]
        Peak FLOP/s at each precision of a recipe; empty: no estimate can be made.
    bandwidth : float
        Bytes/s of its memory.
    memory : float
        Bytes of it.
    source : str
        Where these figures come from.
    """

    words: str
    flops: Mapping[str, float]
    bandwidth: float
    memory: float
    source: str


_TF32 = "float32: TF32 in convolutions, PyTorch's default, as published"
DEVICES: Mapping[str, Device] = {
    "h100": Device(
        "NVIDIA H100",
        {"bfloat16": 798e12, "float32": 494e12},
        3.0e12,
        80e9,
        f"bfloat16 and memory as seen on such a card; {_TF32}",
    ),
    "h200": Device(
        "NVIDIA H200",
        {"bfloat16": 798e12, "float32": 494e12},
        4.8e12,
        141e9,
        f"bfloat16 as seen on an H100; memory as published; {_TF32}",
    ),
    "a100": Device(
        "NVIDIA A100",
        {"bfloat16": 312e12, "float32": 156e12},
        2.0e12,
        80e9,
        f"as published; {_TF32}",
    ),
    "cpu": Device("CPU", {}, 0.0, math.inf, "none: its speed must be measured"),
}

PASSES = 13
"""How often a training step reads or writes as many values as the layers put out (assumption of
the roofline).
"""
LAUNCHES, LAUNCH_SECONDS = 7, 3e-6
"""Kernels of a step for each layer, and seconds that the shortest one takes (assumption): what
binds small networks.
"""
SHARE = (0.4, 0.6)
"""Share of the roofline that training reaches (assumption; 0.38 to 0.67 in comparable code)."""
ASSUMPTIONS = (
    f"Estimated hours: the larger of arithmetic at the device's peak, {PASSES} passes over all layers' outputs at its "
    f"memory's rate, and {LAUNCHES} kernels a layer and step of {LAUNCH_SECONDS * 1e6:g} µs, of which "
    f"{100 * SHARE[0]:.0f} to {100 * SHARE[1]:.0f} % is reached. A forward image costs a third of a training image. "
    "Correlations, assignments, files and starting up are not counted."
)


@dataclass(frozen=True)
class Speed:
    """A measured speed of training.

    Attributes
    ----------
    device : str
        a name of `DEVICES`.
    model, width, hidden, input_shape, precision : str
        Of the network.
    members : int
        Networks trained at once.
    images_per_second : float
        Training images, all members counted.
    source : str
        What measured it, where and when.
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
        return (
            self.device,
            self.model,
            self.width,
            self.hidden,
            self.input_shape,
            self.precision,
        ) == (
            device,
            e.model.name,
            e.model.width,
            e.model.hidden,
            info(e.data).shape,
            e.dense.precision,
        )


def recorded_speeds() -> list[Speed]:
    """The rows of ``book/results/throughput.json``; none without the repository."""
    try:
        path = book_folder() / "results" / "throughput.json"
    except StorageError:
        return []
    if not path.exists():
        return []
    speeds = []
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in row.items()}
        speeds.append(Speed(**values))
    return speeds


def record_speeds(speeds: Iterable[Speed]) -> Path:
    """Add measured speeds to ``book/results/throughput.json``, in place of older ones of the same
    networks there.

    Raises
    ------
    StorageError
        Without the repository.
    """

    def key(speed: Speed) -> str:
        return repr(dataclasses.replace(speed, images_per_second=0.0, source=""))

    rows = {key(speed): speed for speed in (*recorded_speeds(), *speeds)}
    path = book_folder() / "results" / "throughput.json"
    content = {"rows": [dataclasses.asdict(row) for row in rows.values()]}
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


class _Clock:
    """A progress bar that times the second epoch, and counts its images; where an epoch ends,
    all networks are done.
    """

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.images = 0.0

    def update(self, n: float) -> None:
        if self.ends:
            self.images += n

    def set_postfix_str(self, s: str) -> None:
        self.ends.append(time.perf_counter())

    def close(self) -> None:
        pass


def measure(
    experiment: Experiment,
    members: int,
    device: str,
    runtime: Runtime | None = None,
    *,
    seconds: float = 2.0,
) -> Speed:
    """Train networks for a few steps, on noise in the shape of the data, and time it.

    Two epochs are trained, and the second one counts: neither compiling nor other things that are
    done once. Reading image files isn't measured.

    Parameters
    ----------
    experiment : Experiment
        Whose network and recipe.
    members : int
        Networks trained at once.
    device : str
        The name under which the speed is kept, e.g. ``"cpu"``.
    runtime : Runtime | None, optional
        How to compute.
    seconds : float, optional
        About how long to measure, after warming up for as long.
    """
    of, recipe = info(experiment.data), experiment.dense
    if recipe.augment == "flip_resized_crop":  # of files, by whoever reads them
        recipe = dataclasses.replace(recipe, augment="none")
    generator = torch.Generator().manual_seed(0)

    def noise(examples: int) -> Split:
        inputs = torch.randint(256, (examples, *of.shape), dtype=torch.uint8, generator=generator)
        return Split(inputs, torch.randint(of.classes, (examples,), generator=generator))

    channels = torch.full((of.shape[0],), 0.5)
    pipeline = Pipeline(experiment)
    start = [initialize(pipeline.build, i) for i in range(members)]
    seeds = [Seeds.of("speed", i) for i in range(members)]

    def rate(steps: int) -> float:
        """Images a second in the second epoch of so many steps."""
        data = Dataset(
            "noise", noise(steps * recipe.batch_size), noise(1), of.classes, channels, channels
        )
        clock = _Clock()
        timed = dataclasses.replace(runtime or Runtime(), progress=lambda label, images: clock)
        train(pipeline.model, start, data, recipe, seeds, until=2, evaluate_at=(), runtime=timed)
        return clock.images / (clock.ends[1] - clock.ends[0])

    step = recipe.batch_size * members / rate(1)
    steps = max(2, min(200, round(seconds / step)))
    found = rate(steps)
    e = experiment
    gpu = torch.device(runtime.device).type == "cuda" if runtime else False
    on = (
        torch.cuda.get_device_name()
        if gpu
        else f"{torch.get_num_threads()} threads of a {platform.machine()} CPU"
    )
    where = f"{steps} steps on {on}, PyTorch {torch.__version__}, {datetime.date.today()}"
    return Speed(
        device,
        e.model.name,
        e.model.width,
        e.model.hidden,
        of.shape,
        recipe.precision,
        members,
        found,
        where,
    )
