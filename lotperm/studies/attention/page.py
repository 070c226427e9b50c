"""The page of the arms of a transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pandas as pd
import torch
from IPython.display import HTML
from matplotlib.figure import Figure

from lotperm.engine.transformer import VisionTransformer
from lotperm.science.symmetry import permute
from lotperm.studies import beyond
from lotperm.studies.attention import charts
from lotperm.studies.attention.measures import CONTRASTS, MEASURES
from lotperm.studies.attention.places import likeness_by_place
from lotperm.studies.attention.rotation import symmetries, what_a_mask_can_follow
from lotperm.studies.attention.study import STUDY
from lotperm.studies.predictions import Measure
from lotperm.studies.study import Study, cells


class Page(beyond.Page):
    """The page on which the tickets of a transformer are permuted."""

    study: ClassVar[Study[Any]] = STUDY

    measures: ClassVar[Mapping[str, Measure]] = MEASURES

    def symmetries(self) -> pd.DataFrame:
        """Return the groups of units that can be permuted."""
        return symmetries(self.pipeline.spec)

    def ask_inside(self, name: str) -> HTML:
        """Ask how many of the groups of units lie inside heads."""
        hint = "Each block has queries with keys, and values; the heads are another group."
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

    def records(self) -> pd.DataFrame:
        """Return the accuracies of all arms in every recorded run, in percent."""
        return self.of_records({arm: words for arm, (words, _) in charts.ARMS.items()})

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
        return self.compared(CONTRASTS)

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
