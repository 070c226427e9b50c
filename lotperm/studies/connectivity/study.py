"""Linear mode connectivity: loss along the lines from A to B and from π(A) to B."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.config.parameters import PARAMETERS
from lotperm.errors import ParameterError, shown, unknown_name
from lotperm.science.barrier import REPAIRS, Repair
from lotperm.science.symmetry import permute
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Source, Task
from lotperm.store.workspace import Workspace
from lotperm.studies.lines import STATISTICS, Lines, line_work
from lotperm.studies.stages import dense, halves, imp_rounds, match
from lotperm.studies.study import Options, Study, option
from lotperm.studies.workbench import Workbench


def line_positions(points: int) -> list[float]:
    """List positions α on the line from one network to another, evenly spaced from 0 to 1.

    Parameters
    ----------
    points : int
        Their number: odd, so that the middle of the line is one of them.

    Raises
    ------
    ParameterError
        If the number is even, below 3, or not whole.
    """
    # True is an int in Python, but no number of points.
    if isinstance(points, bool) or not isinstance(points, int) or points < 3 or points % 2 == 0:
        raise ParameterError(
            f"points is {shown(points)}; expected an odd number, 3 or more, so that the middle is "
            "one of them."
        )
    return [i / (points - 1) for i in range(points)]


def pruning_rounds(rounds: int) -> list[int]:
    """List the rounds of IMP whose barrier a page shows: 0 (dense), every second one, the last."""
    return sorted({0, *range(2, rounds, 2), rounds})


def connectivity(
    bench: Workbench,
    alphas: Sequence[float],
    repairs: Sequence[Repair] = REPAIRS,
    *,
    replicates: int | None = None,
    round_number: int = 0,
    statistics: int = STATISTICS,
) -> Task:
    """Evaluate loss and accuracy on the test split along the lines A–B and π(A)–B.

    Parameters
    ----------
    bench : Workbench
        The experiment's workbench.
    alphas : sequence of float
        Positions on the line; 0 is A.
    repairs : sequence of {"none", "bn", "repair"}
        Repairs of the statistics of interpolated networks (see
        `lotperm.science.barrier.loss_barrier`).
    replicates : int, optional
        Number of seeds, the first ones; all if None.
    round_number : int
        0 takes the dense A; r takes A after the r-th round of IMP towards the first sparsity.
    statistics : int
        Training examples for the repairs.
    """
    experiment = bench.experiment
    if replicates is not None and replicates < 1:
        raise ParameterError(
            f"replicates is {replicates}; expected 1 or more, or nothing for all seeds."
        )
    seeds = experiment.seeds[:replicates]
    pruned = None
    # The rounds of the first sparsity and rewind epoch represent all, since only one series of
    # barriers is shown.
    if round_number:
        rounds = imp_rounds(bench, experiment.sparsities[0], experiment.rewind_epochs[0])
        pruned = rounds[round_number - 1]

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        lines = Lines(bench, statistics)
        weights_a, weights_b = halves(inputs.replicates("dense", "final"))
        # IMP's own solution: the weights that its mask removed are 0.
        if inputs.has("pruned"):
            weights_a = inputs.replicates("pruned", "final")
        # The permutation was found for dense A and B; it moves A after rounds of pruning as well.
        permutations = inputs.replicates("match", "permutation")
        rows = []
        # Not strict: `replicates` may ask for the first few seeds only.
        for i, (seed, permutation) in enumerate(zip(seeds, permutations, strict=False)):
            moved = permute(weights_a[i], bench.spec, permutation)
            # Both lines end in the same B, and are evaluated on the same examples.
            for ends, a in (("as trained", weights_a[i]), ("permuted", moved)):
                found = lines.between(a, weights_b[i], alphas, repairs)
                rows += [{"seed": seed, "ends": ends, **row} for row in found]
        return StageResult({"rows": rows}, {}, bench.meta())

    return bench.task(
        "connectivity",
        inputs={
            "dense": Source(dense(bench).stage, ("final",)),
            "match": Source(match(bench), ("permutation",)),
            "pruned": Source(pruned, ("final",)) if pruned else None,
        },
        settings={
            "alphas": list(alphas),
            "repairs": list(repairs),
            # These may be fewer than the experiment's seeds.
            "seeds": list(seeds),
            "statistics": statistics,
        },
        label="loss along the line from A to B",
        work=line_work(experiment.data, 2 * len(seeds), alphas, repairs, statistics),
        compute=compute,
    )


def connectivity_table(task: Task) -> pd.DataFrame:
    """Return what a task of `connectivity` found.

    Returns
    -------
    DataFrame
        Columns seed, ends ("as trained" or "permuted"), alpha, repair, loss (nats), accuracy
        (fraction).
    """
    # All lines are evaluated on the test split, so its name says nothing.
    return pd.DataFrame(task.results["rows"]).drop(columns="split")


def _parse_repairs(name: str, value: Any) -> tuple[Repair, ...]:
    """Check the names of repairs; a single one may be given without a list."""
    given = list(value) if isinstance(value, list | tuple) else [value]
    for repair in given:
        if repair not in REPAIRS:
            raise unknown_name("repair", str(repair), REPAIRS)
    return tuple(given)


@dataclass(frozen=True)
class ConnectivityOptions(Options):
    """Options of the lines."""

    alphas: tuple[float, ...] = option(
        tuple(i / 10 for i in range(11)),
        # Read as sparsities are: fractions, one or several.
        PARAMETERS["sparsity"].parse,
        "positions on the line from A to B, from 0 to 1",
    )
    repairs: tuple[Repair, ...] = option(
        REPAIRS, _parse_repairs, "statistics of the networks on the line: none, bn, repair"
    )
    replicates: int | None = option(
        None, PARAMETERS["epochs"].parse, "number of seeds with lines: the first ones"
    )

    def completed(self, experiment: Experiment) -> ConnectivityOptions:
        """Return the options as they are, their values checked."""
        if self.replicates is not None and self.replicates < 1:
            raise ParameterError(f"replicates is {self.replicates}; expected 1 or more.")
        # Two ends and a middle: fewer positions have no barrier.
        if len(self.alphas) < 3 or not all(0 <= a <= 1 for a in self.alphas):
            raise ParameterError(
                f"alphas is {list(self.alphas)}; expected three numbers or more from 0 to 1."
            )
        for name, values in (("alphas", self.alphas), ("repairs", self.repairs)):
            if not values or len(set(values)) != len(values):
                raise ParameterError(
                    f"{name} is {list(values)}; expected one value or more, none twice."
                )
        return self


class Connectivity(Study[ConnectivityOptions]):
    """Compare the barrier between A and B with that between π(A) and B."""

    name = "connectivity"
    words: ClassVar[dict[str, str]] = {"connectivity": "connectivity"}
    Options = ConnectivityOptions
    columns = ("seed", "ends", "repair", "alpha")

    def tasks(self, bench: Workbench, options: ConnectivityOptions) -> list[Task]:
        """List the lines of the dense networks."""
        return [connectivity(bench, options.alphas, options.repairs, replicates=options.replicates)]

    def table(self, bench: Workbench, options: ConnectivityOptions) -> pd.DataFrame:
        """Return the losses and accuracies on the lines, as `connectivity_table`."""
        (task,) = self.tasks(bench, options)
        return connectivity_table(task)

    @property
    def page_parameters(self) -> tuple[str, ...]:
        """Names of the page's parameters: the number of points stands for their positions."""
        return ("points", "replicates")

    def page_options(self, **parameters: Any) -> ConnectivityOptions:
        """Make the options of a page: ``points`` on the line, 11 by default; 3 ``replicates``."""
        points, replicates = parameters.pop("points", 11), parameters.pop("replicates", 3)
        options = super().page_options(replicates=replicates, **parameters)
        return dataclasses.replace(options, alphas=tuple(line_positions(points)))

    def of_page(self, bench: Workbench, options: ConnectivityOptions) -> ConnectivityOptions:
        """Return the options with no more replicates than there are seeds."""
        seeds = len(bench.experiment.seeds)
        return dataclasses.replace(
            options, replicates=min(options.replicates or seeds, seeds)
        ).completed(bench.experiment)

    def after_rounds(self, bench: Workbench, options: ConnectivityOptions) -> dict[int, Task]:
        """List the barriers after rounds of IMP: only ends and middle, batch norm reset."""
        e = bench.experiment
        total = len(imp_rounds(bench, e.sparsities[0], e.rewind_epochs[0]))
        return {
            # A barrier needs only the ends and the middle.
            r: connectivity(
                bench,
                line_positions(3),
                ["bn"],
                replicates=options.replicates,
                round_number=r,
            )
            for r in pruning_rounds(total)
        }

    def chapter(self, benches: Sequence[Workbench], options: ConnectivityOptions) -> list[Task]:
        """List the lines at every width, and those after rounds of IMP at the first."""
        asked: list[Task] = []
        for number, bench in enumerate(benches):
            chosen = self.of_page(bench, options)
            asked += self.tasks(bench, chosen)
            # The page shows rounds of pruning only at its first width; each of them is a stage.
            if number == 0:
                asked += self.after_rounds(bench, chosen).values()
        return asked


STUDY = Connectivity()
