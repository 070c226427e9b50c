"""Losses that a network returns: of pairs of values, or of scores by class number."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lotperm.science.labels import LOSSES_OF_CLASSES, LOSSES_OF_PAIRS, Labels
from lotperm.science.rules.elementwise import align
from lotperm.science.rules.reductions import statistic
from lotperm.science.rules.registry import Call, rule, unknown


@rule(*LOSSES_OF_PAIRS)
def of_pairs(labels: Labels, call: Call) -> Tensor:
    """Label a loss that compares values one by one, as the squared error does."""
    compared = align(labels, call.tensors)
    if call.shape == compared.shape:
        return compared
    return statistic(labels, compared, list(range(compared.dim()))).reshape(call.shape)


@rule(*LOSSES_OF_CLASSES)
def of_classes(labels: Labels, call: Call) -> Any:
    """Label a loss that uses scores by class number, so their units can't move."""
    return unknown(labels, call)
