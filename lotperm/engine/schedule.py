"""Learning rates and orders of the examples, epoch by epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lotperm.config.experiment import Recipe


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Compute the learning rate of an epoch, counted from 0.

    It is constant within an epoch, as in the authors' code. ``cosine``:
    lr·(1 + cos(π·epoch/epochs))/2. ``step``: lr·gamma^(milestones passed). With W = `warmup_epochs`
    the rates of the first W epochs are scaled by (epoch + 1)/W.
    """
    # The first epoch has the full rate; 0 would only be reached after the last.
    if recipe.schedule == "cosine":
        factor = (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
    elif recipe.schedule == "step":
        factor = recipe.gamma ** sum(epoch >= milestone for milestone in recipe.milestones)
    else:
        factor = 1.0
    if epoch < recipe.warmup_epochs:
        # Counted from one, since otherwise the first epoch wouldn't train.
        factor *= (epoch + 1) / recipe.warmup_epochs
    return recipe.lr * factor


def draw_order(size: int, seed: int, epoch: int) -> Tensor:
    """Draw the order in which one member sees the training set in an epoch.

    Parameters
    ----------
    size : int
        Number of examples.
    seed, epoch : int
        Each pair has its own order.

    Returns
    -------
    Tensor of int64, shape (size,)
        A permutation, on the CPU.
    """
    # The factor is 2⁶⁴ over the golden ratio. It is odd, so no two epochs of a member get the same
    # seed. The generator is always the CPU's, so that the order is the same on every device.
    generator = torch.Generator().manual_seed((seed + epoch * 0x9E3779B97F4A7C15) % 2**63)
    return torch.randperm(size, generator=generator)
