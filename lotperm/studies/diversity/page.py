"""The page of diversity and ensembles, and of what LTH learns again."""

from __future__ import annotations

import html
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from lotperm.data.catalog import spec_of
from lotperm.studies import page
from lotperm.studies.claims import members, sources
from lotperm.studies.claims.evidence import Above
from lotperm.studies.diversity import charts, tables
from lotperm.studies.diversity.beside import beside_diversity
from lotperm.studies.diversity.study import STUDY, diversity_table
from lotperm.studies.html import HOW_SURE, badge
from lotperm.studies.numbers import Number, number
from lotperm.studies.origin import attach, in_words, of_record
from lotperm.studies.published import live_label, recorded
from lotperm.studies.relearning import charts as nearness_charts
from lotperm.studies.relearning import tables as nearness_tables
from lotperm.studies.relearning.beside import beside_relearning
from lotperm.studies.relearning.study import relearning_table
from lotperm.studies.study import Study, cells


class Page(page.Page):
    """The page on which members and ensembles are compared."""

    study: ClassVar[Study[Any]] = STUDY

    @cached_property
    def table(self) -> pd.DataFrame:
        """Diversity of the first cell, as `diversity_table`."""
        return diversity_table(self.pipeline, *cells(self.experiment)[0])

    def answer(self, question: str) -> HTML:
        """Answer the page's question: are permuted members more diverse, and better together?

        Parameters
        ----------
        question : str
            The question.
        """
        every = sources.Sources.load()
        data = self.experiment.data
        images = data.test_size or spec_of(data.name).n_test
        s = self.experiment.sparsities[0]
        live = members.of_table(live_label(self.experiment), self.table, images, s)
        lines = []
        for those in (*members.published(every), *members.recorded(every), live):
            together = members.better_ensemble_than_lth(those)
            # The name of a record's folder means nothing to a reader.
            where = in_words(those.source.partition(" (")[0])
            lines.append(
                f"{badge(Above().judge(together))} {html.escape(where)}, S = {those.sparsity:g}: "
                f"disagreement {number(members.more_diverse_than_lth(those).value)}, ensemble "
                f"{html.escape(together.text())}."
            )
        lines.append(
            "Both are permuted minus LTH, in points: the share of the test examples on which two "
            "members disagree, and the accuracy of the ensemble. Intervals treat the test "
            "examples as the only source of chance: another set of members may differ by more "
            f"({HOW_SURE})."
        )
        return self.answered(question, lines)

    def members(self) -> pd.DataFrame:
        """Return members, ensemble and diversity of every method, as the paper's Table 1."""
        label, s = live_label(self.experiment), self.experiment.sparsities[0]
        words = f"{label}, S = {s:g}, {self.table['members'].iloc[0]} members"
        return tables.diversity(self.table).rename_axis(words)

    def ensembles(self) -> Figure:
        """Draw members, ensembles and disagreement."""
        s = self.experiment.sparsities[0]
        title = f"Members and their ensembles at sparsity {s:g} ({self.about})"
        return charts.diversity(self.table, title=title)

    def data(self) -> HTML:
        """Make a link that downloads the table."""
        return self.download(self.table)

    def in_short(self) -> str:
        """Say what is equal on every machine."""
        ranked = self.table.set_index("method")["disagreement"].sort_values()
        # Ranks and signs rather than numbers, which differ a little from machine to machine.
        more = bool(ranked["permuted"] > ranked["lth"])
        return (
            f"members that agree most: {ranked.index[0]}\n"
            f"permuted members disagree more than those of LTH: {more}"
        )

    def beside(self) -> pd.DataFrame:
        """Put the table, live and recorded, beside the paper's."""
        return beside_diversity(self.table, self.experiment)

    def against_sparsity(self) -> Figure:
        """Draw members and ensembles against sparsity, for the record with the most sparsities."""
        run = max(recorded(kind="diversity"), key=lambda run: run.summary["sparsity"].nunique())
        drawn = charts.against_sparsity(run.summary, title=f"Members and ensembles ({run.label})")
        return attach(drawn, of_record(run))

    def ensembles_compared(self) -> pd.DataFrame:
        """Return every recorded ensemble of permuted members beside LTH's ensemble."""
        rows = {}
        for those in members.recorded(sources.Sources.load()):
            less = members.better_ensemble_than_lth(those)
            single = those.number("permuted", "mean") - those.number("lth", "mean")
            rows[those.source, f"{those.sparsity:g}"] = {
                "one member: permuted − LTH": Number(single).text(2),
                "together: LTH": Number(those.number("lth", "ensemble")).text(2),
                "together: permuted": Number(those.number("permuted", "ensemble")).text(2),
                "permuted − LTH": Number(less.value, (less.high - less.low) / 2).text(2),
            }
        return pd.DataFrame(rows).T.rename_axis(["", "S"])

    # The pruned network that a ticket came from

    @cached_property
    def solutions(self) -> pd.DataFrame:
        """How near the solutions of the first cell are to A's, as `relearning_table`."""
        return relearning_table(self.pipeline, *cells(self.experiment)[0])

    def relearned(self) -> Figure:
        """Draw how far the sparse networks are from pruned A."""
        s = self.experiment.sparsities[0]
        reference = nearness_tables.main_reference(self.solutions)
        title = f"How far from {nearness_tables.WORDS[reference]}, sparsity {s:g} ({self.about})"
        return nearness_charts.nearness(self.solutions, title=title)

    def nearness(self) -> pd.DataFrame:
        """Return how near every network is to pruned and to dense A."""
        return nearness_tables.nearness(self.solutions)

    def more_than_lth(self) -> pd.DataFrame:
        """Return by how much more the networks that start from B differ from A's than LTH does."""
        return nearness_tables.relearned(self.solutions)

    def nearness_data(self) -> HTML:
        """Make a link that downloads the comparison, a row for each seed and pair."""
        return self.download(self.solutions, f"{self.figure}_relearning")

    def beside_nearness(self) -> pd.DataFrame:
        """Put nearness to pruned A, live and recorded, one below the other."""
        return beside_relearning(self.solutions, self.experiment)
