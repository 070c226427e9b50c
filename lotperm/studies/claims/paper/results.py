"""The paper's claims on permuted and naive masks, network by network."""

from __future__ import annotations

from functools import partial

from lotperm.studies.claims import ours, theirs
from lotperm.studies.claims.claim import Claim, Measure, one
from lotperm.studies.claims.evidence import MOST, Above

# The paper's tables that have the numbers of each figure.
_TABLES = {
    "cifar10": range(5, 9),
    "vgg11": (9,),
    "imagenet": (10,),
    "cifar100": range(11, 15),
}


def _gain(name: str) -> Measure:
    return one(partial(theirs.difference, a="permuted", b="naive", tables=_TABLES[name]))


THEME = "The results"
"""Their heading in the ledger."""

CLAIMS = (
    Claim(
        number="19",
        words="Permuted beats naive with ResNet20 on CIFAR-10.",
        theme=THEME,
        figures=("resnet20_cifar10",),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=_gain("cifar10"),
        ours=partial(ours.difference, a="permuted", b="naive", dataset="cifar10", model="resnet"),
        dataset="cifar10",
        remark="Ours is a smaller ResNet, trained for less; its name says which.",
    ),
    Claim(
        number="20",
        words="Permuted beats naive with ResNet20 on CIFAR-100.",
        theme=THEME,
        figures=("resnet20_cifar100",),
        page="notebooks/06_resnet20_cifar100",
        rule=Above(),
        theirs=_gain("cifar100"),
        ours=partial(ours.difference, a="permuted", b="naive", dataset="cifar100", model="resnet"),
        dataset="cifar100",
        needs="the three arms of a ResNet on CIFAR-100",
    ),
    Claim(
        number="21",
        words="Permuted beats naive with VGG11 on CIFAR-10.",
        theme=THEME,
        figures=("vgg11_cifar10",),
        page="notebooks/07_vgg11_cifar10",
        rule=Above(),
        theirs=_gain("vgg11"),
        ours=partial(ours.difference, a="permuted", b="naive", dataset="cifar10", model="vgg"),
        dataset="cifar10",
        needs="the three arms of VGG11 on CIFAR-10",
    ),
    Claim(
        number="22",
        words="Permuted beats naive with ResNet50 on ImageNet.",
        theme=THEME,
        figures=("resnet50_imagenet",),
        post="text",
        page="notebooks/11_resnet50_imagenet",
        rule=Above(),
        theirs=_gain("imagenet"),
        ours=partial(
            ours.difference, a="permuted", b="naive", dataset="imagefolder", model="resnet50"
        ),
        dataset="imagefolder",
        needs="the three arms of ResNet50 on ImageNet: a week or more of one GPU, and the images",
        remark="The paper has one run of each setting.",
    ),
    Claim(
        number="23 a",
        words="Permuted is consistently and significantly better than naive.",
        theme=THEME,
        figures=("resnet20_cifar10", "resnet20_cifar100", "vgg11_cifar10"),
        post="TL;DR",
        paper="abstract",
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=one(theirs.significant_gain),
        ours=partial(ours.difference, a="permuted", b="naive"),
    ),
    Claim(
        number="23 b",
        words="It closes most of the gap between naive and LTH.",
        theme=THEME,
        figures=("resnet20_cifar10", "resnet20_cifar100", "vgg11_cifar10"),
        post="TL;DR, for wide networks",
        page="notebooks/05_resnet20_cifar10",
        rule=Above(at_least=100 * MOST),
        theirs=one(theirs.share_closed),
        ours=ours.share_closed,
        remark="The paper's own words limit it to networks that are wide enough.",
    ),
)
