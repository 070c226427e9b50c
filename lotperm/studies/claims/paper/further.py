"""The paper's claims on early alignment, cost, and linear modes."""

from __future__ import annotations

from lotperm.studies.claims import basins, ours, theirs
from lotperm.studies.claims.claim import NO_TABLE, Claim, one
from lotperm.studies.claims.evidence import Above, Within

THEME = "Alignment, cost and what follows"
"""Their heading in the ledger."""

CLAIMS = (
    Claim(
        number="28",
        words="The permutation can be found early: matched at a tenth of B's training it still "
        "beats naive.",
        theme=THEME,
        figures=("early_matching",),
        page="notebooks/09_early_matching",
        rule=Above(),
        theirs=one(theirs.early_gain),
        ours=ours.early_gain,
    ),
    Claim(
        number="29",
        words="The method is for insight, not for efficiency: it costs more than the ticket.",
        theme=THEME,
        paper="appendix D",
        page="notebooks/09_early_matching",
        rule=Above(),
        theirs=lambda _: theirs.cost_of_permuting(),
        ours=ours.cost_of_permuting,
    ),
    Claim(
        number="30",
        words="The better the permutation, the better the sparse network.",
        theme=THEME,
        figures=("early_matching",),
        post="TL;DR",
        page="notebooks/09_early_matching",
        rule=Above(),
        theirs=one(theirs.early_slope),
        ours=ours.better_permutation,
        needs="arms with the permutation scrambled by degrees",
        remark="Early matching varies the permutation a little. Scrambling it would vary it a lot.",
    ),
    Claim(
        number="32 a",
        words="Dense A and its own sparse solutions stay in one linearly connected mode through all "
        "rounds of pruning, once variance collapse is repaired {cite}`paul2023unmasking`.",
        theme=THEME,
        figures=("pruning_barrier",),
        page="notebooks/13_one_basin",
        rule=Within(),
        unproven=NO_TABLE,
        ours=basins.own_basin,
        needs="the barrier between dense A and A after every round of IMP, plain and with REPAIR",
    ),
    Claim(
        number="32 b",
        words="On the plane through dense A, LTH and permuted, modulo the permutation, all three "
        "lie in one basin.",
        theme=THEME,
        figures=("plane",),
        page="notebooks/13_one_basin",
        rule=Within(),
        unproven=NO_TABLE,
        ours=basins.triangle,
        needs="the 0–1 loss on that plane",
        remark="Decided by the sides of the triangle; the plane itself is drawn for one seed.",
    ),
)
