"""The page of signs against symmetry."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from lotperm.science.signs import ticket_bits
from lotperm.science.statistics import interval
from lotperm.studies import beyond
from lotperm.studies.predictions import Measure
from lotperm.studies.signs import arms, charts
from lotperm.studies.signs.measures import MEASURES, by_arm
from lotperm.studies.signs.study import STUDY
from lotperm.studies.study import Study, cells
from lotperm.studies.tables import with_interval


class Page(beyond.Page):
    """The page on which masks and signs are moved, together and apart."""

    study: ClassVar[Study[Any]] = STUDY
    measures: ClassVar[Mapping[str, Measure]] = MEASURES

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every arm of every cell and width, as `Signs.page_table`."""
        return STUDY.page_table(self.pipelines, self.options)

    @cached_property
    def first(self) -> pd.DataFrame:
        """The rows of the first width and sparsity, which include the controls."""
        s, width = self.experiment.sparsities[0], self.experiment.model.width
        return self.table[(self.table["sparsity"] == s) & (self.table["width"] == width)]

    @property
    def judged(self) -> pd.DataFrame:
        """The rows of the first width."""
        return self.table[self.table["width"] == self.experiment.model.width]

    def arms_of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return accuracies in percent, of arms whose seeds each have a ticket of their own."""
        return by_arm(rows)

    def accuracies(self) -> Figure:
        """Draw the accuracies of all arms."""
        return charts.accuracies(self.first, title=f"Masks and signs ({self.about})")

    def comparisons(self) -> pd.DataFrame:
        """Return what mask, signs and both gain, with p-values, a column for each cell."""
        pairs = {
            "mask permuted − naive": (arms.PERMUTED, arms.NAIVE),
            "A's signs − naive": (arms.NAIVE_A, arms.NAIVE),
            "both, moved − naive": (arms.PERMUTED_A, arms.NAIVE),
            "A's signs − LTH": (arms.NAIVE_A, arms.LTH),
            "both, moved − LTH": (arms.PERMUTED_A, arms.LTH),
            "both, moved − permuted": (arms.PERMUTED_A, arms.PERMUTED),
            "both, signs as found − permuted": (arms.PERMUTED_WRONG, arms.PERMUTED),
            "permuted, B's end signs − permuted": (arms.PERMUTED_B, arms.PERMUTED),
            "permuted, random signs − permuted": (arms.PERMUTED_RANDOM, arms.PERMUTED),
        }
        names = {words: (a.name, b.name) for words, (a, b) in pairs.items()}
        return self.compared(names, self.first)

    def basins(self) -> Figure:
        """Draw the barriers to the ticket and to its permuted copy."""
        return charts.whose_basin(self.first, title=f"Where arms end ({self.about})")

    def ends(self) -> pd.DataFrame:
        """Return where the arms end: barriers, distances, disagreement, and the signs at the start."""
        names = {
            "accuracy_barrier": "barrier to the ticket",
            "accuracy_barrier_permuted": "to the permuted ticket",
            "distance": "distance to the ticket",
            "distance_permuted": "to the permuted one",
            "disagreement": "disagreement with it (%)",
            "agreement": "signs of A's end, at the start (%)",
        }
        rows = {}
        own = self.first[self.first["ticket"] == "own"]
        for (k, arm), of in own.groupby(["rewind_epoch", "arm"], sort=False):
            rows[f"k = {k}", arm] = {
                words: f"{of[name].mean():.2f}"
                if name.startswith("distance")
                else with_interval(*interval(of[name]))
                for name, words in names.items()
            }
        return pd.DataFrame(rows).T

    def gains(self) -> Figure:
        """Draw what mask, signs and both gain at every width, sparsity and rewind epoch."""
        return charts.gains(self.table, title=f"Mask, signs, both ({self.about})")

    def members(self) -> pd.DataFrame:
        """Return accuracy, disagreement and ensemble of the members that share a ticket."""
        shared = self.table[self.table["ticket"] == "first"]
        rows = {}
        for (k, arm), of in shared.groupby(["rewind_epoch", "arm"], sort=False):
            rows[f"k = {k}", arm] = {
                "member (%)": with_interval(*interval(of["accuracy"])),
                "members disagree (%)": with_interval(*interval(of["between"])),
                "ensemble (%)": f"{100 * of['ensemble'].iloc[0]:.1f}",
            }
        return pd.DataFrame(rows).T

    def bits(self) -> pd.DataFrame:
        """Return what mask, signs and permutation take in bits, and what they gain over naive."""
        rows = {}
        for pipeline in self.pipelines:
            width = pipeline.experiment.model.width
            for s, k in cells(pipeline.experiment):
                at = (self.table["sparsity"] == s) & (self.table["rewind_epoch"] == k)
                of = self.table[at & (self.table["width"] == width)]
                if of.empty:
                    continue
                bits = ticket_bits(pipeline.masks(s, k)[0], pipeline.spec.sizes)
                found = by_arm(of) / 100
                gains = {
                    words: with_interval(*interval(found[arm.name] - found["naive"]))
                    for words, arm in (
                        ("π gains", arms.PERMUTED),
                        ("signs gain", arms.NAIVE_A),
                        ("both gain", arms.PERMUTED_A),
                    )
                }
                rows[f"×{width:g}, S = {s:g}, k = {k}"] = {
                    "mask (bits)": f"{bits.mask:,.0f}",
                    "signs (bits)": f"{bits.signs:,.0f}",
                    "permutation (bits)": f"{bits.permutation:,.0f}",
                    **gains,
                }
        return pd.DataFrame(rows).T

    def ask_bits(self, name: str) -> HTML:
        """Ask for the bits of the signs in percent of those of the mask, in the first cell."""
        mask = self.pipeline.masks(*cells(self.experiment)[0])[0]
        bits = ticket_bits(mask, self.pipeline.spec.sizes)
        hint = "The first row: bits of the signs, divided by bits of the mask."
        unit = "% of the mask's bits"
        return self.ask(name, 100 * bits.signs / bits.mask, within=1.0, unit=unit, hint=hint)

    def records(self) -> pd.DataFrame:
        """Return the main arms' accuracies in every recorded run."""
        return self.of_records({arm.name: arm.name for arm in arms.MAIN})

    def in_short(self) -> str:
        """Say what is equal on every machine."""
        own = self.first[(self.first["ticket"] == "own") & (self.first["rewind_epoch"] == 0)]
        agreement = own.groupby("arm")["agreement"].mean()
        mask = self.pipeline.masks(*cells(self.experiment)[0])[0]
        bits = ticket_bits(mask, self.pipeline.spec.sizes)
        return "\n".join(
            (
                f"predictions stated on {self.predictions.stated}: {len(self.predictions.all)}",
                f"signs of a ticket: {bits.signs:,.0f} bits",
                f"permuted signs agree with A's, permuted: "
                f"{agreement[arms.PERMUTED_A.name] > 0.999}",
            )
        )
