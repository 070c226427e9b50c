"""The page of linear mode connectivity."""

from __future__ import annotations

import html
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from lotperm.science.barrier import accuracy_barriers
from lotperm.science.statistics import interval
from lotperm.studies import page, tables
from lotperm.studies.claims.evidence import Above, mean_effect
from lotperm.studies.connectivity import charts
from lotperm.studies.connectivity.beside import barriers_by_width, beside_connectivity
from lotperm.studies.connectivity.study import STUDY, ConnectivityOptions, connectivity_table
from lotperm.studies.html import HOW_SURE, badge
from lotperm.studies.numbers import number
from lotperm.studies.origin import attach, in_words, of_file, of_record
from lotperm.studies.published import live_label, recorded
from lotperm.studies.study import Study


class Lines(page.Page):
    """The part of a page that shows lines between networks."""

    options: ConnectivityOptions

    def line_options(self) -> ConnectivityOptions:
        """Return the options of the lines."""
        return STUDY.of_page(self.pipeline, self.options)

    @cached_property
    def lines(self) -> list[pd.DataFrame]:
        """Loss and accuracy along the lines at every width, as `connectivity_table`."""
        return [STUDY.table(p, self.line_options()) for p in self.pipelines]

    def along_the_line(self, metric: str, width: int = -1) -> Figure:
        """Draw "accuracy" or "loss" along the lines, at the width with this index."""
        of = self.experiments[width].model.width
        title = f"{metric.capitalize()} along the line, width {of:g} ({self.about})"
        return charts.connectivity(self.lines[width], metric, title=title)

    def correlation_per_layer(self, width: int = -1) -> Figure:
        """Draw the mean correlation of matched units, group by group."""
        of = self.experiments[width].model.width
        title = f"Correlation of matched units, width {of:g} ({self.about})"
        return charts.correlation_per_layer(self.pipelines[width].match(), title=title)

    def line_data(self, name: str = "") -> HTML:
        """Make a link that downloads the lines."""
        return self.download(self.lines, name)

    def beside_lines(self, dataset: str | None = None) -> pd.DataFrame:
        """Put midpoints and barriers, live and recorded, beside published ones."""
        return beside_connectivity(self.experiments, self.lines, dataset)


class Page(Lines):
    """The page on which barriers are compared."""

    study: ClassVar[Study[Any]] = STUDY

    def answer(self, question: str) -> HTML:
        """Answer the page's question: by how much permuting lowers the barrier, live and recorded.

        Parameters
        ----------
        question : str
            The question.
        """
        found = [
            (f"{live_label(e)}, {e.model.name}×{e.model.width:g}", table)
            for e, table in zip(self.experiments, self.lines, strict=True)
        ]
        found += [(run.label, run.summary) for run in recorded(kind="connectivity")]
        lines = []
        for source, table in found:
            barriers = accuracy_barriers(table)
            # Only repaired networks: others have lost their variance, permuted or not.
            chosen = barriers[barriers["repair"] == "bn"]
            if chosen.empty:
                continue
            wide = 100 * chosen.pivot(index="seed", columns="ends", values="barrier")
            effect = mean_effect(source, "lowered", wide["as trained"] - wide["permuted"])
            left = interval(wide["permuted"])[0]
            lines.append(
                f"{badge(Above().judge(effect))} {html.escape(in_words(source))}: permuting lowers the "
                f"barrier by {html.escape(effect.text())}; {number(left)} points are left."
            )
        lines.append(f"Batch norms are reset, if there are any; intervals over seeds ({HOW_SURE}).")
        return self.answered(question, lines)

    def against_width(self) -> Figure:
        """Draw the accuracy barrier against width."""
        every = tables.by_width(self.experiments, self.lines)
        title = f"Accuracy barrier against width ({self.about})"
        return charts.barriers(every, "width", label="width", title=title, log=True)

    def by_width(self) -> Figure:
        """Draw the barrier of matched networks against width, live, recorded and published."""
        drawn = charts.by_width(barriers_by_width(self.experiments, self.lines))
        runs = [of_record(run) for run in recorded(kind="connectivity")]
        published = of_file("lmc_reference", "midpoints by REPAIR's authors")
        return attach(drawn, self.origin, *runs, published)

    def width_data(self) -> HTML:
        """Make a link that downloads what `by_width` draws."""
        return self.download(barriers_by_width(self.experiments, self.lines), "barrier_by_width")

    def against_round(self) -> Figure:
        """Draw the accuracy barrier against the round of pruning."""
        rounds = STUDY.after_rounds(self.pipeline, self.line_options())
        found = [connectivity_table(task).assign(round=r) for r, task in rounds.items()]
        title = f"Accuracy barrier against the round of pruning ({self.about})"
        return charts.barriers(pd.concat(found), "round", label="round of IMP", title=title)

    def in_short(self) -> str:
        """Say what is equal on every machine."""
        every = tables.by_width(self.experiments, self.lines)
        middle = every[every["alpha"] == 0.5].groupby(["repair", "width", "ends"])["accuracy"]
        means = middle.mean().unstack()
        # Networks that weren't repaired are left out: their variance has collapsed, whether
        # permuted or not, so their midpoints say little.
        better = (means["permuted"] > means["as trained"]).drop(index="none").all()
        # A sign rather than numbers, which differ a little from machine to machine.
        return f"permuting raises the repaired midpoint at every width: {bool(better)}"
