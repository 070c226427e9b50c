"""What tests put into a store: tensors of many kinds, and stages that count their calls."""

from __future__ import annotations

from typing import Any

import torch

from lotperm.store.files import JSON
from lotperm.store.stages import Stage, StageResult
from lotperm.store.workspace import Workspace

CONFIG: dict[str, JSON] = {"width": 4, "lr": 0.1, "inputs": ["a" * 64]}


def tensors() -> dict[str, torch.Tensor]:
    return {
        "weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
        "mask": torch.tensor([True, False, True]),
        "order": torch.tensor([2, 0, 1]),
        "low": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "pixels": torch.tensor([[0, 255]], dtype=torch.uint8),
        "sum": torch.tensor(1 / 3, dtype=torch.float64),
        "none": torch.empty(0, 5),
    }


def same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> bool:
    return got.keys() == want.keys() and all(
        got[n].dtype == want[n].dtype
        and got[n].shape == want[n].shape
        and torch.equal(got[n], want[n])
        for n in want
    )


class Compute:
    """A stage function that counts its calls."""

    def __init__(self, value: float = 0.5) -> None:
        self.calls, self.value = 0, value

    def __call__(self, workspace: Workspace) -> StageResult:
        self.calls += 1
        return StageResult(
            {"accuracy": [self.value]}, {"weights": tensors(), "mask": {"m": tensors()["mask"]}}
        )


def check(stage: Stage, value: float = 0.5) -> None:
    assert stage.results == {"accuracy": [value]}
    assert same(stage.load("weights"), tensors())
    assert torch.equal(stage.load("mask")["m"], tensors()["mask"])


class Interrupted(Exception):
    pass


def counting(steps: int, stop_at: int | None, seen: list[int]) -> Any:
    """A stage that adds up 0..steps-1 with a checkpoint after every step, and stops before
    `stop_at`.
    """

    def compute(workspace: Workspace) -> StageResult:
        state, start = torch.zeros(1), 0
        if (saved := workspace.latest()) is not None:
            state, start = saved[0]["state"], saved[1]["step"]
        seen.append(start)
        for step in range(start, steps):
            if step == stop_at:
                raise Interrupted
            state = state + step
            workspace.checkpoint({"state": state}, {"step": step + 1})
        return StageResult({"sum": state.item()})

    return compute
