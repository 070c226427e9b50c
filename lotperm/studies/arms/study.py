"""The method: three sparse arms at every sparsity and rewind epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.config.parameters import PARAMETERS
from lotperm.errors import ParameterError
from lotperm.store.tasks import Plain, Task, chain, provenance
from lotperm.studies import tickets
from lotperm.studies.arms.arms import ARMS, PAPER_ARMS
from lotperm.studies.arms.training import train_arms
from lotperm.studies.connectivity.study import connectivity, line_positions
from lotperm.studies.results import Results
from lotperm.studies.stages import dense, ticket
from lotperm.studies.study import Options, Study, cells, option
from lotperm.studies.workbench import Workbench

TICKET_BYTES = 2**23
"""Largest total size of a record's tickets in bytes; larger ones aren't published."""


def sparse(bench: Workbench, sparsity: float, rewind_epoch: int) -> Task:
    """Train the three arms of every replicate; results are ordered by arm, then by seed."""
    arms = [ARMS[name] for name in PAPER_ARMS]
    return train_arms(bench, "sparse", arms, sparsity, rewind_epoch)


def barrier(bench: Workbench) -> Task:
    """Evaluate ends and middle of the line from A to B, as trained and permuted, batch norm reset."""
    return connectivity(bench, line_positions(3), ["bn"])


def run(bench: Workbench) -> Results:
    """Compute or load the dense networks, IMP's and the arms of every cell; gather the results."""
    experiment = bench.experiment
    rows: list[Plain] = []
    curves: list[Plain] = []

    def gather(stage: Task, methods: Sequence[str], sparsity: float, k: int | None) -> None:
        found = gathered(stage, methods, experiment.seeds, sparsity, k)
        rows.extend(found[0])
        curves.extend(found[1])

    # Dense networks are in the table once: they serve every sparsity and rewind epoch.
    gather(dense(bench).stage, ("dense_a", "dense_b"), 0.0, None)
    for sparsity, k in cells(experiment):
        gather(sparse(bench, sparsity, k), PAPER_ARMS, sparsity, k)
        # The last round's networks are IMP's own solution, listed beside the arms. Other sources of
        # masks train none.
        if experiment.pruning.mask == "imp":
            gather(ticket(bench, sparsity, k), ("imp",), sparsity, k)
    table, curve_table = pd.DataFrame(rows), pd.DataFrame(curves)
    for frame in (table, curve_table):
        # Nullable integers, as dense networks have no rewind epoch.
        frame["rewind_epoch"] = frame["rewind_epoch"].astype("Int64")
    return Results(experiment, table, curve_table, provenance(tasks(bench)))


def gathered(
    stage: Task, methods: Sequence[str], seeds: Sequence[int], sparsity: float, k: int | None
) -> tuple[list[Plain], list[Plain]]:
    """Gather what a stage found, as rows of the table and of the curves.

    Parameters
    ----------
    stage : Task
        A training; its networks are ordered by method, then by seed.
    methods, seeds : sequence
        The methods and the seeds of its networks.
    sparsity : float
        Fraction of the prunable weights that is removed.
    k : int or None
        Rewind epoch, if there is one.
    """
    rows: list[Plain] = []
    curves: list[Plain] = []
    # Epochs are strings in JSON, and strings sort 10 before 9.
    evaluations = {int(e): metrics for e, metrics in stage.results["evaluations"].items()}
    last = max(evaluations)
    for i, (method, seed) in enumerate((m, s) for m in methods for s in seeds):
        who = {"seed": seed, "method": method, "sparsity": sparsity, "rewind_epoch": k}
        for metric in evaluations[last]:
            name = f"test_{metric}"
            rows.append({**who, "metric": name, "value": evaluations[last][metric][i]})
            curves += [
                {**who, "epoch": epoch, "metric": name, "value": metrics[metric][i]}
                for epoch, metrics in sorted(evaluations.items())
            ]
        curves += [
            {**who, "epoch": epoch, "metric": "train_loss", "value": losses[i]}
            # A loss belongs to the epoch that it was seen in, so the first one is 1; evaluations
            # begin at 0.
            for epoch, losses in enumerate(stage.results["train_loss"], 1)
        ]
    return rows, curves


def tasks(bench: Workbench) -> list[Task]:
    """List the tasks behind `run` in an order in which they can be computed."""
    return chain(sparse(bench, *cell) for cell in cells(bench.experiment))


@dataclass(frozen=True)
class ArmsOptions(Options):
    """Options of the method's table."""

    # Seeds of one stage are trained together, so one more seed makes another stage. Divided into
    # groups, the finished groups remain.
    together: int | None = option(
        None,
        PARAMETERS["epochs"].parse,
        "this many seeds share each stage, so that the table can get more seeds later",
    )


class Arms(Study[ArmsOptions]):
    """Compare LTH, permuted and naive at every sparsity and rewind epoch."""

    name = "table"
    words: ClassVar[dict[str, str]] = {"sparse": "sparse arms"}
    Options = ArmsOptions
    columns = ("seed", "method", "sparsity", "rewind_epoch", "metric")
    publishes = True

    def split(self, experiment: Experiment, options: ArmsOptions) -> list[Experiment]:
        """Divide the seeds into groups that are trained together."""
        size = options.together
        if size is None:
            return [experiment]
        if size < 1:
            raise ParameterError(f"together is {size}; expected 1 or more.")
        return [
            # The last group may be smaller.
            dataclasses.replace(experiment, seeds=experiment.seeds[first : first + size])
            for first in range(0, len(experiment.seeds), size)
        ]

    def tasks(self, bench: Workbench, options: ArmsOptions) -> list[Task]:
        """List the arms of every sparsity and rewind epoch."""
        return [sparse(bench, *cell) for cell in cells(bench.experiment)]

    def chapter(self, benches: Sequence[Workbench], options: ArmsOptions) -> list[Task]:
        """List the arms at every width; a page that compares widths also asks how they align."""
        asked = super().chapter(benches, options)
        return [*asked, *map(barrier, benches)] if len(benches) > 1 else asked

    def table(self, bench: Workbench, options: ArmsOptions) -> pd.DataFrame:
        """Return the accuracies and losses, as `Results.table`."""
        return run(bench).table

    def publish(
        self, benches: Sequence[Workbench], options: ArmsOptions, folder: Path
    ) -> str | None:
        """Write the tickets, unless they are too large or the store lacks what they hold."""
        return tickets.publish(
            benches,
            folder / "tickets",
            TICKET_BYTES,
            made_of=[task for bench in benches for task in self.tasks(bench, options)],
        )

    def record(self, benches: Sequence[Workbench], options: ArmsOptions, folder: Path) -> None:
        """Write the table with its curves and its summary; groups of seeds become one."""
        Results.join([run(bench) for bench in benches]).save(folder)


STUDY = Arms()
