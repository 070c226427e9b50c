"""Measure a training step in bfloat16 whose products are computed in float32, on one core.

Processors without instructions for bfloat16 have PyTorch multiply such numbers one by one. lotperm
rounds the factors and multiplies them in float32 there (`lotperm.engine.bfloat16`). Measured are, in
one process and interleaved, the CPU seconds of a step in

- float32;
- bfloat16, products as lotperm computes them where there are no instructions;
- bfloat16, products as PyTorch computes them, by instructions if this processor has them;

each as a plain and as a compiled step. First comes a gate: the losses of the first steps in bfloat16
must be the same either way, up to rounding.

    python benchmarks/low_precision.py
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import RESULTS, environment, noise_run, write_report
from torch import nn

from lotperm.config.choices import Precision
from lotperm.config.experiment import Recipe
from lotperm.engine import bfloat16
from lotperm.engine.models import build
from lotperm.engine.runtime import Runtime
from lotperm.parallel.threads import keep_freed_memory

STEPS = 2
# Name, architecture, width, shape of an example, networks at once.
NETWORKS: list[tuple[str, str, float, tuple[int, ...], int]] = [
    ("mlp", "mlp", 1.0, (1, 40), 8),
    ("resnet8x1, signals", "resnet8", 1.0, (1, 40), 4),
    ("resnet8x0.5", "resnet8", 0.5, (3, 32, 32), 1),
]
# Name -> precision, and whether products are left to PyTorch.
WAYS: dict[str, tuple[Precision, bool]] = {
    "float32": ("float32", True),
    "in float32": ("bfloat16", False),
    "by PyTorch": ("bfloat16", True),
}


class Way:
    """The training of a network in one of the ways, ready to be timed."""

    def __init__(self, network: tuple[Any, ...], way: str, *, compile: bool) -> None:
        _, model, width, shape, members = network
        precision, self.by_pytorch = WAYS[way]
        make: partial[nn.Module] = partial(
            build, model, input_shape=shape, classes=10, width=width, hidden=(128, 128)
        )
        recipe = Recipe(epochs=1000, lr=0.001, precision=precision)
        self.run = noise_run(
            make, shape, members, STEPS, recipe=recipe, runtime=Runtime(compile=compile)
        )
        with self._chosen():
            self.run.prepare(1)
        if self.run.mode != ("compiled" if compile else "plain"):
            raise SystemExit(f"the step is {self.run.mode}: {self.run.failures}")
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def _chosen(self) -> AbstractContextManager[Any]:
        """Let the engine believe that this processor has, or lacks, the instructions."""
        return patch.object(bfloat16, "native", lambda: self.by_pytorch)

    def once(self, epoch: int) -> None:
        """Time some steps."""
        begin = time.process_time()
        with self._chosen():
            self.run.advance(epoch, lambda: False, None)
        self.seconds.append((time.process_time() - begin) / self.run.steps)
        self.losses += self.run.finish_epoch()


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the MLP, not compiled, thrice")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    has_instructions = bfloat16.native()
    rows: list[dict[str, Any]] = []
    for network in NETWORKS[: 1 if options.quick else None]:
        for compiled in (False,) if options.quick else (False, True):
            ways = {way: Way(network, way, compile=compiled) for way in WAYS}
            for epoch in range(3 if options.quick else options.rounds):
                for way in ways.values():
                    way.once(epoch)
            check(network[0], ways)
            rows += [
                {
                    "network": network[0],
                    "members": network[4],
                    "step": "compiled" if compiled else "plain",
                    "way": name,
                    "ms": 1e3 * min(way.seconds),
                    "images_per_s": network[4] * way.run.recipe.batch_size / min(way.seconds),
                    "loss": way.losses[0],
                }
                for name, way in ways.items()
            ]
    report = {
        "what": "a step in bfloat16 with products in float32",
        "command": shlex.join(["python", "benchmarks/low_precision.py", *sys.argv[1:]]),
        "rounds": options.rounds,
        "instructions": has_instructions,
        "rows": rows,
        "machine": environment(),
    }
    write_report(options.out / "low_precision", report, table(report))


def check(network: str, ways: dict[str, Way]) -> None:
    """Stop unless both ways in bfloat16 begin with the same losses, up to rounding."""
    ours, theirs = (ways[way].losses[0] for way in ("in float32", "by PyTorch"))
    if not math.isclose(ours, theirs, rel_tol=2e-3):
        raise SystemExit(f"{network}: the loss is {ours} with products in float32, else {theirs}")


def table(report: dict[str, Any]) -> str:
    """Write the report as Markdown."""
    machine = report["machine"]
    seen: dict[tuple[str, int, str], dict[str, float]] = {}
    for r in report["rows"]:
        seen.setdefault((r["network"], r["members"], r["step"]), {})[r["way"]] = r["images_per_s"]
    has = "has" if report["instructions"] else "has no"
    lines = [
        f"# bfloat16 without instructions for it: {report['what']}",
        "",
        f"`{report['command']}`, best of {report['rounds']} interleaved rounds of CPU time, one thread, on "
        f"{machine['cpu']} ({machine['cpu_capability']}), which {has} instructions for bfloat16; "
        f"PyTorch {machine['torch']}. Training images per second.",
        "",
        "| network | at once | step | float32 | bfloat16, in float32 | bfloat16, by PyTorch | times faster |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {members} | {step} | {row['float32']:,.0f} | {row['in float32']:,.0f} | "
        f"{row['by PyTorch']:,.0f} | {row['in float32'] / row['by PyTorch']:.1f} |"
        for (name, members, step), row in seen.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
