"""Which networks are trained together, and how many such parts at the same time."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from lotperm.config.parameters import Precision
from lotperm.engine.runtime import Runtime
from lotperm.parallel import distributed

_STREAMS = 16
"""How many parts a CUDA device trains at the same time, each in a stream of its own."""

_ACTIVATION_BYTES = {"float32": 2**20, "bfloat16": 2**22}
"""Of the largest activation of the networks that run together on a CPU, the best that was
measured: in float32 the second level of a core's cache; in bfloat16 there are more operations to
save, for casts.
"""


class Partition(NamedTuple):
    """The members of a training in parts.

    Attributes
    ----------
    parts : list[slice]
        Each is computed by one forward pass.
    threads : int
        How many parts are trained at the same time.
    """

    parts: list[slice]
    threads: int


def networks_at_once(
    model: nn.Module, shape: Sequence[int], precision: Precision, runtime: Runtime
) -> int | None:
    """Return how many networks one forward pass computes best; None: as many as a thread has.

    Linear layers of many networks are one operation on any device. Convolutions gain by fewer
    operations only while they are small: on a CPU, as long as the largest activation stays below a
    size (three times as fast for a narrow ResNet on CIFAR-10 as with 9 at once). On CUDA those of
    several networks are grouped ones, which are slow.

    Parameters
    ----------
    model : nn.Module
        One network.
    shape : Sequence[int]
        Of a batch of its inputs.
    precision : "float32" or "bfloat16"
        Of the recipe.
    runtime : Runtime
        Its device.
    """
    if not _convolutions(model):
        return None
    if torch.device(runtime.device).type == "cuda":
        return 1
    value = 2 if precision == "bfloat16" else 4
    return max(1, _ACTIVATION_BYTES[precision] // (value * _largest_activation(model, shape)))


def partition(
    model: nn.Module,
    shape: Sequence[int],
    count: int,
    *,
    precision: Precision,
    runtime: Runtime,
    steps: Sequence[int] | None = None,
) -> Partition:
    """Divide the members of a training into parts of about equal size.

    On the CPU two Python threads share the parts; more would wait for Python's lock. Compiled
    convolutions take long and don't hold it: there every core has a thread. On CUDA every part has
    a stream of its own. With several ranks there is one part at a time, since all must exchange
    gradients in one order.

    Parameters
    ----------
    model, shape, precision, runtime
        As of `networks_at_once`; `Runtime.members` limits the size of a part.
    count : int
        How many members there are.
    steps : Sequence[int] | None, optional
        The step of the epoch at which a checkpoint left each member; those at different ones stay
        apart.
    """
    at_once = networks_at_once(model, shape, precision, runtime)
    parts = math.ceil(count / (runtime.members or at_once or count))
    if distributed.world_size() > 1:
        threads = 1
    elif torch.device(runtime.device).type == "cuda":
        threads = min(parts, _STREAMS)
    else:
        threads = min(count, torch.get_num_threads())
        if not (runtime.compile and at_once):
            threads = min(threads, 2)
        # No thread is without a part in the last round, if there are enough networks.
        parts = min(count, threads * math.ceil(parts / threads))
    bounds = {count * i // parts for i in range(parts + 1)}
    if steps is not None:
        bounds |= {m for m in range(1, count) if steps[m] != steps[m - 1]}
    return Partition([slice(a, b) for a, b in itertools.pairwise(sorted(bounds))], threads)


def _convolutions(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]


def _largest_activation(model: nn.Module, shape: Sequence[int]) -> int:
    """Count the values of the largest output of a convolution, on the meta device."""
    sizes: list[int] = []
    form = copy.deepcopy(model).to("meta", torch.float32).eval()
    for layer in _convolutions(form):
        layer.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
    form(torch.empty(shape, device="meta"))
    return max(sizes)
