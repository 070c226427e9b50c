"""Train M masked networks at once.

`train` runs masked SGD on a stack of networks (`lotperm.engine.stacking`). All parameters live in
one flat buffer, so a step is one backward pass and a handful of operations on that buffer:

    v ← μ·v + (g + λ·w) ⊙ m        w ← w − η·v

With w ⊙ m = w at the start, a pruned weight is exactly zero at all times, momentum and weight
decay included (Sutskever et al. 2013's momentum as PyTorch has it, the mask m folded in). Every
random number belongs to one member and is drawn on the CPU from its own seeds, so a member's
result depends neither on the device nor on the networks that are trained beside it, up to
rounding.

With several ranks (`lotperm.parallel.distributed`) each takes an equal share of the rows of every
batch. Gradients are averaged by DistributedDataParallel, the statistics of batch norm are those of
the whole batch, and the same examples meet in a batch as in one process: so weights are equal in
every bit on all ranks, and differ from those of one process by rounding alone.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.dataset import Dataset
from lotperm.engine.models import Weights
from lotperm.engine.run import Programs, Run
from lotperm.engine.runtime import Runtime
from lotperm.errors import ParameterError, PreemptedError
from lotperm.parallel import distributed
from lotperm.parallel.threads import keep_freed_memory, workers


@dataclass
class Trained:
    """What `train` returns, one entry per member.

    Attributes
    ----------
    weights : list[Weights]
        Final state dicts, on the CPU.
    checkpoints : dict[int, list[Weights]]
        Epoch -> state dicts after exactly so many epochs.
    train_loss : list[list[float]]
        Mean training loss of each epoch, as seen in passing: [epoch][member].
    evaluations : dict[int, dict[str, list[float]]]
        Epoch -> {"accuracy", "loss"} on the test split -> value of each member; of image folders
        with more than five classes also "top5".
    """

    weights: list[Weights]
    checkpoints: dict[int, list[Weights]]
    train_loss: list[list[float]]
    evaluations: dict[int, dict[str, list[float]]]


class Checkpoints(Protocol):
    """Where a run in progress is kept; the store's workspace is one."""

    def checkpoint(self, tensors: Mapping[str, Tensor], info: Any) -> None:
        """Keep this state instead of the one before."""

    def latest(self) -> tuple[dict[str, Tensor], Any] | None:
        """The newest state that is whole."""


def train(
    model: nn.Module,
    weights: Sequence[Weights],
    data: Dataset,
    recipe: Recipe,
    seeds: Sequence[Seeds],
    *,
    masks: Sequence[Mapping[str, Tensor] | None] | None = None,
    until: int | None = None,
    save_at: Collection[int] = (),
    evaluate_at: Collection[int] | None = None,
    runtime: Runtime | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = 60.0,
    label: str = "training",
) -> Trained:
    """Train M networks of one architecture at once, each from its own weights, under its own mask.

    Parameters
    ----------
    model : nn.Module
        The architecture.
    weights : Sequence[Weights]
        M state dicts to start from.
    data : Dataset
        Inputs and targets; moved to the device once.
    recipe : Recipe
        Optimizer, schedule, batch size, augmentation and number of epochs, the same for all.
    seeds : Sequence[Seeds]
        M; order and augmentation of each member.
    masks : Sequence[Mapping[str, Tensor] | None] | None, optional
        M, or None where a member is dense; parameters that a mask doesn't name are dense.
    until : int | None, optional
        Stop after so many epochs of the recipe; None: all.
    save_at : Collection[int], optional
        Epochs whose weights are kept: 0 is the start (masked), k is after exactly k epochs.
    evaluate_at : Collection[int] | None, optional
        Epochs after which the test split is evaluated; None: only the last.
    runtime : Runtime | None, optional
        Device, compilation, how many at once, progress bars.
    checkpoints : Checkpoints | None, optional
        Where to keep the state of the run about every `checkpoint_seconds`; a run that finds a
        state there goes on from it, with the same result as an unbroken run.
    label : str, optional
        Words for the progress bar.

    Returns
    -------
    Trained
        The same on every rank, if there are several. They all must call this; rank 0 keeps the
        checkpoints, and the run can go on with another number of ranks.

    Raises
    ------
    ParameterError
        If the numbers of weights, seeds and masks differ, the batch is larger than the training
        set, several ranks can't share it equally, or the augmentation isn't one for such inputs.
    DivergedError
        If a loss is NaN or infinite, naming the step, or weights are. Found before they are saved
        or evaluated.
    PreemptedError
        If `Runtime.stop` said so; the same call goes on from there.
    """
    runtime = runtime or Runtime()
    masks = masks if masks is not None else [None] * len(weights)
    if not len(weights) == len(seeds) == len(masks):
        raise ParameterError(
            f"got {len(weights)} weights, {len(seeds)} seeds and {len(masks)} masks; expected the same number."
        )
    epochs = recipe.epochs if until is None else until
    evaluate_at = {epochs} if evaluate_at is None else evaluate_at
    data = data.to(runtime.device)
    keep_freed_memory()
    found = distributed.once(checkpoints.latest) if checkpoints is not None else None
    if found is not None and len(found[1].get("steps", ())) != len(weights):
        found = None  # of an older version
    size = runtime.microbatch or recipe.batch_size
    shape = (size, *data.train.inputs.shape[1:])
    parts, threads = _split(
        model, shape, len(weights), recipe.precision, runtime, found[1]["steps"] if found else None
    )
    runs = [Run(model, weights[p], data, recipe, seeds[p], masks[p], runtime) for p in parts]
    done = Trained(weights=[], checkpoints={}, train_loss=[], evaluations={})
    epoch = 0
    if found is not None:
        done, epoch = _restore(runs, parts, *found)
    if epoch == 0 and not any(run.step for run in runs):
        _note(done, runs, 0, save_at, evaluate_at)
    stop, saved = runtime.stop or (lambda: False), time.monotonic()

    def due() -> bool:
        return checkpoints is not None and time.monotonic() - saved > checkpoint_seconds

    def pause() -> bool:
        return distributed.any_rank(stop() or due())

    images = sum(run.images_per_epoch for run in runs)
    seen = epoch * images + sum(run.step * run.images_per_epoch // run.steps for run in runs)
    bar = runtime.progress(label, epochs * images - seen) if runtime.progress else None
    with contextlib.ExitStack() as resources:
        if bar is not None:
            resources.enter_context(contextlib.closing(bar))
        # CUDA's fastest convolutions, until the end of this call.
        resources.callback(
            setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark
        )
        torch.backends.cudnn.benchmark = True
        each = resources.enter_context(workers(threads))
        if epoch < epochs:
            programs: Programs = {}
            for run in runs:
                run.prepare(programs, threads)
        while epoch < epochs:
            each(partial(Run.advance, epoch=epoch, pause=pause, bar=bar), runs)
            for run in runs:
                run.join()
                run.check_finite(epoch)
            if all(run.step == run.steps for run in runs):
                done.train_loss.append([loss for run in runs for loss in run.finish_epoch()])
                epoch += 1
                _note(done, runs, epoch, save_at, evaluate_at)
                if bar is not None:
                    mean = sum(done.train_loss[-1]) / len(weights)
                    bar.set_postfix_str(f"epoch {epoch}/{epochs}, loss {mean:.3f}")
            if epoch == epochs:
                break
            stopping, saving = distributed.any_rank(stop()), distributed.any_rank(due())
            if checkpoints is not None and (stopping or saving):
                distributed.once(partial(_save, checkpoints, runs, done, epoch))
                saved = time.monotonic()
            if stopping:
                kept = "Its state is saved" if checkpoints is not None else "Its state isn't kept"
                raise PreemptedError(
                    f"{label} was stopped in epoch {epoch + 1} of {epochs}. {kept}: run it again."
                )
    done.weights = _weights(runs)
    return done


def _note(
    done: Trained,
    runs: Sequence[Run],
    epoch: int,
    save_at: Collection[int],
    evaluate_at: Collection[int],
) -> None:
    """Keep and evaluate the weights after an epoch, where that was asked for."""
    if epoch in save_at:
        done.checkpoints[epoch] = _weights(runs)
    if epoch in evaluate_at:
        done.evaluations[epoch] = _beside([run.evaluate() for run in runs])


_STREAMS = 16

"""How many parts a CUDA device trains at the same time, each in a stream of its own."""


_ACTIVATION_BYTES = {"float32": 2**20, "bfloat16": 2**22}

"""Of the largest activation of the networks that run together on a CPU, the best that was
measured: in float32 the second level of a core's cache; in bfloat16 there are more operations to
save, for casts.
"""


def _at_once(
    model: nn.Module, shape: Sequence[int], precision: str, runtime: Runtime
) -> int | None:
    """How many networks one forward pass computes best; None: as many as a thread has.

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
    precision : str
        Of the recipe.
    runtime : Runtime
        Its device.
    """
    if not any(isinstance(layer, nn.Conv1d | nn.Conv2d) for layer in model.modules()):
        return None
    if torch.device(runtime.device).type == "cuda":
        return 1
    sizes: list[int] = []
    form = copy.deepcopy(model).to("meta", torch.float32).eval()
    for layer in form.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            layer.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
    form(torch.empty(shape, device="meta"))
    value = 2 if precision == "bfloat16" else 4
    return max(1, _ACTIVATION_BYTES[precision] // (value * max(sizes)))


def _split(
    model: nn.Module,
    shape: Sequence[int],
    count: int,
    precision: str,
    runtime: Runtime,
    steps: Sequence[int] | None = None,
) -> tuple[list[slice], int]:
    """Which members run together, and how many such parts at a time.

    On the CPU two Python threads share the parts; more would wait for Python's lock. Compiled
    convolutions take long and don't hold it: there every core has a thread. On CUDA every part has
    a stream of its own. With several ranks there is one part at a time, since all must exchange
    gradients in one order. Members that a checkpoint left at different `steps` of an epoch stay
    apart.
    """
    cuda = torch.device(runtime.device).type == "cuda"
    at_once = _at_once(model, shape, precision, runtime)
    parts = math.ceil(count / (runtime.members or at_once or count))
    if distributed.world_size() > 1:
        threads = 1
    elif cuda:
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
    return [slice(a, b) for a, b in itertools.pairwise(sorted(bounds))], threads


def _weights(runs: Sequence[Run]) -> list[Weights]:
    return [state for run in runs for state in run.networks.weights()]


def _beside(parts: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """The metrics of several parts as those of one list of members."""
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def _state(
    runs: Sequence[Run], done: Trained, epoch: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that `_restore` needs to go on with an epoch, counted from 0, that may have
    begun.

    By members, however many of them run together and on however many ranks.
    """
    parts = [{name: t.cpu() for name, t in run.tensors().items()} for run in runs]
    tensors = {f"now/{name}": torch.cat([part[name] for part in parts]) for name in parts[0]}
    for saved, states in done.checkpoints.items():
        for name in states[0]:
            tensors[f"epoch-{saved}/{name}"] = torch.stack([state[name] for state in states])
    info = {
        "epoch": epoch,
        "steps": [run.step for run in runs for _ in range(run.networks.members)],
        "saved": sorted(done.checkpoints),
        "train_loss": done.train_loss,
        "evaluations": {str(e): metrics for e, metrics in done.evaluations.items()},
    }
    return tensors, info


def _save(checkpoints: Checkpoints, runs: Sequence[Run], done: Trained, epoch: int) -> None:
    checkpoints.checkpoint(*_state(runs, done, epoch))


def _restore(
    runs: Sequence[Run],
    parts: Sequence[slice],
    tensors: Mapping[str, Tensor],
    info: Mapping[str, Any],
) -> tuple[Trained, int]:
    """Take up the state that `_state` gave; returns what was done and the epoch to go on with."""
    for run, part in zip(runs, parts, strict=True):
        run.step = info["steps"][part.start]
        for name, tensor in run.tensors().items():
            tensor.copy_(tensors[f"now/{name}"][part])
    checkpoints = {}
    for epoch in info["saved"]:
        prefix = f"epoch-{epoch}/"
        packed = {
            name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)
        }
        checkpoints[int(epoch)] = [
            {name: t[m].clone() for name, t in packed.items()} for m in range(len(info["steps"]))
        ]
    evaluations = {int(e): metrics for e, metrics in info["evaluations"].items()}
    return Trained([], checkpoints, list(info["train_loss"]), evaluations), int(info["epoch"])
