"""Print as JSON what the host does for a GPU, in a process that takes the stand-in for one.

python -m stand_in.host FOLDER      # with the environment of `stand_in.build`
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lotperm import Store
from lotperm.cluster import campaign as campaigns
from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.dataset import Dataset, Split
from lotperm.engine import compiled, graphs
from lotperm.engine.checkpoints import Found
from lotperm.engine.models import initialize
from lotperm.engine.runtime import Runtime
from lotperm.engine.trained import Trained
from lotperm.engine.training import train
from lotperm.errors import PreemptedError
from lotperm.science.rewiring import RigL
from lotperm.studies.records import load_record
from stand_in import kernels

MEMBERS, BATCH, STEPS = 3, 16, 4
ROOT = Path(__file__).parents[2]


class Kept:
    """A place for one checkpoint."""

    found: Found | None = None

    def checkpoint(self, tensors: Any, info: Any) -> None:
        self.found = (tensors, json.loads(json.dumps(info)))

    def latest(self) -> Found | None:
        return self.found


class Residual(nn.Module):
    """One of each kind of layer of a ResNet: more would compile longer, and show no more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = (x + self.bn2(self.conv2(x))).relu()
        return self.classifier(self.pool(x).flatten(1))


def noise() -> Dataset:
    """Random images, of CIFAR-10's shape."""
    draw = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        pixels = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=draw)
        return Split(pixels, torch.randint(10, (n,), generator=draw))

    half = torch.full((3,), 0.5)
    return Dataset("noise", split(BATCH * STEPS), split(40), 10, half, half)


def run(epochs: int = 2, runtime: Runtime | None = None, **options: Any) -> Trained:
    """Train a few networks for a few steps."""
    recipe = Recipe(
        epochs=epochs,
        lr=0.1,
        batch_size=BATCH,
        augment="flip_crop",
        precision=options.pop("precision", "bfloat16"),
    )
    return train(
        Residual(),
        [initialize(Residual, i) for i in range(MEMBERS)],
        noise(),
        recipe,
        [Seeds.of("stand-in", i) for i in range(MEMBERS)],
        runtime=runtime or Runtime(device="cuda", compile=True),
        **options,
    )


def counted(what: str, *arguments: Any, **options: Any) -> tuple[int, Trained]:
    """Train, and count something meanwhile."""
    before = kernels.count(what)
    done = run(*arguments, **options)
    return kernels.count(what) - before, done


def forms() -> dict[str, Any]:
    """Train compiled, then again, then with everything broken in turn."""
    found: dict[str, Any] = {"seconds": []}
    for _ in range(2):
        begin = time.process_time()
        graphs_started, done = counted("graphs")
        found["seconds"].append(time.process_time() - begin)
        found.setdefault("compiled", []).append((done.mode, graphs_started))
    found["programs"] = len(compiled.PROGRAMS)
    # A step is started three times to warm up and once to be captured.
    before = kernels.count("launches"), kernels.count("captures")
    streams: list[int] = []
    opened = graphs.SideStream.queue
    graphs.SideStream.queue = lambda self: streams.append(self.stream.priority) or opened(self)  # type: ignore[assignment, func-returns-value, method-assign, union-attr]
    run(1, runtime=Runtime(device="cuda", compile=True, priority=-1))
    graphs.SideStream.queue = opened  # type: ignore[method-assign]
    found["priorities"] = sorted(set(streams))
    # Counting batches isn't part of a step, nor are the update's tensors one kernel each.
    launches, captures = (
        kernels.count(what) - n for what, n in zip(("launches", "captures"), before, strict=True)
    )
    found["launches_a_step"] = launches / (4 * captures)

    masks = [{"conv2.weight": torch.rand(4, 4, 3, 3) < 0.5} for _ in range(MEMBERS)]
    changes: list[dict[str, Any]] = [
        {"masks": masks, "rewire": RigL(every=3)},
        {"movement": True},
    ]
    for options in changes:
        started, done = counted("graphs", runtime=Runtime(device="cuda"), **options)
        found.setdefault("changing", []).append((done.mode, started))

    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    logging.getLogger("lotperm").addHandler(handler)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler\nand a page about it")

    compiler, capture = compiled.compile_step, torch.cuda.graph
    compiled.PROGRAMS.clear()
    compiled.compile_step = broken  # type: ignore[assignment]
    found["no compiler"] = (run().mode, lines.getvalue())
    lines.truncate(0), lines.seek(0)
    graphs.torch.cuda.graph = broken  # type: ignore[assignment, misc]
    found["no graph"] = (run().mode, lines.getvalue())
    compiled.compile_step, graphs.torch.cuda.graph = compiler, capture  # type: ignore[misc]
    logging.getLogger("lotperm").removeHandler(handler)
    plain = replace(Runtime(device="cuda"), graph=False)
    graphs_started, done = counted("graphs", runtime=plain)
    found["plain"] = (done.mode, graphs_started)
    return found


def checkpoints() -> dict[str, Any]:
    """Stop at every step, and go on."""
    kept, stops = Kept(), 0
    runtime = Runtime(device="cuda", stop=lambda: True)
    while True:
        try:
            done = run(runtime=runtime, checkpoints=kept)
        except PreemptedError:
            stops += 1
        else:
            return {"stops": stops, "epochs": len(done.train_loss), "mode": done.mode}


def precisions() -> dict[str, list[bool]]:
    """What convolutions are told about TF32, and what is so before and after."""
    found: dict[str, list[bool]] = {}
    for precision in ("float32", "tf32", "bfloat16"):
        kernels.TF32.clear()
        run(1, Runtime(device="cuda"), precision=precision)
        found[precision] = sorted(kernels.TF32)
    return found


def campaign(folder: Path) -> dict[str, Any]:
    """Compute the smoke campaign; of each record, how its stages were computed."""
    with contextlib.redirect_stdout(io.StringIO()):
        campaigns.run(
            campaigns.Campaign.load(ROOT / "campaigns" / "smoke.json"),
            Store(folder / "store"),
            Runtime(device="cuda"),
            folder / "results",
        )
    records = {path.name: load_record(path) for path in sorted((folder / "results").iterdir())}
    return {
        name: sorted({str(stage.get("step")) for stage in record["stages"]})
        for name, record in records.items()
    }


def main(folder: Path) -> None:
    """Do everything; print what was seen."""
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name()}
    seconds: dict[str, float] = {}
    for name, part in (
        ("forms", forms),
        ("checkpoints", checkpoints),
        ("precisions", precisions),
        ("campaign", lambda: campaign(folder)),
    ):
        begin = time.process_time()
        found[name] = part()
        seconds[name] = round(time.process_time() - begin, 1)
    found["layouts"] = sorted((last, str(dtype)) for last, dtype in kernels.LAYOUTS)
    found["complaints"] = kernels.count("complaints")
    found["cpu_seconds"] = seconds
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
