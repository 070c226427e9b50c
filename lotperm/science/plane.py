"""The plane through three networks in weight space (Garipov et al. 2018, "Loss Surfaces")."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lotperm.errors import ParameterError
from lotperm.science.state_dicts import is_parameter
from lotperm.types import Float64

Place = tuple[float, float]


class Plane(NamedTuple):
    """The plane through three networks, in coordinates that preserve distances between weights.

    Attributes
    ----------
    corners : tuple of three Mapping[str, Tensor]
        State dicts of one architecture.
    places : tuple of three (float, float)
        Where the corners are: the first at (0, 0), the second on the positive x axis, the third
        above it. The distance between two places is the Euclidean distance between their networks'
        parameters; running statistics of batch norms don't count.
    """

    corners: tuple[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor]]
    places: tuple[Place, Place, Place]

    @classmethod
    def through(
        cls, a: Mapping[str, Tensor], b: Mapping[str, Tensor], c: Mapping[str, Tensor]
    ) -> Plane:
        """Find the plane through three networks.

        Raises
        ------
        ParameterError
            If they lie on one line, so that many planes pass through them.
        """
        names = [name for name, tensor in a.items() if is_parameter(name, tensor)]
        to_b, to_c = (
            torch.cat([(end[name].double() - a[name].double()).flatten() for name in names])
            for end in (b, c)
        )
        base = to_b.norm().item()
        along = (to_b @ to_c).item() / base if base else 0.0
        # The length of the part of c - a that is orthogonal to b - a.
        height = math.sqrt(max(to_c.norm().item() ** 2 - along**2, 0.0))
        if base == 0 or height <= 1e-6 * base:
            raise ParameterError("the three networks lie on one line; expected three corners.")
        return cls((a, b, c), ((0.0, 0.0), (base, 0.0), (along, height)))

    def at(self, x: float, y: float) -> dict[str, Tensor]:
        """Return the network at a place of the plane.

        Running statistics are combined as weights are, which means little outside the triangle:
        reset them before the network is used. Integer buffers are those of the first corner.
        """
        (_, (base, _), (along, height)), (a, b, c) = self.places, self.corners
        t = y / height
        s = (x - t * along) / base
        return {
            name: tensor + s * (b[name] - tensor) + t * (c[name] - tensor)
            if tensor.is_floating_point()
            else tensor.clone()
            for name, tensor in a.items()
        }

    def grid(
        self, steps: int, margin: float = 0.25
    ) -> tuple[Float64[np.ndarray, " steps"], Float64[np.ndarray, " steps"]]:
        """Return coordinates of a grid around the corners.

        Parameters
        ----------
        steps : int
            Number of places along each axis, 2 or more.
        margin : float, optional
            How far the grid reaches beyond the corners, as a fraction of their extent.

        Returns
        -------
        x, y : ndarray, float64, shape (steps,)

        Raises
        ------
        ParameterError
            With fewer than two steps.
        """
        if steps < 2:
            raise ParameterError(f"steps is {steps}; expected 2 or more.")
        axes = []
        for values in zip(*self.places, strict=True):
            low, high = min(values), max(values)
            more = margin * (high - low)
            axes.append(np.linspace(low - more, high + more, steps))
        return axes[0], axes[1]
