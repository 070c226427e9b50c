"""All claims of the paper and of its authors' post, in our words, with how each is decided."""

from __future__ import annotations

from lotperm.studies.claims.claim import Claim
from lotperm.studies.claims.paper import (
    diversity,
    further,
    method,
    problem,
    results,
    rewind,
    symmetry,
    width,
)

__all__ = ["CLAIMS", "Claim"]


def _place(claim: Claim) -> tuple[int, str]:
    """Return where a claim stands: "16 a" comes before "16 b", and both before "17"."""
    return int(claim.number.split()[0]), claim.number


CLAIMS: tuple[Claim, ...] = tuple(
    sorted(
        (
            *problem.CLAIMS,
            *symmetry.CLAIMS,
            *method.CLAIMS,
            *width.CLAIMS,
            *results.CLAIMS,
            *rewind.CLAIMS,
            *diversity.CLAIMS,
            *further.CLAIMS,
        ),
        key=_place,
    )
)
"""All rows of the ledger, in the paper's order.

:meta hide-value:
"""
