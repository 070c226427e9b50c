"""The ledger: every claim with the paper's evidence, ours, and what the data decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lotperm.studies.claims.claim import Claim
from lotperm.studies.claims.evidence import VERDICTS, Effect, Verdict, verdict
from lotperm.studies.claims.register import CLAIMS
from lotperm.studies.claims.sources import Sources, can_be_had


@dataclass(frozen=True)
class Row:
    """A claim with its evidence.

    Attributes
    ----------
    claim : Claim
        The claim.
    theirs, recorded, live : tuple of Effect
        Evidence from the paper's tables, from recorded runs, and computed while a page is built.
    """

    claim: Claim
    theirs: tuple[Effect, ...]
    recorded: tuple[Effect, ...]
    live: tuple[Effect, ...]

    @property
    def tables(self) -> Verdict | None:
        """Return whether the paper's own tables bear the claim out; None without a number."""
        return verdict(self.theirs, self.claim.rule)

    @property
    def verdict(self) -> Verdict:
        """Return what our runs say about the claim.

        Without any run it is "cannot be run here" if the claim needs a data set that this project
        can't get by itself, else "not run here".
        """
        # Recorded and live evidence count alike; the paper's own doesn't count here.
        found = verdict((*self.recorded, *self.live), self.claim.rule)
        if found is not None:
            return found
        dataset = self.claim.dataset
        return "not run here" if not dataset or can_be_had(dataset) else "cannot be run here"


def ledger(
    sources: Sources | None = None,
    live: Mapping[str, Sequence[Effect]] | None = None,
    claims: Sequence[Claim] = CLAIMS,
) -> list[Row]:
    """Compute the ledger.

    Parameters
    ----------
    sources : Sources, optional
        The tables and records to compute it from; by default those in ``book/``.
    live : mapping of str to sequence of Effect, optional
        Evidence that is computed while a page is built: number of a claim -> effects.
    claims : sequence of Claim, optional
        The claims; by default the paper's.

    Returns
    -------
    list[Row]
        One for each claim.
    """
    # Tests pass their own sources, with changed numbers.
    sources = Sources.load() if sources is None else sources
    live = live or {}
    return [
        Row(
            claim,
            tuple(claim.theirs(sources)) if claim.theirs else (),
            tuple(claim.ours(sources)) if claim.ours else (),
            tuple(live.get(claim.number, ())),
        )
        for claim in claims
    ]


def counts(rows: Sequence[Row]) -> dict[Verdict, int]:
    """Return how many claims have each verdict, in the order of `VERDICTS`."""
    found = Counter(row.verdict for row in rows)
    return {verdict: found[verdict] for verdict in VERDICTS}


REAL_SEEDS = 3
"""Seeds from which on a run on real images counts in `agreeing_on_real_images`."""


def agreeing_on_real_images(rows: Sequence[Row]) -> list[str]:
    """List the numbers of the claims that our runs on real images agree with.

    At least one run must have `REAL_SEEDS` seeds or more; a run with fewer can't make a claim
    agree, but can keep it from agreeing.
    """
    found = []
    for row in rows:
        real = [
            effect
            for effect in row.recorded
            # MNIST-1D is made by a formula; its name is part of every label.
            if effect.over == "seeds" and "mnist1d" not in effect.source
        ]
        enough = any(effect.n >= REAL_SEEDS for effect in real)
        if enough and verdict(real, row.claim.rule) == "agrees":
            found.append(row.claim.number)
    return found


def ledger_sum(rows: Sequence[Row]) -> str:
    """Return the ledger in one or two sentences.

    Parameters
    ----------
    rows : sequence of Row
        As `ledger` returns them.

    Returns
    -------
    str
        As "Of 39 claims our runs agree with 16, …".
    """
    found = counts(rows)
    # Some claims come without a number in the paper: a drawing, a citation, a hypothesis.
    tabled = [row.tables for row in rows if row.tables is not None]
    return (
        f"Of {len(rows)} claims our runs agree with {found['agrees']}, show {found['weaker']} more "
        f"weakly than claimed and {found['opposite']} the other way round; {found['not run here']} "
        f"have not been run here, and {found['cannot be run here']} cannot be. Runs on real images, with "
        f"{REAL_SEEDS} seeds or more, agree with {len(agreeing_on_real_images(rows))}. "
        f"Published numbers bear on {len(tabled)} of them, and bear out {tabled.count('agrees')}."
    )


def ledger_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the ledger as a table, for download: a row for each piece of evidence.

    Returns
    -------
    DataFrame
        Columns claim, words, post, paper, rule, tables_verdict, verdict, kind ("paper",
        "recorded", "live", or "" for a claim without evidence), source, quantity, value, low,
        high, unit, n, over, p, says (the verdict of this piece alone), note.
    """
    table = []
    for row in rows:
        claim = row.claim
        about = {
            "claim": claim.number,
            "words": claim.words,
            "post": claim.place("post"),
            "paper": claim.place("paper"),
            "tables_verdict": row.tables or "",
            "verdict": row.verdict,
        }
        kinds = (("paper", row.theirs), ("recorded", row.recorded), ("live", row.live))
        pieces = [(kind, effect) for kind, effects in kinds for effect in effects]
        for kind, effect in pieces:
            table.append({**about, "kind": kind, **_columns(effect, claim)})
        # A claim without evidence has a row as well, with the run that would decide it.
        if not pieces:
            table.append({**about, "kind": "", "note": claim.needs})
    return pd.DataFrame(table)


def _columns(effect: Effect, claim: Claim) -> dict[str, object]:
    return {
        "source": effect.source,
        "quantity": effect.what,
        "value": effect.value,
        "low": effect.low,
        "high": effect.high,
        "unit": effect.unit,
        "n": effect.n,
        "over": effect.over,
        "p": effect.p,
        "rule": claim.rule.words(effect.unit),
        "says": claim.rule.judge(effect),
        "note": effect.note,
    }
