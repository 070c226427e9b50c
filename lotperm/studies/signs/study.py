"""Signs against symmetry: the 2 × 2 of masks and signs, its controls, and where all arms end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from lotperm.errors import ParameterError, shown, unknown_name
from lotperm.science.signs import sign_agreement
from lotperm.store.tasks import Inputs, Task
from lotperm.studies.arms.arms import Arm, start
from lotperm.studies.arms.training import parts_of, train_arms
from lotperm.studies.signs.arms import CONTROLS, LTH, MAIN, arms_with
from lotperm.studies.signs.basins import basins, between
from lotperm.studies.study import Options, Study, cells, option
from lotperm.studies.workbench import Workbench, final_accuracies

WORDS = "arms with signs"


def signs(bench: Workbench, sparsity: float, rewind_epoch: int, arms: Sequence[Arm]) -> Task:
    """Train the arms of a cell, all at once."""
    return train_arms(bench, "signs", arms, sparsity, rewind_epoch, words=WORDS)


def members(bench: Workbench, sparsity: float, rewind_epoch: int) -> Task:
    """Train the main arms from the first replicate's ticket, as members of ensembles.

    Raises
    ------
    ParameterError
        With fewer than two seeds.
    """
    if len(bench.experiment.seeds) < 2:
        raise ParameterError("signs compares members with each other: give two seeds or more.")
    return train_arms(
        bench, "members", MAIN, sparsity, rewind_epoch, words="members", one_ticket=True
    )


def ends(bench: Workbench, sparsity: float, rewind_epoch: int, arms: Sequence[Arm]) -> Task:
    """Compare where the arms of a cell end with where the ticket ends."""
    return basins(bench, signs(bench, sparsity, rewind_epoch, arms), arms, arms.index(LTH))


def apart(bench: Workbench, sparsity: float, rewind_epoch: int) -> Task:
    """Compare the members that share a ticket."""
    return between(bench, members(bench, sparsity, rewind_epoch), MAIN)


def signs_table(
    bench: Workbench, sparsity: float, rewind_epoch: int, arms: Sequence[Arm]
) -> pd.DataFrame:
    """Compute or load one cell.

    Returns
    -------
    DataFrame
        One row per arm and seed: columns sparsity, rewind_epoch, seed, ticket ("own"), arm,
        accuracy; agreement (share of the kept weights that start with the sign that dense A has at
        the end, with A's signs moved as the arm's mask is); distance, loss_barrier,
        accuracy_barrier to the trained ticket on A, and the same with ``_permuted``, to that ticket
        permuted to B; disagreement with the ticket. Accuracies, accuracy barriers and disagreement
        are fractions.
    """
    stage = signs(bench, sparsity, rewind_epoch, arms)
    rows = []
    replicates = parts_of(bench, Inputs(stage.inputs), rewind_epoch)
    for (arm, i), accuracy in zip(
        ((arm, i) for arm in arms for i in range(len(replicates))),
        final_accuracies(stage),
        strict=True,
    ):
        parts = replicates[i]
        weights, mask = start(arm, parts)
        a_end = {name: parts.weights["a end"][name] for name in mask}
        moved = parts.moved(a_end, arm) if arm.mask == "permuted" else a_end
        rows.append(
            {
                "seed": parts.seed,
                "arm": arm.name,
                "accuracy": accuracy,
                "agreement": sign_agreement(weights, moved, mask),
            }
        )
    table = pd.DataFrame(rows)
    found = pd.DataFrame(ends(bench, sparsity, rewind_epoch, arms).results["rows"])
    own = found[found["ticket"] == "as found"].drop(columns="ticket")
    other = found[found["ticket"] == "permuted"].drop(columns=["ticket", "disagreement"])
    names = {n: f"{n}_permuted" for n in other if n not in ("seed", "arm")}
    table = table.merge(own, on=["seed", "arm"]).merge(
        other.rename(columns=names), on=["seed", "arm"]
    )
    return table.assign(sparsity=sparsity, rewind_epoch=rewind_epoch, ticket="own")


def members_table(bench: Workbench, sparsity: float, rewind_epoch: int) -> pd.DataFrame:
    """Compute or load the members of one cell.

    Returns
    -------
    DataFrame
        One row per arm and seed: columns sparsity, rewind_epoch, seed, ticket ("first"), arm,
        accuracy, between and ensemble, as `lotperm.studies.signs.basins.between` has them.
    """
    stage = members(bench, sparsity, rewind_epoch)
    table = pd.DataFrame(apart(bench, sparsity, rewind_epoch).results["rows"])
    # Rows are by arm, then by seed, as the networks are.
    table["accuracy"] = final_accuracies(stage)
    return table.assign(sparsity=sparsity, rewind_epoch=rewind_epoch, ticket="first")


def _controls(name: str, value: Any) -> tuple[str, ...]:
    """Check the names of controls; a single one may be given without a list."""
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    for control in given:
        if control not in CONTROLS:
            raise unknown_name("control", str(control), CONTROLS)
    if len(set(given)) != len(given):
        raise ParameterError(f"{name} is {shown(list(given))}; expected no name twice.")
    return given


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ParameterError(f"{name} is {shown(value)}; expected true or false.")
    return value


@dataclass(frozen=True)
class SignsOptions(Options):
    """Options of signs against symmetry."""

    controls: tuple[str, ...] = option(
        tuple(CONTROLS), _controls, f"control arms: {', '.join(CONTROLS)}"
    )
    ensembles: bool = option(True, _flag, "also train members that share a ticket")

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The main arms and the chosen controls."""
        return arms_with(self.controls)


@dataclass(frozen=True)
class Shown:
    """A cell of a page: its workbench, sparsity and rewind epoch, and the arms that it has.

    Attributes
    ----------
    bench : Workbench
        The workbench of its width.
    sparsity, k : float and int
        Sparsity and rewind epoch.
    arms : tuple of Arm
        Its arms.
    members : bool
        Whether it has members that share a ticket.
    """

    bench: Workbench
    sparsity: float
    k: int
    arms: tuple[Arm, ...]
    members: bool


class Signs(Study[SignsOptions]):
    """Compare masks and signs, each as found or permuted."""

    name = "signs"
    words: ClassVar[dict[str, str]] = {
        "signs": WORDS,
        "members": "members of a ticket",
        "basins": "where arms end",
        "between": "members compared",
    }
    Options = SignsOptions
    columns = ("sparsity", "rewind_epoch", "ticket", "seed", "arm")

    def tasks(self, bench: Workbench, options: SignsOptions) -> list[Task]:
        """List the stages of every cell: arms with controls, members, and where both end."""
        found = []
        for cell in cells(bench.experiment):
            found.append(ends(bench, *cell, options.arms))
            if options.ensembles:
                found.append(apart(bench, *cell))
        return found

    def table(self, bench: Workbench, options: SignsOptions) -> pd.DataFrame:
        """Return the rows of all cells, as `signs_table` and `members_table`."""
        parts = []
        for cell in cells(bench.experiment):
            parts.append(signs_table(bench, *cell, options.arms))
            if options.ensembles:
                parts.append(members_table(bench, *cell))
        return pd.concat(parts, ignore_index=True)

    def page_cells(self, benches: Sequence[Workbench], options: SignsOptions) -> list[Shown]:
        """List the cells of a page: with all arms at the first width, main arms at the others.

        The controls take the first sparsity of the first width, members its first cell.
        """
        shown = []
        for number, bench in enumerate(benches):
            own = cells(bench.experiment)
            for s, k in own:
                at_first = s == own[0][0]
                if number == 0 or at_first:
                    shown.append(
                        Shown(
                            bench,
                            s,
                            k,
                            arms=options.arms if number == 0 and at_first else MAIN,
                            members=options.ensembles and number == 0 and (s, k) == own[0],
                        )
                    )
        return shown

    def page_table(self, benches: Sequence[Workbench], options: SignsOptions) -> pd.DataFrame:
        """Return what a page shows, with a column ``width``."""
        parts = []
        for of in self.page_cells(benches, options):
            width = of.bench.experiment.model.width
            table = signs_table(of.bench, of.sparsity, of.k, of.arms)
            parts.append(table.assign(width=width))
            if of.members:
                parts.append(members_table(of.bench, of.sparsity, of.k).assign(width=width))
        return pd.concat(parts, ignore_index=True)

    def chapter(self, benches: Sequence[Workbench], options: SignsOptions) -> list[Task]:
        """List the stages behind `page_table`."""
        asked: list[Task] = []
        for of in self.page_cells(benches, options):
            asked.append(ends(of.bench, of.sparsity, of.k, of.arms))
            if of.members:
                asked.append(apart(of.bench, of.sparsity, of.k))
        return asked


STUDY = Signs()
