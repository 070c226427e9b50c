"""Choose which networks are trained together, and how many such parts at the same time."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from lotperm.config.choices import Precision
from lotperm.engine.runtime import Runtime
from lotperm.engine.ways import STACKED, Way
from lotperm.parallel import distributed

_ACTIVATION_BYTES: dict[Precision, int] = {"float32": 2**20, "tf32": 2**20, "bfloat16": 2**22}
"""Largest activation of networks that run together on a CPU, in bytes: the fastest size measured.

In float32 that is a core's second-level cache; in bfloat16, where casts add operations, it pays to
run more networks together.
"""


class Partition(NamedTuple):
    """The members of a training run, divided into parts.

    Attributes
    ----------
    parts : list[slice]
        The members of each part; a part is computed by one forward pass.
    threads : int
        Number of parts that are trained at the same time.
    """

    parts: list[slice]
    threads: int


def networks_at_once(
    model: nn.Module, shape: Sequence[int], precision: Precision, runtime: Runtime
) -> int | None:
    """Return how many networks one forward pass should compute; None means all of a thread's.

    Linear layers of many networks are one operation on any device. Convolutions gain from fewer
    operations only while they are small: on a CPU, as long as the largest activation stays below
    some size (a narrow ResNet on CIFAR-10 is then three times as fast as with 9 networks at once).
    On CUDA, convolutions of several networks are grouped ones, which are slow.

    Parameters
    ----------
    model : nn.Module
        One network.
    shape : Sequence[int]
        Shape of a batch of its inputs.
    precision : "float32", "tf32" or "bfloat16"
        Precision of the recipe.
    runtime : Runtime
        The runtime, whose device is used.
    """
    if not _convolutions(model):
        return None
    if torch.device(runtime.device).type == "cuda":
        # Grouped convolutions are slow there.
        return 1
    value = 2 if precision == "bfloat16" else 4
    # At least one network, however large its activations are.
    return max(1, _ACTIVATION_BYTES[precision] // (value * _largest_activation(model, shape)))


def partition(
    model: nn.Module,
    shape: Sequence[int],
    count: int,
    *,
    precision: Precision,
    runtime: Runtime,
    way: Way = STACKED,
    steps: Sequence[int] | None = None,
) -> Partition:
    """Divide the members of a training run into parts of about equal size.

    On the CPU, two Python threads share the parts; more would wait for Python's lock. Compiled
    convolutions take long and don't hold the lock, so with them every core has a thread. On CUDA,
    every part has a stream of its own. With several ranks, parts run one after another, since all
    ranks must exchange gradients in the same order.

    Parameters
    ----------
    model : nn.Module
    shape : Sequence[int]
        As in `networks_at_once`.
    count : int
        Number of members.
    precision : "float32", "tf32" or "bfloat16"
    runtime : Runtime
        As in `networks_at_once`; `Runtime.members` limits the size of a part.
    way : Way, optional
        Whether networks can be computed together.
    steps : Sequence[int] | None, optional
        Step of the epoch at which a checkpoint left each member; members at different steps stay
        apart.
    """
    at_once: int | None = 1
    if way.name == "single":
        runtime = dataclasses.replace(runtime, members=1)
    else:
        at_once = networks_at_once(model, shape, precision, runtime)
    # The caller's limit overrides the measured one.
    parts = math.ceil(count / (runtime.members or at_once or count))
    # Gradients are exchanged in the order in which backward passes ask for it, which could differ
    # between ranks with two parts at a time. And if networks are random, the numbers that one of
    # two threads draws would depend on the other.
    if distributed.world_size() > 1 or way.random:
        threads = 1
    elif torch.device(runtime.device).type == "cuda":
        threads = min(parts, runtime.streams)
    else:
        threads = min(count, torch.get_num_threads())
        # Small operations spend their time in Python, and a third thread would wait for its lock.
        if not (runtime.compile and at_once):
            threads = min(threads, 2)
        # If there are enough networks, every thread has a part in the last round.
        parts = min(count, threads * math.ceil(parts / threads))
    bounds = {count * i // parts for i in range(parts + 1)}
    # A part has one step counter, so members that a checkpoint left at different steps can't share
    # one.
    if steps is not None:
        bounds |= {m for m in range(1, count) if steps[m] != steps[m - 1]}
    return Partition([slice(a, b) for a, b in itertools.pairwise(sorted(bounds))], threads)


def _convolutions(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]


def _largest_activation(model: nn.Module, shape: Sequence[int]) -> int:
    """Count the values of the largest output of a convolution, on the meta device."""
    sizes: list[int] = []
    # On the meta device the pass takes neither time nor memory, whatever the batch size.
    form = copy.deepcopy(model).to("meta", torch.float32).eval()
    for layer in _convolutions(form):
        layer.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
    form(torch.empty(shape, device="meta"))
    return max(sizes)
