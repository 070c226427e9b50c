"""Small experiments for tests: one of few steps, and one of two hidden layers for questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lotperm import Experiment, Pipeline, Store

TINY: dict[str, Any] = {
    "profile": "smoke",
    "train_size": 300,
    "test_size": 100,
    "epochs": 3,
    "rewind_epoch": 1,
    "finetune_epochs": 1,
    "hidden": [12],
    "seeds": 2,
    "sparsity": 0.5,
}
"""What trains in a second, and what most tests change one or two values of."""

LITTLE: dict[str, Any] = {
    "profile": "smoke",
    "train_size": 600,
    "test_size": 200,
    "epochs": 4,
    "rewind_epoch": 1,
    "finetune_epochs": 1,
    "hidden": [24, 24],
    "seeds": [3, 5],
    "prune_fraction": 0.5,
    "sparsity": 0.8,
}


def tiny(store: Store, **changes: Any) -> Pipeline:
    """Return the pipeline of the tiny experiment, with changes."""
    return Pipeline(Experiment.from_parameters(**{**TINY, **changes}), store)


def little(folder: Path, **changes: Any) -> Pipeline:
    """Return the pipeline of the small experiment, with changes, on a store of its own."""
    return Pipeline(Experiment.from_parameters(**{**LITTLE, **changes}), Store(folder))
