"""Compare the accuracies of the fast ways of training with the ordinary one, paired over seeds.

The same masked networks are trained from the same weights on the same examples in the same order:
one at a time by a plain loop in float32 (`engine.Plain`: ``nn.Module``, pruning hooks,
``torch.optim.SGD``), and all at once by `lotperm.engine.training.train` in every mode. What is
compared is the test accuracy of each network, seed by seed. The data set is MNIST-1D, the networks
an MLP and the one-dimensional twin of a narrow ResNet, with convolutions and batch norm.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, environment, write_report
from engine import Network, Plain
from torch import Tensor

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.batches import normalize
from lotperm.data.dataset import Dataset
from lotperm.data.datasets import load
from lotperm.engine.models import Weights, initialize
from lotperm.engine.runtime import Runtime
from lotperm.engine.schedule import draw_order, learning_rate
from lotperm.engine.training import train
from lotperm.science.sparsity import Mask, full_mask, magnitude_prune, prunable_parameters
from lotperm.science.statistics import paired

SIGNAL = (1, 40)
NETWORKS = (Network("mlp", "mlp", 1.0, SIGNAL), Network("resnet8x0.5, 1-D", "resnet8", 0.5, SIGNAL))
# The peak learning rate. With 0.08 a ResNet whose sums are rounded differently ends anywhere from
# 43 to 88 percent, which hides any difference.
LR = {"mlp": 0.08, "resnet8": 0.02}
SPARSITY = 0.9


def plain_accuracy(
    network: Network,
    start: Weights,
    mask: Mask,
    data: Dataset,
    recipe: Recipe,
    seeds: Seeds,
    device: str,
) -> float:
    """Train one network in the ordinary way; return its test accuracy."""
    plain = Plain(network, start, mask, recipe, device)
    inputs = normalize(data.train.inputs, data)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in (
            draw_order(len(inputs), seeds.order, epoch).to(device).split(recipe.batch_size)[:steps]
        ):
            yield inputs[rows], data.train.targets[rows]

    steps = len(inputs) // recipe.batch_size
    for epoch in range(recipe.epochs):
        for group in plain.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        plain.batches = batches(epoch)
        for _ in range(steps):
            plain.step()
    plain.model.eval()
    with torch.no_grad():
        logits = plain.model(normalize(data.test.inputs, data))
    return (logits.argmax(1) == data.test.targets).float().mean().item()


def compare(network: Network, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train in every way; return one row for each."""
    device, count = options.device, options.seeds
    data = load("mnist1d").to(device)
    recipe = Recipe(epochs=options.epochs, lr=LR[network.model])
    starts = [initialize(network.make, i) for i in range(count)]
    seeds = [Seeds.of("accuracy", i) for i in range(count)]
    full = full_mask(starts[0], prunable_parameters(network.make()))
    masks = [magnitude_prune(start, full, SPARSITY, scope="layerwise") for start in starts]
    plain = [
        plain_accuracy(network, *each, device=device)
        for each in zip(starts, masks, [data] * count, [recipe] * count, seeds, strict=True)
    ]
    rows: list[dict[str, Any]] = [
        {"network": network.name, "mode": "plain loop", "accuracy": plain}
    ]
    for precision in ("float32", "bfloat16"):
        for compile in (False,) if options.quick else (False, True):
            trained = train(
                network.make(),
                starts,
                data,
                replace(recipe, precision=precision),
                seeds,
                masks=masks,
                runtime=Runtime(device=device, compile=compile),
            )
            found = trained.evaluations[recipe.epochs]["accuracy"]
            mode = f"{precision}{', compiled' if compile else ''}"
            difference = paired(found, plain)._asdict()
            rows.append(
                {"network": network.name, "mode": mode, "accuracy": found, "difference": difference}
            )
    return rows


def main() -> None:
    """Compare and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="an epoch of two seeds, to see that it runs"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.epochs = 2, 1
    rows = [row for network in NETWORKS for row in compare(network, options)]
    command = f"python benchmarks/accuracy.py --seeds {options.seeds} --epochs {options.epochs}"
    report = {"command": command, "seeds": options.seeds, "rows": rows, "machine": environment()}
    write_report(
        options.out / ("accuracy" if options.device == "cpu" else "accuracy_gpu"),
        report,
        table(report),
    )


def table(report: dict[str, Any]) -> str:
    """Write the report as Markdown."""
    machine = report["machine"]
    lines = [
        "# The fast ways of training against a plain loop: test accuracy",
        "",
        f"`{report['command']}`, on {machine['cpu']}, {machine['threads']} threads, PyTorch {machine['torch']}. "
        f"MNIST-1D, {SPARSITY:.0%} of the weights removed, {report['seeds']} seeds. Percent; differences from the "
        "plain loop in points, paired over seeds, with the 95 % interval.",
        "",
        "| network | way | accuracy | difference | p |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        mean = 100 * sum(row["accuracy"]) / len(row["accuracy"])
        d = row.get("difference")
        words = (
            f"{100 * d['mean']:+.2f} ± {100 * d['half_width']:.2f} | {d['p_value']:.2g}"
            if d
            else " | "
        )
        lines.append(f"| {row['network']} | {row['mode']} | {mean:.2f} | {words} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
