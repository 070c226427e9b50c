"""The page of the arms of a transformer."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from IPython.display import HTML
from matplotlib.figure import Figure

from lotperm.engine.transformer import VisionTransformer
from lotperm.science.statistics import interval
from lotperm.science.symmetry import permute
from lotperm.studies import page
from lotperm.studies.attention import charts
from lotperm.studies.attention.measures import CONTRASTS, MEASURES, by_arm
from lotperm.studies.attention.places import likeness_by_place
from lotperm.studies.attention.rotation import symmetries, what_a_mask_can_follow
from lotperm.studies.attention.study import STUDY
from lotperm.studies.predictions import Predictions, load_predictions, verdicts
from lotperm.studies.published import Recorded, recorded
from lotperm.studies.study import Study, cells
from lotperm.studies.tables import contrasts, with_interval


class Page(page.Page):
    """The page on which the tickets of a transformer are permuted."""

    study: ClassVar[Study[Any]] = STUDY

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every arm of every cell, as `lotperm.studies.attention.study.attention_table`."""
        return STUDY.table(self.pipeline, self.options.completed(self.experiment))

    @cached_property
    def predictions(self) -> Predictions:
        """What was stated before the runs."""
        return load_predictions(Path(__file__).parent, MEASURES)

    def symmetries(self) -> pd.DataFrame:
        """Return the groups of units that can be permuted."""
        return symmetries(self.pipeline.spec)

    def ask_inside(self, name: str) -> HTML:
        """Ask how many of the groups of units lie inside heads."""
        hint = "Each block has queries with keys, and values; the heads themselves are a group beside them."
        return self.ask(name, len(self.pipeline.spec.inside), unit="groups", hint=hint)

    def rotation(self) -> pd.DataFrame:
        """Compare a permutation with a rotation of queries and keys, on the first ticket."""
        p, (s, k) = self.pipeline, cells(self.experiment)[0]
        return what_a_mask_can_follow(
            p.build(),
            p.dense().weights()[0][0],
            p.masks(s, k)[0],
            p.spec,
            next(iter(p.match_batches(100))),
            heads=VisionTransformer.HEADS,
        )

    @cached_property
    def recorded(self) -> list[Recorded]:
        """The recorded runs of the question."""
        return recorded(kind=STUDY.name)

    def records(self) -> pd.DataFrame:
        """Return the accuracies of all arms in every recorded run, in percent."""
        rows = {}
        for run in self.recorded:
            for (s, k), of in run.rows().groupby(["sparsity", "rewind_epoch"]):
                found = by_arm(of) / 100
                rows[f"{run.label}, S = {s:g}, k = {k}"] = {
                    words: with_interval(*interval(found[arm]))
                    for arm, (words, _) in charts.ARMS.items()
                }
        return pd.DataFrame(rows).T

    def accuracies(self) -> Figure:
        """Draw the accuracies of all arms."""
        return charts.accuracies(self.table, title=f"A ticket of a transformer ({self.about})")

    def likeness(self) -> Figure:
        """Draw how alike joined units are."""
        s, k = cells(self.experiment)[0]
        one = self.table[(self.table["sparsity"] == s) & (self.table["rewind_epoch"] == k)]
        return charts.likeness(one, title=f"Units of A and B ({self.about})")

    def places(self) -> pd.DataFrame:
        """Return how alike joined units are at every place of the network, a mean over seeds."""
        p = self.pipeline
        found = likeness_by_place(
            p.build(),
            zip(*p.dense().weights(), p.match(), strict=True),
            next(iter(p.match_batches(500))),
        )
        return found.map("{:.2f}".format)

    def contrasts(self) -> pd.DataFrame:
        """Return the paired differences of arms, a column for each cell."""
        columns = {}
        for (s, k), cell in self.table.groupby(["sparsity", "rewind_epoch"]):
            columns[f"S = {s:g}, k = {k}"] = contrasts(by_arm(cell) / 100, CONTRASTS)
        return pd.DataFrame(columns)

    def verdicts(self) -> pd.DataFrame:
        """Judge the predictions by what was computed here, and by recorded runs."""
        tables = {"live": self.table, **{run.label: run.rows() for run in self.recorded}}
        return verdicts(self.predictions, MEASURES, tables)

    def data(self) -> HTML:
        """Make a link that downloads every number of the page."""
        return self.download(self.table)

    def in_short(self) -> str:
        """Say what is equal on every machine."""
        p = self.pipeline
        first = self.table[self.table["arm"] == "permuted"].mean(numeric_only=True)
        plain = self.table[self.table["arm"] == "naive"].mean(numeric_only=True)
        mask = p.masks(*cells(self.experiment)[0])[0]
        moved = permute(mask, p.spec, p.match()[0])
        same = all(int(moved[n].sum()) == int(kept.sum()) for n, kept in mask.items())
        other = any(not torch.equal(moved[n], kept) for n, kept in mask.items())
        # Signs rather than numbers, which differ a little from machine to machine.
        return "\n".join(
            (
                f"groups of units that can be permuted: {len(p.spec.sizes)}, "
                f"of which inside of heads: {len(p.spec.inside)}",
                f"π moves weights, and keeps as many in every layer: {other and same}",
                f"π joins units more alike than they are found: "
                f"{bool(first['correlation'] > plain['correlation'])}",
            )
        )
