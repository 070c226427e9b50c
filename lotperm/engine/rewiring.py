"""Masks of many networks that change during their training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lotperm.engine.state import TrainingState
from lotperm.engine.step import Gradients
from lotperm.errors import ParameterError


class MaskRule(Protocol):
    """A rule by which masks change during training; `lotperm.science.rewiring.RigL` is one.

    It has no state of its own, so an interrupted run resumes with the same masks. Some steps change
    the masks instead of the weights. Weights that they drop become zero, and weights that they grow
    start at zero, with a velocity of zero.
    """

    def due(self, step: int, steps: int) -> bool:
        """Return whether a step, counted from 0, of all `steps` of the recipe changes the masks."""

    def mask(self, step: int, steps: int, weight: Tensor, gradient: Tensor, kept: Tensor) -> Tensor:
        """Return the new masks of a parameter of M networks, bool (M, ...) like `kept`.

        The gradient is that of the batch's loss with respect to kept and pruned weights alike,
        without weight decay.
        """


class Rewiring:
    """Applies a rule to the networks of a part; the masks' tensors are changed in place.

    Parameters
    ----------
    rule : MaskRule
        When masks change, and how.
    state : TrainingState
        The networks.
    masks : Sequence[Mapping[str, Tensor] | None]
        M masks to start from. Only parameters that one of them names have changing masks.
    gradients : Gradients
        Computes losses and gradients.

    Raises
    ------
    ParameterError
        If a network has no mask, or one names a parameter that isn't trained, or one that
        `torch.nn.utils.prune` masks as well.
    """

    def __init__(
        self,
        rule: MaskRule,
        state: TrainingState,
        masks: Sequence[Mapping[str, Tensor] | None],
        gradients: Gradients,
    ) -> None:
        self.rule, self.state, self._gradients = rule, state, gradients
        self._named = [tuple(mask or ()) for mask in masks]
        # A dense network would lose the steps that change the others' masks.
        if not all(self._named):
            raise ParameterError(
                "masks that change need an initial mask for every network; one has none."
            )
        named = {name for names in self._named for name in names}
        if frozen := sorted(named & set(state.networks.frozen)):
            raise ParameterError(
                f"the mask of {frozen[0]} can't change, as it isn't trained. Leave it out of the "
                "masks, or let it require gradients."
            )
        held = {name for name, _ in state.networks.module.named_buffers()}
        if pruned := sorted(n for n in named if f"{n.removesuffix('_orig')}_mask" in held):
            raise ParameterError(
                f"{pruned[0]} has a mask of torch.nn.utils.prune, which can't change. Make it a "
                "plain parameter first (prune.remove)."
            )
        # Positions, since gradients come in the order of the parameters, without names.
        parameters = dict(state.networks.module.named_parameters())
        self._places = {name: i for i, name in enumerate(parameters) if name in named}

    @torch.no_grad()
    def update(self, step: int, steps: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """Change the masks at a step of all `steps`, and return the batch's losses (M,)."""
        losses, gradients = self._gradients(inputs, targets)
        networks = self.state.networks
        weights, velocities, masks = (
            networks.views(flat) for flat in (networks.flat, self.state.velocity, self.state.mask)
        )
        for i in self._places.values():
            kept = self.rule.mask(step, steps, weights[i], gradients[i], masks[i] > 0)
            # Weights that weren't kept are zero, and so are their velocities; grown ones start so.
            masks[i].copy_(kept)
            weights[i].mul_(masks[i])
            velocities[i].mul_(masks[i])
        return losses

    def masks(self) -> list[dict[str, Tensor]]:
        """Copy every member's mask to the CPU, by the names of the parameters."""
        views = self.state.networks.views(self.state.mask)
        now = {name: (views[i] > 0).cpu() for name, i in self._places.items()}
        # In the order of the given masks.
        return [
            {name: now[name][m].clone() for name in names} for m, names in enumerate(self._named)
        ]
