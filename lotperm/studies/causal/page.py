"""The page of the causal test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from lotperm.studies import beyond
from lotperm.studies.causal import charts
from lotperm.studies.causal.measures import MEASURES
from lotperm.studies.causal.study import COPY_NAIVE, STUDY, oracle
from lotperm.studies.predictions import Measure, by_arm
from lotperm.studies.study import Study
from lotperm.studies.tables import by_cell

COMPARISONS = {
    "π known − LTH": (oracle(0).name, "lth"),
    "π known − mask as found, on the copy": (oracle(0).name, COPY_NAIVE.name),
    "copy, mask as found − naive": (COPY_NAIVE.name, "naive"),
    "permuted − naive": ("permuted", "naive"),
    "permuted − π all scrambled": ("permuted", "B, 100% scrambled"),
    "π by weights − permuted": ("weights", "permuted"),
    "π to B at epoch 0 − naive": ("epoch-0", "naive"),
}
"""A comparison in words -> the two arms that it compares."""


class Page(beyond.Page):
    """The page on which the permutation is known, spoiled and exchanged."""

    study: ClassVar[Study[Any]] = STUDY
    measures: ClassVar[Mapping[str, Measure]] = MEASURES

    def known(self) -> Figure:
        """Draw the arms of the copy whose permutation is known."""
        return charts.known(self.table, title=f"A shuffled copy of A as B ({self.about})")

    def exact(self) -> pd.DataFrame:
        """Return how far from LTH the copy with the known permutation ends."""
        rows = {}
        for words, cell in by_cell(self.table):
            apart = (by_arm(cell)[oracle(0).name] - by_arm(cell)["lth"]).abs()
            rows[words] = {
                "seeds that end with the same accuracy": f"{int((apart == 0).sum())} of {len(apart)}",
                "largest difference (points)": f"{apart.max():.2f}",
            }
        return pd.DataFrame(rows).T

    def dose(self) -> Figure:
        """Draw accuracy against the share of π that is scrambled."""
        return charts.dose_response(self.table, title=f"Dose and response ({self.about})")

    def sources(self) -> Figure:
        """Draw gain against likeness over all permutations."""
        title = f"Other permutations ({self.about})"
        return charts.gain_against_correlation(self.table, title=title)

    def comparisons(self) -> pd.DataFrame:
        """Return paired differences with their p-values, a column for each cell."""
        return self.compared(COMPARISONS)

    def ask_dose(self, name: str) -> HTML:
        """Ask for the points that B loses, at the last rewind epoch, when all of π is scrambled."""
        last = self.table[self.table["rewind_epoch"] == self.table["rewind_epoch"].max()]
        first = last[last["sparsity"] == self.experiment.sparsities[0]]
        means = by_arm(first).mean()
        lost = means["permuted"] - means["B, 100% scrambled"]
        hint = "The row permuted − π all scrambled, in the last column."
        return self.ask(name, lost, within=0.06, unit="points", hint=hint)

    def in_short(self) -> str:
        """Say what is equal on every machine."""
        last = self.table[self.table["rewind_epoch"] == self.table["rewind_epoch"].max()]
        arms = by_arm(last).mean()
        alike = last.groupby("arm")["correlation"].mean()
        found = self.predictions
        # Signs rather than numbers, which differ a little from machine to machine.
        return "\n".join(
            (
                f"predictions stated on {found.stated}: {len(found.all)}",
                f"the copy with π known ends above the copy with the mask as found: "
                f"{bool(arms[oracle(0).name] > arms[COPY_NAIVE.name])}",
                f"scrambling all of π leaves units less alike: "
                f"{bool(alike['B, 100% scrambled'] < alike['permuted'])}",
            )
        )
