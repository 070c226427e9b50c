"""The arms of the question: B's magnitudes under A's mask, with signs of several networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lotperm.studies.arms.arms import ARMS, Arm

LTH, PERMUTED, NAIVE = ARMS["lth"], ARMS["permuted"], ARMS["naive"]

NAIVE_A = replace(NAIVE, name="naive, A's signs", signs="a end")
PERMUTED_A = replace(
    PERMUTED, name="permuted, A's signs moved", signs="a end", signs_moved="permuted"
)

MAIN: tuple[Arm, ...] = (LTH, PERMUTED, NAIVE, NAIVE_A, PERMUTED_A)
"""LTH, and the 2 × 2: mask as found or permuted, own signs or A's, moved as the mask is."""

NAIVE_WRONG = replace(NAIVE_A, name="naive, A's signs moved", signs_moved="permuted")
PERMUTED_WRONG = replace(PERMUTED_A, name="permuted, A's signs as found", signs_moved="as found")
PERMUTED_RANDOM = replace(PERMUTED_A, name="permuted, random signs", signs="random")
NAIVE_B = replace(NAIVE, name="naive, B's end signs", signs="own end")
PERMUTED_B = replace(PERMUTED, name="permuted, B's end signs", signs="own end")
PERMUTED_IMP = replace(PERMUTED_A, name="permuted, IMP's signs moved", signs="imp end")
LTH_A = replace(LTH, name="LTH, A's end signs", signs="a end")

CONTROLS: dict[str, Arm] = {
    "unmoved": PERMUTED_WRONG,
    "moved": NAIVE_WRONG,
    "random": PERMUTED_RANDOM,
    "own-end": PERMUTED_B,
    "naive-own-end": NAIVE_B,
    "imp": PERMUTED_IMP,
    "lth": LTH_A,
}
"""Short name -> a control: signs that aren't moved as the mask is, or are dealt out anew; the end
signs of B itself, or of A's pruned network; A's end signs for A."""


def arms_with(controls: Sequence[str]) -> tuple[Arm, ...]:
    """Return the main arms and the named controls."""
    return (*MAIN, *(CONTROLS[name] for name in controls))
