"""Time activation matching of two ResNet50s, and its parts; measure its memory.

All 37 permutation groups are matched in one pass. The networks are ResNet50s of width 1 as in
torchvision (groups of up to 2,048 units), with random weights and batch norms calibrated to the
images: what networks have learned affects only the time of the assignment. First comes a gate: A's
units, permuted at random, must all be found again.

    python benchmarks/resnet50_matching.py            # writes book/results/resnet50_matching.*
    python benchmarks/resnet50_matching.py --quick    # seconds: checks that it runs
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, environment, random_network, write_report
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from lotperm.science.assignment import assign
from lotperm.science.correlation import correlate
from lotperm.science.matching import match_activations
from lotperm.science.symmetry import PermutationSpec, permute

BATCH = 64
TARGET = 90.0
"""Seconds that the full run may take on two cores."""


def random_images(n: int, size: int, seed: int = 0) -> Tensor:
    """Draw smoothed noise of unit variance, `(n, 3, size, size)`.

    Neighbours correlate, as in photographs.
    """
    noise = torch.randn(n, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(seed))
    images = F.interpolate(noise, (size, size), mode="bilinear")
    return images / images.std()


def gate(model: nn.Module, spec: PermutationSpec, images: Tensor) -> None:
    """Check that a planted permutation of all groups is found again, to the last unit."""
    planted = spec.random(torch.Generator().manual_seed(0))
    moved = permute(model.state_dict(), spec, planted)
    found = match_activations(model, moved, [images], spec)
    wrong = {
        group: int((found[group] != planted[group]).sum())
        for group in planted
        if not torch.equal(found[group], planted[group])
    }
    if wrong:
        raise SystemExit(
            f"resnet50_matching.py: units of a planted permutation weren't found: {wrong}; nothing was timed."
        )


def measure(a: nn.Module, b: nn.Module, spec: PermutationSpec, images: Tensor) -> dict[str, Any]:
    """Time one whole matching, then its parts on their own, by the same functions."""
    batches = torch.split(images, BATCH)
    start, cpu = time.perf_counter(), time.process_time()
    found = match_activations(a, b, batches, spec)
    total, total_cpu = time.perf_counter() - start, time.process_time() - cpu
    points = {group: nodes[-1] for group, nodes in spec.points.items()}
    start = time.perf_counter()
    seen = correlate(a, b, batches, spec, points)
    activations = time.perf_counter() - start
    start = time.perf_counter()
    matrices = {group: accumulator.correlation() for group, accumulator in seen.items()}
    division = time.perf_counter() - start
    solver, ties = {}, 0.0
    for group, matrix in matrices.items():
        start = time.perf_counter()
        linear_sum_assignment(matrix.numpy(), maximize=True)
        solver[group] = time.perf_counter() - start
        start = time.perf_counter()
        if not torch.equal(assign(matrix), found[group]):
            raise SystemExit(f"resnet50_matching.py: {group} was matched in two ways.")
        ties += time.perf_counter() - start - solver[group]
    return {
        "seconds": total,
        "cpu_seconds": total_cpu,
        "activations_s": activations,
        "correlations_s": division,
        "linear_sum_assignment_s": sum(solver.values()),
        "ties_s": max(0.0, ties),
        "share_linear_sum_assignment": sum(solver.values()) / total,
        "largest_assignment_s": max(solver.values()),
        "mean_matched_correlation": statistics.mean(found.scores.values()),
    }


def table(result: dict[str, Any]) -> str:
    """Write the result as Markdown."""
    machine, runs = result["machine"], result["runs"]
    best = min(runs, key=lambda run: run["seconds"])
    lines = [
        "# Activation matching of two ResNet50s",
        "",
        f"`{result['command']}`, width {result['width']:g}, {result['groups']} groups of up to "
        f"{result['largest_group']:,} units, {result['images']} images of {result['image_size']} pixels",
        f"(smoothed noise), random weights; on {machine['cpu']}, {machine['threads']} threads, PyTorch "
        f"{machine['torch']}, load {machine['load_1min']:.1f} before and {result['load_1min_after']:.1f} after.",
        "",
        "| | best of " + str(len(runs)) + " |",
        "| --- | --- |",
        f"| seconds in all | {best['seconds']:.1f} |",
        f"| CPU seconds in all | {best['cpu_seconds']:.1f} |",
        f"| activations and their moments (s) | {best['activations_s']:.1f} |",
        f"| correlations from moments (s) | {best['correlations_s']:.1f} |",
        f"| linear_sum_assignment (s) | {best['linear_sum_assignment_s']:.1f} |",
        f"| its share of all (percent) | {100 * best['share_linear_sum_assignment']:.0f} |",
        f"| the largest group's (s) | {best['largest_assignment_s']:.2f} |",
        f"| peak memory of the process (MiB) | {result['peak_mib']:.0f} |",
        f"| of it before matching (MiB) | {result['before_mib']:.0f} |",
    ]
    return "\n".join(lines) + "\n"


def peak() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if the gate holds and the full size stays within its time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a narrow network, few small images, once"
    )
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=96, help="pixels a side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    n, size, repeats, width = (
        (16, 32, 1, 0.125) if args.quick else (args.images, args.size, args.repeats, 1)
    )
    machine = environment()
    images = random_images(n, size)
    a, b = (random_network("resnet50", seed, images[:32], 1000, width) for seed in (1, 2))
    spec = PermutationSpec.trace(a, images[:2])
    gate(a, spec, images[:16])
    before = peak()
    runs = []
    for repeat in range(repeats):
        runs.append(measure(a, b, spec, images))
        print(f"repeat {repeat + 1}/{repeats}: {runs[-1]['seconds']:.1f} s", flush=True)
    size_options = f" --images {n} --size {size} --repeats {repeats} --threads {args.threads}"
    options = " --quick" if args.quick else size_options
    result = {
        "what": "activation matching of two ResNet50s, all groups in one pass",
        "command": f"python benchmarks/resnet50_matching.py{options}",
        "width": width,
        "images": n,
        "image_size": size,
        "batch": BATCH,
        "groups": len(spec.sizes),
        "largest_group": max(spec.sizes.values()),
        "units": sum(spec.sizes.values()),
        "runs": runs,
        "before_mib": before,
        "peak_mib": peak(),
        "machine": machine,
        "load_1min_after": environment()["load_1min"],
    }
    write_report(args.out / "resnet50_matching", result, table(result))
    best = min(run["seconds"] for run in runs)
    if best > TARGET:
        print(f"resnet50_matching.py: {best:.0f} s, expected {TARGET:.0f} at the most.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
