"""The outcome of a training run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lotperm.engine.models import Weights
from lotperm.engine.run import Run
from lotperm.science.sparsity import Mask


@dataclass
class Trained:
    """The outcome of `lotperm.engine.training.train`, one entry per member.

    Attributes
    ----------
    weights : list[Weights]
        Final state dicts, on the CPU.
    checkpoints : dict[int, list[Weights]]
        Epoch -> state dicts after exactly that many epochs.
    train_loss : list[list[float]]
        [epoch][member], the mean over an epoch of the training losses before each step.
    evaluations : dict[int, dict[str, list[float]]]
        Epoch -> {"accuracy", "loss"} on the test split -> value of each member; for image folders
        with more than five classes also "top5".
    masks : list[Mask]
        The masks at the end, if `train` changed them.
    movement : list[dict[str, Tensor]]
        The movement of every parameter, if `train` summed it up.
    mode : str
        The form of the step (`lotperm.engine.runtime.Mode`), or several if parts differ.
    """

    weights: list[Weights] = field(default_factory=list)
    checkpoints: dict[int, list[Weights]] = field(default_factory=dict)
    train_loss: list[list[float]] = field(default_factory=list)
    evaluations: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    masks: list[Mask] = field(default_factory=list)
    movement: list[dict[str, Tensor]] = field(default_factory=list)
    mode: str = "plain"

    def add_epoch(self, runs: Sequence[Run]) -> float:
        """Record the losses of an epoch that all runs have finished, and return their mean."""
        losses = [loss for run in runs for loss in run.finish_epoch()]
        self.train_loss.append(losses)
        return sum(losses) / len(losses)

    def note(
        self,
        runs: Sequence[Run],
        epoch: int,
        save_at: Collection[int],
        evaluate_at: Collection[int],
    ) -> None:
        """Keep or evaluate the weights after an epoch, if requested."""
        # Copies on the CPU, since the networks themselves go on training.
        if epoch in save_at:
            self.checkpoints[epoch] = all_weights(runs)
        if epoch in evaluate_at:
            parts = [run.evaluate() for run in runs]
            self.evaluations[epoch] = {
                name: [value for part in parts for value in part[name]] for name in parts[0]
            }


def all_weights(runs: Sequence[Run]) -> list[Weights]:
    """Copy the state dicts of all members, in their order, to the CPU."""
    # Parts are consecutive slices of the members, so this is the members' own order.
    return [state for run in runs for state in run.weights()]
