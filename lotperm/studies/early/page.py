"""The page of early matching."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from lotperm.studies import page
from lotperm.studies.arms.study import run
from lotperm.studies.early import charts, tables
from lotperm.studies.early.beside import beside_early_matching
from lotperm.studies.early.study import STUDY, EarlyOptions, early_table
from lotperm.studies.results import Results
from lotperm.studies.study import Study


class Page(page.Page):
    """The page on which A is matched to B at epoch t."""

    study: ClassVar[Study[Any]] = STUDY
    options: EarlyOptions

    @cached_property
    def cell(self) -> tuple[float, int]:
        """Sparsity and rewind epoch that are shown."""
        return STUDY.page_cell(self.pipeline)

    @cached_property
    def results(self) -> Results:
        """Results of the arms, for LTH and naive."""
        return run(self.pipeline)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Accuracy and score at every matching epoch, as `early_table`."""
        epochs = STUDY.page_epochs(self.pipeline, self.options)
        return early_table(self.pipeline, *self.cell, epochs)

    def against_epoch(self) -> Figure:
        """Draw accuracy and correlation against the matching epoch."""
        results, (s, k) = self.results, self.cell
        title = f"Matching at epoch t, sparsity {s:g}, k = {k} ({self.about})"
        return charts.early_matching(self.table, results, s, k, title=title)

    def data(self) -> HTML:
        """Make a link that downloads what the figure shows."""
        return self.download(tables.early_data(self.table, self.results, *self.cell))

    def in_short(self) -> str:
        """Say what is equal on every machine."""
        rows = self.table[self.table["metric"] == "score"]
        score = rows.groupby("matching_epoch")["value"].mean()
        # A sign rather than numbers, which differ a little from machine to machine.
        better = bool(score.iloc[-1] > score.iloc[0])
        return (
            f"matching epochs: {', '.join(map(str, score.index))}\n"
            f"units match better at the end than at the first epoch: {better}"
        )

    def costs(self) -> pd.DataFrame:
        """Return what matching at epoch t costs and what it yields."""
        return tables.matching_costs(self.table, self.results, *self.cell)

    def beside(self) -> pd.DataFrame:
        """Put the accuracies, live and recorded, beside the paper's."""
        return beside_early_matching(self.table, self.results, *self.cell)
