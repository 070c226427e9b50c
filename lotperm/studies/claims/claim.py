"""A claim: its words, where it is made, and how it is decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lotperm.studies.claims.evidence import Effect, Rule
from lotperm.studies.claims.numbers import figures
from lotperm.studies.claims.sources import Sources

Measure = Callable[[Sources], Sequence[Effect]]

NO_TABLE = "drawn, without a table"
"""Support of a claim that the paper shows only in a figure."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, where it is made, and how it is decided.

    Attributes
    ----------
    number : str
        "16 a", as the ledger counts.
    words : str
        The claim in our words.
    theme : str
        Heading under which the ledger lists it.
    figures : tuple of str
        Figures that show it: `id` in `numbers.figures`.
    post, paper : str
        Where the blog post or the paper says it besides its figures, "" if nowhere.
    page : str
        The page of this book that shows it, without suffix.
    rule : Rule
        The rule that the effects are judged by.
    theirs : Measure or None
        The paper's evidence; None if it gives no number.
    unproven : str
        What supports it instead of a number, in a few words.
    ours : Measure or None
        Recorded evidence; None, or an empty list from it, if there is none yet.
    dataset : str
        The data set that a run has to be on, "" if any will do.
    needs : str
        The run that would decide the claim.
    remark : str
        Further words for the reader, a sentence or two.
    """

    number: str
    words: str
    theme: str
    figures: tuple[str, ...] = ()
    post: str = ""
    paper: str = ""
    page: str
    rule: Rule
    theirs: Measure | None = None
    unproven: str = ""
    ours: Measure | None = None
    dataset: str = ""
    needs: str = ""
    remark: str = ""

    def place(self, where: str) -> str:
        """Return where the claim is made: "post" or "paper"; "" if it isn't made there."""
        named = figures().loc[list(self.figures), where]
        said = self.post if where == "post" else self.paper
        return "; ".join(text for text in [*named, said] if text)

    @property
    def slug(self) -> str:
        """Return the name that links lead to."""
        return f"claim-{self.number.replace(' ', '')}"


def one(measure: Callable[[Sources], Effect]) -> Measure:
    """Return a measure of one effect."""
    return lambda sources: [measure(sources)]
