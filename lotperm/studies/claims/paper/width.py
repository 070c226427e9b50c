"""The paper's claims on what a wider or a sparser network changes."""

from __future__ import annotations

from functools import partial

from lotperm.studies.claims import ours, theirs
from lotperm.studies.claims.claim import Claim, one
from lotperm.studies.claims.evidence import Above

THEME = "Width and sparsity"
"""Their heading in the ledger."""

CLAIMS = (
    Claim(
        number="16 a",
        # Captions speak of a growing gap. By the share closed (a) and by points (b), the paper's
        # own tables say opposite things.
        words="The wider the network, the closer permuted comes to LTH: the share of the gap that "
        "it closes grows.",
        theme=THEME,
        figures=("resnet20_cifar10", "resnet20_cifar100"),
        post="TL;DR",
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=one(theirs.share_against_width),
        ours=partial(ours.against_width, quantity="share"),
        needs="the three arms at two widths or more",
    ),
    Claim(
        number="16 b",
        words="The wider the network, the larger the difference between permuted and naive.",
        theme=THEME,
        figures=("resnet20_cifar10", "resnet20_cifar100"),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=one(theirs.gain_against_width),
        ours=partial(ours.against_width, quantity="gain"),
        needs="the three arms at two widths or more",
        remark="Captions speak of a growing gap. Compare the share of the gap in 16 a with the points "
        "here.",
    ),
    Claim(
        number="17",
        words="Wider networks can be aligned better: the barrier after permuting falls.",
        theme=THEME,
        figures=("connectivity",),
        post="TL;DR",
        page="notebooks/10_mode_connectivity",
        rule=Above(),
        theirs=one(theirs.barrier_against_width),
        ours=ours.barrier_against_width,
    ),
    Claim(
        number="18",
        words="The sparser the network, the more permuting gains.",
        theme=THEME,
        figures=("sparsity",),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=one(theirs.gain_against_sparsity),
        ours=ours.gain_against_sparsity,
    ),
)
