"""The paper's claims on the diversity of sparse networks, and their ensembles."""

from __future__ import annotations

from functools import partial

from lotperm.studies.claims import members
from lotperm.studies.claims.claim import Claim
from lotperm.studies.claims.evidence import Above, Within

THEME = "Diversity"
"""Their heading in the ledger."""

CLAIMS = (
    Claim(
        number="24",
        words="Permuted networks are more diverse than those of LTH.",
        theme=THEME,
        figures=("diversity",),
        post="TL;DR",
        paper="appendix C",
        page="notebooks/08_diversity",
        rule=Above(),
        theirs=members.of_published(members.more_diverse_than_lth),
        ours=members.of_recorded(members.more_diverse_than_lth),
    ),
    Claim(
        number="25",
        words="The ensemble of permuted networks beats the ensemble of LTH's.",
        theme=THEME,
        figures=("diversity",),
        page="notebooks/08_diversity",
        rule=Above(),
        theirs=members.of_published(members.better_ensemble_than_lth),
        ours=members.of_recorded(members.better_ensemble_than_lth),
        remark="There is one ensemble of each kind, in the paper as here, so the interval accounts "
        "only for the test images, and treats the two counts as independent, which is cautious.",
    ),
    Claim(
        number="26",
        words="Permuted networks are about as diverse as those of IMP.",
        theme=THEME,
        figures=("diversity",),
        page="notebooks/08_diversity",
        # In percent of IMP's disagreement: "about as diverse" means a quarter more or less.
        rule=Within(25),
        theirs=members.of_published(members.as_diverse_as_imp),
        ours=members.of_recorded(members.as_diverse_as_imp),
    ),
    Claim(
        number="27",
        words="Five dense networks are the yardstick: no sparse member from a new initialization "
        "is as good.",
        theme=THEME,
        figures=("diversity",),
        page="notebooks/08_diversity",
        rule=Above(),
        theirs=members.of_published(partial(members.accuracy_difference, a="dense", b="permuted")),
        ours=members.of_recorded(partial(members.accuracy_difference, a="dense", b="permuted")),
        remark="The paper gives no ensemble of the dense ones.",
    ),
)
