"""Plans: what experiments will cost in images, FLOPs, hours, memory and disk.

A plan needs neither data nor results. Its stages are those that would be computed
(`Pipeline.tasks`), so that what is shared is counted once. Hours come from a speed that was
measured for this network on this device (``book/results``, or `measured`). Where there is none,
they are an estimate by roofline, given as a range, whose assumptions are named with the result
(`lotperm.cluster.costs`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lotperm.cluster.campaign import Campaign
from lotperm.cluster.costs import (
    ASSUMPTIONS,
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
from lotperm.cluster.entry import Entry
from lotperm.config.experiment import Experiment
from lotperm.data.datasets import info
from lotperm.engine.runtime import Runtime
from lotperm.errors import unknown_name
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain
from lotperm.studies import registry
from lotperm.studies.workbench import Workbench


@dataclass(frozen=True)
class Part:
    """Something to plan: experiments, and the tasks that are asked for.

    Attributes
    ----------
    name : str
        Name of a figure, or of a campaign's entry.
    experiments : tuple of Experiment
        One for each width.
    asked : callable
        Lists the tasks that are asked for, from a workbench for each experiment; those before
        them follow by themselves.
    """

    name: str
    experiments: tuple[Experiment, ...]
    asked: Callable[[Sequence[Workbench]], list[Task]]

    def tasks(self, store: Store) -> list[Task]:
        """List the tasks that are asked for, without those before them."""
        return self.asked([Workbench(e, store) for e in self.experiments])


def figure(name: str, **parameters: Any) -> Part:
    """Plan a figure of the book, with the stages that its page computes.

    Parameters
    ----------
    name : str
        Its name in the book, or in the paper (figure5, table1).
    **parameters
        Parameters of its experiments, as `Experiment.for_figure` takes them.

    Raises
    ------
    ParameterError
        As `Experiment.for_figure`.
    """
    name = registry.figure_name(name)
    experiments = Experiment.for_figure(name, **parameters)
    asked = registry.study_of(name)
    # With the page's own defaults, as the plan is of what the page computes.
    options = asked.page_options()
    return Part(name, tuple(experiments), lambda benches: asked.chapter(benches, options))


def campaign(content: Campaign) -> list[Part]:
    """Plan the entries of a campaign, a part for each."""

    # A function for each entry: a lambda in a loop would see the last one only.
    def of(entry: Entry) -> Part:
        return Part(
            entry.name,
            entry.experiments,
            lambda benches: [task for bench in benches for task in entry.own_tasks(bench)],
        )

    return [of(entry) for entry in content.entries]


@dataclass(frozen=True)
class Line:
    """Cost of some stages.

    Attributes
    ----------
    network, group : str
        The network that is trained, and the kind of stages.
    stages, networks, epochs : int
        Numbers; an epoch is one of one network.
    train_images, forward_images : int
        As in `Work`.
    flops : float
        FLOPs of both.
    seconds : tuple[float, float] or None
        Shortest and longest; equal where the speed was measured; None where nothing is known.
    least : float
        Seconds that the roofline allows; 0 where it says nothing.
    measured : bool
        True if all of it comes from measured speeds.
    device_bytes, host_bytes : float
        Largest of any stage: on the device, and what it keeps in the host's memory.
    disk_bytes : float
        In the store, when all is computed.
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
        """Add the costs of other stages; of the two memories the larger counts."""
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


def _name(e: Experiment) -> str:
    size = f" {'-'.join(map(str, e.model.hidden))}" if e.model.hidden else ""
    return f"{e.model.name}{size} ×{e.model.width:g}, {e.data.name}"


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
        # Looked up once: every look goes through the folders of the questions.
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
        # Weights, momentum and mask of all; gradients, twice, and an update of those that are
        # computed at once.
        device_bytes = 4.0 * net.parameters * 3 * (w.networks + at_once) + of.bytes
        training = batch * (width * net.saved + 3 * width * net.largest) if w.networks else 0
        evaluating = 1000 * 3 * 4 * net.largest
        device_bytes += at_once * max(training, evaluating)
        return Line(
            _name(e),
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
    """Return the estimator with speeds that are measured now, of every network of some parts.

    On a GPU each network is measured once for each number of networks that a stage trains
    at once. On a CPU, where a step of many takes long, it is measured with the smallest number
    alone: for small networks without convolutions the time is then up to three times too long.
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


@dataclass(frozen=True)
class Plan:
    """The cost of some experiments.

    Attributes
    ----------
    title : str
        What is planned.
    lines : list of Line
        The costs by network and kind of stage.
    total : Line
        Their sum.
    there : int
        Number of these stages that the store has already.
    separately : dict of str to Line
        A way of computing without sharing -> its total.
    notes : list of str
        Sources and assumptions of the numbers.
    """

    title: str
    lines: list[Line]
    total: Line
    there: int
    separately: dict[str, Line]
    notes: list[str]

    def rows(self) -> list[dict[str, str]]:
        """Return the table as text, the total last."""
        return [_row(line) for line in (*self.lines, self.total)]

    def comparison(self) -> list[dict[str, str]]:
        """Compare the plan with computing without sharing, as text."""
        total, rows = self.total, []
        for what, line in {"every stage once": total, **self.separately}.items():
            factor = f"{line.flops / total.flops:.2f}" if total.flops else "–"
            rows.append(
                {
                    "how": what,
                    "epochs": f"{line.epochs:,}",
                    "FLOP": _flop(line.flops),
                    "hours": hours(line),
                    "× the plan": factor,
                }
            )
        return rows


def hours(line: Line) -> str:
    """Format device-hours: a number if they were measured, a range if they are estimated."""
    if line.seconds is None:
        return "not measured"
    low, high = (_significant(s / 3600) for s in line.seconds)
    return low if low == high else f"{low}–{high}"


def _significant(value: float) -> str:
    """Format a number with two digits, three from 100 on, and no exponent."""
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


def _count(value: int) -> str:
    """Format a number in thousands, millions or billions, with three digits."""
    if value < 100_000:
        return f"{value:,}"
    short = float(value)
    for unit in ("k", "M", "G"):
        short /= 1000
        if short < 999.5:
            return f"{short:.3g} {unit}"
    return f"{short:,.0f} G"


def _row(line: Line) -> dict[str, str]:
    return {
        "network": line.network,
        "stages of": line.group,
        "stages": _count(line.stages),
        "networks": _count(line.networks),
        "epochs": _count(line.epochs),
        "trained": _count(line.train_images),
        "forward": _count(line.forward_images),
        "FLOP": _flop(line.flops),
        "hours": hours(line),
        "device": _bytes(line.device_bytes),
        "host": _bytes(line.host_bytes),
        "disk": _bytes(line.disk_bytes),
    }


def plan(
    parts: Sequence[Part], estimator: Estimator, store: Store | None = None, title: str = ""
) -> Plan:
    """Plan some parts together, counting stages that they share once.

    Parameters
    ----------
    parts : sequence of Part
        What to plan.
    estimator : Estimator
        Turns stages into costs on a device.
    store : Store, optional
        The store in which finished stages are looked up; by default the default store.
    title : str, optional
        The plan's title; by default the parts' names.
    """
    store = store or Store.default()
    asked = [part.tasks(store) for part in parts]
    # A stage that several parts share is in the chain once.
    tasks = chain(task for own in asked for task in own)
    lines: dict[tuple[str, str], Line] = {}
    for task in tasks:
        line = estimator.line(task)
        key = (line.network, line.group)
        lines[key] = lines[key] + line if key in lines else line
    # By network in order of appearance, then in the order in which stages are computed; what no
    # question names comes last.
    places = {name: i for i, name in enumerate(estimator.words.values())}
    networks = list(dict.fromkeys(line.network for line in lines.values()))
    ordered = sorted(
        lines.values(), key=lambda x: (networks.index(x.network), places.get(x.group, 99))
    )
    # The cost without sharing: the authors' scripts train dense networks and mask again for every
    # sparsity, and plain scripts do so for every arm.
    once_per_mask = (t for own in asked for group in _by_mask(own) for t in chain(group))
    once_per_arm = (t for own in asked for task in own for t in _every_arm(task))
    separately = {
        "dense networks and mask again for every sparsity": estimator.total(once_per_mask),
        "dense networks and mask again for every arm": estimator.total(once_per_arm),
    }
    there = sum(task.exists() for task in tasks)
    return Plan(
        title or ", ".join(part.name for part in parts),
        ordered,
        estimator.total(tasks),
        there,
        separately,
        _notes(tasks, estimator),
    )


def _every_arm(task: Task) -> Iterator[Task]:
    """Yield the tasks of a run for each arm, where every run computes all that it needs."""
    # A stage trains all its arms of all seeds together.
    arms = max(1, task.work.networks // len(task.experiment.seeds))
    for before in chain(task.after):
        yield from [before] * arms
    yield task


def _by_mask(asked: Iterable[Task]) -> list[list[Task]]:
    """Group the tasks that need the same mask, as a script does that starts anew for each."""
    groups: dict[tuple[str | None, Experiment], list[Task]] = {}
    for task in asked:
        # Rounds stand in order, so the last one has the mask that the task uses.
        masks = [before.key for before in chain([task]) if before.name in ("imp", "mask")]
        groups.setdefault((masks[-1] if masks else None, task.experiment), []).append(task)
    return list(groups.values())


def _notes(tasks: Sequence[Task], estimator: Estimator) -> list[str]:
    """Say what the numbers rest on, and what won't fit into the device's memory."""
    notes, device = [], estimator.device
    lines = [estimator.line(task) for task in tasks]
    speeds = {
        s
        for t in tasks
        if (s := estimator.speed(t.experiment, max(1, t.work.networks))) and t.work.networks
    }
    for s in sorted(speeds, key=lambda s: (s.model, s.width, s.members)):
        notes.append(
            f"Measured: {s.model} ×{s.width:g}, {s.members} at once, {s.images_per_second:,.0f} images/s on "
            f"{device.words} ({s.source})."
        )
    # A reader has to know which hours are estimates, and what they rest on.
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
        notes.append(
            f"Not measured on {device.words}: {'; '.join(guessed)}. Measure it: --measure."
        )
    # The stage that needs most decides whether all fit.
    for task, line in sorted(zip(tasks, lines, strict=True), key=lambda x: -x[1].device_bytes)[:1]:
        if line.device_bytes > device.memory:
            at_once = estimator.members or task.work.networks
            fits = next(
                (
                    m
                    for m in range(at_once, 0, -1)
                    # Memory doesn't depend on speeds, so none are looked up.
                    if Estimator(estimator.name, [], m).line(task).device_bytes <= device.memory
                ),
                None,
            )
            hint = f"--members {fits} fits" if fits else "one network alone is too large"
            notes.append(
                f"{line.network}, {line.group}: {_bytes(line.device_bytes)} is more than the device has "
                f"({_bytes(device.memory)}); {hint}."
            )
    notes.append(
        "Device memory: weights, momentum, mask, gradients and activations of the networks trained at once, and the "
        "data. Host memory: the weights that a stage keeps, once; writing a checkpoint takes several times as much for "
        "a moment. Keeping fewer epochs of the dense networks (`keep` in a campaign) lowers it, and the disk."
    )
    return notes


def growth(part: Part, estimator: Estimator, store: Store | None = None) -> list[dict[str, str]]:
    """Compute how the cost of a part's first experiment grows.

    It gets one more seed, one more rewind point, one more round of pruning, or twice the width.

    Seeds are trained together, so a seed that is added later is a new experiment: plan for all of
    them at once.

    Returns
    -------
    list of dict
        A row of text for each change: what, epochs, FLOP, hours, and how many percent more FLOP.
    """
    store = store or Store.default()
    e = part.experiments[0]
    # An epoch about where dense training keeps weights in any case, next to the last rewind epoch.
    others = set(range(0, e.dense.epochs, max(1, e.dense.epochs // 40))) - set(e.rewind_epochs)
    k = min(others, key=lambda k: (abs(k - max(e.rewind_epochs)), k), default=None)
    # Another round removes the same fraction of what is left.
    deeper = 1 - (1 - max(e.sparsities)) * (1 - e.pruning.fraction)
    change = partial(dataclasses.replace, e)
    wider = dataclasses.replace(e.model, width=2 * e.model.width)
    changed = {
        f"first network alone: {_name(e)}": e,
        "one more seed": change(seeds=(*e.seeds, max(e.seeds) + 1)),
        f"one more sparsity, a round beyond the last ({deeper:.3f})": change(
            sparsities=(*e.sparsities, deeper)
        ),
        "twice the width": change(model=wider),
    }
    if k is not None:
        # Where the kept epochs are given, the new rewind epoch must be one of them.
        kept = None if e.keep is None else (*e.keep, k)
        changed[f"one more rewind point (k = {k})"] = change(
            rewind_epochs=(*e.rewind_epochs, k), keep=kept
        )
    rows, first = [], None
    for what, experiment in changed.items():
        own = dataclasses.replace(part, experiments=(experiment,)).tasks(store)
        line = estimator.total(chain(own))
        first = first or line
        more = "" if line is first else f"+{100 * (line.flops / first.flops - 1):.0f} %"
        rows.append(
            {
                "what": what,
                "epochs": f"{line.epochs:,}",
                "FLOP": _flop(line.flops),
                "hours": hours(line),
                "more FLOP": more,
            }
        )
    return rows
