"""The training step: masked SGD of M networks, as functions of tensors.

A step is a forward and a backward pass (`differentiate`) and an update (`descend`):

    v ← μ·v + (g + λ·w) ⊙ m        w ← w − η·v

`updating` runs it operation by operation on flat buffers. Its other forms compute the same:
`lotperm.engine.compiled` as one compiled program, `lotperm.engine.graphs` as a CUDA graph,
`lotperm.engine.shared` on several ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lotperm.config.choices import Precision
from lotperm.config.experiment import Recipe
from lotperm.engine.precision import autocast, products_in
from lotperm.engine.state import TrainingState
from lotperm.errors import ParameterError

Update = Callable[[Tensor, Tensor], Tensor]
"""One step of every member, from inputs ``(B, M, C, *spatial)`` and targets (M, B) int64.

It returns the losses (M,) before the step, in nats.
"""

Gradients = Callable[[Tensor, Tensor], tuple[Tensor, tuple[Tensor, ...]]]
"""Maps inputs and targets, as in `Update`, to losses (M,) and the gradient of every parameter.

The gradients are those of a dense network at these weights, without a mask.
"""


@dataclass(frozen=True)
class Rule:
    """The constants of a step, the same at every step of a training run.

    Attributes
    ----------
    momentum, weight_decay : float
        μ and λ.
    precision : Precision
        Precision of the products.
    microbatch : int | None
        Number of examples that each network takes at a time; None: the whole batch.
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
        """Return the constants of a recipe."""
        return cls(recipe.momentum, recipe.weight_decay, recipe.precision, microbatch)

    def parts(self, size: int) -> list[slice]:
        """Cut a batch of `size` examples into microbatches; the last one may be smaller."""
        part = self.microbatch or size
        return [slice(start, start + part) for start in range(0, size, part)]


def partial_losses(
    rule: Rule, forward: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor, part: slice
) -> Tensor:
    """Compute what a part of a batch contributes to each member's mean cross-entropy.

    Parameters
    ----------
    rule : Rule
        Gives the precision of the products.
    forward : Callable[[Tensor], Tensor]
        Maps inputs ``(B, M, C, *spatial)`` to logits (M, B, classes).
    inputs : Tensor
        ``(B, M, C, *spatial)``, the whole batch, in the dtype of the weights.
    targets : Tensor of int64, shape (M, B)
        Classes of the whole batch.
    part : slice
        The examples to take.

    Returns
    -------
    Tensor
        (M,), in nats, in the dtype of the inputs. Summed over all parts, the loss of the batch.
    """
    # Only the network computes in low precision; the loss is computed from logits in the dtype of
    # the weights.
    with autocast(inputs.device, rule.precision):
        logits = forward(inputs[part])
    y = targets[:, part]
    each = F.cross_entropy(logits.to(inputs.dtype).flatten(0, 1), y.flatten(), reduction="none")
    losses = each.view(y.shape).mean(1)
    # A mean over the part, weighted by the part's share of the batch: the last part may be smaller.
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
    rule : Rule
    forward : Callable[[Tensor], Tensor]
    inputs, targets : Tensor
        As in `partial_losses`; the gradients of microbatches are summed.
    parameters : Sequence[Tensor]
        The parameters that `forward` uses, each (M, ...).

    Returns
    -------
    losses : Tensor
        (M,), the mean cross-entropy, in nats.
    gradients : tuple[Tensor, ...]
        One for each parameter, in its shape. No member's loss depends on another member's
        parameters.
    """

    def of_part(part: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        losses = partial_losses(rule, forward, inputs, targets, part)
        # The gradient of the sum holds each member's own gradient, since the members share nothing.
        # Layers that the network has but doesn't use have a gradient of zero.
        return losses.detach(), torch.autograd.grad(
            losses.sum(), parameters, allow_unused=True, materialize_grads=True
        )

    with products_in(inputs.device, rule.precision):
        # Each part's activations are freed before the next part runs, which limits the memory.
        first, *others = rule.parts(len(inputs))
        total, gradients = of_part(first)
        for part in others:
            losses, more = of_part(part)
            total, gradients = total + losses, tuple(map(torch.add, gradients, more))
    return total, gradients


@torch.no_grad()
def descend(
    rule: Rule, lr: Tensor, gradient: Tensor, weight: Tensor, velocity: Tensor, mask: Tensor
) -> None:
    """Update a weight and its velocity in place: v ← μ·v + (g + λ·w) ⊙ m;  w ← w − η·v.

    Parameters
    ----------
    rule : Rule
        Gives μ and λ.
    lr : Tensor
        η, a scalar.
    gradient, weight, velocity, mask : Tensor
        Of the same shape.
    """
    # The mask applies to gradient and weight decay together, so for a pruned weight v stays 0, and
    # so does w, which starts at 0.
    velocity.mul_(rule.momentum).add_(gradient.add(weight, alpha=rule.weight_decay).mul_(mask))
    # η stays a tensor, so that a program or graph recorded once reads its value at every step.
    weight.sub_(velocity * lr)


@torch.no_grad()
def move(gradient: Tensor, weight: Tensor, movement: Tensor) -> None:
    """Add a step to the movement of a weight, in place and before its update: s ← s − g ⊙ w.

    This is the score of Sanh et al. 2020, which grows if the loss pushes a weight away from zero.

    Parameters
    ----------
    gradient, weight, movement : Tensor
        Of the same shape. The gradient is the loss's own, without weight decay.
    """
    movement.addcmul_(gradient, weight, value=-1)


@torch.no_grad()
def descend_together(
    rule: Rule,
    lr: Tensor,
    gradients: list[Tensor],
    weights: list[Tensor],
    velocities: list[Tensor],
    masks: list[Tensor],
) -> None:
    """Update many weights as `descend` does, with all of them in each operation.

    On CUDA, the compiler turns this into a few large kernels instead of one for each weight.

    Parameters
    ----------
    rule : Rule
    lr : Tensor
        As in `descend`.
    gradients, weights, velocities, masks : list[Tensor]
        Of the same length, with tensors of the same shapes.
    """
    decayed = torch._foreach_add(gradients, weights, alpha=rule.weight_decay)
    torch._foreach_mul_(decayed, masks)
    torch._foreach_mul_(velocities, rule.momentum)
    torch._foreach_add_(velocities, decayed)
    torch._foreach_sub_(weights, torch._foreach_mul(velocities, lr))


def descend_flat(rule: Rule, state: TrainingState, gradients: Sequence[Tensor]) -> None:
    """Update a state from the gradients of its parameters, with few operations on flat buffers."""
    # A few large operations instead of several for each parameter, since their number limits the
    # speed of small networks.
    gradient = torch.cat([g.flatten() for g in gradients])
    if state.movement is not None:
        move(gradient, state.networks.flat, state.movement)
    descend(rule, state.lr, gradient, state.networks.flat, state.velocity, state.mask)


def plain_gradients(rule: Rule, state: TrainingState) -> Gradients:
    """Make the forward and backward pass that runs operation by operation on any device."""
    module = state.networks.module
    parameters = list(module.parameters())

    def gradients(inputs: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return differentiate(rule, module, parameters, inputs, targets)

    return gradients


def updating(rule: Rule, state: TrainingState, gradients: Gradients) -> Update:
    """Make the training step that computes gradients and updates the state with them."""

    def update(inputs: Tensor, targets: Tensor) -> Tensor:
        losses, found = gradients(inputs, targets)
        descend_flat(rule, state, found)
        return losses

    return update
