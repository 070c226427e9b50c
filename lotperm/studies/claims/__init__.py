"""The paper's claims, each with its evidence and ours, and verdicts that the data decide.

`numbers` has the paper's tables. `paper` has the claims, a module for each heading, and `register`
gathers them. `theirs`, `ours`, `members`, `basins` and `symmetry` compute the evidence, `evidence`
has the rules, and `ledger` puts everything together.
"""

from lotperm.studies.claims.claim import Claim
from lotperm.studies.claims.evidence import VERDICTS, Above, Effect, Verdict, Within, verdict
from lotperm.studies.claims.ledger import (
    Row,
    agreeing_on_real_images,
    counts,
    ledger,
    ledger_sum,
    ledger_table,
)
from lotperm.studies.claims.register import CLAIMS
from lotperm.studies.claims.sources import Run, Sources

__all__ = [
    "CLAIMS",
    "VERDICTS",
    "Above",
    "Claim",
    "Effect",
    "Row",
    "Run",
    "Sources",
    "Verdict",
    "Within",
    "agreeing_on_real_images",
    "counts",
    "ledger",
    "ledger_sum",
    "ledger_table",
    "verdict",
]
