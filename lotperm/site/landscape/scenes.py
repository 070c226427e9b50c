"""The paper's Figure 3: two networks of two neurons, a mask and its permutation, three arms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from lotperm.errors import ParameterError
from lotperm.site.landscape.model import Floats, descend, loss, match, prune
from lotperm.studies.arms.arms import ARMS

RUNS = ("dense_a", "dense_b", "lth", "naive", "permuted")
"""The five networks that are trained: two dense ones and three sparse arms."""

# A dense network below this loss has found a minimum of the default teacher.
_GOOD = 1e-3


@dataclass(frozen=True)
class Scene:
    """A teacher, two initializations and the settings of plain gradient descent.

    Parameters
    ----------
    teacher : tuple[float, float], optional
        The teacher's two slopes (s0, s1).
    init_a, init_b : tuple[float, float], optional
        Weights (w0, w1) of networks A and B before training.
    learning_rate : float, optional
        The learning rate, above 0 and below 2, where gradient descent on this loss diverges.
    steps : int, optional
        The number of steps that every run takes, 1 to 100,000.
    rewind : int, optional
        The step k whose dense weights the sparse arms start from, 0 (the initialization) to
        `steps`.

    Raises
    ------
    ParameterError
        If a value is out of range or isn't finite.
    """

    teacher: tuple[float, float] = (2.0, -0.4)
    # Chosen to tell the story, as the paper's are: A and B end in minima that are mirror images.
    init_a: tuple[float, float] = (0.6, -1.3)
    init_b: tuple[float, float] = (-1.0, 0.4)
    learning_rate: float = 0.1
    steps: int = 130
    rewind: int = 0

    def __post_init__(self) -> None:
        for name in ("teacher", "init_a", "init_b"):
            value = tuple(float(v) for v in getattr(self, name))
            if len(value) != 2 or not all(math.isfinite(v) for v in value):
                raise ParameterError(
                    f"{name} is {getattr(self, name)}; expected two finite numbers."
                )
            # As tuples of floats: a notebook's parameters are lists, maybe of integers.
            object.__setattr__(self, name, value)
        # NaN fails this comparison, too.
        if not 0 < self.learning_rate < 2:
            raise ParameterError(
                f"learning_rate is {self.learning_rate}; expected more than 0 and less than 2, where gradient "
                "descent diverges: the largest curvature of the loss is 1."
            )
        if not 1 <= self.steps <= 100_000:
            raise ParameterError(f"steps is {self.steps}; expected 1 to 100,000.")
        if not 0 <= self.rewind <= self.steps:
            raise ParameterError(
                f"rewind is {self.rewind}; expected 0 to steps, which is {self.steps}."
            )


class Preset(NamedTuple):
    """One panel of Figure 3: its title, the runs that it shows, and a sentence about them."""

    title: str
    shows: tuple[str, ...]
    text: str


PRESETS = {
    "a": Preset(
        "dense training and pruning",
        ("dense_a",),
        "Pruning sets the smaller of A's two trained weights to 0: a projection onto an axis.",
    ),
    "b": Preset(
        "LTH",
        ("dense_a", "lth"),
        "A starts again, projected onto the axis of its own mask.",
    ),
    "c": Preset(
        "naive",
        ("dense_b", "naive"),
        "B starts projected onto the axis of A's mask.",
    ),
    "d": Preset(
        "permuted",
        ("dense_b", "permuted"),
        "B starts projected onto the axis of the permuted mask.",
    ),
}
"""The four panels of Figure 3 of the paper; all of them with the same `Scene`."""


@dataclass(frozen=True)
class Result:
    """The paths, masks and permutation that a scene leads to.

    Attributes
    ----------
    paths : dict of ndarray of float64, shape (steps + 1, ..., 2)
        The weights at every step, for each of `RUNS`.
    mask : ndarray of bool, shape (..., 2)
        A's mask.
    permutation : ndarray of int64, shape (..., 2)
        The order of A's neurons, as `match` returns it.
    permuted_mask : ndarray of bool, shape (..., 2)
        A's mask in B's order.
    pruned : ndarray of float64, shape (..., 2)
        Trained A, pruned and not trained further.
    teacher : tuple[float, float]
        The teacher's slopes.
    """

    paths: dict[str, Floats]
    mask: npt.NDArray[np.bool_]
    permutation: npt.NDArray[np.int64]
    permuted_mask: npt.NDArray[np.bool_]
    pruned: Floats
    teacher: tuple[float, float]

    def losses(self) -> dict[str, Floats]:
        """Return the loss of each run at every step, float64 (steps + 1, ...) by name."""
        return {name: loss(path, self.teacher) for name, path in self.paths.items()}

    def final_losses(self) -> dict[str, Floats]:
        """Return the loss of each run at its end, and of ``"pruned"``, float64 (...) by name."""
        ends = {name: path[-1] for name, path in self.paths.items()} | {"pruned": self.pruned}
        return {name: loss(w, self.teacher) for name, w in ends.items()}


def simulate(scene: Scene) -> Result:
    """Train A and B densely, prune A, match A to B, and train the three sparse arms.

    The arms start from the dense weights at step ``scene.rewind``, as `lotperm.studies.arms` says.
    """
    return _simulate(np.array(scene.init_a), np.array(scene.init_b), scene)


def _simulate(init_a: Floats, init_b: Floats, scene: Scene) -> Result:
    """Simulate many pairs of initializations at a time, (..., 2) each."""

    def train(start: Floats, mask: npt.NDArray[np.bool_]) -> Floats:
        return descend(start, mask, scene.teacher, scene.learning_rate, scene.steps)

    everything = np.ones(init_a.shape, dtype=bool)
    dense_a, dense_b = train(init_a, everything), train(init_b, everything)
    mask = prune(dense_a[-1])
    permutation = match(dense_a[-1], dense_b[-1])
    # Position i has the mask of the neuron that moves there.
    permuted_mask = np.take_along_axis(mask, permutation, axis=-1)
    paths = {"dense_a": dense_a, "dense_b": dense_b}
    # Named as in the table of arms; a scattered mask is the control's, which isn't run here.
    masks = {"as found": mask, "permuted": permuted_mask}
    for arm in (ARMS[name] for name in RUNS if name in ARMS):
        start = paths[f"dense_{arm.weights}"][scene.rewind]
        paths[arm.name] = train(start, masks[arm.mask])
    return Result(
        paths=paths,
        mask=mask,
        permutation=permutation,
        permuted_mask=permuted_mask,
        pruned=np.where(mask, dense_a[-1], 0.0),
        teacher=scene.teacher,
    )


def outcomes(scene: Scene, pairs: int, seed: int = 0) -> pd.DataFrame:
    """Simulate pairs with random initializations, w ~ N(0, 1), and count how they end.

    Parameters
    ----------
    scene : Scene
        Teacher, learning rate, steps and rewind; its initializations aren't used.
    pairs : int
        The number of pairs of A and B.
    seed : int, optional
        The seed of the initializations.

    Returns
    -------
    DataFrame
        One row for each kind of pair (in mirrored minima, in the same minimum, at least one in no
        minimum). Its columns are ``share``, of all pairs, and the mean final loss of ``lth``,
        ``naive`` and ``permuted``.

    Raises
    ------
    ParameterError
        If `pairs` is below 1.
    """
    if pairs < 1:
        raise ParameterError(f"pairs is {pairs}; expected at least 1.")
    init_a, init_b = np.random.default_rng(seed).standard_normal((2, pairs, 2))
    result = _simulate(init_a, init_b, scene)
    final = result.final_losses()
    # Which of the two minima a network is in can only be asked where it has found one.
    both = (final["dense_a"] < _GOOD) & (final["dense_b"] < _GOOD)
    # Of two minima that are mirror images, one is A's and one B's if matching swaps the neurons.
    swapped = result.permutation[:, 0] == 1
    kind = np.where(
        both & swapped,
        "in mirrored minima",
        np.where(both, "in the same minimum", "at least one in no minimum"),
    )
    frame = pd.DataFrame(
        {"A and B": kind} | {arm: final[arm] for arm in ("lth", "naive", "permuted")}
    )
    groups = frame.groupby("A and B")
    return groups.mean().assign(share=groups.size() / pairs)[["share", "lth", "naive", "permuted"]]
