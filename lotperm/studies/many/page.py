"""The page of a mask for many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from lotperm.science.statistics import interval, paired
from lotperm.studies import beyond
from lotperm.studies.many import charts
from lotperm.studies.many.measures import MEASURES, together
from lotperm.studies.many.methods import METHODS
from lotperm.studies.many.study import STUDY
from lotperm.studies.origin import attach, conclude, describe, of_record
from lotperm.studies.predictions import Measure
from lotperm.studies.study import Study
from lotperm.studies.tables import by_cell, with_interval


class Page(beyond.Page):
    """The page on which one ticket is carried to many initializations."""

    study: ClassVar[Study[Any]] = STUDY
    measures: ClassVar[Mapping[str, Measure]] = MEASURES

    @property
    def first(self) -> pd.DataFrame:
        """The rows of the first cell."""
        return by_cell(self.table)[0][1]

    def against_cost(self) -> Figure:
        """Draw ensembles against their cost."""
        figure = charts.against_cost(self.first, title=f"One ticket for many ({self.about})")
        conclude(figure, charts.largest(self.first))
        return describe(figure, "; ".join(charts.curves_of(self.first)) + ".")

    def recorded_against_cost(self) -> Figure | None:
        """Draw the same for the recorded run on images; None as long as there is none."""
        runs = [run for run in self.recorded if run.experiment["data"]["name"] != "mnist1d"]
        if not runs:
            return None
        run, rows = runs[0], by_cell(runs[0].rows())[0][1]
        figure = charts.against_cost(rows, title=f"One ticket for many ({run.label})")
        conclude(figure, charts.largest(rows))
        describe(figure, "; ".join(charts.curves_of(rows)) + ".")
        return attach(figure, of_record(run))

    def costs(self) -> pd.DataFrame:
        """Return costs in dense trainings, and from how many members sharing beats own tickets."""
        rows = {}
        own = self._price("own tickets")
        for method in METHODS:
            once, each = self._price(method)
            # Where the lines of the two costs meet; without shared costs nothing has to pay off.
            meet = once / (own[1] - each) if own[1] > each and once else float("inf")
            rows[method] = {
                "a member": METHODS[method].words,
                "once": f"{once:.2f}",
                "each member": f"{each:.2f}",
                "cheaper than own tickets from": f"{int(meet) + 1} members"
                if meet < float("inf")
                else "",
            }
        return pd.DataFrame(rows).T.rename_axis("in trainings of a dense network")

    def _price(self, method: str) -> tuple[float, float]:
        """Return what a method trains once and for each member, in dense trainings."""
        rows = self.first[self.first["method"] == method].groupby("members")["dense_trainings"]
        of = rows.first()
        each = float(of.loc[2] - of.loc[1])
        return max(float(of.loc[1]) - each, 0.0), each

    def members(self) -> pd.DataFrame:
        """Return one member, all together, their disagreement, cost and size, for each method."""
        rows = {}
        for method in METHODS:
            own = self.first[self.first["method"] == method]
            one, every = (own[own["members"] == size] for size in (1, own["members"].max()))
            rows[method] = {
                "a member (%)": with_interval(*interval(one["accuracy"])),
                f"{every['members'].iloc[0]} together (%)": with_interval(
                    *interval(every["accuracy"])
                ),
                "members disagree (%)": with_interval(*interval(every["disagreement"])),
                "FLOPs": f"{every['flops'].mean():.2e}",
                "dense trainings": f"{every['dense_trainings'].mean():.1f}",
                "weights kept": f"{every['weights'].mean():,.0f}",
            }
        return pd.DataFrame(rows).T

    def contrasts(self) -> pd.DataFrame:
        """Return the differences that were chosen before the runs, with p-values over tickets."""
        columns = {}
        for words, rows in by_cell(self.table):
            found = {}
            for measure in MEASURES.values():
                values = measure.of(rows).dropna() / 100
                if values.empty:
                    continue
                test = paired(values, 0 * values)
                p = "" if pd.isna(test.p_value) else f", p = {test.p_value:.1g}"
                found[measure.what] = with_interval(test.mean, test.half_width) + p
            columns[words] = found
        return pd.DataFrame(columns)

    def ask_saved(self, name: str) -> HTML:
        """Ask for the dense trainings that members matched at k save against own tickets."""
        prices = together(self.first, "dense_trainings").mean()
        saved = prices["own tickets"] - prices["permuted at k"]
        hint = "The column of dense trainings, for all members together."
        return self.ask(name, saved, within=0.06, unit="dense trainings", hint=hint)

    def records(self) -> pd.DataFrame:
        """Return the largest ensemble of every method, in every recorded run."""
        rows = {}
        for run in self.recorded:
            for words, of in by_cell(run.rows()):
                found = together(of)
                rows[f"{run.label}, {words}"] = {
                    method: with_interval(*interval(found[method])) for method in METHODS
                }
        return pd.DataFrame(rows).T

    def in_short(self) -> str:
        """Say what is equal on every machine."""
        lines = [f"predictions stated on {self.predictions.stated}: {len(self.predictions.all)}"]
        for method in ("own tickets", "permuted", "permuted at k", "signs"):
            once, each = self._price(method)
            lines.append(f"{method}: {once:.1f} + {each:.1f} n dense trainings for n members")
        return "\n".join(lines)
