"""The training step: masked SGD of M networks, as functions of tensors.

A step is a forward and a backward pass (`differentiate`) and an update (`descend`):

    v ← μ·v + (g + λ·w) ⊙ m        w ← w − η·v

`plain_update` does it operation by operation on flat buffers. Its other forms compute the same:
`lotperm.engine.compiled` as one compiled program, `lotperm.engine.graphs` as a CUDA graph,
`lotperm.engine.shared` on several ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lotperm.config.experiment import Recipe
from lotperm.config.parameters import Precision
from lotperm.engine.precision import autocast
from lotperm.engine.state import TrainingState
from lotperm.errors import ParameterError

Update = Callable[[Tensor, Tensor], Tensor]
"""One step of every member, from inputs ``(B, M, C, *spatial)`` and targets (M, B) int64.

It returns the losses (M,) before the step, in nats.
"""


@dataclass(frozen=True)
class Rule:
    """The constants of a step, the same at every step of a training.

    Attributes
    ----------
    momentum, weight_decay : float
        μ and λ.
    precision : Precision
        Of the products.
    microbatch : int | None
        Examples of the batch that each network takes at a time; None: all.
    """

    momentum: float
    weight_decay: float
    precision: Precision
    microbatch: int | None = None

    def __post_init__(self) -> None:
        if self.microbatch is not None and self.microbatch < 1:
            raise ParameterError(f"microbatch is {self.microbatch}; expected 1 or more.")

    @classmethod
    def of(cls, recipe: Recipe, microbatch: int | None) -> Rule:
        """Take the constants from a recipe."""
        return cls(recipe.momentum, recipe.weight_decay, recipe.precision, microbatch)

    def parts(self, size: int) -> list[slice]:
        """Cut a batch of so many examples into microbatches; the last may be smaller."""
        part = self.microbatch or size
        return [slice(start, start + part) for start in range(0, size, part)]


def partial_losses(
    rule: Rule, forward: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor, part: slice
) -> Tensor:
    """Compute what a part of a batch adds to each member's mean cross-entropy on the batch.

    Parameters
    ----------
    rule : Rule
        Its precision counts.
    forward : Callable[[Tensor], Tensor]
        Maps inputs ``(B, M, C, *spatial)`` to logits (M, B, classes).
    inputs : Tensor
        ``(B, M, C, *spatial)``, the whole batch, in the type of the weights.
    targets : Tensor of int64, shape (M, B)
        Of the whole batch.
    part : slice
        The examples to take.

    Returns
    -------
    Tensor
        (M,) nats, in the type of the inputs.
    """
    with autocast(inputs.device, rule.precision):
        logits = forward(inputs[part])
    y = targets[:, part]
    each = F.cross_entropy(logits.to(inputs.dtype).flatten(0, 1), y.flatten(), reduction="none")
    losses = each.view(y.shape).mean(1)
    whole = y.shape[1] == len(inputs)
    return losses if whole else losses * (y.shape[1] / len(inputs))


@torch.enable_grad()
def differentiate(
    rule: Rule,
    forward: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    inputs: Tensor,
    targets: Tensor,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Compute each member's loss on a batch, and the gradients with respect to the parameters.

    Parameters
    ----------
    rule, forward, inputs, targets
        As of `partial_losses`; the microbatches add up.
    parameters : Sequence[Tensor]
        What `forward` computes with, each (M, ...).

    Returns
    -------
    losses, gradients
        (M,) mean cross-entropy in nats; one gradient for each parameter, in its shape. No member's
        loss depends on another member's parameters.
    """

    def of_part(part: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        losses = partial_losses(rule, forward, inputs, targets, part)
        return losses.detach(), torch.autograd.grad(losses.sum(), parameters)

    first, *others = rule.parts(len(inputs))
    total, gradients = of_part(first)
    for part in others:
        losses, more = of_part(part)
        total, gradients = total + losses, tuple(map(torch.add, gradients, more))
    return total, gradients


@torch.no_grad()
def descend(
    rule: Rule,
    lr: Tensor,
    gradients: Sequence[Tensor],
    weights: Sequence[Tensor],
    velocities: Sequence[Tensor],
    masks: Sequence[Tensor],
) -> None:
    """Update weights and velocities in place: v ← μ·v + (g + λ·w) ⊙ m;  w ← w − η·v.

    Parameters
    ----------
    rule : Rule
        Gives μ and λ.
    lr : Tensor
        η, a scalar.
    gradients, weights, velocities, masks : Sequence[Tensor]
        Of the same length, with tensors of the same shapes.
    """
    for g, w, v, m in zip(gradients, weights, velocities, masks, strict=True):
        v.mul_(rule.momentum).add_(g.add(w, alpha=rule.weight_decay).mul_(m))
        w.sub_(v * lr)


def descend_flat(rule: Rule, state: TrainingState, gradients: Sequence[Tensor]) -> None:
    """Update a state from the gradients of its parameters, by a few operations on flat buffers."""
    gradient = torch.cat([g.flatten() for g in gradients])
    descend(rule, state.lr, [gradient], [state.networks.flat], [state.velocity], [state.mask])


def plain_update(rule: Rule, state: TrainingState) -> Update:
    """Make the step that runs operation by operation, on any device."""
    module = state.networks.module
    parameters = list(module.parameters())

    def update(inputs: Tensor, targets: Tensor) -> Tensor:
        losses, gradients = differentiate(rule, module, parameters, inputs, targets)
        descend_flat(rule, state, gradients)
        return losses

    return update
