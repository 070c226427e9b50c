"""Evidence from ensembles and the diversity of their members: the paper's Table 1, and ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lotperm.studies.claims.claim import Measure
from lotperm.studies.claims.evidence import Effect, count_effect, welch_effect
from lotperm.studies.claims.sources import Sources
from lotperm.studies.origin import NAMES

_WORDS = {"lth": "LTH", "imp": "IMP"}


@dataclass(frozen=True)
class Members:
    """Several members of every method, trained on one data set.

    Attributes
    ----------
    source : str
        As in `Effect`.
    table : DataFrame
        Index method; columns mean, spread and ensemble (percent), disagreement (fraction), kl and
        js (nats).
    size : int
        Number of members of each method.
    images : int
        Number of images in the test set.
    sparsity : float
        Sparsity of all but the dense networks.
    """

    source: str
    table: pd.DataFrame
    size: int
    images: int
    sparsity: float = 0.9

    def number(self, method: str, column: str) -> float:
        """Return one number of the table."""
        return float(self.table[column].to_dict()[method])


def published(sources: Sources) -> list[Members]:
    """Return the paper's Table 1: five members each, on CIFAR-10 and on CIFAR-100."""
    names = {"test_acc_mean": "mean", "test_acc_spread": "spread", "ensemble_acc": "ensemble"}
    found = []
    key: Any
    for key, part in sources.diversity.groupby(["model", "dataset"]):
        where = f"paper, Table 1, {_network(key[0])} on {NAMES[key[1]]}"
        table = part.set_index("method").rename(columns=names)
        # Five members in each row of the table; both test sets have 10,000 images.
        found.append(Members(where, table, size=5, images=10_000))
    return found


def _network(model: str) -> str:
    """Write "resnet20x1", as the table has it, as "ResNet20×1"."""
    name, _, width = model.partition("x")
    return f"{NAMES[name]}×{width}"


def recorded(sources: Sources) -> list[Members]:
    """Return the recorded runs of diversity."""
    found = []
    for run in sources.of_kind("diversity"):
        key: Any
        for key, part in run.rows.groupby(["sparsity", "rewind_epoch"]):
            found.append(of_table(run.source, part, run.test_images, float(key[0])))
    return found


def of_table(source: str, table: pd.DataFrame, images: int, sparsity: float) -> Members:
    """Return the members that a table of this project has, as `diversity_table` returns it."""
    rows = table.set_index("method").rename(columns={"ensemble_accuracy": "ensemble"})
    # As in the paper's table: accuracies in percent, disagreement as a fraction.
    in_percent = 100 * rows[["mean", "spread", "ensemble"]]
    found = in_percent.join(rows[["disagreement", "kl", "js"]])
    return Members(source, found, int(rows["members"].iloc[0]), images, sparsity)


def of_published(measure: Callable[[Members], Effect]) -> Measure:
    """Make a measure of sources that takes every part of the paper's Table 1."""
    return lambda sources: [measure(part) for part in published(sources)]


def of_recorded(measure: Callable[[Members], Effect]) -> Measure:
    """Make a measure of sources that takes every recorded run of diversity."""
    return lambda sources: [measure(part) for part in recorded(sources)]


def accuracy_difference(members: Members, a: str, b: str) -> Effect:
    """Return the mean accuracy of the members of a less that of b."""
    # Members aren't paired across methods: mean and spread are all that the paper prints.
    sides = ((members.number(m, "mean"), members.number(m, "spread")) for m in (a, b))
    what = f"{_WORDS.get(a, a)} − {_WORDS.get(b, b)}, S = {members.sparsity:g}"
    return welch_effect(members.source, what, *sides, n=members.size)


def more_diverse_than_lth(members: Members) -> Effect:
    """Return the disagreement of permuted members less that of LTH's."""
    sides = (members.number(method, "disagreement") for method in ("permuted", "lth"))
    what = f"disagreement, permuted − LTH, S = {members.sparsity:g}"
    return count_effect(members.source, what, *sides, images=members.images)


def as_diverse_as_imp(members: Members) -> Effect:
    """Return by how much permuted members disagree more than IMP's, in percent of the latter.

    The interval is that of a ratio of two fractions of the test images, by the delta method.
    """
    pair = ("permuted", "imp")
    p, q = (members.number(method, "disagreement") for method in pair)
    # The relative errors of two independent fractions add in squares.
    error = p / q * np.sqrt(((1 - p) / p + (1 - q) / q) / members.images)
    value, half = 100 * (p / q - 1), 100 * float(stats.norm.ppf(0.975) * error)
    # The paper prints these without a spread, so nothing can be said about their error.
    kl, js = (
        members.number(pair[0], column) / members.number(pair[1], column) for column in ("kl", "js")
    )
    return Effect(
        members.source,
        f"disagreement, permuted relative to IMP, S = {members.sparsity:g}",
        value,
        low=value - half,
        high=value + half,
        n=members.images,
        over="test images",
        unit="%",
        note=f"by KL {kl:.2f} and by JS {js:.2f} times IMP's, without an interval",
        digits=0,
    )


def better_ensemble_than_lth(members: Members) -> Effect:
    """Return the accuracy of the ensemble of permuted members less that of LTH's."""
    sides = (members.number(method, "ensemble") / 100 for method in ("permuted", "lth"))
    what = f"ensemble of permuted − ensemble of LTH, S = {members.sparsity:g}"
    return count_effect(members.source, what, *sides, images=members.images)
