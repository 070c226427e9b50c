"""Measure where the time of a compiled training step goes, by subtraction, on one core.

It takes the CPU seconds, in one process and interleaved, of

- a whole step, as in training;
- its program without the batches: networks, losses, gradients and update;
- its batches alone: drawing the order, gathering, augmenting, normalizing;
- its products alone: the matrix products and convolutions of the forward and the backward pass, of
  the same shapes and precision, each called by itself as PyTorch does it.

The last is what the step can't do without: only faster products would make it shorter. CPU seconds
of one thread are measured, since other load on the machine affects them little.

With ``--profile``, it also takes PyTorch's profile of the compiled program: the shares of its time
that its products, its fused loops with the update of the weights, its other fused loops and the
rest take. These are times by the clock, so the machine must be quiet.

    python benchmarks/step.py --profile
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, environment, noise_run, write_report
from torch import Tensor, nn

from lotperm.config.choices import Precision
from lotperm.config.experiment import Recipe
from lotperm.engine.models import build
from lotperm.engine.runtime import Runtime
from lotperm.parallel.threads import keep_freed_memory

BATCH = 128
# Name, architecture, width, shape of an example, networks at once, steps of an epoch, precision.
CASES: list[tuple[str, str, float, tuple[int, ...], int, int, Precision]] = [
    ("mlp", "mlp", 1.0, (1, 40), 8, 31, "float32"),
    ("mlp", "mlp", 1.0, (1, 40), 8, 31, "bfloat16"),
    ("resnet8x0.5", "resnet8", 0.5, (3, 32, 32), 1, 4, "bfloat16"),
    ("resnet20x1", "resnet20", 1.0, (3, 32, 32), 1, 2, "bfloat16"),
]


KINDS = ("products", "update", "other loops", "rest")
"""The purposes that the operations of a program can have."""


def kind(operation: str) -> str:
    """Tell what an operation of the profile is for, by its name."""
    if "_cpp_fused_" in operation:
        # Only the update is written for all parameters together; the compiler may fuse it with the
        # loop that computes a gradient.
        return "update" if "_foreach_" in operation else "other loops"
    if any(word in operation for word in ("bmm", "mm_out", "convolution", "mkldnn")):
        return "products"
    return "rest"


def products(model: nn.Module, example: Tensor, members: int, dtype: torch.dtype) -> list[Any]:
    """Return the products of a step of a network, each as a function that computes it."""
    calls: list[Callable[[], Any]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # The gradient with respect to the network's input isn't needed.
        inner = (
            inputs[0] is not example and inputs[0].untyped_storage() != example.untyped_storage()
        )
        if isinstance(module, nn.Linear):
            x = torch.randn(members, BATCH, module.in_features).to(dtype)
            w = torch.randn(members, module.in_features, module.out_features).to(dtype)
            g = torch.randn(members, BATCH, module.out_features).to(dtype)
            calls.append(partial(torch.bmm, x, w))
            calls.append(partial(torch.bmm, x.transpose(1, 2), g))
            if inner:
                calls.append(partial(torch.bmm, g, w.transpose(1, 2)))
        elif isinstance(module, nn.Conv2d):
            last = {"memory_format": torch.channels_last}
            x = torch.randn(inputs[0].shape).to(dtype).contiguous(**last)
            w, g = module.weight.detach().to(dtype), torch.randn(output.shape).to(dtype)
            shape = (module.stride, module.padding, module.dilation)
            calls.append(partial(nn.functional.conv2d, x, w, None, *shape))
            calls.append(
                partial(
                    torch.ops.aten.convolution_backward,
                    *(g.contiguous(**last), x, w, None, *shape, False, [0, 0], 1),
                    [inner, True, False],
                )
            )

    hooks = [m.register_forward_hook(note) for m in model.modules()]
    with torch.no_grad():
        model(example)
    for hook in hooks:
        hook.remove()
    return calls


class Case:
    """One line of the table, ready to be timed."""

    def __init__(self, case: tuple[Any, ...], *, compile: bool) -> None:
        self.name, model, width, shape, self.members, steps, self.precision = case
        make: partial[nn.Module] = partial(
            build, model, input_shape=shape, classes=10, width=width, hidden=(128, 128)
        )
        recipe = Recipe(epochs=1000, lr=0.01, precision=self.precision)
        self.run = noise_run(
            make, shape, self.members, steps, recipe=recipe, runtime=Runtime(compile=compile)
        )
        self.run.prepare(1)
        if self.run.mode != ("compiled" if compile else "plain"):
            raise SystemExit(f"{self.name}: the step is {self.run.mode}: {self.run.failures}")
        dtype = torch.float32 if self.precision == "float32" else torch.bfloat16
        self.products = products(make(), torch.zeros(BATCH, *shape), self.members, dtype)
        self.seconds: dict[str, list[float]] = {}
        self.shares: dict[str, float] = {}

    def once(self, epoch: int) -> None:
        """Time everything once."""
        run = self.run
        x, y = next(iter(run.feed.batches(epoch)))
        parts: dict[str, Callable[[], Any]] = {
            "step": lambda: run.advance(epoch, lambda: False, None),
            "program": lambda: [run.update(x, y) for _ in range(run.steps)],
            "batches": lambda: list(run.feed.batches(epoch)),
            "products": lambda: [call() for _ in range(run.steps) for call in self.products],
        }
        for name, part in parts.items():
            begin = time.process_time()
            part()
            spent = (time.process_time() - begin) / run.steps
            self.seconds.setdefault(name, []).append(spent)
        run.finish_epoch()

    def profile(self, steps: int = 100) -> None:
        """Find which operations the program's time goes into."""
        x, y = next(iter(self.run.feed.batches(0)))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(steps):
                self.run.update(x, y)
        spent = dict.fromkeys(KINDS, 0.0)
        for event in profile.key_averages():
            spent[kind(event.key)] += event.self_cpu_time_total
        total = sum(spent.values())
        self.shares = {name: us / total for name, us in spent.items()}

    def row(self) -> dict[str, Any]:
        """Return the best time of each, as a row of the table."""
        best = {name: min(seconds) for name, seconds in self.seconds.items()}
        return {
            "network": self.name,
            "members": self.members,
            "precision": self.precision,
            **{f"{name}_us": 1e6 * seconds for name, seconds in best.items()},
            "share_of_products": best["products"] / best["step"],
            "share_of_batches": best["batches"] / best["step"],
            "profile": self.shares,
        }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the MLP, not compiled, thrice")
    parser.add_argument("--networks", nargs="+", choices=sorted({case[0] for case in CASES}))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--profile", action="store_true", help="also the program's operations")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    # Otherwise the compiler's loops have no names in the profile; names cost next to nothing.
    torch._inductor.config.cpp.enable_kernel_profile = options.profile
    torch.set_num_threads(1)
    keep_freed_memory()
    names = options.networks or (["mlp"] if options.quick else [case[0] for case in CASES])
    cases = [Case(case, compile=not options.quick) for case in CASES if case[0] in names]
    for epoch in range(3 if options.quick else options.rounds):
        for case in cases:
            case.once(epoch)
    for case in cases if options.profile else ():
        case.profile()
    report = {
        "what": "CPU time of a compiled step, by subtraction",
        "command": shlex.join(["python", "benchmarks/step.py", *sys.argv[1:]]),
        "rounds": options.rounds,
        "rows": [case.row() for case in cases],
        "machine": environment(),
    }
    write_report(options.out / "step", report, table(report))


def table(report: dict[str, Any]) -> str:
    """Write the report as Markdown."""
    machine = report["machine"]
    lines = [
        f"# Where a step's time goes: {report['what']}",
        "",
        f"`{report['command']}`, best of {report['rounds']} interleaved rounds, on {machine['cpu']}, one thread, "
        f"PyTorch {machine['torch']}, load {machine['load_1min']:.1f} at the end.",
        "Products: the step's matrix products and convolutions alone. Rest: casts, norms, losses, the update.",
        "",
        "| network | at once | precision | step (ms) | products | batches | rest |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['network']} | {r['members']} | {r['precision']} | {r['step_us'] / 1000:.2f} | "
        f"{r['share_of_products']:.0%} | {r['share_of_batches']:.0%} | "
        f"{max(0.0, 1 - r['share_of_products'] - r['share_of_batches']):.0%} |"
        for r in report["rows"]
    ]
    profiled = [r for r in report["rows"] if r["profile"]]
    if profiled:
        lines += [
            "",
            "The program by its operations (PyTorch's profiler, by the clock). Update: the loops that change weights,",
            "with what the compiler put into the same loop.",
            "",
            "| network | at once | precision | " + " | ".join(KINDS) + " |",
            "| --- | --- | --- |" + " --- |" * len(KINDS),
        ]
        lines += [
            f"| {r['network']} | {r['members']} | {r['precision']} | "
            + " | ".join(f"{r['profile'][name]:.0%}" for name in KINDS)
            + " |"
            for r in profiled
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
