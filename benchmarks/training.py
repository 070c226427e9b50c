"""Time training 8 MLPs at once against a plain PyTorch loop over the 8.

The competitors run in one process, interleaved, on MNIST-1D with a 90 % mask each:

- plain: the ordinary way. One ``nn.Module`` at a time with ``torch.nn.utils.prune``'s hooks, a DataLoader,
  ``torch.optim.SGD`` and ``loss.item()``, at whichever thread count is fastest here;
- lotperm: `lotperm.engine.training.train` of all members at once: eager or compiled, float32 or bfloat16.

First comes a gate: all see the same examples in the same order from the same weights, and must end
at the same accuracy. Then one epoch is timed, best and median of several rounds. This writes
book/results/training.json and .md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, environment, write_report
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from lotperm.config.choices import Precision
from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.batches import normalize
from lotperm.data.dataset import Dataset
from lotperm.data.datasets import load
from lotperm.engine.models import Weights, build, initialize
from lotperm.engine.partition import partition
from lotperm.engine.run import Run
from lotperm.engine.runtime import Runtime
from lotperm.engine.schedule import draw_order, learning_rate
from lotperm.engine.training import train
from lotperm.parallel.threads import workers
from lotperm.science.sparsity import Mask, full_mask, magnitude_prune, prunable_parameters

HIDDEN = (128, 128)


def factory() -> nn.Module:
    """Make the MLP [40, 128, 128, 10]."""
    return build("mlp", input_shape=(1, 40), classes=10, hidden=HIDDEN)


class Plain:
    """The ordinary training of one masked network."""

    def __init__(
        self, start: Weights, mask: Mask, data: Dataset, recipe: Recipe, seeds: Seeds
    ) -> None:
        self.data, self.recipe, self.seeds = data, recipe, seeds
        self.model = factory()
        self.model.load_state_dict(start)
        for name, kept in mask.items():
            prune.custom_from_mask(
                self.model.get_submodule(name.removesuffix(".weight")), "weight", kept
            )
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.inputs = normalize(data.train.inputs, data)

    def epoch(self, epoch: int) -> None:
        """Train for one pass over the training set."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, epoch)
        order = draw_order(len(self.inputs), self.seeds.order, epoch).tolist()
        examples = TensorDataset(self.inputs, self.data.train.targets)
        loader = DataLoader(
            examples, batch_size=self.recipe.batch_size, sampler=order, drop_last=True
        )
        self.model.train()
        total = 0.0
        for x, y in loader:
            loss = nn.functional.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()

    def accuracy(self) -> float:
        """Return the accuracy on the test split."""
        self.model.eval()
        with torch.no_grad():
            logits = self.model(normalize(self.data.test.inputs, self.data))
        return (logits.argmax(1) == self.data.test.targets).float().mean().item()


def train_epoch(run: Run, epoch: int) -> None:
    """Do one epoch of lotperm's training, as `train` does it."""
    run.advance(epoch, lambda: False, None)
    run.finish_epoch()


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one round of little, to see that it runs"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--members", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rounds, members = (1, [2]) if options.quick else (options.rounds, options.members)
    gate_epochs = 2 if options.quick else 40
    data, cores = load("mnist1d"), torch.get_num_threads()
    most = max(*members, 8) if not options.quick else 2
    starts = [initialize(factory, i) for i in range(most)]
    seeds = [Seeds.of("benchmark", i) for i in range(most)]
    full = full_mask(starts[0], prunable_parameters(factory()))
    masks = [magnitude_prune(start, full, 0.9, scope="layerwise") for start in starts]
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    modes = {
        f"{precision}{', compiled' if compiled else ''}": (precision, compiled)
        for precision in precisions
        for compiled in ((False,) if options.quick else (False, True))
    }

    # The gate: the same accuracy.
    gate = min(8, most)
    recipe = Recipe(epochs=gate_epochs, lr=0.08)
    plain_accuracy = []
    for i in range(gate):
        plain = Plain(starts[i], masks[i], data, recipe, seeds[i])
        for epoch in range(gate_epochs):
            plain.epoch(epoch)
        plain_accuracy.append(plain.accuracy())
    accuracy: dict[str, list[float]] = {"plain loop": plain_accuracy}
    for mode, (precision, compiled) in modes.items():
        half = Recipe(epochs=gate_epochs, lr=0.08, precision=precision)
        result = train(
            factory(),
            starts[:gate],
            data,
            half,
            seeds[:gate],
            masks=masks[:gate],
            runtime=Runtime(compile=compiled),
        )
        accuracy[mode] = result.evaluations[gate_epochs]["accuracy"]
        difference = np.mean(accuracy[mode]) - np.mean(plain_accuracy)
        if abs(difference) > 0.02:
            raise SystemExit(
                f"{mode}: accuracy differs by {difference:+.3f} from the plain loop's; nothing was timed."
            )

    # Timed interleaved, so that a busy moment of the machine hits all.
    recipes = {p: Recipe(epochs=1000, lr=0.08, precision=p) for p in precisions}
    steps = len(data.train.targets) // 128
    times: dict[tuple[str, int], list[float]] = {}
    plain = Plain(starts[0], masks[0], data, recipes["float32"], seeds[0])
    prepared = {}
    for count in members:
        for mode, (precision, compiled) in modes.items():
            runtime = Runtime(compile=compiled)
            parts, threads = partition(
                factory(), (128, *data.input_shape), count, precision=precision, runtime=runtime
            )
            runs = [
                Run(
                    factory(),
                    weights=starts[part],
                    data=data,
                    recipe=recipes[precision],
                    seeds=seeds[part],
                    masks=masks[part],
                    runtime=runtime,
                )
                for part in parts
            ]
            prepared[mode, count] = (runs, threads)
            for run in runs:
                run.prepare(threads)
            with workers(threads) as each:
                each(partial(train_epoch, epoch=0), runs)
            times[mode, count] = []
    for alone in sorted({1, cores}):
        times[f"plain loop, {alone} threads", 1] = []
    for round_number in range(1, rounds + 1):
        for alone in sorted({1, cores}):
            torch.set_num_threads(alone)
            begin = time.perf_counter()
            plain.epoch(round_number)
            times[f"plain loop, {alone} threads", 1].append(time.perf_counter() - begin)
        torch.set_num_threads(cores)
        for (mode, count), (runs, threads) in prepared.items():
            with workers(threads) as each:
                begin = time.perf_counter()
                for epoch in range(round_number, round_number + 3):
                    each(partial(train_epoch, epoch=epoch), runs)
                times[mode, count].append((time.perf_counter() - begin) / 3 / count)

    # Per model-step: seconds of one step of one member.
    best_plain = min(
        (name for name, _ in times if name.startswith("plain")), key=lambda n: min(times[n, 1])
    )
    reference = times[best_plain, 1]
    rows = []
    for (name, count), seconds in times.items():
        ratios = [r / s for r, s in zip(reference, seconds, strict=True)]
        rows.append(
            {
                "peer": name,
                "members": count,
                "model_steps_per_second_best": steps / min(seconds),
                "model_steps_per_second_median": steps / statistics.median(seconds),
                "ratio_best": min(reference) / min(seconds),
                "ratio_median": statistics.median(ratios),
            }
        )
    report = {
        "what": "MLP [40, 128, 128, 10], batch 128, MNIST-1D, 90 % masks, per model-step",
        "command": "python benchmarks/training.py",
        "reference": best_plain,
        "rounds": rounds,
        "accuracy": {
            name: {"mean": float(np.mean(a)), "per_member": a} for name, a in accuracy.items()
        },
        "rows": rows,
        "machine": environment(),
    }
    write_report(options.out / "training", report, _table(report))


def _table(report: dict[str, Any]) -> str:
    machine = report["machine"]
    lines = [
        f"# Training many networks at once: {report['what']}",
        "",
        f"`{report['command']}`, {report['rounds']} interleaved rounds, on {machine['cpu']},",
        f"{machine['threads']} threads, PyTorch {machine['torch']}, load {machine['load_1min']:.1f}.",
        f"Ratios are against the {report['reference']} (the faster of its thread counts).",
        "Ratio of medians: median over rounds of the ratio within a round.",
        "",
        "| peer | members | model-steps/s, best | median | ratio, best | ratio, median |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in report["rows"]:
        lines.append(
            f"| {r['peer']} | {r['members']} | {r['model_steps_per_second_best']:,.0f} | "
            f"{r['model_steps_per_second_median']:,.0f} | {r['ratio_best']:.1f} | {r['ratio_median']:.1f} |"
        )
    lines += ["", "Final test accuracy, mean of the first 8 members after 40 epochs (percent):", ""]
    lines += [f"- {name}: {100 * a['mean']:.2f}" for name, a in report["accuracy"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
