"""Answers to the exercises of the chapters, computed from the numbers that the chapters show."""

from __future__ import annotations

from lotperm.science.barrier import accuracy_barriers
from lotperm.studies.matchers.measures import CONTRASTS
from lotperm.studies.published import paper, recorded


def ensemble_gains_ratio() -> float:
    """Return how many times as much an ensemble gains with permuted members as with LTH's.

    From the paper's Table 1, ResNet20 on CIFAR-10: the ensemble's accuracy less the members' mean.
    """
    table = paper("table1_diversity")
    rows = table[table["dataset"] == "cifar10"].set_index("method")
    gain = rows["ensemble_acc"] - rows["test_acc_mean"]
    return float(gain["permuted"] / gain["lth"])


def lowered_by_reset(width: float = 1.0) -> float:
    """Return the points by which resetting batch norm lowers the recorded ResNet8's barrier.

    Parameters
    ----------
    width : float, optional
        Width of the network; its lines are those from π(A) to B on CIFAR-10.
    """
    (run,) = recorded("cifar10", "resnet8", width, kind="connectivity")
    found = accuracy_barriers(run.summary)
    found = found[found["ends"] == "permuted"]
    means = 100 * found.groupby("repair")["barrier"].mean()
    return float(means["none"] - means["bn"])


def groups_of_bottlenecks(*blocks: float) -> int:
    """Return the number of permutation groups of a ResNet of bottlenecks.

    Parameters
    ----------
    *blocks : float
        Bottlenecks of each stage.
    """
    # The stem, a stream for each stage, and two convolutions inside each bottleneck.
    return int(1 + len(blocks) + 2 * sum(blocks))


def contrasts_by_chance(level: float = 0.05) -> float:
    """Return how many of the matchings' contrasts would fall below a level if none were real."""
    return level * len(CONTRASTS)
