"""What recorded tickets show of weight symmetry: permuted copies of real networks.

A ticket has the weights of A and B at the rewind epoch and the permutation that was found for them
at the end of training.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.func import functional_call

from lotperm.data.catalog import spec_of
from lotperm.engine.models import build
from lotperm.science.symmetry import PermutationSpec, permute
from lotperm.store.files import load_tensors
from lotperm.studies.claims.evidence import Effect, mean_effect
from lotperm.studies.claims.sources import Run, Sources, ticket_files

_SEEDS = 3
_INPUTS = 64
_NO_DIFFERENCE = 1e-17


def same_function(sources: Sources) -> list[Effect]:
    """Return to how many decimal digits π(A) computes what A does, on random inputs, in float64."""
    return _over_tickets(sources, "digits", "digits to which π(A) computes what A does", "", 1)


def distance(sources: Sources) -> list[Effect]:
    """Return how far π(A) is from A in weight space, in percent of B's distance from A."""
    what = "distance of π(A) from A, relative to B's"
    return _over_tickets(sources, "distance", what, "%", 0)


def likeness(sources: Sources) -> list[Effect]:
    """Return the cosine of π(A)'s and B's weights at the rewind epoch."""
    found = _over_tickets(sources, "after", "cosine of the weights of π(A) and B", "", 2)
    means = [_of(run)["before"].mean() for run in _with_tickets(sources)]
    return [
        effect.noted(f"{before:.2f} before permuting; weights at the rewind epoch")
        for effect, before in zip(found, means, strict=True)
    ]


def _with_tickets(sources: Sources) -> list[Run]:
    """Return the recorded tables that ship the tickets of several seeds."""
    tables = sources.of_kind("table")
    return [run for run in tables if len(ticket_files(run)) and len(_of(run)) >= _SEEDS]


def _over_tickets(sources: Sources, column: str, what: str, unit: str, digits: int) -> list[Effect]:
    found = []
    for run in _with_tickets(sources):
        effect = mean_effect(f"{run.label} ({run.name})", what, _of(run)[column], unit=unit)
        found.append(effect.shown(digits))
    return found


def _of(run: Run) -> pd.DataFrame:
    """Return what the tickets of a recorded table show; a row for each seed."""
    model = run.experiment["model"]
    files = tuple(ticket_files(run))
    return _measured(files, run.dataset, model["name"], model["width"], tuple(model["hidden"]))


@cache
def _measured(
    files: tuple[Path, ...], dataset: str, name: str, width: float, hidden: tuple[int, ...]
) -> pd.DataFrame:
    """Measure tickets of one experiment; mean over rewind epochs, index the seed."""
    info = spec_of(dataset)
    model = build(
        name, input_shape=info.shape, classes=info.classes, width=width, hidden=hidden or (1,)
    ).eval()
    example = torch.randn(2, *info.shape, generator=torch.Generator().manual_seed(0))
    spec = PermutationSpec.trace(model, example)
    inputs = torch.randn(
        _INPUTS, *info.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    parameters = [key for key, _ in model.named_parameters()]
    rows = []
    for path in files:
        tensors, notes = load_tensors(path, checked=True)
        a, b, permutation = (
            {
                key.removeprefix(prefix): tensor
                for key, tensor in tensors.items()
                if key.startswith(prefix)
            }
            for prefix in ("weights_a/", "weights_b/", "permutation/")
        )
        moved = permute(a, spec, permutation)
        flat_a, flat_b, flat_moved = (
            torch.cat([w[key].double().flatten() for key in parameters]) for w in (a, b, moved)
        )
        with torch.no_grad():
            outputs = [functional_call(model.double(), _double(w), inputs) for w in (a, moved)]
        difference = float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max())
        rows.append(
            {
                "seed": int(notes["seed"]),
                "digits": -np.log10(max(difference, _NO_DIFFERENCE)),
                "distance": 100 * float((flat_moved - flat_a).norm() / (flat_b - flat_a).norm()),
                "before": float(torch.cosine_similarity(flat_a, flat_b, dim=0)),
                "after": float(torch.cosine_similarity(flat_moved, flat_b, dim=0)),
            }
        )
    return pd.DataFrame(rows).groupby("seed").mean()


def _double(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: w.double() if w.is_floating_point() else w for key, w in weights.items()}
