"""The pages of the method: accuracy against rewind epoch, sparsity and width."""

from __future__ import annotations

import html
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from lotperm.science.barrier import accuracy_barriers
from lotperm.science.statistics import interval
from lotperm.store.provenance import source_hash
from lotperm.studies import page
from lotperm.studies.arms import charts, compare, effects, series, tables, words
from lotperm.studies.arms.series import Series
from lotperm.studies.arms.study import STUDY, barrier, run
from lotperm.studies.claims import numbers
from lotperm.studies.connectivity.study import connectivity_table
from lotperm.studies.html import HOW_SURE, csv_link, folded, picture, table
from lotperm.studies.numbers import number
from lotperm.studies.origin import attach
from lotperm.studies.published import paper
from lotperm.studies.results import Results
from lotperm.studies.stages import matchings
from lotperm.studies.study import Study

_FIGURES = {
    "resnet20_cifar10": ("cifar10", "resnet"),
    "resnet20_cifar100": ("cifar100", "resnet"),
    "vgg11_cifar10": ("cifar10", "vgg"),
    "svhn": ("svhn", "resnet"),
    "resnet50_imagenet": ("imagefolder", "resnet50"),
}
"""Figure -> data set and network of the recorded runs that belong to it."""


class Page(page.Page):
    """A page on which the three arms are compared."""

    study: ClassVar[Study[Any]] = STUDY

    @cached_property
    def results(self) -> list[Results]:
        """Results of every width; computed when first asked for."""
        return [run(pipeline) for pipeline in self.pipelines]

    @cached_property
    def live(self) -> Series:
        """The arms that this page computed."""
        return series.of_results(self.results)

    def series(self, *more: tuple[str, str]) -> list[Series]:
        """Return the paper's arms, recorded ones, and this page's.

        Parameters
        ----------
        *more : tuple of str
            Data set and network of further recorded runs.
        """
        found = [series.of_paper(self.figure)]
        for dataset, model in (_FIGURES[self.figure], *more):
            found += series.of_records(dataset, model)
        return [*found, self.live]

    def answer(self, question: str, *more: tuple[str, str], why: str = "") -> HTML:
        """Answer the page's question from the paper, recorded runs and this page's run.

        Parameters
        ----------
        question : str
            The question.
        *more : tuple of str
            As in `series`.
        why : str, optional
            Why this page's run doesn't show the effect, in case it doesn't.
        """
        # A run at a single setting counts here, though it makes no curve.
        points = series.of_records(*_FIGURES[self.figure], points=True)
        *shown, live = self.series(*more)
        shown = [*shown, *points, live]
        return self.answered(question, words.gains(shown, why))

    def paper_figure(self) -> HTML:
        """Draw the paper's own figure from its numbers; of several widths, the two extremes."""
        arms = series.of_paper(self.figure).table
        if self.figure == "svhn":
            raw = paper("svhn_resnet20x1")
            table = raw.rename(columns={"test_acc_mean": "mean", "test_acc_spread": "std"})
            shape = {"columns": "rewind_epoch", "rows": "width", "x": "sparsity"}
            figure = compare.paper_panels(table.assign(width=1), **shape, xlabel="sparsity S")
            where = "the authors' table of SVHN (Table 16 of their repository)"
        else:
            tidy = numbers.cells()
            table = tidy[(tidy["figure"] == self.figure) & (tidy["metric"] == "top1")]
            table = table[table["width"].isin([table["width"].min(), table["width"].max()])]
            shape = {"columns": "sparsity", "rows": "width", "x": "rewind_epoch"}
            figure = compare.paper_panels(table, **shape, xlabel="rewind epoch k, of 200")
            where = numbers.both_numbers(self.figure)
        above, below = (int((sign * arms["gain"] > 0).sum()) for sign in (1, -1))
        text = (
            f"Paper: {where}. Test accuracy, mean and reported spread. Permuted is above naive in "
            f"{above} and below it in {below} of all {len(arms)} settings"
        )
        if arms["lth"].notna().all():
            higher = int((arms["lth"] > arms["permuted"]).sum())
            text += f", LTH above permuted in {higher}"
        attach(figure, *series.of_paper(self.figure).origins)
        return HTML(picture(figure, f"{text}.", f"{html.escape(text)}."))

    def side_by_side(self, *more: tuple[str, str]) -> HTML:
        """Draw points gained and share of the gap, the paper's and ours on the same axes."""
        found = compare.curves(self.series(*more))
        below = (
            f"Each curve is a mean over the other settings; bands are 95 % intervals over our seeds "
            f"({HOW_SURE}). Orange line: no better than naive; blue line: as good as LTH."
        )
        return HTML(words.curves(compare.side_by_side(found), found, below))

    def agreement(self, *more: tuple[str, str]) -> HTML:
        """Say which of the paper's statements our runs bear out, with the numbers folded away."""
        shown = self.series(*more)
        effects_of = words.statements(shown)
        folds = folded("The effects, with intervals and tests", effects_of)
        return HTML(words.agreement(shown) + folds)

    def alignment(self) -> HTML:
        """Draw how well the networks of every width align, beside the gap that permuting closes."""
        if len(self.pipelines) == 1:
            score = self._scores(0).mean()
            return HTML(f"<p>The matched units of A and B correlate by {score:.2f} on average.</p>")
        shares = effects.against(self.live, "units").set_index("x")
        rows = []
        for at, pipeline in enumerate(self.pipelines):
            units = series.narrowest(self.experiments[at].to_dict()["model"])
            lines = accuracy_barriers(connectivity_table(barrier(pipeline)))
            height = 100 * lines.loc[lines["ends"] == "permuted", "barrier"].to_numpy()
            rows.append(
                {
                    "units": units,
                    **_with_half("correlation", self._scores(at)),
                    **_with_half("barrier", height),
                    **shares.loc[units, ["share", "share_low", "share_high"]],
                }
            )
        table = pd.DataFrame(rows)
        first, last = table.iloc[0], table.iloc[-1]
        text = (
            f"Live, from {first['units']:g} to {last['units']:g} units: the correlation of matched "
            f"units goes from {first['correlation']:.2f} to {last['correlation']:.2f}, the barrier "
            f"between permuted A and B from {number(first['barrier'])} to "
            f"{number(last['barrier'])} points"
        )
        # Where the gap may be 0, the share has no value.
        known = table.dropna(subset="share")["share"]
        if len(known) > 1:
            text += f", the share of the gap that is closed from {known.iloc[0]:.0f} to {known.iloc[-1]:.0f} %"
        text += "."
        below = f"Bars are 95 % intervals over seeds ({HOW_SURE}). {html.escape(text)}"
        return HTML(picture(compare.alignment(table), text, below))

    def _scores(self, at: int) -> np.ndarray:
        """Return every seed's mean correlation of matched units; all groups count equally."""
        found = matchings(self.pipelines[at])
        return np.array([sum(m.scores.values()) / len(m.scores) for m in found])

    def details(self) -> HTML:
        """Fold away the accuracies of every arm, their comparisons and the settings."""
        title = f"Accuracy against the rewind epoch ({self.about})"
        drawn = charts.rewind_curves(self.results, title=title)
        alt = f"Test accuracy of LTH, permuted and naive against the rewind epoch: {self.about}."
        parts = [
            folded("Accuracies of every arm, as curves", picture(drawn, alt)),
            folded("Paired differences at every setting", table(self.comparisons())),
            folded("Settings of this page's run", table(self.settings())),
        ]
        return HTML("".join(parts))

    def downloads(self, *more: tuple[str, str]) -> HTML:
        """Make links that download the numbers of this page, of the paper and of recorded runs."""
        e = self.experiment
        name = f"{self.figure}_live_{e.data.name}_{e.model.name}_{e.profile}"
        live = csv_link(series.download([self.live], source_hash()[:12]), f"{name}.csv")
        others = [one for one in self.series(*more) if one.kind != "live"]
        link = csv_link(series.download(others, ""), f"{self.figure}_paper_and_recorded.csv")
        return HTML(f"<p>{live}<br>{link}</p>")

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
        """Say what is equal on every machine."""
        return tables.in_short(self.results[0])

    def data(self) -> HTML:
        """Make a link that downloads the results."""
        return self.download([results.table for results in self.results])


def _with_half(name: str, values: np.ndarray) -> dict[str, float]:
    mean, half = interval(values)
    return {name: mean, f"{name}_half": half}
