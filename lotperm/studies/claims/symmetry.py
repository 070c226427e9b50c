"""What recorded tickets show of weight symmetry: permuted copies of real networks.

A ticket has the weights of A and B at the rewind epoch and the permutation that was found for them
at the end of training.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lotperm.data.catalog import spec_of
from lotperm.engine.models import build
from lotperm.science.symmetry import PermutationSpec, permute
from lotperm.store.files import load_tensors
from lotperm.studies.claims.evidence import Effect, mean_effect
from lotperm.studies.claims.sources import Run, Sources, ticket_files

# With fewer seeds an interval says next to nothing.
_SEEDS = 3
_INPUTS = 64
# Stands for a difference of exactly 0, which has no logarithm.
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
    tables = [run for run in sources.of_kind("table") if ticket_files(run)]
    return [run for run in tables if len(_of(run)) >= _SEEDS]


def _over_tickets(sources: Sources, column: str, what: str, unit: str, digits: int) -> list[Effect]:
    found = []
    for run in _with_tickets(sources):
        effect = mean_effect(run.source, what, _of(run)[column], unit=unit)
        found.append(effect.shown(digits))
    return found


def _of(run: Run) -> pd.DataFrame:
    """Return what the tickets of a recorded table show; a row for each seed."""
    model = run.experiment["model"]
    # As tuples, since results are cached by their arguments.
    files = tuple(ticket_files(run))
    return _measured(files, run.dataset, model["name"], model["width"], tuple(model["hidden"]))


# Three claims look at the same files.
@cache
def _measured(
    files: tuple[Path, ...], dataset: str, name: str, width: float, hidden: tuple[int, ...]
) -> pd.DataFrame:
    """Measure tickets of one experiment; mean over rewind epochs, index the seed."""
    info = spec_of(dataset)
    model = build(
        name, input_shape=info.shape, classes=info.classes, width=width, hidden=hidden or (1,)
    ).eval()
    # Two functions are compared, not their accuracies, so no data set is needed.
    noise = torch.randn(_INPUTS, *info.shape, generator=torch.Generator().manual_seed(0))
    spec = PermutationSpec.trace(model, noise[:2])
    # In float64, so that a difference would stand out from rounding.
    rows = [_row(path, spec, model.double(), noise.double()) for path in files]
    return pd.DataFrame(rows).groupby("seed").mean()


def _row(
    path: Path, spec: PermutationSpec, model: nn.Module, inputs: Tensor
) -> dict[str, int | float]:
    """Compare A, π(A) and B of one file of tickets; the model's own weights don't matter."""
    tensors, notes = load_tensors(path, checked=True)
    a, b = (_part(tensors, f"weights_{name}/") for name in "ab")
    moved = permute(a, spec, _part(tensors, "permutation/"))
    # Without running statistics of batch norm, which aren't trained.
    parameters = [name for name, _ in model.named_parameters()]
    flat_a, flat_b, flat_moved = (
        torch.cat([weights[name].flatten() for name in parameters]) for weights in (a, b, moved)
    )
    with torch.no_grad():
        out, out_moved = (functional_call(model, weights, inputs) for weights in (a, moved))
    difference = float((out - out_moved).abs().max() / out.abs().max())
    return {
        "seed": int(notes["seed"]),
        "digits": -math.log10(max(difference, _NO_DIFFERENCE)),
        "distance": 100 * float((flat_moved - flat_a).norm() / (flat_b - flat_a).norm()),
        "before": float(torch.cosine_similarity(flat_a, flat_b, dim=0)),
        "after": float(torch.cosine_similarity(flat_moved, flat_b, dim=0)),
    }


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, in float64 if they are floats."""
    return {
        name.removeprefix(prefix): t.double() if t.is_floating_point() else t
        for name, t in tensors.items()
        if name.startswith(prefix)
    }
