"""The tensors that a training step reads and changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lotperm.engine.models import Weights
from lotperm.engine.stacking import StackedNetworks


class TrainingState:
    """The tensors of M masked networks and of their optimizer.

    Parameters
    ----------
    model : nn.Module
        The architecture.
    weights : Sequence[Weights]
        M state dicts to start from; they are masked here.
    masks : Sequence[Mapping[str, Tensor] | None]
        M masks, as in `lotperm.engine.training.train`.
    device : torch.device | str
        Where the tensors are kept.
    stacked : bool | None, optional
        As in `StackedNetworks`.
    movement : bool, optional
        Sum up the movement of the weights (`lotperm.engine.step.move`).
    masks_change : bool, optional
        Include the masks in the tensors that training changes.

    Attributes
    ----------
    networks : StackedNetworks
        The weights, in one flat buffer.
    mask, velocity : Tensor
        Laid out like `networks.flat`; the mask is 1 where a weight is trained, which means kept
        and not frozen.
    movement : Tensor | None
        Laid out like `networks.flat`, if it is summed up.
    lr : Tensor
        The learning rate, a scalar.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Sequence[Weights],
        masks: Sequence[Mapping[str, Tensor] | None],
        device: torch.device | str,
        *,
        stacked: bool | None = None,
        movement: bool = False,
        masks_change: bool = False,
    ) -> None:
        self.networks = StackedNetworks(model, weights, device, stacked=stacked)
        # Ones for parameters without a mask, so that dense networks take the same step.
        self.mask = self.networks.spread(masks, 1.0)
        # Once is enough: the step keeps pruned weights at zero (`lotperm.engine.step.descend`).
        self.networks.flat.mul_(self.mask)
        for name, trained in self.named(self.mask).items():
            # Frozen weights must stay as they are, without any update, including weight decay.
            if name in self.networks.frozen:
                trained.zero_()
        self.velocity = torch.zeros_like(self.networks.flat)
        self.movement = torch.zeros_like(self.networks.flat) if movement else None
        self._masks_change = masks_change
        # A tensor, so that compiled programs and CUDA graphs read a new rate at the same address.
        self.lr = self.networks.flat.new_zeros(())

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.networks.flat.device

    def by_parameter(self) -> list[Tensor]:
        """Return weights, velocities, masks and any movements, by parameter, then all buffers.

        They are views: a program that changes them in place changes this state.
        """
        return [
            # In the order that `lotperm.engine.compiled.compile_step` expects.
            *(parameter.detach() for parameter in self.networks.module.parameters()),
            *self.networks.views(self.velocity),
            *self.networks.views(self.mask),
            *([] if self.movement is None else self.networks.views(self.movement)),
            *self.networks.module.buffers(),
        ]

    @torch.no_grad()
    def changing(self) -> dict[str, Tensor]:
        """Return views (M, ...) of the tensors that training changes, by name."""
        found = {f"network/{name}": t for name, t in self.networks.module.state_dict().items()}
        flats = {"velocity": self.velocity}
        if self._masks_change:
            flats["mask"] = self.mask
        if self.movement is not None:
            flats["movement"] = self.movement
        for kind, flat in flats.items():
            found |= {f"{kind}/{name}": t for name, t in self.named(flat).items()}
        return found

    def movements(self) -> list[dict[str, Tensor]]:
        """Copy every member's movement to the CPU, by parameter; an empty list if there is none."""
        if self.movement is None:
            return []
        moved = {name: t.cpu() for name, t in self.named(self.movement).items()}
        members = range(self.networks.members)
        return [{name: t[m].clone() for name, t in moved.items()} for m in members]

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views (M, ...), by parameter, of a buffer laid out like `networks.flat`."""
        names = [name for name, _ in self.networks.module.named_parameters()]
        return dict(zip(names, self.networks.views(flat), strict=True))
