"""The paper's claims on the sparse training problem: what pruning, a ticket and its mask do."""

from __future__ import annotations

from functools import partial

from lotperm.studies.claims import basins, members, ours, theirs
from lotperm.studies.claims.claim import Claim, one
from lotperm.studies.claims.evidence import MOST, Above, Within

THEME = "The sparse training problem"
"""Their heading in the ledger."""

CLAIMS = (
    Claim(
        number="1",
        words="A trained dense network can be pruned and is nearly as good as before.",
        theme=THEME,
        figures=("problem",),
        paper="introduction",
        page="notebooks/01_sparse_training_problem",
        rule=Within(),
        theirs=members.of_published(partial(members.accuracy_difference, a="imp", b="dense")),
        ours=partial(ours.difference, a="imp", b="dense_a", sparsity=0.9),
        remark="At S = 0.9. In our short runs pruning is followed by only a few epochs, which "
        "tests the budget as much as the claim.",
    ),
    Claim(
        number="2",
        words="On another random initialization the ticket's mask trains clearly worse.",
        theme=THEME,
        figures=("problem", "resnet20_cifar10"),
        paper="abstract",
        page="notebooks/01_sparse_training_problem",
        rule=Above(),
        theirs=one(partial(theirs.difference, a="lth", b="naive")),
        ours=partial(ours.difference, a="lth", b="naive"),
    ),
    Claim(
        number="3",
        words="It does so for all architectures and data sets.",
        theme=THEME,
        figures=("resnet20_cifar10", "resnet20_cifar100", "vgg11_cifar10", "resnet50_imagenet"),
        page="notebooks/05_resnet20_cifar10",
        rule=Above(),
        theirs=lambda sources: theirs.difference_by_network(sources, "lth", "naive"),
        ours=partial(ours.difference, a="lth", b="naive"),
        remark="Ours are an MLP and a ResNet on three data sets; none is a VGG or a ResNet50.",
    ),
    Claim(
        number="4",
        words="The ticket in its own place, rewound, is nearly as good as the dense network.",
        theme=THEME,
        figures=("problem", "diversity"),
        page="notebooks/01_sparse_training_problem",
        rule=Within(),
        theirs=members.of_published(partial(members.accuracy_difference, a="lth", b="dense")),
        ours=partial(ours.difference, a="lth", b="dense_a", sparsity=0.9),
        remark="At S = 0.9.",
    ),
    Claim(
        number="5",
        words="Finding a ticket is expensive.",
        theme=THEME,
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
        theme=THEME,
        post="text",
        paper="text",
        page="notebooks/08_diversity",
        # In percent, as the effect is.
        rule=Above(at_least=100 * MOST),
        unproven="cited, not measured",
        ours=basins.relearned,
        needs="disagreement and barrier between LTH and A's pruned network, beside those of naive "
        "and permuted",
        remark="Counts as relearning if at least half of the disagreement between networks of "
        "different initializations is missing.",
    ),
)
