"""The page of one basin."""

from __future__ import annotations

import html
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from lotperm.studies import page
from lotperm.studies.basin import charts, tables
from lotperm.studies.basin.beside import beside_basin, tables_of
from lotperm.studies.basin.study import STUDY, BasinOptions, basin_table
from lotperm.studies.basin.study import plane as plane_task
from lotperm.studies.basin.tables import largest
from lotperm.studies.claims.evidence import MARGIN, Within, mean_effect
from lotperm.studies.html import HOW_SURE, badge
from lotperm.studies.origin import attach, in_words
from lotperm.studies.study import Study


class Page(page.Page):
    """The page of the lines from dense A, and of the plane."""

    study: ClassVar[Study[Any]] = STUDY

    @cached_property
    def chosen(self) -> BasinOptions:
        """The options, completed for the experiment."""
        options: BasinOptions = self.options.completed(self.experiment)
        return options

    @cached_property
    def table(self) -> pd.DataFrame:
        """All lines, as `basin_table`."""
        return basin_table(self.pipeline, self.chosen)

    def against_round(self) -> Figure:
        """Draw the error barrier from dense A to A after every round of IMP."""
        title = f"Dense A to its own sparse solution ({self.about})"
        # Two of these pages share a notebook: each figure says to which of them it belongs.
        return attach(charts.against_round(self.table, title=title), self.origin)

    def plane(self) -> Figure:
        """Draw the 0–1 loss on the plane through dense A, LTH and permuted."""
        found = plane_task(self.pipeline, self.chosen).results
        title = f"Test error on the plane, seed {self.experiment.seeds[0]} ({self.about})"
        drawn = charts.plane(pd.DataFrame(found["plane"]), found["corners"], title=title)
        return attach(drawn, self.origin)

    def answer(self, question: str, *others: Page) -> HTML:
        """Answer the page's question: the largest barriers after REPAIR, live and recorded.

        Parameters
        ----------
        question : str
            The question.
        *others : Page
            Further pages whose networks count.
        """
        lines = []
        for source, table in tables_of((p.experiment, p.table) for p in (self, *others)).items():
            parts = []
            for over, words in (("rounds", "along A's rounds"), ("edges", "with LTH and permuted")):
                effect = mean_effect(source, words, 100 * largest(table, over)["repair"])
                parts.append(
                    f"{badge(Within().judge(effect))} {words} {html.escape(effect.text())}"
                )
            lines.append(f"{html.escape(in_words(source))}: {'; '.join(parts)}.")
        lines.append(
            f"Networks count as sharing one basin (<em>agrees</em>) if the largest barrier, with "
            f"its interval, is within {MARGIN:g} points ({HOW_SURE})."
        )
        return self.answered(question, lines)

    def edges(self) -> pd.DataFrame:
        """Return the barriers along the edges of the plane's triangle."""
        return tables.edges(self.table)

    def data(self) -> HTML:
        """Make a link that downloads the lines."""
        return self.download(self.table)

    def plane_data(self) -> HTML:
        """Make a link that downloads the plane."""
        found = plane_task(self.pipeline, self.chosen).results["plane"]
        return self.download(pd.DataFrame(found), f"{self.figure}_plane")

    def in_short(self) -> str:
        """Say what is equal on every machine."""
        own = self.table[self.table["network"] == "imp"]
        sparsities = ", ".join(f"{s:.2f}" for s in sorted(set(own["sparsity"])))
        return f"{self.experiment.model.name}, rounds of IMP to sparsity: {sparsities}"

    def beside(self, *others: Page) -> pd.DataFrame:
        """Put the barriers of this page's figures, live and recorded, one below the other."""
        return beside_basin([(p.experiment, p.table) for p in (self, *others)])
