"""Count the kernels that a step calls, with and without the measures that reduce them.

    python -m stand_in.launches [NETWORK] [WIDTH] [FOLDER]    # with the environment of `stand_in.build`

The generated code is run with kernels that only count: Triton compiles none. With a FOLDER, such as
book/results, it also writes launches.json and launches.md there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch._inductor.async_compile import AsyncCompile
from torch.utils._python_dispatch import TorchDispatchMode

from lotperm.engine import compiled, step
from lotperm.engine.models import build, initialize
from lotperm.engine.state import TrainingState
from lotperm.engine.step import Rule
from stand_in import kernels

CALLS = {"generated": 0}


class Counted:
    """A kernel."""

    def run(self, *_: Any, **__: Any) -> None:
        """Count a call."""
        CALLS["generated"] += 1


class Library(TorchDispatchMode):
    """Counts what the generated code leaves to cuDNN and cuBLAS, by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None):
        """Count a call, and do it."""
        name = operation.overloadpacket.__name__
        # Memory is taken and looked at without a kernel.
        if not name.startswith(("empty", "as_strided", "view", "split", "detach", "alias")):
            self.found[name] = self.found.get(name, 0) + 1
        return operation(*args, **(kwargs or {}))


def calls(name: str, width: float) -> dict[str, int]:
    """Compile a step of one network in bfloat16, run it once and count its kernels."""
    compiled.PROGRAMS.clear()

    def make() -> torch.nn.Module:
        return build(name, input_shape=(3, 32, 32), classes=10, width=width)

    state = TrainingState(make(), [initialize(make, 0)], [None], "cuda")
    state.networks.module.train()
    x = torch.zeros(128, 1, 3, 32, 32, device="cuda")
    y = torch.zeros(1, 128, dtype=torch.long, device="cuda")
    program = compiled.compiled_step(Rule(0.9, 5e-4, "bfloat16"), state, x, y)
    CALLS["generated"] = 0
    with torch.no_grad(), Library() as library:
        program(x, y, state.lr, *state.by_parameter())
    return {**CALLS, **library.found}


def one_by_one(rule: Rule, lr: torch.Tensor, *tensors: list[torch.Tensor]) -> None:
    """Update each parameter by itself."""
    for gradient, weight, velocity, mask in zip(*tensors, strict=True):
        step.descend(rule, lr, gradient, weight, velocity, mask)


def measure(name: str, width: float) -> list[dict[str, Any]]:
    """Count the kernels of every form."""
    together, rows = compiled.descend_together, []
    for what, options, update in (
        ("as in training", compiled.CUDA_OPTIONS.copy(), together),
        ("small kernels by themselves", {}, together),
        ("and each parameter updated by itself", {}, one_by_one),
    ):
        compiled.CUDA_OPTIONS.clear()
        compiled.CUDA_OPTIONS.update(options)
        compiled.descend_together = update
        counts = calls(name, width)
        rows.append({"form": what, "calls": sum(counts.values()), **counts})
        print(rows[-1], flush=True)
    return rows


def table(report: dict[str, Any]) -> str:
    """Write the report as Markdown."""
    lines = [
        f"# Kernels of a step: {report['what']}",
        "",
        f"`{report['command']}`, PyTorch {report['torch']}. Counted in the code that the compiler generates for",
        f"compute capability {report['capability']}; no GPU was there.",
        "",
        "| form of the step | calls | generated kernels | convolutions and products |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['form']} | {r['calls']} | {r['generated']} | {r['calls'] - r['generated']} |"
        for r in report["rows"]
    ]
    return "\n".join(lines) + "\n"


def main(name: str = "resnet20", width: str = "1", folder: str | None = None) -> None:
    """Print the counts."""
    assert kernels.count("complaints") == 0
    AsyncCompile.triton = lambda *_, **__: Counted()  # type: ignore[method-assign]
    report = {
        "what": f"{name}×{width}, batch 128, bfloat16, one network",
        "command": f"python -m stand_in.launches {name} {width}",
        "rows": measure(name, float(width)),
        "torch": torch.__version__,
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
    }
    if folder is not None:
        (Path(folder) / "launches.json").write_text(json.dumps(report, indent=1) + "\n")
        (Path(folder) / "launches.md").write_text(table(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
