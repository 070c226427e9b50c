"""The page of the bench of matchings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure

from lotperm.science.statistics import interval
from lotperm.studies import beyond
from lotperm.studies.matchers import charts
from lotperm.studies.matchers.measures import CONTRASTS, MEASURES
from lotperm.studies.matchers.study import STUDY
from lotperm.studies.predictions import Measure, by_arm
from lotperm.studies.study import Study
from lotperm.studies.tables import with_interval


class Page(beyond.Page):
    """The page on which matchings compete."""

    study: ClassVar[Study[Any]] = STUDY
    measures: ClassVar[Mapping[str, Measure]] = MEASURES

    def against_barrier(self) -> Figure:
        """Draw the gain over naive against the barrier that each matching leaves."""
        title = f"Gain against barrier ({self.about})"
        label = "barrier between π(A) and B (nats, test)"
        return charts.gain_against(self.table, "barrier", label, title=title)

    def against_agreement(self) -> Figure:
        """Draw the gain over naive against the objective of weight matching."""
        title = f"Gain against agreement of the weights ({self.about})"
        label = "agreement of π(A)'s and B's weights"
        return charts.gain_against(self.table, "agreement", label, title=title)

    def ranking(self) -> pd.DataFrame:
        """Return every matching with accuracy, barriers and likeness, best accuracy first."""
        last = self.table[self.table["rewind_epoch"] == self.table["rewind_epoch"].max()]
        last = last[last["sparsity"] == last["sparsity"].max()]
        accuracy = by_arm(last)
        rows = {}
        for arm in accuracy.mean().sort_values(ascending=False).index:
            row = {"accuracy": with_interval(*(x / 100 for x in interval(accuracy[arm])))}
            for column, words in (
                ("barrier", "test barrier (nats)"),
                ("train_barrier", "train barrier (nats)"),
                ("correlation", "correlation of units"),
                ("agreement", "agreement of weights"),
            ):
                values = by_arm(last, column)[arm].dropna()
                row[words] = f"{values.mean():.3f}" if len(values) else ""
            rows[charts.words_of(arm)] = row
        return pd.DataFrame(rows).T.rename_axis("matching")

    def contrasts(self) -> pd.DataFrame:
        """Return the contrasts that were chosen before the runs, a column for each cell."""
        return self.compared(CONTRASTS)

    def records(self) -> pd.DataFrame:
        """Return the accuracy of every matching in every recorded run, a column for each cell."""
        arms = {arm for run in self.recorded for arm in run.summary["arm"]}
        words = {arm: charts.words_of(arm) for arm in charts.ordered(arms)}
        return self.of_records(words).T

    def in_short(self) -> str:
        """Say what is equal on every machine."""
        alike = self.table.groupby("arm")[["correlation", "agreement"]].mean()
        # Each matching must win by its own measure, whatever the accuracies are.
        return "\n".join(
            (
                f"matchings: {self.table['arm'].nunique() - 2}",
                f"activation matching joins the units that are most alike: "
                f"{alike['correlation'].idxmax() == 'permuted'}",
                f"random permutations agree least but for none: "
                f"{set(alike['agreement'].nsmallest(2).index) == {'random', 'naive'}}",
            )
        )
