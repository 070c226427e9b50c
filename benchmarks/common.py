"""What the benchmarks share: the machine that they ran on, and how they write their reports."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor, nn

# The benchmarks import this file first, so that they run from a clone that isn't installed.
if importlib.util.find_spec("lotperm") is None:
    sys.path.append(str(Path(__file__).parents[1]))

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.dataset import Dataset, Split
from lotperm.engine.models import build, initialize
from lotperm.engine.run import Run
from lotperm.engine.runtime import Runtime

RESULTS = Path(__file__).parents[1] / "book" / "results"
"""The folder of the recorded tables, which the book shows."""


def environment() -> dict[str, Any]:
    """Describe what timings and last digits depend on."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu
        )
    return {
        "cpu": cpu,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def random_network(
    name: str, seed: int, images: Tensor, classes: int, width: float = 1.0
) -> nn.Module:
    """Make a network with random weights, norms included, and the running statistics of images.

    It is in eval mode.
    """
    torch.manual_seed(seed)
    model = build(name, input_shape=tuple(images.shape[1:]), classes=classes, width=width)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = None
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def noise_run(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    members: int,
    steps: int,
    *,
    recipe: Recipe,
    runtime: Runtime,
) -> Run:
    """Begin the training of networks on noise, with epochs of a few steps; it isn't prepared yet."""
    draw = torch.Generator().manual_seed(0)
    size = recipe.batch_size * steps
    pixels = torch.randint(256, (size, *shape), dtype=torch.uint8, generator=draw)
    split = Split(pixels, torch.randint(10, (size,), generator=draw))
    half = torch.full((shape[0],), 0.5)
    return Run(
        make(),
        weights=[initialize(make, i) for i in range(members)],
        data=Dataset("noise", split, split, 10, half, half),
        recipe=recipe,
        seeds=[Seeds.of("step", i) for i in range(members)],
        masks=[None] * members,
        runtime=runtime,
    )


def earlier(path: Path) -> dict[str, Any]:
    """Return the report at ``path.json``, empty unless it is of this processor and PyTorch."""
    kept = path.with_suffix(".json")
    report: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    here = environment()
    same = report and all(report["machine"][name] == here[name] for name in ("cpu", "torch"))
    return report if same else {}


def write_report(path: Path, report: dict[str, Any], table: str) -> None:
    """Write ``path.json`` and ``path.md``, and print the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(table)
    print(table)
