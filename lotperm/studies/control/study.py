"""The control arm: B under a random mask that keeps as many weights in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from lotperm.store.tasks import Task
from lotperm.studies.arms import study as arms
from lotperm.studies.arms.arms import ARMS
from lotperm.studies.arms.training import train_arms
from lotperm.studies.study import Options, Study, cells
from lotperm.studies.workbench import Workbench


def control(bench: Workbench, sparsity: float, rewind_epoch: int) -> Task:
    """Train B of every replicate under a random mask, with the examples in naive's order."""
    return train_arms(
        bench,
        "control",
        [ARMS["random"]],
        sparsity,
        rewind_epoch,
        words="random masks",
        # The page shows that the masks have the ticket's layer densities.
        keep_masks=True,
    )


@dataclass(frozen=True)
class ControlOptions(Options):
    """The control has no options of its own."""


class Control(Study[ControlOptions]):
    """Train B under random masks."""

    name = "control"
    words: ClassVar[dict[str, str]] = {"control": "random masks"}
    Options = ControlOptions
    columns = ("seed", "method", "sparsity", "rewind_epoch", "metric")

    def tasks(self, bench: Workbench, options: ControlOptions) -> list[Task]:
        """List one stage for each sparsity and rewind epoch."""
        return [control(bench, *cell) for cell in cells(bench.experiment)]

    def table(self, bench: Workbench, options: ControlOptions) -> pd.DataFrame:
        """Return accuracy and loss of the control arm, in the form of `Results.table`."""
        rows = []
        for s, k in cells(bench.experiment):
            stage = control(bench, s, k)
            rows += arms.gathered(stage, ("random",), bench.experiment.seeds, s, k)[0]
        return pd.DataFrame(rows)

    def chapter(self, benches: Sequence[Workbench], options: ControlOptions) -> list[Task]:
        """List the arms, which the control is compared with, and the control of the first cell."""
        asked: list[Task] = []
        for bench in benches:
            asked += arms.STUDY.tasks(bench, arms.ArmsOptions())
            # A campaign records every cell; the page shows the first.
            asked.append(control(bench, *cells(bench.experiment)[0]))
        return asked


STUDY = Control()
