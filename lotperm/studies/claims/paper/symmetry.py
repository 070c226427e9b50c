"""The paper's claims on weight symmetry, and on basins that are one up to a permutation."""

from __future__ import annotations

from lotperm.studies.claims import basins, ours, symmetry
from lotperm.studies.claims.claim import NO_TABLE, Claim
from lotperm.studies.claims.evidence import MOST, Above

THEME = "Symmetry and basins"
"""Their heading in the ledger."""

CLAIMS = (
    Claim(
        number="7",
        words="Swapping two neurons with all their weights leaves the function as it is.",
        theme=THEME,
        figures=("swap",),
        page="notebooks/02_weight_symmetry",
        # Decimal digits; rounding takes some of float64's 16.
        rule=Above(at_least=12),
        unproven="follows from the definition",
        ours=symmetry.same_function,
        remark="Only rounding is left: float64 has about 16 digits.",
    ),
    Claim(
        number="8",
        words="The permuted copy is far away in weight space all the same.",
        theme=THEME,
        figures=("swap",),
        page="notebooks/02_weight_symmetry",
        # In percent, as the effect is.
        rule=Above(at_least=100 * MOST),
        unproven="drawn",
        ours=symmetry.distance,
        remark="Compared with the distance of B, a network with another initialization.",
    ),
    Claim(
        number="9",
        words="Up to a permutation, A and B lie in one basin: permuting removes most of the "
        "barrier between them.",
        theme=THEME,
        figures=("connectivity",),
        post="TL;DR",
        paper="abstract",
        page="notebooks/10_mode_connectivity",
        rule=Above(at_least=100 * MOST),
        unproven=NO_TABLE,
        ours=ours.barrier_removed,
        remark="Most of it isn't all of it: the points that are left are given beside the share.",
    ),
    Claim(
        number="10",
        words="On a network with two weights the naive mask confines B to the wrong axis, and the "
        "permuted one frees it.",
        theme=THEME,
        figures=("landscape",),
        page="notebooks/03_loss_landscape",
        rule=Above(),
        unproven=NO_TABLE,
        remark="The initializations are chosen to tell the story, as the paper's are.",
    ),
    Claim(
        number="11",
        words="A ticket's training is training in the subspace that its mask leaves.",
        theme=THEME,
        figures=("landscape",),
        page="notebooks/03_loss_landscape",
        rule=Above(),
        unproven="an interpretation",
        remark="True of any mask by construction; in two dimensions it can be seen.",
    ),
    Claim(
        number="12",
        words="Misaligned basins are the cause of the sparse training problem.",
        theme=THEME,
        post="TL;DR",
        paper="abstract",
        page="notebooks/14_causal_test",
        rule=Above(at_least=100 * MOST),
        unproven="a hypothesis; that permuting helps (23) speaks for it",
        ours=basins.misaligned,
        needs="an arm whose permutation is known: B a shuffled copy of A, its permutation scrambled "
        "by degrees",
        remark="Only an experiment that sets the alignment itself can tell cause from coincidence. "
        "Counts as the cause if misalignment alone makes at least half of what naive loses.",
    ),
)
