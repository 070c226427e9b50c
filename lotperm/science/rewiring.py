"""Masks that change while a network is trained: RigL's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lotperm.errors import ParameterError
from lotperm.types import Bool, Float, Int64


@dataclass(frozen=True)
class RigL:
    r"""Drop the smallest weights and grow those with the largest gradients (Evci et al. 2020).

    At step t of T, if t is a multiple of ΔT and 0 < t < E = until·T, every layer exchanges

    .. math::

        \Bigl\lfloor f(t)\, n_l \Bigr\rfloor, \qquad
        f(t) = \frac{\alpha}{2}\Bigl(1 + \cos\frac{\pi t}{E}\Bigr),

    of its n_l kept weights: those of the smallest magnitude are dropped, and of all weights that
    aren't kept then, those with the largest gradient of the loss, in magnitude, are grown. Such a
    step changes the mask instead of updating the weights (their algorithm 1). The number of weights
    that each layer keeps stays the same.

    Attributes
    ----------
    every : int
        ΔT, the number of steps from one update to the next.
    fraction : float
        α, the fraction of the kept weights that is exchanged at first, 0 < α <= 1.
    until : float
        Fraction of the training after which masks no longer change, 0 < until <= 1; the authors'
        runs on ImageNet update in the first 25,000 of 32,000 steps.

    Notes
    -----
    As in the authors' code, a weight that is dropped and grown again in the same update counts as
    kept throughout: only weights that weren't kept before start at zero. So nothing happens in a
    dense layer. Their code also updates before the first step; here ΔT steps come first, since the
    paper counts t from 1.
    """

    every: int = 100
    fraction: float = 0.3
    until: float = 0.75

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ParameterError(f"every is {self.every}; expected 1 step or more.")
        for name, value in (("fraction", self.fraction), ("until", self.until)):
            if not 0 < value <= 1:
                raise ParameterError(f"{name} is {value}; expected 0 < {name} <= 1.")

    def due(self, step: int, steps: int) -> bool:
        """Return whether the masks change at a step, counted from 0, of `steps` in all."""
        return step > 0 and step % self.every == 0 and step < self.until * steps

    def share(self, step: int, steps: int) -> float:
        """Return f(t), the fraction of the kept weights that is exchanged at step t of `steps`."""
        return self.fraction / 2 * (1 + math.cos(math.pi * step / (self.until * steps)))

    def mask(
        self,
        step: int,
        steps: int,
        weight: Float[Tensor, " members *shape"],
        gradient: Float[Tensor, " members *shape"],
        kept: Bool[Tensor, " members *shape"],
    ) -> Bool[Tensor, " members *shape"]:
        """Return one layer's mask after an update, for M networks at once.

        Parameters
        ----------
        step, steps : int
            t and T.
        weight, gradient : Tensor
            The weight, and the gradient of the loss with respect to all of it, pruned or not.
        kept : Tensor of bool
            The mask before the update; networks may keep different numbers of weights.

        Returns
        -------
        Tensor of bool
            A mask of the same shape; each network keeps as many weights as before. Among equals
            the earlier in memory is kept.
        """
        before = kept.flatten(1)
        counts = before.sum(1, keepdim=True)
        # In float64 on every device: all must round to the same number.
        exchanged = (counts.double() * self.share(step, steps)).floor().long()
        # Negative numbers, below all magnitudes, mark weights that mustn't be chosen.
        magnitudes = weight.flatten(1).abs().masked_fill(~before, -1)
        staying = _highest(magnitudes, counts - exchanged)
        slopes = gradient.flatten(1).abs().masked_fill(staying, -1)
        return (staying | _highest(slopes, exchanged)).view_as(kept)


def _highest(
    values: Float[Tensor, " members n"], counts: Int64[Tensor, " members 1"]
) -> Bool[Tensor, " members n"]:
    """Return True at the highest values of each row, `counts` of them, the earlier among equals."""
    # A stable sort is the same on every device; partial sorts leave ties to chance.
    order = torch.argsort(values, dim=1, descending=True, stable=True)
    first = torch.arange(values.shape[1], device=values.device) < counts
    return torch.zeros_like(first).scatter_(1, order, first)
