"""What a network costs for each image, and how fast a device is.

The cost is counted (`lotperm.engine.counts`). The speed is either measured (`measure`, kept by `record_speeds`) or
bounded by the roofline model (Williams, Waterman and Patterson, CACM 52(4), 2009): a kernel takes
the larger of its arithmetic at the device's peak and its traffic at the memory's rate. The figures
and assumptions for that are the constants of this module.
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
from pathlib import Path
from typing import Any

import torch

from lotperm.config.experiment import Experiment
from lotperm.config.seeds import Seeds
from lotperm.data.dataset import Dataset, Split
from lotperm.data.datasets import info
from lotperm.engine.counts import TRAIN_FACTOR as TRAIN_FACTOR
from lotperm.engine.counts import Network as Network
from lotperm.engine.counts import network as network
from lotperm.engine.models import initialize
from lotperm.engine.runtime import Runtime
from lotperm.engine.training import train
from lotperm.errors import StorageError
from lotperm.store.files import write_atomic
from lotperm.studies.pipeline import Pipeline
from lotperm.studies.published import book_folder


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device as the roofline sees it.

    Attributes
    ----------
    words : str
        Its name in full.
    flops : mapping of str to float
        Peak FLOP/s at each precision of a recipe; empty: no estimate can be made.
    bandwidth : float
        Bytes/s of its memory.
    memory : float
        Bytes of its memory.
    source : str
        Where these figures come from.
    """

    words: str
    flops: Mapping[str, float]
    bandwidth: float
    memory: float
    source: str


_PUBLISHED = "float32 and tf32 as published"
# Figures of data sheets, unless such a card was seen to reach less.
DEVICES: Mapping[str, Device] = {
    "h100": Device(
        words="NVIDIA H100",
        flops={"bfloat16": 798e12, "tf32": 494e12, "float32": 67e12},
        bandwidth=3.0e12,
        memory=80e9,
        source=f"bfloat16 and memory as seen on such a card; {_PUBLISHED}",
    ),
    "h200": Device(
        words="NVIDIA H200",
        flops={"bfloat16": 798e12, "tf32": 494e12, "float32": 67e12},
        bandwidth=4.8e12,
        memory=141e9,
        source=f"bfloat16 as seen on an H100; memory as published; {_PUBLISHED}",
    ),
    "a100": Device(
        words="NVIDIA A100",
        flops={"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12},
        bandwidth=2.0e12,
        memory=80e9,
        source="as published",
    ),
    "cpu": Device(
        words="CPU",
        flops={},
        bandwidth=0.0,
        memory=math.inf,
        source="none: its speed must be measured",
    ),
}
"""The devices that ``lotperm plan --gpu`` knows, by name."""

PASSES = 13
"""Times that a training step reads or writes as many values as the layers put out (assumed)."""
LAUNCHES = 7
"""Kernels that a training step starts for each convolution or linear layer (assumed)."""
LAUNCH_SECONDS = 3e-6
"""Seconds that the shortest kernel takes (assumed): the bound of small networks."""
SHARE = (0.4, 0.6)
"""Lowest and highest share of the roofline that training reaches.

Assumed; comparable code reached 0.38 to 0.67.
"""
ASSUMPTIONS = (
    f"Estimated hours: the larger of arithmetic at the device's peak, {PASSES} passes over all layers' outputs at its "
    f"memory's rate, and {LAUNCHES} kernels a layer and step of {LAUNCH_SECONDS * 1e6:g} µs, of which "
    f"{100 * SHARE[0]:.0f} to {100 * SHARE[1]:.0f} % is reached. A forward image costs a third of a training image. "
    "Correlations, assignments, files and starting up are not counted."
)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A measured speed of training.

    Attributes
    ----------
    device : str
        A name of `DEVICES`.
    model, width, hidden, input_shape, precision : str, float, tuple of int, tuple of int, str
        The network, the shape of one of its inputs, and the precision of its recipe.
    members : int
        Networks trained at once.
    images_per_second : float
        Training images a second, all members counted.
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
        """Return whether this speed is one of the device and the experiment's network."""
        own = (
            self.device,
            self.model,
            self.width,
            self.hidden,
            self.input_shape,
            self.precision,
        )
        return own == (device, *_identity(experiment))


def _identity(e: Experiment) -> tuple[str, float, tuple[int, ...], tuple[int, ...], str]:
    """Return what identifies an experiment's network, in the order of the fields of `Speed`."""
    return e.model.name, e.model.width, e.model.hidden, info(e.data).shape, e.dense.precision


def recorded_speeds() -> list[Speed]:
    """Load the rows of ``book/results/throughput.json``; none if there is no such file."""
    try:
        path = book_folder() / "results" / "throughput.json"
    # A plan is possible without the repository, only as an estimate.
    except StorageError:
        return []
    if not path.exists():
        return []
    speeds = []
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        # JSON has no tuples, and speeds are told apart by theirs.
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in row.items()}
        speeds.append(Speed(**values))
    return speeds


def record_speeds(speeds: Iterable[Speed]) -> Path:
    """Add measured speeds to ``book/results/throughput.json``.

    A speed replaces an older one of the same network, members and device.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StorageError
        If the repository isn't here.
    """

    def key(speed: Speed) -> str:
        # Everything but the measured value and its source: a new measurement replaces an old one.
        return repr(dataclasses.replace(speed, images_per_second=0.0, source=""))

    rows = {key(speed): speed for speed in (*recorded_speeds(), *speeds)}
    path = book_folder() / "results" / "throughput.json"
    content = {"rows": [dataclasses.asdict(row) for row in rows.values()]}
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


class _SecondEpoch:
    """A progress bar that times the second epoch and counts its images.

    Training reports every step to it, and sets the text behind it when all networks have finished
    an epoch.
    """

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.images = 0.0

    def update(self, n: float) -> None:
        # The first epoch isn't counted: it includes all that is done only once.
        if self.ends:
            self.images += n

    def set_postfix_str(self, s: str) -> None:
        self.ends.append(time.perf_counter())

    def close(self) -> None:
        pass

    def rate(self) -> float:
        """Return the number of images per second."""
        return self.images / (self.ends[1] - self.ends[0])


def measure(
    experiment: Experiment,
    members: int,
    device: str,
    runtime: Runtime | None = None,
    *,
    seconds: float = 2.0,
) -> Speed:
    """Train networks for a few steps, on noise in the shape of the data, and time it.

    Two epochs are trained and only the second is timed, so that compiling and other work that is
    done once doesn't count. Reading image files isn't measured.

    Parameters
    ----------
    experiment : Experiment
        The experiment whose network and recipe are used.
    members : int
        Networks trained at once.
    device : str
        The name under which the speed is kept, e.g. ``"cpu"``.
    runtime : Runtime, optional
        How to compute.
    seconds : float, optional
        About how long to measure, after warming up for as long.
    """
    runtime = runtime or Runtime()
    shape, recipe = info(experiment.data).shape, experiment.dense
    # This augmentation decodes files; noise has none.
    if recipe.augment == "flip_resized_crop":
        recipe = dataclasses.replace(recipe, augment="none")
    pipeline = Pipeline(experiment)
    start = [initialize(pipeline.build, i) for i in range(members)]
    seeds = [Seeds.of("speed", i) for i in range(members)]
    generator = torch.Generator().manual_seed(0)

    def rate(steps: int) -> float:
        """Train with this many steps per epoch; return the second epoch's images per second."""
        data = _noise(experiment, steps * recipe.batch_size, generator)
        clock = _SecondEpoch()
        timed = dataclasses.replace(runtime, progress=lambda label, images: clock)
        # No evaluation: a plan counts the images that only go forward separately.
        train(pipeline.model, start, data, recipe, seeds, until=2, evaluate_at=(), runtime=timed)
        return clock.rate()

    # An epoch of one step shows roughly how long a step takes, and warms up.
    step_seconds = recipe.batch_size * members / rate(1)
    # Bounded from above as well: small networks would otherwise take thousands of steps.
    steps = max(2, min(200, round(seconds / step_seconds)))
    found = rate(steps)
    where = f"{steps} steps on {_machine(runtime)}, PyTorch {torch.__version__}"
    return Speed(
        device=device,
        model=experiment.model.name,
        width=experiment.model.width,
        hidden=experiment.model.hidden,
        input_shape=shape,
        precision=recipe.precision,
        members=members,
        images_per_second=found,
        source=f"{where}, {datetime.date.today()}",
    )


def _noise(experiment: Experiment, examples: int, generator: torch.Generator) -> Dataset:
    """Make a data set of uniform noise with the shape and classes of an experiment's data."""
    of = info(experiment.data)

    def split(count: int) -> Split:
        inputs = torch.randint(256, (count, *of.shape), dtype=torch.uint8, generator=generator)
        return Split(inputs, torch.randint(of.classes, (count,), generator=generator))

    # Any normalization will do: speed doesn't depend on values.
    channels = torch.full((of.shape[0],), 0.5)
    return Dataset("noise", split(examples), split(1), of.classes, channels, channels)


def _machine(runtime: Runtime) -> str:
    """Return the processor that a runtime uses, in words."""
    if torch.device(runtime.device).type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads of a {platform.machine()} CPU"
