"""What stages cost on a device: images, FLOPs, seconds, memory and disk.

Seconds come from a speed that was measured for the network on the device. Where there is none, they
are an estimate by roofline, given as a range (`lotperm.cluster.costs`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lotperm.cluster.costs import (
    DEVICES,
    LAUNCH_SECONDS,
    LAUNCHES,
    PASSES,
    SHARE,
    TRAIN_FACTOR,
    Speed,
    measure,
    network,
    recorded_speeds,
)
from lotperm.cluster.parts import Part
from lotperm.config.experiment import Experiment
from lotperm.data.datasets import info
from lotperm.engine.evaluation import EXAMPLES_AT_ONCE
from lotperm.engine.runtime import Runtime
from lotperm.errors import unknown_name
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain
from lotperm.studies import registry


@dataclass(frozen=True)
class Line:
    """Cost of some stages.

    Attributes
    ----------
    network, group : str
        The network that is trained, and the kind of stages.
    stages, networks, epochs : int
        Numbers of each; an epoch counts once for each network trained.
    train_images, forward_images : int
        As in `Work`.
    flops : float
        FLOPs of both kinds of images.
    seconds : tuple[float, float] or None
        Shortest and longest; equal where the speed was measured; None where nothing is known.
    least : float
        Shortest time that the roofline allows; 0 where it says nothing.
    measured : bool
        True if all of it comes from measured speeds.
    device_bytes, host_bytes : float
        Largest amount that any stage needs on the device, and keeps in the host's memory.
    disk_bytes : float
        Size in the store once everything is computed.
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
        """Add the costs of other stages; of their memory needs, the larger counts."""
        # An unknown time makes the sum unknown, rather than too small.
        both = None
        if self.seconds and other.seconds:
            both = (self.seconds[0] + other.seconds[0], self.seconds[1] + other.seconds[1])
        return Line(
            self.network,
            self.group,
            self.stages + other.stages,
            self.networks + other.networks,
            self.epochs + other.epochs,
            self.train_images + other.train_images,
            self.forward_images + other.forward_images,
            self.flops + other.flops,
            both,
            self.least + other.least,
            self.measured and other.measured,
            # Stages run one after another: memory is free again after each, space on the disk
            # isn't.
            max(self.device_bytes, other.device_bytes),
            max(self.host_bytes, other.host_bytes),
            self.disk_bytes + other.disk_bytes,
        )


def experiment_name(e: Experiment) -> str:
    """Return the name of an experiment's network, with its width and its data set."""
    hidden = f" {'-'.join(map(str, e.model.hidden))}" if e.model.hidden else ""
    return f"{e.model.name}{hidden} ×{e.model.width:g}, {e.data.name}"


class Estimator:
    """Turns tasks into costs on a device.

    Parameters
    ----------
    device : str
        A name of `DEVICES`.
    speeds : sequence of Speed, optional
        Measured speeds; by default those that are recorded.
    members : int, optional
        Largest number of networks trained at once, as in `Runtime`.

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
        # Looked up once, since each lookup goes through the folders of the questions.
        self.words = registry.stage_words()

    def speed(self, experiment: Experiment, members: int) -> Speed | None:
        """Return the measured speed with the nearest number of members; None without one."""
        fitting = [s for s in self.speeds if s.fits(self.name, experiment)]
        # Nearest by ratio: twice as many is as far as half as many.
        return min(fitting, key=lambda s: abs(math.log(s.members / members)), default=None)

    def line(self, task: Task) -> Line:
        """Return the cost of one stage."""
        e, w = task.experiment, task.work
        net = network(e.model, e.data, e.pruning.prunable)
        of, batch = info(e.data), e.dense.batch_size
        # In training images: a forward pass is a third of one.
        images = w.train_images + w.forward_images / TRAIN_FACTOR
        at_once = max(1, min(w.networks, self.members or w.networks))
        # Bytes of an activation. Weights stay in float32 in either precision.
        width = 2 if e.dense.precision == "bfloat16" else 4
        seconds, least, known = None, 0.0, None
        if self.device.flops:
            arithmetic = TRAIN_FACTOR * net.forward_flops / self.device.flops[e.dense.precision]
            traffic = PASSES * net.outputs * width / self.device.bandwidth
            steps = w.train_images / (batch * at_once)
            # Whichever bound is the highest: arithmetic for wide networks, memory for others, the
            # start of kernels for small ones.
            least = max(
                images * arithmetic,
                images * traffic,
                steps * net.layers * LAUNCHES * LAUNCH_SECONDS,
            )
            # Training reaches a part of the roofline, so the estimate is a range.
            seconds = (least / SHARE[1], least / SHARE[0])
        if (known := self.speed(e, at_once)) is not None:
            # A measurement takes the place of the estimate; both ends are then equal.
            seconds = (images / known.images_per_second,) * 2
        # Weights, momentum and mask of all networks; gradients, twice, and an update of those that
        # are trained at once.
        device_bytes = 4.0 * net.parameters * 3 * (w.networks + at_once) + of.bytes
        training = batch * (width * net.saved + 3 * width * net.largest) if w.networks else 0
        evaluating = EXAMPLES_AT_ONCE["cuda"] * 3 * 4 * net.largest
        device_bytes += at_once * max(training, evaluating)
        return Line(
            experiment_name(e),
            self.words.get(task.name, task.name),
            1,
            w.networks,
            w.networks * w.epochs,
            w.train_images,
            w.forward_images,
            net.flops(w.train_images, w.forward_images),
            seconds,
            least,
            # A stage that trains and evaluates nothing needs no measurement.
            known is not None or not images,
            device_bytes,
            (w.kept + w.networks) * net.state_bytes,
            # A mask takes one byte for each weight that may be pruned.
            w.kept * net.state_bytes + w.masks * net.prunable,
        )

    def total(self, tasks: Iterable[Task], group: str = "total") -> Line:
        """Return the cost of several stages together."""
        total = Line("", group)
        for task in tasks:
            total = total + self.line(task)
        return total


def measured(parts: Sequence[Part], estimator: Estimator, runtime: Runtime) -> Estimator:
    """Measure the speed of every network of some parts; return the estimator with these speeds.

    On a GPU each network is measured once for each number of networks that a stage trains at once.
    On a CPU, where a step of many takes long, it is measured only with the smallest number: for
    small networks without convolutions the time is then up to three times too long.
    """
    found: dict[tuple[Any, ...], dict[int, Experiment]] = {}
    for part in parts:
        for task in chain(part.tasks(Store.default())):
            e, count = (
                task.experiment,
                min(task.work.networks, estimator.members or task.work.networks),
            )
            # Stages that train nothing have no speed of training.
            if count:
                found.setdefault((e.data.name, e.model, e.dense.precision), {})[count] = e
    on_cpu = runtime.device == "cpu"
    speeds = [
        measure(each[count], count, estimator.name, runtime)
        for each in found.values()
        for count in sorted(each)[: 1 if on_cpu else None]
    ]
    return Estimator(estimator.name, speeds, estimator.members)
