"""The loss barrier between two independently trained networks, before and after alignment.

Two ResNet20x1 are trained on CIFAR-10's real pixels for a few epochs from different
initializations. On the straight line between them the accuracy collapses; between π(A) and B, with
batch-norm statistics recomputed, it must collapse clearly less (Ainsworth et al. 2023; Jordan et
al. 2023). This writes book/results/barrier.json and .md.

    python benchmarks/barrier.py             # needs: lotperm data fetch cifar10
    python benchmarks/barrier.py --quick     # 1-D twins on MNIST-1D: only to see that it runs
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from common import RESULTS, environment, write_report

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.batches import Batches
from lotperm.data.datasets import load
from lotperm.engine.models import build, initialize
from lotperm.engine.runtime import Runtime, tqdm_bar
from lotperm.engine.training import train
from lotperm.science.barrier import barrier_height, loss_barrier
from lotperm.science.matching import match_activations
from lotperm.science.symmetry import PermutationSpec, permute

ALPHAS = [i / 10 for i in range(11)]


def main() -> None:
    """Train and match two networks, measure the barrier, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1-D twins on MNIST-1D, one epoch")
    parser.add_argument("--train-size", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.quick:
        data, epochs, augmentation = load("mnist1d", train_size=500, test_size=200), 1, "none"
    else:
        data, epochs, augmentation = (
            load("cifar10", train_size=options.train_size),
            options.epochs,
            "flip_crop",
        )

    def factory() -> torch.nn.Module:
        return build("resnet20", input_shape=data.input_shape, classes=10)

    recipe = Recipe(epochs=epochs, lr=0.08, augment=augmentation)  # type: ignore[arg-type]
    seeds = [Seeds.of(name, 0) for name in ("barrier_a", "barrier_b")]
    start = [initialize(factory, s.init) for s in seeds]
    trained = train(
        factory(), start, data, recipe, seeds, runtime=Runtime(progress=tqdm_bar), label="A and B"
    )
    a, b = trained.weights

    model = factory()
    train_batches = list(Batches(data, data.train))[:10]
    inputs = [x for x, _ in train_batches]
    spec = PermutationSpec.trace(model, inputs[0][:2])
    matching = match_activations(a, b, inputs, spec)
    ends = {"A and B": a, "π(A) and B": permute(a, spec, matching)}
    test = list(Batches(data, data.test))
    curves = pd.concat(
        [
            loss_barrier(
                model, one, b, {"test": test}, ALPHAS, repair=repair, statistics=inputs
            ).assign(between=words)
            for words, one in ends.items()
            for repair in ("none", "bn", "repair")
        ]
    )
    heights = pd.concat(
        [
            barrier_height(curve).assign(between=words)
            for words, curve in curves.groupby("between", sort=False)
        ]
    )
    middle = curves[curves["alpha"] == 0.5].set_index(["between", "repair"])["accuracy"]
    rows = [
        {**row, "midpoint_accuracy": float(middle[row["between"], row["repair"]])}
        for row in heights.to_dict("records")
    ]
    report = {
        "command": "python benchmarks/barrier.py",
        "what": f"two ResNet20x1 on {data.name}, {len(data.train.targets):,} training examples, {epochs} epochs",
        "end_accuracy": trained.evaluations[epochs]["accuracy"],
        "matched_correlation": matching.scores,
        "rows": rows,
        "curves": curves.to_dict("records"),
        "machine": environment(),
    }
    write_report(options.out / "barrier", report, _table(report))


def _table(report: dict[str, Any]) -> str:
    ends = " and ".join(f"{100 * accuracy:.1f}" for accuracy in report["end_accuracy"])
    lines = [
        f"# Barrier between {report['what']}",
        "",
        f"`{report['command']}`. Test accuracy of A and B: {ends} %. `repair` says what is done to the network on the",
        "line before it is evaluated: nothing, batch-norm statistics recomputed (`bn`), or REPAIR. Accuracy barrier:",
        "mean of the ends less the midpoint, in points; the ends are repaired in the same way as the midpoint.",
        "Loss barrier: at the worst point. One pair of networks.",
        "",
        "| line between | repair | midpoint accuracy (%) | accuracy barrier | loss barrier (nats) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for r in report["rows"]:
        lines.append(
            f"| {r['between']} | {r['repair']} | {100 * r['midpoint_accuracy']:.1f} | "
            f"{100 * r['accuracy_barrier']:.1f} | {r['loss_barrier']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
