"""The paper's claims on the rewind epoch."""

from __future__ import annotations

from functools import partial

import pandas as pd

from lotperm.studies.claims import ours, theirs
from lotperm.studies.claims.claim import Claim, one
from lotperm.studies.claims.evidence import Above, Within


def _gain(table: pd.DataFrame) -> pd.Series:
    return table["permuted"] - table["naive"]


THEME = "The rewind epoch"
"""Their heading in the ledger."""

CLAIMS = (
    Claim(
        number="31 a",
        words="From the very initialization, k = 0, permuting gains less than after some training.",
        theme=THEME,
        figures=("resnet20_cifar10", "resnet20_cifar100", "vgg11_cifar10"),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=one(theirs.gain_of_rewinding),
        ours=partial(ours.at_first_rewind_epoch, of=_gain, what="permuted − naive"),
        needs="the three arms at k = 0 beside k > 0",
    ),
    Claim(
        number="31 b",
        words="At k = 0 the ticket itself falls short.",
        theme=THEME,
        figures=("resnet20_cifar10", "resnet20_cifar100", "vgg11_cifar10"),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=one(theirs.lth_of_rewinding),
        ours=partial(ours.at_first_rewind_epoch, of=lambda table: table["lth"], what="LTH"),
        needs="the three arms at k = 0 beside k > 0",
    ),
    Claim(
        number="31 c",
        words="A larger k helps permuted at first, then no more.",
        theme=THEME,
        figures=("resnet20_cifar10", "resnet20_cifar100"),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=one(theirs.permuted_plateau),
        # At 25 of 200 epochs, as in the paper's tables.
        ours=partial(ours.plateau, arm="permuted", share=25 / 200),
        needs="the three arms at five rewind epochs or more, k = 0 among them",
    ),
    Claim(
        number="31 d",
        words="Naive doesn't gain from a larger k.",
        theme=THEME,
        figures=("resnet20_cifar10", "resnet20_cifar100"),
        page="notebooks/05_resnet20_cifar10",
        rule=Within(),
        theirs=one(theirs.naive_against_rewinding),
        ours=partial(ours.at_first_rewind_epoch, of=lambda table: table["naive"], what="naive"),
        needs="the three arms at k = 0 beside k > 0",
    ),
    Claim(
        number="33",
        words="With VGG11 naive reaches a plateau at about k = 20.",
        theme=THEME,
        figures=("vgg11_cifar10",),
        page="notebooks/07_vgg11_cifar10",
        rule=Above(),
        theirs=one(theirs.vgg_naive_plateau),
        # At 20 of 200 epochs.
        ours=partial(ours.plateau, arm="naive", share=0.1, dataset="cifar10", model="vgg"),
        dataset="cifar10",
        needs="the three arms of VGG11 on CIFAR-10 at several rewind epochs",
    ),
)
