"""Measure how fast masked networks are trained: lotperm, the ordinary loop, the machine's limits.

For each network of the paper and M networks at once, images/s and model-epochs/min of

- ordinary: one network at a time in float32, a DataLoader with workers and torchvision's transforms, pruning hooks,
  ``torch.optim.SGD``, ``loss.item()`` at every step: the way the authors' code works, at its best
  number of threads and workers here;
- on device: the same loop, with the data set and the augmentation on the device;
- lotperm: `lotperm.engine.training` with M networks, in every mode that is asked for; the best one counts.

First comes a gate: in every mode, three steps must give the losses of the plain loop; a mode that
fails isn't timed, and the exit code is 1 in the end. All competitors of a network run in one
process, interleaved. The times are compared with the roofline: operations counted by PyTorch's flop
counter, and bytes of activations and weights, over the limits of the device, which are measured
here by a matrix product and a copy.

Pixels are random, in the sizes of CIFAR-10 and MNIST-1D: speed doesn't depend on them, and no data
set is needed.

    python benchmarks/engine.py            # what suits the device; on a GPU at most three minutes
    python benchmarks/engine.py --networks mlp --members 1 8 16
"""

from __future__ import annotations

import argparse
import itertools
import math
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, environment, write_report
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from lotperm.config.choices import Precision
from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.augment import augment, draw_augmentation
from lotperm.data.batches import normalize
from lotperm.data.dataset import Dataset, Split
from lotperm.engine.models import Weights, build, initialize
from lotperm.engine.partition import partition
from lotperm.engine.precision import settings
from lotperm.engine.run import Run
from lotperm.engine.runtime import Mode, Runtime
from lotperm.engine.schedule import draw_order
from lotperm.parallel.threads import workers
from lotperm.science.sparsity import Mask, full_mask, magnitude_prune, prunable_parameters

BATCH = 128
EPOCH = {"mlp": 4_000}  # training examples; CIFAR-10's for the others


@dataclass(frozen=True)
class Network:
    """A network of the paper and the shape of its inputs."""

    name: str
    model: str
    width: float
    shape: tuple[int, ...] = (3, 32, 32)

    def make(self) -> nn.Module:
        """Make a new network."""
        return build(
            self.model, input_shape=self.shape, classes=10, width=self.width, hidden=(128, 128)
        )


NETWORKS = {
    network.name: network
    for network in (
        Network("mlp", "mlp", 1.0, (1, 40)),
        Network("resnet8x0.5", "resnet8", 0.5),
        Network("resnet20x1", "resnet20", 1.0),
        Network("resnet20x4", "resnet20", 4.0),
        Network("vgg11", "vgg11", 1.0),
    )
}
MODES: dict[str, tuple[Precision, Mode, int | None]] = {
    "float32": ("float32", "plain", None),
    "bfloat16": ("bfloat16", "plain", None),
    "bfloat16, graph": ("bfloat16", "graph", None),
    "float32, compiled": ("float32", "compiled", None),
    "bfloat16, compiled": ("bfloat16", "compiled", None),
    "bfloat16, compiled, one by one": ("bfloat16", "compiled", 1),
    "bfloat16, compiled, four by four": ("bfloat16", "compiled", 4),
}
"""Name -> precision, form of the step, networks in one forward pass (None: as many as
`lotperm.engine.training` thinks best).
"""
ON_CPU = [name for name in MODES if "graph" not in name and "four" not in name]
ON_CUDA = ["bfloat16, graph", "bfloat16, compiled", "bfloat16, compiled, four by four"]


def runtime_of(mode: str, device: str) -> Runtime:
    """Return the runtime of a mode."""
    _, form, at_once = MODES[mode]
    return Runtime(
        device=device, compile=form == "compiled", graph=form != "plain", members=at_once
    )


def random_data(network: Network, size: int) -> Dataset:
    """Make a data set of `size` random examples, with the real data set's types."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        targets = torch.randint(10, (count,), generator=generator)
        if len(network.shape) == 3:
            pixels = torch.randint(
                256, (count, *network.shape), dtype=torch.uint8, generator=generator
            )
            return Split(pixels, targets)
        return Split(torch.randn(count, *network.shape, generator=generator), targets)

    mean, std = (torch.full((network.shape[0],), value) for value in (0.5, 0.25))
    return Dataset("random", split(size), split(BATCH), 10, mean, std)


def seconds_per_step(step: Callable[[], object], steps: int, device: str) -> float:
    """Return the mean time of several steps."""
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize(device)
    return (time.perf_counter() - begin) / steps


def synchronize(device: str) -> None:
    """Wait until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


# --- the peers --------------------------------------------------------------------------------------


class _Images(TorchDataset[Any]):
    """A data set read image by image, with torchvision's transforms."""

    def __init__(self, data: Dataset) -> None:
        assert isinstance(data.train.inputs, Tensor)
        self.inputs, self.targets = data.train.inputs, data.train.targets
        pipeline: list[Any] = []
        if self.inputs.ndim == 4:
            pipeline = [
                v2.RandomHorizontalFlip(),
                v2.RandomCrop(32, padding=4),
                v2.ToDtype(torch.float32, scale=True),
            ]
            pipeline.append(v2.Normalize(data.mean.tolist(), data.std.tolist()))
        self.transform = v2.Compose(pipeline) if pipeline else (lambda x: x)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.inputs[i]), self.targets[i]


class Plain:
    """The ordinary training of one masked network; `step` does one step."""

    def __init__(
        self, network: Network, start: Weights, mask: Mask, recipe: Recipe, device: str
    ) -> None:
        self.device = device
        self.model = network.make()
        self.model.load_state_dict(start)
        for name, kept in mask.items():
            prune.custom_from_mask(
                self.model.get_submodule(name.removesuffix(".weight")), "weight", kept
            )
        self.model.to(device).train()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.batches: Iterator[tuple[Tensor, Tensor]] = iter(())

    def step(self) -> float:
        """Train on the next batch; return its loss."""
        x, y = next(self.batches)
        loss = F.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def loader(self, data: Dataset, count: int) -> None:
        """Take batches from a DataLoader with `count` workers."""
        loader = DataLoader(
            _Images(data),
            BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=count,
            pin_memory=self.device == "cuda",
            persistent_workers=count > 0,
        )
        self.batches = (
            (x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True))
            for _ in itertools.count()
            for x, y in loader
        )

    def on_device(self, data: Dataset, recipe: Recipe) -> None:
        """Take batches from a data set that is on the device."""

        inputs = data.train.inputs
        assert isinstance(inputs, Tensor)

        def endless() -> Iterator[tuple[Tensor, Tensor]]:
            for epoch in itertools.count():
                size = len(data.train.targets)
                order = draw_order(size, 0, epoch).to(self.device)
                draws = [d.to(self.device) for d in draw_augmentation(size, 0, epoch)]
                for rows in order.split(BATCH)[: size // BATCH]:
                    x = inputs[rows]
                    if recipe.augment != "none":
                        x = augment(x, *(d[rows] for d in draws))
                    yield normalize(x, data), data.train.targets[rows]

        self.batches = endless()


class Engine:
    """lotperm's training of M networks; `step` does one step of each."""

    def __init__(
        self,
        network: Network,
        starts: list[Weights],
        masks: list[Mask],
        data: Dataset,
        recipe: Recipe,
        runtime: Runtime,
    ) -> None:
        count = len(starts)
        self.parts, self.threads = partition(
            network.make(),
            (BATCH, *network.shape),
            count,
            precision=recipe.precision,
            runtime=runtime,
        )
        seeds = [Seeds.of("engine", i) for i in range(count)]
        self.runs = [
            Run(
                network.make(),
                weights=starts[part],
                data=data,
                recipe=recipe,
                seeds=seeds[part],
                masks=masks[part],
                runtime=runtime,
            )
            for part in self.parts
        ]
        self.settings = partial(settings, torch.device(runtime.device), recipe.precision)
        with self.settings():
            for run in self.runs:
                run.prepare(self.threads)

    def steps(self, count: int) -> None:
        """Do `count` steps of every network, ending epochs where they end."""

        def reached(run: Run, goal: int) -> bool:
            return run.step >= goal

        def advance(run: Run) -> None:
            left = count
            while left > 0:
                before, goal = run.step, min(run.step + left, run.steps)
                run.advance(0, partial(reached, run, goal), None)
                left -= run.step - before
                if run.step == run.steps:
                    run.step = 0

        with self.settings(), workers(self.threads) as each:
            each(advance, self.runs)
        for run in self.runs:
            run.join()


# --- the machine's limits ---------------------------------------------------------------------------


def limits(device: str, quick: bool) -> dict[str, float]:
    """Measure TFLOP/s of matrix products in float32 and bfloat16, and GB/s of a copy.

    A copy counts its reads and its writes.
    """
    n, count = (512, 2) if quick else (4096 if device == "cuda" else 2048, 5)
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        product = partial(torch.mm, a, b)
        product()
        found[f"tflops_{name}"] = (
            2 * n**3 / min(seconds_per_step(product, 3, device) for _ in range(count)) / 1e12
        )
    x = torch.empty((2**20 if quick else 2**27), device=device)
    y = torch.empty_like(x)
    copy = partial(y.copy_, x)
    copy()
    found["gb_per_s"] = (
        2 * x.nbytes / min(seconds_per_step(copy, 3, device) for _ in range(count)) / 1e9
    )
    return found


def counted(network: Network) -> dict[str, float]:
    """Count the operations (forward and backward) and the activations of one training image.

    Activations are the values that one forward pass writes.
    """
    model = network.make()
    x = torch.randn(2, *network.shape)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(x), torch.zeros(2, dtype=torch.long)).backward()
    written = 0

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal written
        written += output.numel()

    handles = [m.register_forward_hook(note) for m in model.modules() if not list(m.children())]
    model(x)
    for handle in handles:
        handle.remove()
    return {"flop": counter.get_total_flops() / 2, "activations": written / 2}


_PRODUCTS = (
    "aten::mkldnn_convolution",
    "aten::cudnn_convolution",
    "aten::convolution_backward",
    "aten::bmm",
    "aten::baddbmm",
)
"""PyTorch's operations that do nearly all of the counted arithmetic."""


def profiled(network: Network, flop: float, options: argparse.Namespace) -> dict[str, float]:
    """Measure convolutions and matrix products in a step of one network: their share and rate.

    The step is in bfloat16 and not compiled, so that the profiler sees every operation. The share
    is of all operations' time; what Python needs between them isn't counted.
    """
    starts, masks = prepared(network, 1)
    images = len(network.shape) == 3
    recipe = Recipe(
        epochs=1, lr=0.001, precision="bfloat16", augment="flip_crop" if images else "none"
    )
    data = random_data(network, 20 * BATCH).to(options.device)
    engine = Engine(
        network, starts, masks, data, recipe, Runtime(device=options.device, graph=False)
    )
    engine.steps(1 if options.quick else 4)
    steps = 1 if options.quick else (20 if images else 200)
    cuda = options.device == "cuda"
    with profile(
        activities={ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])}
    ) as profiler:
        engine.steps(steps)
        synchronize(options.device)
    # A kernel's time is part of the operation that started it; the kernels' own events would count
    # it twice.
    events = [event for event in profiler.key_averages() if event.device_type.name == "CPU"]
    time = "self_device_time_total" if cuda else "self_cpu_time_total"
    total = sum(getattr(event, time) for event in events)
    products = sum(getattr(event, time) for event in events if event.key in _PRODUCTS)
    return {"share": products / total, "tflops": BATCH * steps * flop / (products * 1e-6) / 1e12}


_PASSES = 5
"""Passes over memory for each activation of a training step.

It is written and read forward; backward, its gradient is written and read, and it is read again.
There are fewer passes only where operations are fused.
"""


# --- the measurement --------------------------------------------------------------------------------


# How far losses may be from those of the plain loop, relative to these.
_APART = {"float32": 4e-4, "bfloat16": 0.02}


def gate(network: Network, modes: list[str], device: str) -> dict[str, float]:
    """Return each mode's largest difference in loss (nats) from the plain loop over three steps.

    There are two networks for each thread of a CPU. The steps repeat one batch, without
    augmentation, so that all see the same.

    Raises
    ------
    SystemExit
        If a mode's losses differ too much, or if they would be the same without training.
    """
    count = 2 if device == "cuda" else 2 * torch.get_num_threads()
    starts, masks = prepared(network, count)
    data = random_data(network, BATCH)
    # VGG11 has no batch normalization: at 0.01 its steps are so large that a rounding error grows a
    # hundredfold in three of them.
    recipe = Recipe(epochs=1, lr=0.001 if network.model == "vgg11" else 0.01)
    wanted = torch.zeros(3, count)
    # In true float32: TF32 would be off by as much as the gate allows.
    with settings(torch.device(device), "float32"):
        for i in range(count):
            plain = Plain(network, starts[i], masks[i], recipe, device)
            x, y = normalize(data.train.inputs, data).to(device), data.train.targets.to(device)
            plain.batches = itertools.repeat((x, y))
            wanted[:, i] = torch.tensor([plain.step() for _ in range(3)])
    moved = (wanted[2] - wanted[0]).abs()
    if not bool((moved > _APART["float32"] * wanted[0]).all()):
        raise SystemExit(
            f"{network.name}: its losses move by {moved.min():.2g} nats, which proves nothing."
        )
    found = {}
    for mode in modes:
        precision, form, _ = MODES[mode]
        chosen = replace(recipe, precision=precision)
        engine = Engine(network, starts, masks, data.to(device), chosen, runtime_of(mode, device))
        if any(run.mode != form for run in engine.runs):
            why = "; ".join(dict.fromkeys(line for run in engine.runs for line in run.failures))
            raise SystemExit(f"{network.name}, {mode}: {why or 'the device has no such form'}.")
        losses = []
        for _ in range(3):
            engine.steps(1)
            losses.append(torch.cat([run.losses[0] for run in engine.runs]).cpu())
        apart = (torch.stack(losses) - wanted).abs()
        found[mode] = float(apart.max())
        if not bool((apart <= _APART[precision] * wanted).all()):  # NaN is refused, too
            raise SystemExit(
                f"{network.name}, {mode}: losses differ by {found[mode]:.2g} nats from the plain loop's; nothing timed."
            )
    return found


def prepared(network: Network, members: int) -> tuple[list[Weights], list[Mask]]:
    """Make random networks with 90 % of each layer's prunable weights removed.

    What is left of a layer is scaled so that signals keep their size (Kaiming's rule). Without
    that, or with the few weights that a global threshold leaves in the last layer, images hardly
    change the losses of a network without batch normalization, and the gate couldn't fail.
    """
    starts = [initialize(network.make, i) for i in range(members)]
    full = full_mask(starts[0], prunable_parameters(network.make()))
    masks = [magnitude_prune(start, full, 0.9, scope="layerwise") for start in starts]
    for start, mask in zip(starts, masks, strict=True):
        for name, kept in mask.items():
            start[name] = start[name] * (math.sqrt(2 * len(kept)) / (start[name] * kept).norm())
    return starts, masks


def measure(network: Network, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time a network's competitors; return a row for each, and each number of networks."""
    device, rounds = options.device, 1 if options.quick else options.rounds
    images = len(network.shape) == 3
    cores = torch.get_num_threads()
    size = (
        4 * BATCH
        if options.quick
        else EPOCH.get(network.name, 50_000 if device == "cuda" else 5_000)
    )
    data = random_data(network, size).to(device)
    host = data if device == "cpu" else random_data(network, size)
    recipe = Recipe(epochs=1, lr=0.001, augment="flip_crop" if images else "none")
    steps = 1 if options.quick else (200 if device == "cuda" else (100 if not images else 4))
    starts, masks = prepared(network, max(options.members))
    times: dict[tuple[str, int], list[float]] = {}
    peers: dict[tuple[str, int], Callable[[], float]] = {}

    def alone(plain: Plain, threads: int) -> float:
        torch.set_num_threads(threads)
        try:
            return seconds_per_step(plain.step, steps, device)
        finally:
            torch.set_num_threads(cores)

    threads = [cores] if options.quick or device == "cuda" else sorted({1, cores})
    workers_tried = [0] if options.quick else ([8] if device == "cuda" else [0, 1, cores])
    for count, loaded in itertools.product(threads, workers_tried):
        plain = Plain(network, starts[0], masks[0], recipe, device)
        plain.loader(host, loaded)
        plain.step()
        peers[f"ordinary loop, {count} threads, {loaded} workers", 1] = partial(alone, plain, count)
    for count in threads:
        plain = Plain(network, starts[0], masks[0], recipe, device)
        plain.on_device(data, recipe)
        plain.step()
        peers[f"data on the device, {count} threads", 1] = partial(alone, plain, count)

    def together(engine: Engine, members: int) -> float:
        count = max(1, steps // members) if images and device == "cpu" else steps
        return seconds_per_step(lambda: engine.steps(count), 1, device) / count

    for members, mode in itertools.product(options.members, options.modes):
        precision, _, at_once = MODES[mode]
        runtime = runtime_of(mode, device)
        split = partial(
            partition, network.make(), (BATCH, *network.shape), members, precision=precision
        )
        unlimited = replace(runtime, members=None)
        if at_once is not None and split(runtime=runtime) == split(runtime=unlimited):
            continue  # the same as the mode without that limit
        chosen = replace(recipe, precision=precision)
        engine = Engine(network, starts[:members], masks[:members], data, chosen, runtime)
        engine.steps(1)
        peers[mode, members] = partial(together, engine, members)
    for key in peers:
        times[key] = []
    for _ in range(rounds):
        for key, peer in peers.items():
            times[key].append(peer())
    return [
        {
            "network": network.name,
            "peer": name,
            "members": members,
            "images_per_s": members * BATCH / min(seconds),
            "images_per_s_median": members * BATCH / statistics.median(seconds),
            "seconds_per_step": seconds,
            "model_epochs_per_min": 60
            * members
            * BATCH
            / min(seconds)
            / EPOCH.get(network.name, 50_000),
        }
        for (name, members), seconds in times.items()
    ]


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one step of little, to see that it runs"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS)
    parser.add_argument("--members", type=int, nargs="+")
    parser.add_argument("--modes", nargs="+", choices=MODES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    cpu = options.device == "cpu"
    names = options.networks or (
        ["mlp"]
        if options.quick
        else ["mlp", "resnet8x0.5", "resnet20x1"]
        if cpu
        else ["resnet20x1"]
    )
    options.members = options.members or (
        [2] if options.quick else [1, 2, 4, 8, 16] if cpu else [1, 3, 9, 16]
    )
    wanted = options.modes or (["float32"] if options.quick else ON_CPU if cpu else ON_CUDA)
    failed: list[str] = []
    found = limits(options.device, options.quick)
    rows: list[dict[str, Any]] = []
    roofs: list[dict[str, Any]] = []
    for name in names:
        network = NETWORKS[name]
        differences: dict[str, float] = {}
        for mode in wanted:
            try:
                differences |= gate(network, [mode], options.device)
            except SystemExit as refusal:
                # The other networks are measured all the same.
                failed.append(str(refusal))
                print(refusal, flush=True)
        options.modes = list(differences)
        rows += measure(network, options)
        count = counted(network)
        roofs.append(
            {
                "network": name,
                "gate_nats": differences,
                **count,
                "products": profiled(network, count["flop"], options),
                "images_per_s_by_arithmetic": found["tflops_bfloat16"] * 1e12 / count["flop"],
                "images_per_s_by_memory": found["gb_per_s"]
                * 1e9
                / (2 * _PASSES * count["activations"]),
            }
        )
        # Written after every network: if this is stopped, what was measured isn't lost.
        machine = environment() | ({} if cpu else {"gpu": torch.cuda.get_device_name()})
        report = {
            "what": f"batch {BATCH}, 90 % masks, random pixels",
            "command": shlex.join(["python", "benchmarks/engine.py", *sys.argv[1:]]),
            "rounds": options.rounds,
            "limits": found,
            "rows": rows,
            "roofline": roofs,
            "failed": failed,
            "machine": machine,
        }
        write_report(options.out / ("engine" if cpu else "engine_gpu"), report, table(report))
    if failed:
        raise SystemExit(1)


def table(report: dict[str, Any]) -> str:
    """Write the report as Markdown."""
    machine, found = report["machine"], report["limits"]
    lines = [
        f"# Training masked networks: {report['what']}",
        "",
        f"`{report['command']}`, best of {report['rounds']} interleaved rounds, on "
        f"{machine.get('gpu') or machine['cpu']}, {machine['threads']} threads, PyTorch {machine['torch']}, load "
        f"{machine['load_1min']:.1f} at the end. Ratios are against the fastest ordinary loop and the fastest loop "
        "with the data on the device; both train one network at a time.",
        "",
        f"Limits measured beside it: {found['tflops_float32']:.2f} TFLOP/s in float32, {found['tflops_bfloat16']:.2f} "
        f"in bfloat16, {found['gb_per_s']:.0f} GB/s.",
    ]
    for roof in report["roofline"]:
        rows = [row for row in report["rows"] if row["network"] == roof["network"]]
        ordinary = max(r["images_per_s"] for r in rows if r["peer"].startswith("ordinary"))
        device = max(r["images_per_s"] for r in rows if r["peer"].startswith("data on"))
        bound = min(roof["images_per_s_by_arithmetic"], roof["images_per_s_by_memory"])
        lines += [
            "",
            f"## {roof['network']}",
            "",
            f"{roof['flop'] / 1e6:,.2f} MFLOP and {roof['activations'] / 1e3:,.1f} thousand activations an image. "
            f"In bfloat16 at most {roof['images_per_s_by_arithmetic']:,.0f} images/s by arithmetic and "
            f"{roof['images_per_s_by_memory']:,.0f} by memory. Of one network in bfloat16, not compiled, convolutions "
            f"and matrix products are {roof['products']['share']:.0%} of the operations' time; they run at "
            f"{roof['products']['tflops']:.2f} TFLOP/s.",
            "",
            "| peer | networks | images/s | model-epochs/min | × ordinary | × data on the device | share of the roof |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {r['peer']} | {r['members']} | {r['images_per_s']:,.0f} | {r['model_epochs_per_min']:,.2f} | "
            f"{r['images_per_s'] / ordinary:.1f} | {r['images_per_s'] / device:.1f} | {r['images_per_s'] / bound:.1%} |"
            for r in rows
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
