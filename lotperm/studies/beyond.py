"""Pages of questions that go beyond the paper: their predictions, and what decides them."""

from __future__ import annotations

import html
import inspect
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from IPython.display import HTML

from lotperm.science.statistics import interval
from lotperm.studies import page
from lotperm.studies.html import HOW_SURE, badge
from lotperm.studies.predictions import Measure, Predictions, by_arm, load_predictions, verdicts
from lotperm.studies.published import Recorded, recorded
from lotperm.studies.tables import by_cell, contrasts, with_interval


class Page(page.Page):
    """A page that judges predictions; subclasses add the tables and figures of a question.

    Attributes
    ----------
    measures : mapping
        The question's quantities by name.
    """

    measures: ClassVar[Mapping[str, Measure]]
    options: Any

    @cached_property
    def table(self) -> pd.DataFrame:
        """The question's table, of the first width."""
        found: pd.DataFrame = self.study.table(
            self.pipeline, self.options.completed(self.experiment)
        )
        return found

    @property
    def judged(self) -> pd.DataFrame:
        """The rows of the table that predictions are judged by."""
        return self.table

    @cached_property
    def predictions(self) -> Predictions:
        """What was stated before the runs."""
        folder = Path(inspect.getfile(type(self.study))).parent
        return load_predictions(folder, self.measures)

    @cached_property
    def recorded(self) -> list[Recorded]:
        """The recorded runs of the question."""
        return recorded(kind=self.study.name)

    def arms_of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the accuracies of a cell in percent: index seed, a column for each arm."""
        return by_arm(rows)

    def compared(
        self, pairs: Mapping[str, tuple[str, str]], table: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """Return paired differences with their p-values, a column for each cell of a table.

        Parameters
        ----------
        pairs : mapping
            A difference in words -> the two arms, the second taken from the first.
        table : DataFrame, optional
            By default the page's own.
        """
        cells = by_cell(self.table if table is None else table)
        return pd.DataFrame(
            {words: contrasts(self.arms_of(rows) / 100, pairs) for words, rows in cells}
        )

    def of_records(self, arms: Mapping[str, str]) -> pd.DataFrame:
        """Return accuracies of arms in every recorded run, a row for each cell.

        Parameters
        ----------
        arms : mapping
            Arm -> its words. Where a run lacks it, its place is empty.
        """
        cells = [
            (f"{run.label}, {words}", run.name, self.arms_of(of) / 100)
            for run in self.recorded
            for words, of in by_cell(run.rows())
        ]
        times = Counter(head for head, _, _ in cells)
        rows = {
            # Two runs of one network on other seeds are told apart by their names.
            head if times[head] == 1 else f"{head} ({name})": {
                label: with_interval(*interval(found[arm])) if arm in found else ""
                for arm, label in arms.items()
            }
            for head, name, found in cells
        }
        return pd.DataFrame(rows).T

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The rows by which predictions are judged, by the words for their source."""
        records = {
            # Labels alone aren't unique: records at other sparsities have the same ones.
            f"{run.label} ({run.name})": run.rows().assign(model=run.experiment["model"]["name"])
            for run in self.recorded
        }
        return {"live": self.judged.assign(model=self.experiment.model.name), **records}

    @cached_property
    def found(self) -> pd.DataFrame:
        """The verdict on every prediction, as `lotperm.studies.predictions.verdicts`."""
        return verdicts(self.predictions, self.measures, self.tables)

    def verdicts(self) -> pd.DataFrame:
        """Judge the predictions by what was computed here, and by records."""
        return self.found

    def answer(self, question: str) -> HTML:
        """Answer the page's question: how many of the predictions hold, and which don't.

        Parameters
        ----------
        question : str
            The question.
        """
        lines = []
        for verdict in ("agrees", "weaker", "opposite", "not run here"):
            words = self.found.index[self.found["verdict"] == verdict]
            if len(words):
                count = badge(verdict, f"{verdict}: {len(words)} of {len(self.found)}")
                # Of those that agree only the numbers are shown, not the whole list again.
                shown = [
                    w.partition(":")[0] if verdict == "agrees" else w.rstrip(".") for w in words
                ]
                text = ", ".join(shown) if verdict == "agrees" else "; ".join(shown)
                lines.append(f"{count} {html.escape(text)}.")
        return self.answered(question, lines)

    def how_sure(self) -> HTML:
        """Say how many seeds the numbers are from, what ± is, and what was known beforehand."""
        records = sorted({len(run.experiment["seeds"]) for run in self.recorded})
        seeds = f"{len(self.experiment.seeds)} live"
        if records:
            seeds += f", {' or '.join(map(str, records))} in the recorded runs"
        known = " ".join(self.predictions.known.split())
        stated = " and ".join(sorted({p.stated for p in self.predictions.all}))
        return HTML(
            f"<p>Seeds: {seeds}. ± is half of a 95 % interval over seeds, paired where arms are "
            f"compared, and each p-value is for one comparison alone ({HOW_SURE}). "
            f"Stated on {stated}, before these runs. Known by {self.predictions.stated}: "
            f"{html.escape(known)}</p>"
        )

    def data(self) -> HTML:
        """Make a link that downloads every number of the page."""
        return self.download(self.table)
