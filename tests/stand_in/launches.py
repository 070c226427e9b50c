"""How many kernels a step calls, with and without what makes them fewer.

    python -m stand_in.launches [NETWORK] [WIDTH]     # with the environment of `stand_in.build`

The generated code is run with kernels that only count: Triton compiles none.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch._inductor.async_compile import AsyncCompile

from lotperm.engine import compiled, step
from lotperm.engine.models import build, initialize
from lotperm.engine.state import TrainingState
from lotperm.engine.step import Rule
from stand_in import kernels

CALLS = {"Triton": 0}


class Counted:
    """A kernel."""

    def run(self, *_: Any, **__: Any) -> None:
        """Count a call."""
        CALLS["Triton"] += 1


def calls(name: str, width: float) -> int:
    """Compile a step of one network in bfloat16, run it once and count."""
    compiled.PROGRAMS.clear()

    def make() -> torch.nn.Module:
        return build(name, input_shape=(3, 32, 32), classes=10, width=width)

    state = TrainingState(make(), [initialize(make, 0)], [None], "cuda")
    state.networks.module.train()
    x = torch.zeros(128, 1, 3, 32, 32, device="cuda")
    y = torch.zeros(1, 128, dtype=torch.long, device="cuda")
    program = compiled.compiled_step(Rule(0.9, 5e-4, "bfloat16"), state, x, y)
    before = CALLS["Triton"]
    with torch.no_grad():
        program(x, y, state.lr, *state.by_parameter())
    return CALLS["Triton"] - before


def one_by_one(rule: Rule, lr: torch.Tensor, *tensors: list[torch.Tensor]) -> None:
    """Update each parameter by itself."""
    for gradient, weight, velocity, mask in zip(*tensors, strict=True):
        step.descend(rule, lr, gradient, weight, velocity, mask)


def main(name: str = "resnet20", width: str = "1") -> None:
    """Print the counts."""
    assert kernels.count("complaints") == 0
    AsyncCompile.triton = lambda *_, **__: Counted()  # type: ignore[method-assign]
    together = compiled.descend_together
    for what, options, update in (
        ("as in training", compiled.CUDA_OPTIONS.copy(), together),
        ("without combo_kernels", {}, together),
        ("and each parameter updated by itself", {}, one_by_one),
    ):
        compiled.CUDA_OPTIONS.clear()
        compiled.CUDA_OPTIONS.update(options)
        compiled.descend_together = update
        print(f"{what}: {calls(name, float(width))} Triton kernels a step", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
