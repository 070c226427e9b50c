"""Time activation matching of two ResNet20x1: one pass for all groups against layer by layer.

The layer-by-layer method is that of the paper's authors: for each of the 12 permutation groups, a
pass over all images through both networks up to that layer, float64 moments of its activations, and
an assignment; A is permuted before the next pass. It is written here in plain PyTorch (eager
modules, NCHW, batches of 100).

First both must give the same permutations, or, where units tie, the same objective to 1e-9; only
then are they timed, in turns, in one process. CPU seconds, over all threads, are noted beside those
of the wall clock, since they suffer less from other load. Peak memory is measured in fresh
processes, for a stream of images.

    python benchmarks/matching.py            # writes book/results/matching.{json,md}
    python benchmarks/matching.py --quick    # seconds: checks that it runs, ratios mean nothing
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, environment, random_network, write_report
from torch import Tensor, fx, nn
from torch.nn import functional as F

from lotperm.data import batches, datasets
from lotperm.errors import StorageError
from lotperm.science.assignment import assign
from lotperm.science.matching import match_activations
from lotperm.science.symmetry import Permutation, PermutationSpec, permute

BATCH = 100
SHAPE = (3, 32, 32)


def random_images(n: int, seed: int) -> Tensor:
    """Draw smoothed noise of unit variance, `(n, 3, 32, 32)`.

    Neighbours correlate, as in photographs.
    """
    noise = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    images = F.interpolate(noise, SHAPE[1:], mode="bilinear")
    return images / images.std()


def images_for(n: int) -> tuple[Tensor, str]:
    """Return CIFAR-10's training images if they were fetched, else random ones."""
    try:
        dataset = datasets.load("cifar10", train_size=n)
    except StorageError:
        return random_images(n, seed=0), "smoothed noise"
    return batches.normalize(dataset.train.inputs, dataset), "CIFAR-10"


# ------------------------------------------------------------------------------------------------- the peer


def prefixes(model: nn.Module, spec: PermutationSpec) -> dict[str, fx.GraphModule]:
    """Return for each group the sub-network that ends at its last activation.

    All of them share the modules of `model`.
    """
    graph = fx.Tracer().trace(model)
    relus = [
        n
        for n in graph.nodes
        if n.op == "call_module" and isinstance(model.get_submodule(n.target), nn.ReLU)
    ]
    # Both tracers meet the same activations in the same order.
    nodes = {node for nodes in spec.points.values() for node in nodes}
    ordered = sorted(nodes, key=lambda name: int(name.partition("_")[2] or 0))
    position = dict(zip(ordered, relus, strict=True))
    found = {}
    for group, candidates in spec.points.items():
        part = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            copies[node] = part.node_copy(node, copies.__getitem__)
            if node is position[candidates[-1]]:
                break
        part.output(copies[node])
        found[group] = fx.GraphModule(model, part)
    return found


def correlation(net_a: nn.Module, net_b: nn.Module, images: Tensor) -> Tensor:
    """Compute the Pearson correlation, unit of B by unit of A, from plain float64 moments."""
    count, sums = 0, [torch.zeros(()).double()] * 5
    for batch in torch.split(images, BATCH):
        x, y = (net(batch).movedim(1, -1).flatten(0, -2).double() for net in (net_a, net_b))
        new = (x.sum(0), y.sum(0), x.square().sum(0), y.square().sum(0), y.T @ x)
        sums = [total + more for total, more in zip(sums, new, strict=True)]
        count += len(x)
    mean_a, mean_b, square_a, square_b, cross = (total / count for total in sums)
    spread_a, spread_b = (
        (s - m.square()).clamp(min=0).sqrt() for s, m in ((square_a, mean_a), (square_b, mean_b))
    )
    spread = spread_b.outer(spread_a)
    return torch.where(spread > 1e-12, (cross - mean_b.outer(mean_a)) / spread, 0.0)


def layer_by_layer(
    a: nn.Module, b: nn.Module, images: Tensor, spec: PermutationSpec
) -> tuple[Permutation, dict[str, Tensor]]:
    """Match with one pass for each group; return the permutation and the correlations.

    Correlations are those of A permuted up to the group before.
    """
    a = copy.deepcopy(a)
    nets_a, nets_b = prefixes(a, spec), prefixes(b, spec)
    permutation, correlations = {}, {}
    with torch.inference_mode():
        for group in spec.sizes:
            correlations[group] = correlation(nets_a[group], nets_b[group], images)
            permutation[group] = assign(correlations[group])
            a.load_state_dict(permute(a.state_dict(), spec, {group: permutation[group]}))
    return permutation, correlations


def disagreement(
    found: Permutation, reference: Permutation, correlations: dict[str, Tensor]
) -> dict[str, float]:
    """Count the units matched differently, and find the objective's largest gap over groups."""
    moved, gap = 0, 0.0
    for group, matrix in correlations.items():
        rows = torch.arange(len(matrix))
        moved += int((found[group] != reference[group]).sum())
        gap = max(gap, (matrix[rows, reference[group]] - matrix[rows, found[group]]).mean().item())
    return {"units_moved": moved, "objective_gap": gap}


# ---------------------------------------------------------------------------------------------------- runs


def compare(images: Tensor, repeats: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Check the methods against each other, then time them in turns; return a row for each."""
    a, b = (random_network("resnet20", seed, images[:500], 10) for seed in (1, 2))
    spec = PermutationSpec.trace(a, images[:2])
    reference, correlations = layer_by_layer(a, b, images, spec)
    batches = torch.split(images, BATCH)
    methods: dict[str, Callable[[], Permutation]] = {
        "layer by layer": lambda: layer_by_layer(a, b, images, spec)[0],
        "one pass": partial(match_activations, a, b, batches, spec),
        "one pass, bfloat16": partial(match_activations, a, b, batches, spec, dtype=torch.bfloat16),
    }
    checks = {
        name: disagreement(method(), reference, correlations) for name, method in methods.items()
    }
    gate = checks["one pass"]
    if gate["units_moved"] and gate["objective_gap"] > 1e-9:
        raise SystemExit(
            f"matching.py: one pass disagrees with layer by layer: {gate}; nothing was timed."
        )

    seconds: dict[str, list[float]] = {name: [] for name in methods}
    cpu: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(repeats):
        for name, method in methods.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            method()
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
            print(f"repeat {repeat + 1}/{repeats}: {name}: {seconds[name][-1]:.2f} s", flush=True)
    slow = seconds["layer by layer"]
    rows = [
        {
            "method": name,
            "best_s": min(times),
            "median_s": statistics.median(times),
            "ratio_best": min(slow) / min(times),
            "ratio_median": statistics.median(slow) / statistics.median(times),
            "ratio_cpu_best": min(cpu["layer by layer"]) / min(cpu[name]),
            **checks[name],
            "units": sum(spec.sizes.values()),
            "all_s": times,
            "all_cpu_s": cpu[name],
        }
        for name, times in seconds.items()
    ]
    scores = {
        group: correlations[group][torch.arange(n), reference[group]].mean().item()
        for group, n in spec.sizes.items()
    }
    return rows, {
        "groups": len(spec.sizes),
        "mean_matched_correlation": statistics.mean(scores.values()),
    }


def match_stream(samples: int) -> None:
    """Match on images that are made batch by batch; print this process's peak memory in KiB."""

    def stream() -> Iterator[Tensor]:
        for seed in range(samples // BATCH):
            yield random_images(BATCH, seed)

    first = random_images(BATCH, 0)
    a, b = (random_network("resnet20", seed, first, 10) for seed in (1, 2))
    match_activations(a, b, stream(), PermutationSpec.trace(a, first[:2]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak_memory(samples: Sequence[int], threads: int) -> dict[str, float]:
    """Measure the peak memory (MiB) of matching in a fresh process, by number of samples."""
    peaks = {}
    for n in samples:
        command = [sys.executable, __file__, "--stream", str(n), "--threads", str(threads)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[str(n)] = int(output.split()[-1]) / 1024
    return peaks


def table(result: dict[str, Any]) -> str:
    """Write the result as Markdown."""
    machine, memory = result["machine"], result["peak_memory_mib"]
    lines = [
        "# Activation matching of two ResNet20x1: one pass against layer by layer",
        "",
        f"`{result['command']}`, random weights with calibrated batch norm, {result['images']} images "
        f"({result['pixels']}), {result['repeats']} interleaved repetitions,",
        f"on {machine['cpu']}, {machine['threads']} threads, PyTorch {machine['torch']}, "
        f"load {machine['load_1min']:.1f} before and {result['load_1min_after']:.1f} after.",
        "",
        "| method | best s | median s | times faster: best | median | CPU | units matched otherwise | gap |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["methods"]:
        lines.append(
            f"| {row['method']} | {row['best_s']:.2f} | {row['median_s']:.2f} | {row['ratio_best']:.1f} "
            f"| {row['ratio_median']:.1f} | {row['ratio_cpu_best']:.1f} "
            f"| {row['units_moved']} of {row['units']} | {row['objective_gap']:.1e} |"
        )
    lines += ["", "| streamed images | peak memory of the process (MiB) |", "| --- | --- |"]
    lines += [f"| {n} | {peak:.0f} |" for n, peak in memory.items()]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if the methods agree and memory grows by at most 10 %."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few images, one repetition")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.stream is not None:
        match_stream(args.stream)
        return 0
    n, repeats, samples = (
        (60, 1, (100, 200)) if args.quick else (args.images, args.repeats, (1000, 10_000))
    )
    images, pixels = images_for(n)
    machine = environment()
    rows, facts = compare(images, repeats)
    peaks = peak_memory(samples, args.threads)
    options = f" --images {n} --threads {args.threads}" if not args.quick else " --quick"
    result = {
        "what": "activation matching of two ResNet20x1, one pass against layer by layer",
        "command": f"python benchmarks/matching.py{options}",
        "images": n,
        "pixels": pixels,
        "batch": BATCH,
        "repeats": repeats,
        **facts,
        "methods": rows,
        "peak_memory_mib": peaks,
        "machine": machine,
        "load_1min_after": environment()["load_1min"],
    }
    write_report(args.out / "matching", result, table(result))
    low, high = peaks.values()
    if high > 1.1 * low:
        print(
            f"matching.py: peak memory grew from {low:.0f} to {high:.0f} MiB, expected within 10 %."
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
