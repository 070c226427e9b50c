"""Use a few minutes on an untried GPU: check it, then train until told to stop.

    PYTHONPATH=. python3 tools/first_flight.py FOLDER campaigns/paper/seed0.yaml [MORE.yaml]

It checks the machine, the numbers, CUDA graphs, streams, the compiler and the rates, each
separately, and writes ``FOLDER/verdict.json``: what works, how fast it is, and which sparsities fit
into the time. Then it waits for the data set, computes the campaigns in order until the file
``FOLDER/stop`` exists or ``--seconds`` are over, packs what the campaigns still need and what they
recorded into ``FOLDER/back``, in parts small enough to transfer, writes ``FOLDER/left.json`` and
ends.

Packs of an earlier run in ``FOLDER/packs`` are unpacked first. All lines of the flight, as one run
is called, are in ``FOLDER/log`` with their seconds. `tools/FLIGHT.md` says how to call it on a
rented machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

# Set before CUDA starts: streams that share a connection to the device wait for each other.
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")

import torch
from torch import Tensor, nn

from lotperm.carry.needed import needed
from lotperm.carry.packing import pack
from lotperm.carry.unpacking import unpack
from lotperm.cluster import campaign as campaigns
from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.batches import Batches
from lotperm.data.dataset import Dataset, Split, first
from lotperm.data.datasets import load_configured
from lotperm.engine import compiled
from lotperm.engine.models import Weights, build, initialize
from lotperm.engine.run import Run
from lotperm.engine.runtime import Runtime
from lotperm.engine.trained import Trained
from lotperm.engine.training import train
from lotperm.errors import LotpermError, PreemptedError
from lotperm.science.matching import match_activations
from lotperm.science.symmetry import PermutationSpec
from lotperm.store.stages import Store

BATCH = 128
EPOCH = 49_920  # images of an epoch of CIFAR-10, without the last batch
STEPS = 100  # steps of an epoch of noise, while rates are measured
SPARSITIES = (0.8, 0.9, 0.95, 0.97)
PART = 15 * 2**20  # bytes of a file that travels back
_BEGIN = time.monotonic()


# --- the checks ---------------------------------------------------------------------------------


class Failed(Exception):
    """A check that failed."""


def require(condition: bool, what: str) -> None:
    """Raise `Failed` with a line if the condition doesn't hold."""
    if not condition:
        raise Failed(what)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after this many seconds."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def resnet(name: str, width: float) -> Callable[[], nn.Module]:
    """Return a function that makes such a network for CIFAR-10."""
    return partial(build, name, input_shape=(3, 32, 32), classes=10, width=width)


def noise(size: int) -> Dataset:
    """Make random images of CIFAR-10's shape."""
    draw = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        pixels = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=draw)
        return Split(pixels, torch.randint(10, (n,), generator=draw))

    half = torch.full((3,), 0.5)
    return Dataset("noise", split(size), split(1000), 10, half, half)


def short(
    make: Callable[[], nn.Module], members: int, runtime: Runtime, *, precision: Any, steps: int = 3
) -> Trained:
    """Train for a few steps, on the same examples whatever the runtime."""
    starts = [initialize(make, i) for i in range(members)]
    if precision == "float64":
        starts = [
            {k: v.double() if v.is_floating_point() else v for k, v in start.items()}
            for start in starts
        ]
    recipe = Recipe(
        epochs=steps,
        lr=0.01,
        batch_size=BATCH,
        precision="float32" if precision == "float64" else precision,
    )
    model = make().double() if precision == "float64" else make()
    seeds = [Seeds.of("flight", i) for i in range(members)]
    # An epoch of one step, so that the loss of every step is reported.
    return train(model, starts, noise(BATCH), recipe, seeds, evaluate_at=(), runtime=runtime)


def apart(one: Trained, other: Trained) -> dict[str, float]:
    """Return the largest relative difference of losses, and of running statistics."""
    losses = [torch.tensor(t.train_loss, dtype=torch.float64) for t in (one, other)]

    def statistics(done: Trained) -> list[Tensor]:
        return [
            tensor.double()
            for state in done.weights
            for name, tensor in state.items()
            if name.endswith(("running_mean", "running_var"))
        ]

    moved = [
        float((a - b).norm() / (b.norm() + 1e-12))
        for a, b in zip(statistics(one), statistics(other), strict=True)
    ]
    return {
        "loss": float(((losses[0] - losses[1]).abs() / losses[1].abs()).max()),
        "statistics": max(moved),
    }


def counts(done: Trained) -> set[int]:
    """Return how many batches the batch norms say that they have seen."""
    return {int(v) for state in done.weights for k, v in state.items() if k.endswith("tracked")}


class Flight:
    """The checks, in order, and what they found.

    Attributes
    ----------
    runtime : Runtime
        The fastest way to compute that has passed so far.
    found : dict
        Check -> what it found, with its seconds; "failed" has the line of a check that failed.
    """

    def __init__(self, device: str, folder: Path) -> None:
        self.device, self.folder = device, folder
        self.runtime = Runtime(device=device, graph=False)
        self.found: dict[str, dict[str, Any]] = {}

    def say(self, line: str) -> None:
        """Print a line with the seconds since the start, and keep it."""
        text = f"{time.monotonic() - _BEGIN:6.1f} s  {line}"
        print(text, flush=True)
        with (self.folder / "log").open("a") as file:
            file.write(text + "\n")

    def check(self, name: str, part: Callable[[], dict[str, Any]]) -> bool:
        """Do one check; whatever it raises is noted, and the flight goes on."""
        begin = time.monotonic()
        try:
            found = part()
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            found = {"failed": f"{type(error).__name__}: {lines[0][:300]}"}
        found["seconds"] = round(time.monotonic() - begin, 1)
        self.found[name] = found
        self.say(f"{name}: {json.dumps(found)}")
        return "failed" not in found

    def machine(self) -> dict[str, Any]:
        """Note versions and hardware; whatever is missing doesn't end the flight."""
        found: dict[str, Any] = {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if self.device == "cuda" else None,
            "python": sys.version.split()[0],
            "cc": shutil.which("cc"),
            "cores": os.cpu_count(),
            "disk_gib": round(shutil.disk_usage(self.folder).free / 2**30),
        }
        if smi := shutil.which("nvidia-smi"):
            query = [smi, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
            found["gpu"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
        with suppress(ImportError):
            found["triton"] = importlib.import_module("triton").__version__
        return found

    def gpu(self) -> dict[str, Any]:
        """Check that one tensor can be computed, and how much memory is free."""
        x = torch.arange(8, device=self.device, dtype=torch.float32)
        require(float(x.sum().cpu()) == 28.0, "the device adds 0 … 7 to something else than 28")
        if self.device != "cuda":
            return {}
        free, total = torch.cuda.mem_get_info()
        require(free > 8 * 2**30, f"only {free / 2**30:.0f} GiB of the device's memory are free")
        return {
            "name": torch.cuda.get_device_name(),
            "capability": torch.cuda.get_device_capability(),
            "gib": [round(free / 2**30), round(total / 2**30)],
        }

    def numbers(self) -> dict[str, Any]:
        """Compare the plain step in float32 with float64 on the CPU."""
        make = resnet("resnet8", 0.5)
        wanted = short(make, 2, Runtime(), precision="float64")
        found = apart(short(make, 2, self.runtime, precision="float32"), wanted)
        require(
            found["loss"] < 1e-4 and found["statistics"] < 1e-4, f"float32 is {found} off float64"
        )
        return found

    def graph(self) -> dict[str, Any]:
        """Compare a CUDA graph of the plain step with the plain step."""
        make, trial = resnet("resnet8", 0.5), dataclasses.replace(self.runtime, graph=True)
        plain = short(make, 2, self.runtime, precision="bfloat16")
        replayed = short(make, 2, trial, precision="bfloat16")
        require(self.device != "cuda" or replayed.mode == "graph", "no graph was captured")
        found = apart(replayed, plain)
        require(found["loss"] < 0.02 and found["statistics"] < 0.02, f"replays are {found} off")
        require(counts(replayed) == counts(plain) == {3}, f"batches counted: {counts(replayed)}")
        self.runtime = trial
        return found

    def streams(self) -> dict[str, Any]:
        """Compare networks beside each other, twice, with each alone: a race differs each time."""
        make, steps = resnet("resnet8", 0.5), 20
        together = [short(make, 4, self.runtime, precision="float32", steps=steps) for _ in "ab"]
        alone = dataclasses.replace(self.runtime, streams=1)
        wanted = short(make, 4, alone, precision="float32", steps=steps)
        found = [apart(done, wanted)["loss"] for done in together]
        if max(found) >= 1e-3:
            # All in one stream from here on: slower, but safe.
            self.runtime = alone
            raise Failed(f"losses are {found} off those of one stream")
        return {"loss": found}

    def compiler(self) -> dict[str, Any]:
        """Compare the compiled step of the campaign's own network with the plain one."""
        make, trial = resnet("resnet20", 1.0), dataclasses.replace(self.runtime, compile=True)
        plain = short(make, 1, self.runtime, precision="bfloat16")
        with limited(90):
            begin = time.monotonic()
            done = short(make, 1, trial, precision="bfloat16")
        require(done.mode == "compiled", f"the step is {done.mode}")
        found = apart(done, plain)
        require(found["loss"] < 0.02 and found["statistics"] < 0.02, f"the program is {found} off")
        self.runtime = trial
        return {**found, "compiling": round(time.monotonic() - begin, 1)}

    def rates(self, seconds: float, in_flight: Sequence[int]) -> dict[str, Any]:
        """Measure images per second for several numbers of the campaign's networks at once."""
        return {str(n): round(self.rate(n, self.runtime, seconds)) for n in in_flight}

    def grouped(self, seconds: float) -> dict[str, Any]:
        """Measure the same for four networks in one forward pass."""
        runtime = dataclasses.replace(self.runtime, members=4)
        with limited(60):
            return {"4": round(self.rate(4, runtime, seconds))}

    def combined(self, seconds: float) -> dict[str, Any]:
        """Find out whether the step is faster with small kernels combined or separate."""
        if not self.runtime.compile:
            return {}
        before = self.found.get("rates", {}).get("1", 0)
        options = dict(compiled.CUDA_OPTIONS)
        compiled.CUDA_OPTIONS.clear()
        try:
            with limited(60):
                without = round(self.rate(1, self.runtime, seconds))
        except Exception:
            compiled.CUDA_OPTIONS.update(options)
            raise
        if without <= before:
            compiled.CUDA_OPTIONS.update(options)
        return {"with": before, "without": without}

    def rate(self, members: int, runtime: Runtime, seconds: float) -> float:
        """Measure images per second after a first epoch, over about this many seconds."""
        make, clock = resnet("resnet20", 1.0), Clock(seconds)
        starts: list[Weights] = [initialize(make, i) for i in range(members)]
        recipe = Recipe(
            epochs=1000,
            lr=0.08,
            batch_size=BATCH,
            augment="flip_crop",
            precision="bfloat16",
        )
        timed = dataclasses.replace(runtime, progress=lambda *_: clock, stop=clock.over)
        seeds = [Seeds.of("flight", i) for i in range(members)]
        with suppress(PreemptedError):
            train(make(), starts, self.examples, recipe, seeds, evaluate_at=(), runtime=timed)
        return clock.images / clock.seconds

    def other_work(self) -> dict[str, Any]:
        """Time an evaluation and a matching."""
        make = resnet("resnet20", 1.0)
        weights = [initialize(make, i) for i in range(2)]
        data = self.examples.to(self.device)
        begin = time.monotonic()
        run = Run(
            make(),
            weights=weights[:1],
            data=data,
            recipe=Recipe(epochs=1, lr=0.1, precision="bfloat16"),
            seeds=[Seeds.of("flight", 0)],
            masks=[None],
            runtime=self.runtime,
        )
        run.evaluate()
        middle = time.monotonic()
        spec = PermutationSpec.trace(make(), torch.randn(2, 3, 32, 32))
        some = Batches(data, first(data.train, 5000)).inputs()
        match_activations(weights[0], weights[1], some, spec, device=self.device)
        return {
            "evaluation_of_1000": round(middle - begin, 2),
            "matching_of_5000": round(time.monotonic() - middle, 2),
        }

    def checked(self, *, seconds: float, in_flight: Sequence[int]) -> bool:
        """Do all checks; return False if the numbers are worthless."""
        self.check("machine", self.machine)
        for name, part in (("gpu", self.gpu), ("numbers", self.numbers)):
            if not self.check(name, part):
                return False
        self.check("graph", self.graph)
        self.check("streams", self.streams)
        self.check("compiler", self.compiler)
        self.examples = noise(STEPS * BATCH)
        self.check("rates", partial(self.rates, seconds, in_flight))
        self.check("other work", self.other_work)
        return True

    def compared(self, there: Callable[[], bool], *, seconds: float) -> None:
        """Try other forms of the program, each compiled anew, while the data aren't there yet."""
        for name, part in (("combined", self.combined), ("grouped", self.grouped)):
            if not there():
                self.check(name, partial(part, seconds))

    def verdict(self, seconds: float) -> dict[str, Any]:
        """Say what works, and which sparsities of one seed fit into this many seconds."""
        rates = {int(k): v for k, v in self.found.get("rates", {}).items() if k.isdigit()}
        form = dataclasses.replace(self.runtime, device="cuda").modes[0]
        times = {f"{s:g}": round(self.needed(rates, s)) for s in SPARSITIES} if rates else {}
        return {
            "mode": form,
            "streams": self.runtime.streams,
            "combo_kernels": bool(compiled.CUDA_OPTIONS),
            "images_per_second": rates,
            "seconds_for_one_seed_up_to": times,
            "fits": [s for s, needs in times.items() if needs <= seconds],
            "failed": {k: v["failed"] for k, v in self.found.items() if "failed" in v},
            "checks": self.found,
        }

    @staticmethod
    def needed(rates: dict[int, float], up_to: float) -> float:
        """Estimate seconds for one seed up to a sparsity: dense 200 epochs, rounds 50, arms 180."""

        def rate(n: int) -> float:
            return rates[min(rates, key=lambda m: abs(m - n))]

        total, rounds = 2 * 200 * EPOCH / rate(2), set()
        for sparsity in SPARSITIES[: SPARSITIES.index(up_to) + 1]:
            left = 1.0
            while 1 - left * 0.8 < sparsity - 1e-9:
                left *= 0.8
                rounds.add(round(left, 6))
            # The last round is cut, so that the sparsity is met exactly.
            rounds.add(round(1 - sparsity, 6))
            total += 3 * 180 * EPOCH / rate(3)
        return total + len(rounds) * 50 * EPOCH / rate(1)


class Clock:
    """A progress bar that counts the images after a first epoch, and says when to stop."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.begin, self.end, self.images = 0.0, 0.0, 0.0

    def update(self, n: float) -> None:
        """Count a step's images, which are queued, not done."""
        if self.begin:
            self.images += n

    def set_postfix_str(self, s: str) -> None:
        """Begin after the first epoch, when the losses have been read and nothing is queued."""
        self.begin = self.begin or time.monotonic()

    def close(self) -> None:
        """Wait until the device has finished its work."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.end = time.monotonic()

    def over(self) -> bool:
        """True when the seconds are over."""
        return self.begin > 0 and time.monotonic() - self.begin > self.limit

    @property
    def seconds(self) -> float:
        """Seconds from the first image that counts to the end."""
        return self.end - self.begin


# --- the flight ---------------------------------------------------------------------------------


def data_there(plan: list[campaigns.Campaign]) -> bool:
    """Return whether the data of all campaigns are there and complete."""
    wanted = {e.data for campaign in plan for entry in campaign.entries for e in entry.experiments}
    try:
        for config in wanted:
            load_configured(config)
    except LotpermError:
        return False
    return True


def carry(store: Store, plan: list[campaigns.Campaign], folder: Path) -> list[Path]:
    """Pack what is computed into files of at most `PART` bytes each, in one folder."""
    packs = folder / "packs-after"
    parcels = {p.key: p for campaign in plan for p in needed(campaign, store)}
    pack(store, parcels.values(), packs)
    back = folder / "back"
    back.mkdir(exist_ok=True)
    whole = folder / "flight.tgz"
    with tarfile.open(whole, "w:gz") as archive:
        for name in ("packs-after", "results", "log", "verdict.json"):
            if (folder / name).exists():
                archive.add(folder / name, "packs" if name == "packs-after" else name)
    data = whole.read_bytes()
    parts = []
    for number, start in enumerate(range(0, len(data), PART)):
        parts.append(back / f"flight.tgz.{number:02d}")
        parts[-1].write_bytes(data[start : start + PART])
    return parts


def main() -> int:
    """Check, wait, train, pack; return 0 if anything was trained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("campaigns", type=Path, nargs="*")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=760, help="of the whole flight")
    parser.add_argument("--measure", type=float, default=1.5, help="seconds for a rate")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 3, 9, 16])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    flight = Flight(options.device, options.folder)

    def over() -> bool:
        told = (options.folder / "stop").exists()
        return told or time.monotonic() - _BEGIN > options.seconds

    def decide(good: bool) -> None:
        verdict = flight.verdict(options.seconds - (time.monotonic() - _BEGIN))
        _write(options.folder / "verdict.json", {"good": good, **verdict})

    good = flight.checked(seconds=options.measure, in_flight=options.in_flight)
    flight.say(f"verdict: {'good' if good else 'give the machine back'}")
    decide(good)
    if not good:
        return 1
    plan = [campaigns.Campaign.load(path) for path in options.campaigns]
    flight.compared(partial(data_there, plan), seconds=options.measure)
    decide(good)
    store = Store.default()
    if before := sorted((options.folder / "packs").glob("pack-*.bin")):
        flight.say(f"unpacked: {unpack(store, before).counts}")
    how = "compiled" if flight.runtime.compile else "not compiled"
    plan = [campaign.set(compile=flight.runtime.compile) for campaign in plan]
    runtime = dataclasses.replace(flight.runtime, stop=over)
    while not (trained := data_there(plan)) and not over():
        time.sleep(1)
    if trained:
        for campaign in plan:
            flight.say(f"campaign {campaign.name}, {how}")
            try:
                campaigns.run(campaign, store, runtime, options.folder / "results", flight.say)
            except PreemptedError as error:
                flight.say(f"stopped: {error}")
                break
            except Exception as error:
                # The other campaigns still do what they can.
                flight.say(f"failed: {type(error).__name__}: {error}")
    parts = carry(store, plan, options.folder)
    sizes = {part.name: part.stat().st_size for part in parts}
    flight.say(f"leaves with {sum(sizes.values()) / 2**20:.1f} MiB")
    _write(options.folder / "left.json", {"trained": trained, "parts": sizes})
    return 0 if trained else 1


def _write(path: Path, content: Any) -> None:
    # Written whole or not at all, since other programs wait for the file.
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.rename(path)


if __name__ == "__main__":
    sys.exit(main())
