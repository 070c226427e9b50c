"""Accuracy and loss, the loss barrier and its repairs, statistics over seeds, diversity of
predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lotperm.errors import ParameterError
from lotperm.types import Float64

Batches = Iterable[tuple[Tensor, Tensor]]


Statistics = dict[str, tuple[Float64[Tensor, " _"], Float64[Tensor, " _"]]]


class Evaluation(NamedTuple):
    """Means over all samples: accuracy (fraction) and loss (cross-entropy, nats); the number of
    samples.
    """

    accuracy: float
    loss: float
    samples: int


def evaluate(model: nn.Module, batches: Batches) -> Evaluation:
    """Accuracy and cross-entropy of a network in eval mode, each sample with the same weight.

    Parameters
    ----------
    model : nn.Module
        Network with outputs `(B, K)` (logits); its training mode is restored afterwards.
    batches : Batches
        Pairs of normalized inputs `(B, ...)` and int64 targets `(B,)`, of any and differing sizes.

    Returns
    -------
    Evaluation
        The last, smaller batch counts by its samples, not as a whole batch.

    Raises
    ------
    ParameterError
        There are no samples.
    """
    correct, loss, count = 0, 0.0, 0
    with evaluating(model) as device:
        for inputs, targets in batches:
            logits, targets = model(inputs.to(device)), targets.to(device)
            correct += int((logits.argmax(1) == targets).sum())
            loss += F.cross_entropy(logits.double(), targets, reduction="sum").item()
            count += len(targets)
    if count == 0:
        raise ParameterError(
            "evaluate: got no samples, expected at least one batch; check the data's split."
        )
    return Evaluation(correct / count, loss / count, count)


def probabilities(model: nn.Module, inputs: Iterable[Tensor]) -> Float64[np.ndarray, "n classes"]:
    """Softmax outputs of a network in eval mode, float64 `(N, K)`, in the order of the input
    batches.
    """
    with evaluating(model) as device:
        return np.concatenate(
            [model(x.to(device)).double().softmax(1).cpu().numpy() for x in inputs]
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Eval mode without gradients; yields the model's device and gives every module its mode
    back.
    """
    modes = [(module, module.training) for module in model.modules()]
    tensor = next(chain(model.parameters(), model.buffers()), None)
    model.eval()
    try:
        with torch.no_grad():
            yield torch.device("cpu") if tensor is None else tensor.device
    finally:
        for module, mode in modes:
            module.training = mode
