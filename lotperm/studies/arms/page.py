"""The pages of the method: accuracy against rewind epoch, sparsity and width."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from lotperm.studies import page
from lotperm.studies.arms import charts, tables
from lotperm.studies.arms.beside import beside
from lotperm.studies.arms.study import STUDY, run
from lotperm.studies.published import live_and_recorded
from lotperm.studies.results import Results
from lotperm.studies.study import Study


class Page(page.Page):
    """A page on which the three arms are compared."""

    study: ClassVar[Study[Any]] = STUDY

    @cached_property
    def results(self) -> list[Results]:
        """Results of every width; computed when first asked for."""
        return [run(pipeline) for pipeline in self.pipelines]

    def against_rewind(self) -> Figure:
        """Draw accuracy against the rewind epoch; rows are widths, columns sparsities."""
        title = f"Accuracy against the rewind epoch ({self.about})"
        return charts.rewind_curves(self.results, title=title)

    def against_sparsity(self) -> Figure:
        """Draw accuracy against sparsity, one panel a width."""
        title = f"Accuracy against sparsity ({self.about})"
        return charts.accuracy_against_sparsity(self.results, title=title)

    def gap_against_width(self) -> Figure:
        """Draw the share of the gap that permuting closes, against width."""
        title = f"Gap closed against width ({self.about})"
        return charts.gap_against_width(self.results, title=title)

    def final(self) -> Figure:
        """Draw the arms' final accuracies at the first sparsity and rewind epoch."""
        e = self.experiment
        cell = f"S = {e.sparsities[0]:g}, k = {e.rewind_epochs[0]}"
        title = f"Final accuracy, {cell} ({self.about})"
        return charts.final_comparison(self.results[0], title=title)

    def accuracies(self) -> pd.DataFrame:
        """Return the accuracy of every method with its interval."""
        return tables.accuracies(self.results)

    def comparisons(self) -> pd.DataFrame:
        """Return the paired differences between arms."""
        return tables.comparisons(self.results)

    def in_short(self) -> str:
        """Say the mean accuracies in whole percent, equal on every machine."""
        return tables.in_short(self.results[0])

    def data(self) -> HTML:
        """Make a link that downloads the results."""
        return self.download([results.table for results in self.results])

    def beside(
        self,
        reference: pd.DataFrame | None = None,
        dataset: str | None = None,
        model: str | None = None,
    ) -> pd.DataFrame:
        """Put the arms, live and recorded, beside the paper's.

        Parameters
        ----------
        reference : DataFrame, optional
            The paper's numbers; None if there are none.
        dataset, model : str, optional
            Which recorded runs to take.
        """
        return beside(live_and_recorded(self.results[0], dataset, model), reference)
