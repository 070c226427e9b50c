"""Accuracy, loss and predicted probabilities of a network."""

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
from lotperm.science.precision import full_precision
from lotperm.types import Float64

Batches = Iterable[tuple[Tensor, Tensor]]


class Evaluation(NamedTuple):
    """Means over all samples.

    Attributes
    ----------
    accuracy : float
        Fraction of samples that are classified correctly.
    loss : float
        Cross-entropy, nats.
    samples : int
        The number of samples.
    """

    accuracy: float
    loss: float
    samples: int


def evaluate(model: nn.Module, batches: Batches) -> Evaluation:
    """Compute accuracy and cross-entropy in eval mode, each sample with the same weight.

    Parameters
    ----------
    model : nn.Module
        Network with outputs `(B, K)` (logits); its training mode is restored afterwards.
    batches : Batches
        Pairs of normalized inputs `(B, ...)` and int64 targets `(B,)`; B may vary.

    Returns
    -------
    Evaluation
        A last, smaller batch counts by its samples, not as a whole batch.

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
            # In float64, so that the sum hardly depends on how the samples are cut into batches.
            loss += F.cross_entropy(logits.double(), targets, reduction="sum").item()
            count += len(targets)
    if count == 0:
        raise ParameterError(
            "evaluate: got no samples, expected at least one batch; check the data's split."
        )
    return Evaluation(correct / count, loss / count, count)


def probabilities(model: nn.Module, inputs: Iterable[Tensor]) -> Float64[np.ndarray, "n classes"]:
    """Compute the softmax outputs of a network in eval mode.

    Parameters
    ----------
    model : nn.Module
        Network with outputs `(B, K)` (logits).
    inputs : Iterable[Tensor]
        Batches of normalized inputs `(B, ...)`, at least one.

    Returns
    -------
    ndarray, float64, shape (N, K)
        Probabilities, in the order of the inputs.
    """
    with evaluating(model) as device:
        return np.concatenate(
            [model(x.to(device)).double().softmax(1).cpu().numpy() for x in inputs]
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Put a network into eval mode for a while, in full precision and without gradients.

    Afterwards, each module gets its own mode back.

    Yields
    ------
    torch.device
        Where the network is.
    """
    modes = [(module, module.training) for module in model.modules()]
    tensor = next(chain(model.parameters(), model.buffers()), None)
    model.eval()
    try:
        with torch.no_grad(), full_precision():
            yield torch.device("cpu") if tensor is None else tensor.device
    finally:
        for module, mode in modes:
            module.training = mode
