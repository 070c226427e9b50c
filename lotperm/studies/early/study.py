"""Early matching: the permutation is found while B is still training (the paper's Table 15)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.config.parameters import PARAMETERS
from lotperm.errors import ParameterError
from lotperm.science.symmetry import permute
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Source, Task, epoch_file
from lotperm.store.workspace import Workspace
from lotperm.studies.arms import study as arms
from lotperm.studies.arms.arms import ARMS
from lotperm.studies.stages import dense, halves, kept_epochs, ticket
from lotperm.studies.study import Options, Study, cells, of_all_cells, option
from lotperm.studies.subject import plain
from lotperm.studies.workbench import Workbench, curves


def matching_epochs(epochs: int) -> list[int]:
    """List the epochs t of B that the chapter shows: the paper's, or about the same shares.

    Parameters
    ----------
    epochs : int
        T, the epochs of dense training; the paper's are 200.
    """
    if epochs == 200:
        return [5, 20, 50, 100, 200]
    return sorted({round(epochs * share) for share in (0, 0.025, 0.1, 0.2, 0.5, 1)})


def early(bench: Workbench, sparsity: float, rewind_epoch: int, epochs: Sequence[int]) -> Task:
    """Match A, fully trained, to B as it was after each epoch; train "permuted" with each mask.

    The arms see the same examples in the same order as those of `lotperm.studies.arms`.

    Parameters
    ----------
    bench : Workbench
        The experiment's workbench.
    sparsity, rewind_epoch : float and int
        Those of the mask and the arms.
    epochs : sequence of int
        The epochs t: each is kept by dense training.
    """
    experiment, kept = bench.experiment, kept_epochs(bench.experiment)
    for t in epochs:
        # Refused when the task is made. A missing epoch would otherwise be noticed only after the
        # dense training.
        if not 0 <= t <= experiment.dense.epochs:
            raise ParameterError(
                f"matching epoch {t} isn't within training: expected 0 <= t <= "
                f"{experiment.dense.epochs}."
            )
        if t not in kept:
            raise ParameterError(
                f"matching epoch {t} isn't kept; kept are {', '.join(map(str, kept))}."
            )
    recipe = experiment.sparse_recipe(rewind_epoch)
    label = f"early matching, sparsity {sparsity:g}, k = {rewind_epoch}"

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        finals = halves(inputs.replicates("dense", "final"))[0]
        begin = halves(inputs.replicates("dense", epoch_file(rewind_epoch)))[1]
        masks = inputs.replicates("imp", "mask")
        moved, scores = [], []
        for t in epochs:
            # A is always fully trained, as its mask comes from there. Only B is taken at epoch t.
            so_far = halves(inputs.replicates("dense", epoch_file(t)))[1]
            found = [bench.match_pair(a, b) for a, b in zip(finals, so_far, strict=True)]
            # By matching epoch, then by seed; the table reads the results in this order.
            moved += [permute(m, bench.spec, p) for m, p in zip(masks, found, strict=True)]
            # One number for a network: groups of all layers count equally, whatever their size.
            scores += [sum(m.scores.values()) / len(m.scores) for m in found]
        trained = bench.train(
            workspace,
            # However early B was matched, its arm starts from the same rewind point, on the same
            # stream: the arms differ only in their masks.
            begin * len(epochs),
            recipe,
            (ARMS["permuted"].stream,) * len(epochs),
            label,
            masks=moved,
        )
        return bench.result(trained, results={**curves(trained), "scores": scores})

    networks = len(epochs) * len(experiment.seeds)
    return bench.task(
        "early",
        inputs={
            "dense": Source(
                # Declared one by one: files not named here need not be in the store.
                dense(bench).stage,
                ("final", *map(epoch_file, (rewind_epoch, *epochs))),
            ),
            "imp": Source(ticket(bench, sparsity, rewind_epoch), ("mask",)),
        },
        settings={
            "matching": plain(experiment.matching),
            "recipe": plain(recipe),
            "rewind_epoch": rewind_epoch,
            "epochs": list(epochs),
        },
        label=label,
        work=bench.work(networks, recipe, matches=networks),
        compute=compute,
    )


def early_table(
    bench: Workbench, sparsity: float, rewind_epoch: int, epochs: Sequence[int]
) -> pd.DataFrame:
    """Compute or load one cell of early matching; parameters as in `early`.

    Returns
    -------
    DataFrame
        One row per seed, matching epoch and metric (``test_accuracy``, a fraction; ``score``, the
        mean correlation of the matched units): columns seed, matching_epoch, metric, value.
    """
    experiment, results = bench.experiment, early(bench, sparsity, rewind_epoch, epochs).results
    # Keys in JSON are strings.
    last = str(experiment.sparse_recipe(rewind_epoch).epochs)
    values = {
        "test_accuracy": results["evaluations"][last]["accuracy"],
        "score": results["scores"],
    }
    return pd.DataFrame(
        [
            {"seed": seed, "matching_epoch": t, "metric": metric, "value": values[metric][i]}
            for i, (t, seed) in enumerate((t, s) for t in epochs for s in experiment.seeds)
            for metric in values
        ]
    )


@dataclass(frozen=True)
class EarlyOptions(Options):
    """Options of early matching."""

    match_epochs: tuple[int, ...] | None = option(
        None,
        PARAMETERS["rewind_epoch"].parse,
        "epochs t of B at which A is matched to it; every kept epoch if none is given",
    )

    def completed(self, experiment: Experiment) -> EarlyOptions:
        """Return the options, checked, with every kept epoch in place of None."""
        kept = kept_epochs(experiment)
        # A campaign looks at every epoch that is kept, a page at the paper's five.
        epochs = tuple(kept) if self.match_epochs is None else self.match_epochs
        for t in epochs:
            if t not in kept:
                raise ParameterError(
                    f"match_epochs has {t}; expected epochs that are kept: {kept}."
                )
        if not epochs or len(set(epochs)) != len(epochs):
            raise ParameterError(
                f"match_epochs is {list(epochs)}; expected one value or more, none twice."
            )
        return dataclasses.replace(self, match_epochs=epochs)


class Early(Study[EarlyOptions]):
    """Compare the permuted arm when the permutation is found at epoch t of B."""

    name = "early"
    words: ClassVar[dict[str, str]] = {"early": "early matching"}
    Options = EarlyOptions
    columns = ("sparsity", "rewind_epoch", "seed", "matching_epoch")

    def tasks(self, bench: Workbench, options: EarlyOptions) -> list[Task]:
        """List one stage for each sparsity and rewind epoch."""
        return [early(bench, *cell, options.match_epochs or ()) for cell in cells(bench.experiment)]

    def table(self, bench: Workbench, options: EarlyOptions) -> pd.DataFrame:
        """Return the accuracies and scores of all cells, as `early_table` with the cell's names."""
        of_cell = partial(early_table, bench, epochs=options.match_epochs or ())
        return of_all_cells(bench.experiment, of_cell)

    def page_epochs(self, bench: Workbench, options: EarlyOptions) -> tuple[int, ...]:
        """List the matching epochs that a page shows: those given, or `matching_epochs`."""
        return options.match_epochs or tuple(matching_epochs(bench.experiment.dense.epochs))

    def page_cell(self, bench: Workbench) -> tuple[float, int]:
        """Return the sparsity and the rewind epoch that a page shows."""
        return bench.experiment.sparsities[-1], bench.experiment.rewind_epochs[0]

    def chapter(self, benches: Sequence[Workbench], options: EarlyOptions) -> list[Task]:
        """List the arms, for LTH and naive, and the early matching of one cell."""
        asked: list[Task] = []
        for bench in benches:
            asked += arms.STUDY.tasks(bench, arms.ArmsOptions())
            asked.append(early(bench, *self.page_cell(bench), self.page_epochs(bench, options)))
        return asked

    def page_options(self, **parameters: Any) -> EarlyOptions:
        """Make the options of a page; ``match_epochs`` may be empty or None."""
        # An empty list in a notebook's cell stands for the figure's own epochs.
        return super().page_options(**{n: v or None for n, v in parameters.items()})


STUDY = Early()
