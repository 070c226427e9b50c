"""The claims of the paper and of its authors' post, in our words, with how each is decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from lotperm.studies.claims import basins, members, ours, symmetry, theirs
from lotperm.studies.claims.evidence import MOST, Above, Effect, Rule, Within
from lotperm.studies.claims.members import Members
from lotperm.studies.claims.numbers import figures
from lotperm.studies.claims.sources import Sources

Measure = Callable[[Sources], Sequence[Effect]]

# The paper's tables that have the numbers of each figure.
_TABLES = {
    "cifar10": range(5, 9),
    "vgg11": (9,),
    "imagenet": (10,),
    "cifar100": range(11, 15),
}
_NO_TABLE = "drawn, without a table"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, where it is made, and how it is decided.

    Attributes
    ----------
    number : str
        "16 a", as the ledger counts.
    words : str
        The claim in our words.
    theme : str
        Heading that it stands under.
    figures : tuple of str
        Figures that show it: `id` in `numbers.figures`.
    post, paper : str
        Where it is said besides, "" if nowhere.
    page : str
        The page of this book that shows it, without suffix.
    rule : Rule
        The rule that the effects are judged by.
    theirs : Measure or None
        The paper's evidence; None if it gives no number.
    unproven : str
        Its support in place of a number, in a few words.
    ours : Measure or None
        Recorded evidence; None, or an empty list from it, if there is none yet.
    dataset : str
        The data set that a run has to be on, "" if any will do.
    needs : str
        The run that would decide the claim.
    remark : str
        Further words for the reader, a sentence or two.
    """

    number: str
    words: str
    theme: str
    figures: tuple[str, ...] = ()
    post: str = ""
    paper: str = ""
    page: str
    rule: Rule
    theirs: Measure | None = None
    unproven: str = ""
    ours: Measure | None = None
    dataset: str = ""
    needs: str = ""
    remark: str = ""

    def place(self, where: str) -> str:
        """Return where the claim is made: "post" or "paper"; "" if it isn't made there."""
        named = figures().loc[list(self.figures), where]
        said = self.post if where == "post" else self.paper
        return "; ".join(text for text in [*named, said] if text)

    @property
    def slug(self) -> str:
        """Return the name that links lead to."""
        return f"claim-{self.number.replace(' ', '')}"


def _one(measure: Callable[[Sources], Effect]) -> Measure:
    """Return a measure of one effect."""
    return lambda sources: [measure(sources)]


def _paper_gain(name: str) -> Measure:
    return _one(partial(theirs.difference, a="permuted", b="naive", tables=_TABLES[name]))


def _published(measure: Callable[[Members], Effect]) -> Measure:
    """Return a measure of every part of the paper's Table 1."""
    return lambda sources: [measure(part) for part in members.published(sources)]


def _recorded(measure: Callable[[Members], Effect]) -> Measure:
    """Return a measure of every recorded run of diversity."""
    return lambda sources: [measure(part) for part in members.recorded(sources)]


def _our(a: str, b: str, **only: Any) -> Measure:
    return partial(ours.difference, a=a, b=b, **only)


def _gain(table: pd.DataFrame) -> pd.Series:
    return table["permuted"] - table["naive"]


# Headings of the page.
_PROBLEM = "The sparse training problem"
_SYMMETRY = "Symmetry and basins"
_METHOD = "The method"
_RESULTS = "The results"
_WIDTH = "Width and sparsity"
_REWIND = "The rewind epoch"
_DIVERSITY = "Diversity"
_FURTHER = "Alignment, cost and what follows"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        number="1",
        words="A trained dense network can be pruned and is nearly as good as before.",
        theme=_PROBLEM,
        figures=("problem",),
        paper="introduction",
        page="notebooks/01_sparse_training_problem",
        rule=Within(),
        theirs=_published(partial(members.accuracy_difference, a="imp", b="dense")),
        ours=_our("imp", "dense_a", sparsity=0.9),
        remark="At S = 0.9. In our short runs pruning is followed by a few epochs only, which "
        "measures the budget as much as the claim.",
    ),
    Claim(
        number="2",
        words="On another random initialization the ticket's mask trains clearly worse.",
        theme=_PROBLEM,
        figures=("problem", "resnet20_cifar10"),
        paper="abstract",
        page="notebooks/01_sparse_training_problem",
        rule=Above(),
        theirs=_one(partial(theirs.difference, a="lth", b="naive")),
        ours=_our("lth", "naive"),
    ),
    Claim(
        number="3",
        words="It does so for all architectures and data sets.",
        theme=_PROBLEM,
        figures=("resnet20_cifar10", "resnet20_cifar100", "vgg11_cifar10", "resnet50_imagenet"),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=lambda sources: theirs.difference_by_network(sources, "lth", "naive"),
        ours=_our("lth", "naive"),
        remark="Ours are an MLP and a ResNet on three data sets; none is a VGG or a ResNet50.",
    ),
    Claim(
        number="4",
        words="The ticket in its own place, rewound, is nearly as good as the dense network.",
        theme=_PROBLEM,
        figures=("problem", "diversity"),
        page="notebooks/01_sparse_training_problem",
        rule=Within(),
        theirs=_published(partial(members.accuracy_difference, a="lth", b="dense")),
        ours=_our("lth", "dense_a", sparsity=0.9),
        remark="At S = 0.9.",
    ),
    Claim(
        number="5",
        words="Finding a ticket is expensive.",
        theme=_PROBLEM,
        post="The Sparse Training Problem and the Lottery Ticket Hypothesis",
        paper="abstract",
        page="notebooks/01_sparse_training_problem",
        rule=Above(),
        theirs=lambda _: theirs.cost_of_a_ticket(),
        ours=ours.cost_of_a_ticket,
    ),
    Claim(
        number="6",
        words="A ticket learns the pruned network's solution again, not a new one "
        "{cite}`evci2022gradient`.",
        theme=_PROBLEM,
        post="text",
        paper="text",
        page="notebooks/08_diversity",
        # In percent, as the effect is.
        rule=Above(at_least=100 * MOST),
        unproven="cited, not measured",
        ours=basins.relearned,
        needs="disagreement and barrier between LTH and A's pruned network, beside those of naive "
        "and permuted",
        remark="Taken for relearning: at least half of the disagreement between networks of "
        "different initializations is missing.",
    ),
    Claim(
        number="7",
        words="Swapping two neurons with all their weights leaves the function as it is.",
        theme=_SYMMETRY,
        figures=("swap",),
        page="notebooks/02_weight_symmetry",
        # Decimal digits; rounding takes some of float64's 16.
        rule=Above(at_least=12),
        unproven="follows from the definition",
        ours=symmetry.same_function,
        remark="Rounding alone is left: float64 has about 16 digits.",
    ),
    Claim(
        number="8",
        words="The permuted copy is far away in weight space all the same.",
        theme=_SYMMETRY,
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
        theme=_SYMMETRY,
        figures=("connectivity",),
        post="TL;DR",
        paper="abstract",
        page="notebooks/10_mode_connectivity",
        rule=Above(at_least=100 * MOST),
        unproven=_NO_TABLE,
        ours=ours.barrier_removed,
        remark="Most of it isn't all of it: the points that are left stand beside the share.",
    ),
    Claim(
        number="10",
        words="On a network with two weights the naive mask confines B to the wrong axis, and the "
        "permuted one frees it.",
        theme=_SYMMETRY,
        figures=("landscape",),
        page="notebooks/03_loss_landscape",
        rule=Above(),
        unproven=_NO_TABLE,
        remark="The initializations are chosen to tell the story, as the paper's are.",
    ),
    Claim(
        number="11",
        words="A ticket's training is training in the subspace that its mask leaves.",
        theme=_SYMMETRY,
        figures=("landscape",),
        page="notebooks/03_loss_landscape",
        rule=Above(),
        unproven="an interpretation",
        remark="True of any mask by construction; in two dimensions it can be seen.",
    ),
    Claim(
        number="12",
        words="Misaligned basins are the cause of the sparse training problem.",
        theme=_SYMMETRY,
        post="TL;DR",
        paper="abstract",
        page="notebooks/14_causal_test",
        rule=Above(at_least=100 * MOST),
        unproven="a hypothesis; that permuting helps (23) speaks for it",
        ours=basins.misaligned,
        needs="an arm whose permutation is known: B a shuffled copy of A, its permutation scrambled "
        "by degrees",
        remark="Only an experiment that sets the alignment itself can tell cause from company. Taken "
        "for the cause: misalignment alone makes at least half of what naive loses.",
    ),
    Claim(
        number="13",
        words="The method takes five steps: train A and B, prune A, match, permute the mask, train "
        "B sparse.",
        theme=_METHOD,
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
        theme=_METHOD,
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
        theme=_METHOD,
        figures=("resnet20_cifar10", "resnet20_cifar100"),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=lambda sources: [
            theirs.difference(sources, "lth", "permuted"),
            theirs.difference(sources, "permuted", "naive"),
        ],
        ours=ours.order_of_arms,
        remark="Of ours the less certain of the two differences counts.",
    ),
    Claim(
        number="16 a",
        # Captions speak of a growing gap. By the share closed (a) and by points (b), the paper's
        # own tables say opposite things.
        words="The wider the network, the closer permuted comes to LTH: the share of the gap that "
        "it closes grows.",
        theme=_WIDTH,
        figures=("resnet20_cifar10", "resnet20_cifar100"),
        post="TL;DR",
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=_one(theirs.share_against_width),
        ours=partial(ours.against_width, quantity="share"),
        needs="the three arms at two widths or more",
    ),
    Claim(
        number="16 b",
        words="The wider the network, the larger the difference between permuted and naive.",
        theme=_WIDTH,
        figures=("resnet20_cifar10", "resnet20_cifar100"),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=_one(theirs.gain_against_width),
        ours=partial(ours.against_width, quantity="gain"),
        needs="the three arms at two widths or more",
        remark="Captions speak of a growing gap. Compare the share of the gap in 16 a with the points "
        "here.",
    ),
    Claim(
        number="17",
        words="Wider networks can be aligned better: the barrier after permuting falls.",
        theme=_WIDTH,
        figures=("connectivity",),
        post="TL;DR",
        page="notebooks/10_mode_connectivity",
        rule=Above(),
        theirs=_one(theirs.barrier_against_width),
        ours=ours.barrier_against_width,
    ),
    Claim(
        number="18",
        words="The sparser the network, the more permuting gains.",
        theme=_WIDTH,
        figures=("sparsity",),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=_one(theirs.gain_against_sparsity),
        ours=ours.gain_against_sparsity,
    ),
    Claim(
        number="19",
        words="Permuted beats naive with ResNet20 on CIFAR-10.",
        theme=_RESULTS,
        figures=("resnet20_cifar10",),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=_paper_gain("cifar10"),
        ours=_our("permuted", "naive", dataset="cifar10", model="resnet"),
        dataset="cifar10",
        remark="Ours is a smaller ResNet, trained for less; its name says which.",
    ),
    Claim(
        number="20",
        words="Permuted beats naive with ResNet20 on CIFAR-100.",
        theme=_RESULTS,
        figures=("resnet20_cifar100",),
        page="notebooks/06_resnet20_cifar100",
        rule=Above(),
        theirs=_paper_gain("cifar100"),
        ours=_our("permuted", "naive", dataset="cifar100", model="resnet"),
        dataset="cifar100",
        needs="the three arms of a ResNet on CIFAR-100",
    ),
    Claim(
        number="21",
        words="Permuted beats naive with VGG11 on CIFAR-10.",
        theme=_RESULTS,
        figures=("vgg11_cifar10",),
        page="notebooks/07_vgg11_cifar10",
        rule=Above(),
        theirs=_paper_gain("vgg11"),
        ours=_our("permuted", "naive", dataset="cifar10", model="vgg"),
        dataset="cifar10",
        needs="the three arms of VGG11 on CIFAR-10",
    ),
    Claim(
        number="22",
        words="Permuted beats naive with ResNet50 on ImageNet.",
        theme=_RESULTS,
        figures=("resnet50_imagenet",),
        post="text",
        page="notebooks/11_resnet50_imagenet",
        rule=Above(),
        theirs=_paper_gain("imagenet"),
        ours=_our("permuted", "naive", dataset="imagefolder", model="resnet50"),
        dataset="imagefolder",
        needs="the three arms of ResNet50 on ImageNet: a week or more of one GPU, and the images",
        remark="The paper has one run of each setting.",
    ),
    Claim(
        number="23 a",
        words="Permuted is consistently and significantly better than naive.",
        theme=_RESULTS,
        figures=("resnet20_cifar10", "resnet20_cifar100", "vgg11_cifar10"),
        post="TL;DR",
        paper="abstract",
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=_one(theirs.significant_gain),
        ours=_our("permuted", "naive"),
    ),
    Claim(
        number="23 b",
        words="It closes most of the gap between naive and LTH.",
        theme=_RESULTS,
        figures=("resnet20_cifar10", "resnet20_cifar100", "vgg11_cifar10"),
        post="TL;DR, for wide networks",
        page="notebooks/05_resnet20_cifar10",
        rule=Above(at_least=100 * MOST),
        theirs=_one(theirs.share_closed),
        ours=ours.share_closed,
        remark="The paper's own words limit it to networks that are wide enough.",
    ),
    Claim(
        number="24",
        words="Permuted networks are more diverse than those of LTH.",
        theme=_DIVERSITY,
        figures=("diversity",),
        post="TL;DR",
        paper="appendix C",
        page="notebooks/08_diversity",
        rule=Above(),
        theirs=_published(members.more_diverse_than_lth),
        ours=_recorded(members.more_diverse_than_lth),
    ),
    Claim(
        number="25",
        words="The ensemble of permuted networks beats the ensemble of LTH's.",
        theme=_DIVERSITY,
        figures=("diversity",),
        page="notebooks/08_diversity",
        rule=Above(),
        theirs=_published(members.better_ensemble_than_lth),
        ours=_recorded(members.better_ensemble_than_lth),
        remark="There is one ensemble of each kind, in the paper as here, so the interval knows of "
        "the test images only, and takes the two counts for independent, which is cautious.",
    ),
    Claim(
        number="26",
        words="Permuted networks are about as diverse as those of IMP.",
        theme=_DIVERSITY,
        figures=("diversity",),
        page="notebooks/08_diversity",
        # In percent of IMP's disagreement: "about as diverse" is taken for a quarter more or less.
        rule=Within(25),
        theirs=_published(members.as_diverse_as_imp),
        ours=_recorded(members.as_diverse_as_imp),
    ),
    Claim(
        number="27",
        words="Five dense networks are the yardstick: no sparse member from a new initialization "
        "is as good.",
        theme=_DIVERSITY,
        figures=("diversity",),
        page="notebooks/08_diversity",
        rule=Above(),
        theirs=_published(partial(members.accuracy_difference, a="dense", b="permuted")),
        ours=_recorded(partial(members.accuracy_difference, a="dense", b="permuted")),
        remark="The paper gives no ensemble of the dense ones.",
    ),
    Claim(
        number="28",
        words="The permutation can be found early: matched at a tenth of B's training it still "
        "beats naive.",
        theme=_FURTHER,
        figures=("early_matching",),
        page="notebooks/09_early_matching",
        rule=Above(),
        theirs=_one(theirs.early_gain),
        ours=ours.early_gain,
    ),
    Claim(
        number="29",
        words="The method is for insight, not for efficiency: it costs more than the ticket.",
        theme=_FURTHER,
        paper="appendix D",
        page="notebooks/09_early_matching",
        rule=Above(),
        theirs=lambda _: theirs.cost_of_permuting(),
        ours=ours.cost_of_permuting,
    ),
    Claim(
        number="30",
        words="The better the permutation, the better the sparse network.",
        theme=_FURTHER,
        figures=("early_matching",),
        post="TL;DR",
        page="notebooks/09_early_matching",
        rule=Above(),
        theirs=_one(theirs.early_slope),
        ours=ours.better_permutation,
        needs="arms with the permutation scrambled by degrees",
        remark="Early matching varies the permutation a little. Scrambling it would vary it a lot.",
    ),
    Claim(
        number="31 a",
        words="From the very initialization, k = 0, permuting gains less than after some training.",
        theme=_REWIND,
        figures=("resnet20_cifar10", "resnet20_cifar100", "vgg11_cifar10"),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=_one(theirs.gain_of_rewinding),
        ours=partial(ours.at_first_rewind_epoch, of=_gain, what="permuted − naive"),
        needs="the three arms at k = 0 beside k > 0",
    ),
    Claim(
        number="31 b",
        words="At k = 0 the ticket itself falls short.",
        theme=_REWIND,
        figures=("resnet20_cifar10", "resnet20_cifar100", "vgg11_cifar10"),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=_one(theirs.lth_of_rewinding),
        ours=partial(ours.at_first_rewind_epoch, of=lambda table: table["lth"], what="LTH"),
        needs="the three arms at k = 0 beside k > 0",
    ),
    Claim(
        number="31 c",
        words="A larger k helps permuted at first, then no more.",
        theme=_REWIND,
        figures=("resnet20_cifar10", "resnet20_cifar100"),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=_one(theirs.permuted_plateau),
        # At 25 of 200 epochs, as in the paper's tables.
        ours=partial(ours.plateau, arm="permuted", share=25 / 200),
        needs="the three arms at five rewind epochs or more, k = 0 among them",
    ),
    Claim(
        number="31 d",
        words="Naive doesn't gain from a larger k.",
        theme=_REWIND,
        figures=("resnet20_cifar10", "resnet20_cifar100"),
        page="notebooks/05_resnet20_cifar10",
        rule=Within(),
        theirs=_one(theirs.naive_against_rewinding),
        ours=partial(ours.at_first_rewind_epoch, of=lambda table: table["naive"], what="naive"),
        needs="the three arms at k = 0 beside k > 0",
    ),
    Claim(
        number="32 a",
        words="Dense A and its own sparse solutions stay in one linearly connected mode through all "
        "rounds of pruning, once variance collapse is repaired {cite}`paul2023unmasking`.",
        theme=_FURTHER,
        figures=("pruning_barrier",),
        page="notebooks/13_one_basin",
        rule=Within(),
        unproven=_NO_TABLE,
        ours=basins.own_basin,
        needs="the barrier between dense A and A after every round of IMP, plain and with REPAIR",
    ),
    Claim(
        number="32 b",
        words="On the plane through dense A, LTH and permuted, modulo the permutation, all three "
        "lie in one basin.",
        theme=_FURTHER,
        figures=("plane",),
        page="notebooks/13_one_basin",
        rule=Within(),
        unproven=_NO_TABLE,
        ours=basins.triangle,
        needs="the 0–1 loss on that plane",
        remark="Decided by the sides of the triangle; the plane itself is drawn for one seed.",
    ),
    Claim(
        number="33",
        words="With VGG11 naive reaches a plateau at about k = 20.",
        theme=_REWIND,
        figures=("vgg11_cifar10",),
        page="notebooks/07_vgg11_cifar10",
        rule=Above(),
        theirs=_one(theirs.vgg_naive_plateau),
        # At 20 of 200 epochs.
        ours=partial(ours.plateau, arm="naive", share=0.1, dataset="cifar10", model="vgg"),
        dataset="cifar10",
        needs="the three arms of VGG11 on CIFAR-10 at several rewind epochs",
    ),
)
"""All rows of the ledger, in the paper's order.

:meta hide-value:
"""
