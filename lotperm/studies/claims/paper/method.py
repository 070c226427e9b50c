"""The paper's claims on the method: its steps, what it assumes, and the order of the arms."""

from __future__ import annotations

from lotperm.studies.claims import ours, symmetry, theirs
from lotperm.studies.claims.claim import Claim
from lotperm.studies.claims.evidence import MOST, Above

THEME = "The method"
"""Their heading in the ledger."""

CLAIMS = (
    Claim(
        number="13",
        words="The method takes five steps: train A and B, prune A, match, permute the mask, train "
        "B sparse.",
        theme=THEME,
        figures=("method",),
        page="notebooks/04_method",
        # All five steps.
        rule=Above(at_least=5),
        unproven="a procedure",
        ours=ours.steps,
    ),
    Claim(
        number="14",
        words="Trained alike, B is about a permuted A: w_B ≈ π(w_A).",
        theme=THEME,
        figures=("method",),
        page="notebooks/04_method",
        rule=Above(at_least=MOST),
        unproven="assumed",
        ours=symmetry.likeness,
        remark="A cosine of 1 would be equality; of unrelated networks it is about 0, but batch norm "
        "starts all alike.",
    ),
    Claim(
        number="15",
        words="Of the three arms LTH is best, permuted second, naive last.",
        theme=THEME,
        figures=("resnet20_cifar10", "resnet20_cifar100"),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=lambda sources: [
            theirs.difference(sources, "lth", "permuted"),
            theirs.difference(sources, "permuted", "naive"),
        ],
        ours=ours.order_of_arms,
        remark="Of our two differences, the less certain one counts.",
    ),
)
