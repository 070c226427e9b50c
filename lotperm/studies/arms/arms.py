"""The arms: what each sparse network starts from. This is the one place that says so.

Tickets, the control experiment, the two-neuron landscape and the start page's panel read this
table or are tested against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lotperm.engine.models import Weights
from lotperm.errors import unknown_name
from lotperm.science.sparsity import Mask

Moved = Literal["as found", "permuted", "scattered"]


@dataclass(frozen=True)
class Arm:
    """A sparse network, by what it starts from.

    Attributes
    ----------
    name : str
        Name of the method.
    weights : {"a", "b"}
        Network whose weights after the rewind epoch it starts from.
    mask : {"as found", "permuted", "scattered"}
        What happens to A's mask first: nothing; the units move as π says; or the kept weights of
        every layer go to random places.
    stream : str
        Name that its random streams follow. Arms on B share one, so that they see the same
        examples in the same order.
    """

    name: str
    weights: Literal["a", "b"]
    mask: Moved
    stream: str


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("lth", weights="a", mask="as found", stream="sparse_a"),
        # On B, only the masks differ: the same weights, the same examples in the same order.
        Arm("permuted", weights="b", mask="permuted", stream="sparse_b"),
        Arm("naive", weights="b", mask="as found", stream="sparse_b"),
        # The control of the sparse training problem; the paper doesn't have it.
        Arm("random", weights="b", mask="scattered", stream="sparse_b"),
    )
}
"""Every arm, by name."""

# Stages, and the networks in their files, are ordered so.
PAPER_ARMS = ("lth", "permuted", "naive")
"""The arms that the paper compares, in the order in which stages train them."""


def arm_of(name: str) -> Arm:
    """Look an arm up.

    Raises
    ------
    ParameterError
        If there is no such arm, with the nearest name.
    """
    if name not in ARMS:
        raise unknown_name("arm", name, ARMS)
    return ARMS[name]


def start(
    arm: Arm,
    weights_a: Weights,
    weights_b: Weights,
    make_mask: Callable[[Moved], Mask],
) -> tuple[Weights, Mask]:
    """Return what an arm of one replicate starts from: its weights, not masked yet, and its mask.

    Parameters
    ----------
    arm : Arm
        The arm.
    weights_a, weights_b : Weights
        A and B after the rewind epoch.
    make_mask : callable
        Returns A's mask as found, permuted or scattered, as asked.
    """
    # Only the mask that this arm wants is made: a ticket, for one, has no random mask.
    return (weights_a if arm.weights == "a" else weights_b), make_mask(arm.mask)
