"""Compare weight matching with the published algorithm: time, and where both end.

The published descent (Ainsworth et al. 2023, algorithm 1) visits every group of units in every
sweep, with products in float64. Here it also computes the scores that lotperm returns, the mean
cosine of the weights of matched units, before and after. `lotperm.science.matching.match_weights`
skips groups whose neighbours haven't moved since their last visit, takes products in float32, and
also tries a start from statistics of each unit's weights, which finds permuted copies that the
descent may miss. Both start from the same order of groups.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, environment, random_network, write_report
from torch import Tensor

from lotperm.science.assignment import assign
from lotperm.science.matching import match_weights
from lotperm.science.symmetry import PermutationSpec, permute

Weights = Mapping[str, Tensor]


def published(a: Weights, b: Weights, spec: PermutationSpec, seed: int) -> dict[str, Tensor]:
    """Match by the descent as published."""
    a, b = ({n: t.double() for n, t in w.items() if _matched(n, t)} for w in (a, b))
    moved, permutation = dict(a), spec.identity()
    groups, generator = list(spec.sizes), np.random.default_rng(seed)
    improved = True
    while improved:
        improved = False
        for index in generator.permutation(len(groups)):
            group = groups[index]
            pairs = list(
                zip(spec.unit_weights(moved, group), spec.unit_weights(b, group), strict=True)
            )
            step = assign(torch.stack([y @ x.T for (_, x), (_, y) in pairs]).sum(0))
            trial = permute({name: moved[name] for (name, _), _ in pairs}, spec, {group: step})
            gain = sum(((new - moved[name]) * b[name]).sum().item() for name, new in trial.items())
            if gain > 1e-9:
                moved |= trial
                permutation[group] = permutation[group][step]
                improved = True
    for weights in (dict(a), moved):
        for group in groups:
            x, y = (torch.cat([v for _, v in spec.unit_weights(w, group)], 1) for w in (weights, b))
            torch.nn.functional.cosine_similarity(x, y).mean().item()
    return permutation


def _matched(name: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and "running" not in name


def objective(a: Weights, b: Weights, spec: PermutationSpec, p: Mapping[str, Tensor]) -> float:
    """Return the inner product of B's parameters with A's permuted ones."""
    moved = permute(dict(a), spec, p)
    return sum(
        float((moved[n].double() * t.double()).sum()) for n, t in b.items() if _matched(n, t)
    )


def seconds(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the median CPU seconds of a call, and its result."""
    times = []
    for _ in range(repeats):
        before = time.process_time()
        found = function()
        times.append(time.process_time() - before)
    return statistics.median(times), found


def row(name: str, width: float, repeats: int) -> dict[str, Any]:
    """Match one pair of random networks in both ways; return a row of the table."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    a, b = (random_network(name, seed, images, 10, width).state_dict() for seed in (1, 2))
    spec = PermutationSpec.trace(random_network(name, 1, images, 10, width), images[:2])
    theirs, p = seconds(lambda: published(a, b, spec, 0), repeats)
    ours, q = seconds(lambda: match_weights(a, b, spec, seed=0), repeats)
    return {
        "network": f"{name}x{width:g}",
        "groups": len(spec.sizes),
        "units": sum(spec.sizes.values()),
        "published (s)": theirs,
        "lotperm (s)": ours,
        "ratio": theirs / ours,
        "objective, published": objective(a, b, spec, p),
        "objective, lotperm": objective(a, b, spec, q),
    }


def table(report: dict[str, Any]) -> str:
    """Write the report as Markdown."""
    machine = report["machine"]
    names = list(report["rows"][0])
    lines = [
        "# Weight matching",
        "",
        f"`{report['command']}`, random weights, on {machine['cpu']}, {machine['threads']} thread, PyTorch "
        f"{machine['torch']}. CPU seconds, medians of {report['repeats']}.",
        "",
        f"| {' | '.join(names)} |",
        f"|{' --- |' * len(names)}",
    ]
    for found in report["rows"]:
        cells = (f"{v:.4g}" if isinstance(v, float) else f"{v}" for v in found.values())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    networks = [("resnet20", 1.0), ("vgg11", 0.5)]
    if options.quick:
        networks, options.repeats = [("resnet8", 0.5)], 1
    report = {
        "command": f"python benchmarks/weight_matching.py --repeats {options.repeats}",
        "repeats": options.repeats,
        "rows": [row(name, width, options.repeats) for name, width in networks],
        "machine": environment(),
    }
    write_report(options.out / "weight_matching", report, table(report))


if __name__ == "__main__":
    main()
