"""The page of early matching."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from IPython.display import HTML

from lotperm.store.provenance import source_hash
from lotperm.studies import page
from lotperm.studies.arms import compare, words
from lotperm.studies.arms.series import Series, download
from lotperm.studies.arms.study import run
from lotperm.studies.early import charts, series, tables
from lotperm.studies.early.study import STUDY, EarlyOptions, early_table
from lotperm.studies.html import HOW_SURE, badge, csv_link, folded, picture, table
from lotperm.studies.results import Results
from lotperm.studies.study import Study


class Page(page.Page):
    """The page on which A is matched to B at epoch t."""

    study: ClassVar[Study[Any]] = STUDY
    options: EarlyOptions

    @cached_property
    def cell(self) -> tuple[float, int]:
        """The sparsity and rewind epoch that are shown."""
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

    @cached_property
    def live(self) -> Series:
        """The arms that this page computed."""
        return series.of_page(self.table, self.results, *self.cell)

    def series(self) -> list[Series]:
        """Return the paper's Table 15, recorded runs, and this page's."""
        return [series.of_paper(), *series.of_records(), self.live]

    def answer(self, question: str) -> HTML:
        """Answer the page's question from the paper, recorded runs and this page's run."""
        lines = [self._line(one) for one in self.series()]
        return self.answered(question, lines)

    def _line(self, one: Series) -> str:
        at = series.early_epoch(one)
        effect, kept = series.gain(one, at), series.kept(one)
        rest = f"of what a match at the end gains, this keeps {kept.value:.0f} %"
        if one.kind == "paper":
            table = one.table[one.table["matched"] == at]
            above = int((table["gain"] > 0).sum())
            sign = badge(
                "agrees" if above == len(table) else "weaker",
                "paper: yes" if above == len(table) else "paper: mostly",
            )
            text = (
                f"matched at {at:.3g} % of B's training, permuted is above naive at {above} of "
                f"{len(table)} sparsities, by {effect.value:.1f} points on average"
            )
            return f"{sign} {words.of(one)}: {text}; {rest}."
        text = f"matched at {at:.3g} % of B's training, permuted − naive = {effect.text()}"
        if kept.low > -1e6 and kept.high < 1e6:
            text += f"; {rest} [{kept.low:.0f}, {kept.high:.0f}]"
        return f"{words.mark(one.kind, effect)} {words.of(one)}: {text} ({HOW_SURE})."

    def side_by_side(self) -> HTML:
        """Draw points gained and share of the gap against t, the paper's and ours."""
        found = {"matched": [(one, series.against_matching(one)) for one in self.series()]}
        below = (
            "The paper's curves are means over its four sparsities; bands are 95 % intervals over "
            f"our seeds ({HOW_SURE}). Orange line: no better than naive; blue line: as good as LTH."
        )
        return HTML(words.curves(compare.side_by_side(found), found, below))

    def quality(self) -> HTML:
        """Draw accuracy and correlation of matched units against the matching epoch."""
        results, (s, k) = self.results, self.cell
        title = f"Matching at epoch t, sparsity {s:g}, k = {k} ({self.about})"
        figure = charts.early_matching(self.table, results, s, k, title=title)
        score = self.table[self.table["metric"] == "score"]
        means = score.groupby("matching_epoch")["value"].mean()
        best = means.idxmax()
        text = (
            f"Live: the matched units correlate by {means.iloc[0]:.2f} at t = {means.index[0]}, by "
            f"{means.iloc[-1]:.2f} at the end, and most at t = {best} ({means.max():.2f})."
        )
        below = f"Left: accuracy of permuted between LTH and naive. Right: correlation. {text}"
        return HTML(picture(figure, text, below))

    def agreement(self) -> HTML:
        """Say which of the paper's statements our runs bear out, with the numbers folded away."""
        table = words.statements(self.series(), series.statements)
        said = words.agreement(self.series(), series.statements)
        return HTML(said + folded("The effects, with intervals and tests", table))

    def details(self) -> HTML:
        """Fold away what matching early costs, and the settings."""
        return HTML(
            folded("What matching at epoch t costs", table(self.costs()))
            + folded("Settings of this page's run", table(self.settings()))
        )

    def downloads(self) -> HTML:
        """Make links that download the numbers of this page, of the paper and of recorded runs."""
        e = self.experiment
        name = f"{self.figure}_live_{e.data.name}_{e.model.name}_{e.profile}.csv"
        live = csv_link(download([self.live], source_hash()[:12]), name)
        others = [one for one in self.series() if one.kind != "live"]
        link = csv_link(download(others, ""), f"{self.figure}_paper_and_recorded.csv")
        return HTML(f"<p>{live}<br>{link}</p>")

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
