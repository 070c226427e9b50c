"""The paper's Figure 4: dense A, its sparse solutions and the permuted network, in one basin?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.config.fields import require
from lotperm.config.parameters import PARAMETERS
from lotperm.data.datasets import info
from lotperm.errors import ParameterError, shown
from lotperm.science.barrier import Repair
from lotperm.science.plane import Plane
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Plain, Source, Task, chain, provenance
from lotperm.store.workspace import Workspace
from lotperm.studies.connectivity.study import line_positions
from lotperm.studies.lines import FEWER_STATISTICS, Lines, line_work
from lotperm.studies.records import records, save_record
from lotperm.studies.solutions import solutions, sources
from lotperm.studies.stages import dense, halves, imp_rounds
from lotperm.studies.study import Options, Study, cells, option
from lotperm.studies.workbench import Workbench

CORNERS = ("dense_a", "lth", "permuted")
"""The networks that span the plane, all in A's order of units."""

EDGES = (("dense_a", "lth"), ("dense_a", "permuted"), ("lth", "permuted"))
"""Pairs of these networks between which a line is evaluated."""

REPAIRS: tuple[Repair, ...] = ("none", "repair")
"""Lines are evaluated as they are, and after REPAIR, as in the paper's figure."""


def own_line(bench: Workbench, round_number: int, options: BasinOptions) -> Task:
    """Evaluate the line from dense A to A after a round of IMP, without any permutation.

    Parameters
    ----------
    bench : Workbench
        The experiment's workbench.
    round_number : int
        From 1 on.
    options : BasinOptions
        Completed for the experiment.
    """
    experiment = bench.experiment
    pruned = imp_rounds(bench, *_cell(experiment))[round_number - 1]
    alphas, seeds = line_positions(options.points), experiment.seeds[: options.replicates]

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        lines = Lines(bench, FEWER_STATISTICS)
        ends = zip(
            halves(inputs.replicates("dense", "final"))[0],
            inputs.replicates("pruned", "final"),
            strict=True,
        )
        rows = [
            {"seed": seed, **row}
            # Not strict: `replicates` may ask for the first few seeds only.
            for seed, (whole, sparse) in zip(seeds, ends, strict=False)
            for row in lines.between(whole, sparse, alphas, REPAIRS)
        ]
        return StageResult({"rows": rows}, {}, bench.meta())

    return bench.task(
        "own_line",
        inputs={
            "dense": Source(dense(bench).stage, ("final",)),
            "pruned": Source(pruned, ("final",)),
        },
        settings=_settings(alphas, seeds),
        label=f"line from dense A to its round {round_number}",
        work=line_work(experiment.data, len(seeds), alphas, REPAIRS, FEWER_STATISTICS),
        compute=compute,
    )


def plane(bench: Workbench, options: BasinOptions) -> Task:
    """Evaluate the plane through dense A, LTH and the permuted network, and the triangle's edges.

    The permuted network is brought back into A's order first ("modulo permutation"). The plane is
    that of the first seed, batch norms reset at every place; the edges are those of all replicates.
    """
    experiment, cell = bench.experiment, _cell(bench.experiment)
    alphas, seeds = line_positions(options.points), experiment.seeds[: options.replicates]

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        lines, every = Lines(bench, FEWER_STATISTICS), solutions(bench, inputs)
        rows = [
            {"seed": seed, "reference": a, "network": b, **row}
            for seed, weights in zip(seeds, every, strict=False)
            for a, b in EDGES
            for row in lines.between(weights[a], weights[b], alphas, REPAIRS)
        ]
        through = Plane.through(*(every[0][name] for name in CORNERS))
        xs, ys = through.grid(options.grid)
        errors = [
            {"x": float(x), "y": float(y), "error": 1 - lines.at(through.at(x, y)).accuracy}
            for y in ys
            for x in xs
        ]
        corners = dict(zip(CORNERS, map(list, through.places), strict=True))
        return StageResult({"rows": rows, "plane": errors, "corners": corners}, {}, bench.meta())

    work = line_work(experiment.data, len(EDGES) * len(seeds), alphas, REPAIRS, FEWER_STATISTICS)
    places = options.grid**2 * (info(experiment.data).test + FEWER_STATISTICS)
    return bench.task(
        "plane",
        inputs=sources(bench, *cell),
        settings={
            **_settings(alphas, seeds),
            "corners": list(CORNERS),
            "edges": [list(edge) for edge in EDGES],
            "grid": options.grid,
        },
        label="plane through dense A, LTH and permuted",
        work=dataclasses.replace(work, forward_images=work.forward_images + places),
        compute=compute,
    )


def _cell(experiment: Experiment) -> tuple[float, int]:
    """Return the cell that the question is about: highest sparsity, first rewind epoch."""
    return max(experiment.sparsities), experiment.rewind_epochs[0]


def _settings(alphas: Sequence[float], seeds: Sequence[int]) -> Plain:
    return {
        "alphas": list(alphas),
        "repairs": list(REPAIRS),
        # These may be fewer than the experiment's seeds.
        "seeds": list(seeds),
        "statistics": FEWER_STATISTICS,
    }


def basin_table(bench: Workbench, options: BasinOptions) -> pd.DataFrame:
    """Compute or load all lines.

    Returns
    -------
    DataFrame
        One row for each seed, line, repair and position: round and sparsity (of the mask), seed,
        reference and network (the ends at alpha 0 and 1), repair, alpha, loss (nats), accuracy
        (fraction). Lines from dense A to "imp" are there for every round, others for the last.
    """
    rounds = imp_rounds(bench, *_cell(bench.experiment))
    parts = []
    for number, pruned in enumerate(rounds, 1):
        found = pd.DataFrame(own_line(bench, number, options).results["rows"])
        about = {"round": number, "sparsity": pruned.settings["sparsity"]}
        parts.append(found.assign(reference="dense_a", network="imp", **about))
    edges = pd.DataFrame(plane(bench, options).results["rows"])
    parts.append(edges.assign(round=len(rounds), sparsity=_cell(bench.experiment)[0]))
    # All lines are evaluated on the test split, so its name says nothing.
    table = pd.concat(parts, ignore_index=True).drop(columns="split")
    return table[[*Basin.columns, "loss", "accuracy"]]


def _whole(name: str, value: Any) -> int:
    found: int = PARAMETERS["epochs"].parse(name, value)
    return found


@dataclass(frozen=True)
class BasinOptions(Options):
    """Options of lines and plane."""

    points: int = option(5, _whole, "positions on each line, the ends and the middle included: odd")
    grid: int = option(11, _whole, "places along either side of the plane")
    replicates: int | None = option(None, _whole, "number of seeds with lines: the first ones")

    def completed(self, experiment: Experiment) -> BasinOptions:
        """Return the options with no more replicates than there are seeds, all values checked."""
        mask = experiment.pruning.mask
        require(mask == "imp", "mask", mask, "imp: this is about the rounds of IMP")
        line_positions(self.points)
        if self.replicates is not None and self.replicates < 1:
            raise ParameterError(f"replicates is {self.replicates}; expected 1 or more.")
        if not 3 <= self.grid <= 101:
            raise ParameterError(f"grid is {shown(self.grid)}; expected 3 to 101.")
        seeds = len(experiment.seeds)
        return dataclasses.replace(self, replicates=min(self.replicates or seeds, seeds))


class Basin(Study[BasinOptions]):
    """Look for barriers between dense A, its sparse solutions and the permuted network."""

    name = "basin"
    words: ClassVar[dict[str, str]] = {"own_line": "lines of IMP", "plane": "plane"}
    Options = BasinOptions
    columns = ("round", "sparsity", "seed", "reference", "network", "repair", "alpha")

    def tasks(self, bench: Workbench, options: BasinOptions) -> list[Task]:
        """List a line for every round of IMP, and the plane."""
        rounds = len(imp_rounds(bench, *_cell(bench.experiment)))
        own = [own_line(bench, number, options) for number in range(1, rounds + 1)]
        return [*own, plane(bench, options)]

    def table(self, bench: Workbench, options: BasinOptions) -> pd.DataFrame:
        """Return all lines, as `basin_table`."""
        return basin_table(bench, options)

    def check_page(self, experiment: Experiment, options: BasinOptions) -> None:
        """Refuse an experiment of several sparsities or rewind epochs, of which one is shown."""
        options.completed(experiment)
        if len(cells(experiment)) > 1:
            raise ParameterError(
                "this page is about one mask; expected one sparsity and one rewind_epoch."
            )

    def record(self, benches: Sequence[Workbench], options: BasinOptions, folder: Path) -> None:
        """Write the lines as ``results.csv``, and the plane as ``plane.csv``, corners last."""
        (bench,) = benches
        table, found = self.table(bench, options), plane(bench, options).results
        content = {
            "kind": self.name,
            "experiment": bench.experiment.to_dict(),
            "options": options.plain(),
            "summary": records(table),
            "stages": provenance(chain(self.tasks(bench, options))),
        }
        corners = [{"corner": name, "x": x, "y": y} for name, (x, y) in found["corners"].items()]
        places = pd.DataFrame([{"corner": "", **row} for row in found["plane"]] + corners)
        save_record(folder, content, {"results": table, "plane": places.replace({np.nan: None})})


STUDY = Basin()
