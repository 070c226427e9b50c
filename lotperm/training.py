"""Train M masked networks at once.

`train` runs masked SGD on a stack of networks (`lotperm.stacking`). All parameters live in one flat buffer, so a step
is one backward pass and a handful of operations on that buffer:

    v ← μ·v + (g + λ·w) ⊙ m        w ← w − η·v

With w ⊙ m = w at the start, a pruned weight is exactly zero at all times, momentum and weight decay included
(Sutskever et al. 2013's momentum as PyTorch has it, the mask m folded in). Every random number belongs to one
member and is drawn on the CPU from its own seeds, so a member's result depends neither on the device nor on the
networks that are trained beside it, up to rounding.

With several ranks (`lotperm.distributed`) each takes an equal share of the rows of every batch. Gradients are averaged
by DistributedDataParallel, the statistics of batch norm are those of the whole batch, and the same examples meet in a
batch as in one process: so weights are equal in every bit on all ranks, and differ from those of one process by
rounding alone.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.parallel import DistributedDataParallel

from lotperm import distributed
from lotperm.config import Recipe, Seeds
from lotperm.data import Dataset, Split, augment, draw_augmentation, normalize, raw_batches
from lotperm.errors import DivergedError, ParameterError, PreemptedError
from lotperm.imagefolder import ImageFiles, stream
from lotperm.models import Weights
from lotperm.stacking import StackedNetworks
from lotperm.threads import keep_freed_memory, workers


class ProgressBar(Protocol):
    """What `train` asks of a progress bar; a `tqdm` is one."""

    def update(self, n: float) -> Any:
        """Advance by n training images."""

    def set_postfix_str(self, s: str) -> Any:
        """Show a few words behind the bar."""

    def close(self) -> Any:
        """Finish."""


Progress = Callable[[str, int], ProgressBar]
"""Makes a progress bar from a label and the number of images to train on (all members counted)."""


def tqdm_bar(label: str, images: int) -> ProgressBar:
    """A progress bar on stderr with rate and remaining time."""
    from tqdm import tqdm

    return tqdm(total=images, desc=label, unit="img", unit_scale=True, mininterval=0.5, dynamic_ncols=True)


@dataclass(frozen=True)
class Runtime:
    """How to compute, as opposed to what: no part of a result's key.

    Attributes
    ----------
    device : "cpu" or "cuda"
    compile : compile the training step, which takes seconds to a minute; pays off from minutes of training on. On CUDA
        it becomes a CUDA graph, without which one small network is bound by the launches of its kernels
    members : how many networks go through one forward pass at the most; None: what is fast (`_at_once`), all that a
        thread has if there are no convolutions
    microbatch : examples of a batch that each network takes at a time, to bound memory; None: all. Gradients are
        summed, so a step is the same up to rounding, with one exception: batch norm takes the statistics of each part,
        as if the batch were that small, and its running averages move once for each part
    workers : processes that read an image folder, for each part of the members; None: none on the CPU, where they
        would take the cores from training, else as many as there are cores, 16 at the most. No result depends on it
    progress : makes progress bars; None: silent
    stop : asked after every step of training; True ends the run there with `PreemptedError`, its state saved
    """

    device: str = "cpu"
    compile: bool = False
    members: int | None = None
    microbatch: int | None = None
    workers: int | None = None
    progress: Progress | None = None
    stop: Callable[[], bool] | None = None

    @property
    def readers(self) -> int:
        """`workers`, or what it stands for."""
        if self.workers is not None:
            return self.workers
        return 0 if torch.device(self.device).type == "cpu" else min(os.cpu_count() or 1, 16)


@dataclass
class Trained:
    """What `train` returns, one entry per member.

    Attributes
    ----------
    weights : final state dicts, on the CPU
    checkpoints : epoch -> state dicts after exactly so many epochs
    train_loss : mean training loss of each epoch, as seen in passing: [epoch][member]
    evaluations : epoch -> {"accuracy", "loss"} on the test split -> value of each member; of image folders with more
        than five classes also "top5"
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


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Learning rate of an epoch, counted from 0; constant within the epoch, as in the authors' code.

    ``cosine``: lr·(1 + cos(π·epoch/epochs))/2. ``step``: lr·gamma^(milestones passed). With `warmup_epochs` W the
    first W epochs are scaled by (epoch + 1)/W.
    """
    if recipe.schedule == "cosine":
        factor = (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
    elif recipe.schedule == "step":
        factor = recipe.gamma ** sum(epoch >= milestone for milestone in recipe.milestones)
    else:
        factor = 1.0
    if epoch < recipe.warmup_epochs:
        factor *= (epoch + 1) / recipe.warmup_epochs
    return recipe.lr * factor


def draw_order(size: int, seed: int, epoch: int) -> Tensor:
    """The order in which one member sees the training set in an epoch: int64 (size,), a permutation."""
    generator = torch.Generator().manual_seed((seed + epoch * 0x9E3779B97F4A7C15) % 2**63)
    return torch.randperm(size, generator=generator)


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
    model : the architecture
    weights : M state dicts to start from
    data : inputs and targets; moved to the device once
    recipe : optimizer, schedule, batch size, augmentation and number of epochs, the same for all
    seeds : M; order and augmentation of each member
    masks : M, or None where a member is dense; parameters that a mask doesn't name are dense
    until : stop after so many epochs of the recipe; None: all
    save_at : epochs whose weights are kept: 0 is the start (masked), k is after exactly k epochs
    evaluate_at : epochs after which the test split is evaluated; None: only the last
    runtime : device, compilation, how many at once, progress bars
    checkpoints : where to keep the state of the run about every `checkpoint_seconds`; a run that finds a state there
        goes on from it, with the same result as an unbroken run
    label : words for the progress bar

    Returns
    -------
    Trained
        The same on every rank, if there are several. They all must call this; rank 0 keeps the checkpoints, and the run
        can go on with another number of ranks.

    Raises
    ------
    ParameterError
        If the numbers of weights, seeds and masks differ, the batch is larger than the training set, several ranks
        can't share it equally, or the augmentation isn't one for such inputs.
    DivergedError
        If a loss is NaN or infinite, naming the step, or weights are. Found before they are saved or evaluated.
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
    runs = [_Run(model, weights[p], data, recipe, seeds[p], masks[p], runtime) for p in parts]
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
        resources.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
        torch.backends.cudnn.benchmark = True
        each = resources.enter_context(workers(threads))
        if epoch < epochs:
            programs: Programs = {}
            for run in runs:
                run.prepare(programs, threads)
        while epoch < epochs:
            each(partial(_Run.advance, epoch=epoch, pause=pause, bar=bar), runs)
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


def check_shared(recipe: Recipe, compile: bool, ranks: int) -> None:
    """Refuse a training that so many ranks can't share.

    Parameters
    ----------
    recipe : of the training
    compile : as of `Runtime`
    ranks : processes, 1 or more (`lotperm.distributed`)

    Raises
    ------
    ParameterError
        If the batch can't be divided equally, or the step is to be compiled.
    """
    if recipe.batch_size % ranks:
        raise ParameterError(
            f"batch_size is {recipe.batch_size}, which {ranks} processes can't share equally. "
            f"Choose a multiple of {ranks}, or another number of processes."
        )
    if ranks > 1 and compile:
        raise ParameterError("a compiled step can't be shared by several processes. Leave compile out.")


def _note(
    done: Trained, runs: Sequence[_Run], epoch: int, save_at: Collection[int], evaluate_at: Collection[int]
) -> None:
    """Keep and evaluate the weights after an epoch, where that was asked for."""
    if epoch in save_at:
        done.checkpoints[epoch] = _weights(runs)
    if epoch in evaluate_at:
        done.evaluations[epoch] = _beside([run.evaluate() for run in runs])


_STREAMS = 16
"""How many parts a CUDA device trains at the same time, each in a stream of its own."""


_ACTIVATION_BYTES = {"float32": 2**20, "bfloat16": 2**22}
"""Of the largest activation of the networks that run together on a CPU, the best that was measured: in float32 the
second level of a core's cache; in bfloat16 there are more operations to save, for casts."""


def _at_once(model: nn.Module, shape: Sequence[int], precision: str, runtime: Runtime) -> int | None:
    """How many networks one forward pass computes best; None: as many as a thread has.

    Linear layers of many networks are one operation on any device. Convolutions gain by fewer operations only while
    they are small: on a CPU, as long as the largest activation stays below a size (three times as fast for a narrow
    ResNet on CIFAR-10 as with 9 at once). On CUDA those of several networks are grouped ones, which are slow.

    Parameters
    ----------
    model : one network
    shape : of a batch of its inputs
    precision : of the recipe
    runtime : its device
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
    model: nn.Module, shape: Sequence[int], count: int, precision: str, runtime: Runtime,
    steps: Sequence[int] | None = None,
) -> tuple[list[slice], int]:  # fmt: skip
    """Which members run together, and how many such parts at a time.

    On the CPU two Python threads share the parts; more would wait for Python's lock. Compiled convolutions take long
    and don't hold it: there every core has a thread. On CUDA every part has a stream of its own. With several ranks
    there is one part at a time, since all must exchange gradients in one order. Members that a checkpoint left at
    different `steps` of an epoch stay apart.
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


def _weights(runs: Sequence[_Run]) -> list[Weights]:
    return [state for run in runs for state in run.networks.weights()]


def _beside(parts: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """The metrics of several parts as those of one list of members."""
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def _state(runs: Sequence[_Run], done: Trained, epoch: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that `_restore` needs to go on with an epoch, counted from 0, that may have begun.

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


def _save(checkpoints: Checkpoints, runs: Sequence[_Run], done: Trained, epoch: int) -> None:
    checkpoints.checkpoint(*_state(runs, done, epoch))


def _restore(
    runs: Sequence[_Run], parts: Sequence[slice], tensors: Mapping[str, Tensor], info: Mapping[str, Any]
) -> tuple[Trained, int]:
    """Take up the state that `_state` gave; returns what was done and the epoch to go on with."""
    for run, part in zip(runs, parts, strict=True):
        run.step = info["steps"][part.start]
        for name, tensor in run.tensors().items():
            tensor.copy_(tensors[f"now/{name}"][part])
    checkpoints = {}
    for epoch in info["saved"]:
        prefix = f"epoch-{epoch}/"
        packed = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        checkpoints[int(epoch)] = [
            {name: t[m].clone() for name, t in packed.items()} for m in range(len(info["steps"]))
        ]
    evaluations = {int(e): metrics for e, metrics in info["evaluations"].items()}
    return Trained([], checkpoints, list(info["train_loss"]), evaluations), int(info["epoch"])


Programs = dict[int, Callable[..., Tensor]]
"""Compiled steps by the number of members."""

_BLOCK_VALUES = {"cpu": 2**20, "cuda": 2**23}
"""How many input values are made ready at a time: 4 and 32 MiB in float32, so that a CPU finds them in its caches."""

_ASK_EVERY = 8
"""Steps between two questions to all ranks whether one wants to stop: so the processes seldom wait for each other."""


class _Run:
    """The state of one part of a call of `train`: networks, optimizer and data on the device."""

    def __init__(
        self,
        model: nn.Module,
        weights: Sequence[Weights],
        data: Dataset,
        recipe: Recipe,
        seeds: Sequence[Seeds],
        masks: Sequence[Mapping[str, Tensor] | None],
        runtime: Runtime,
    ) -> None:
        self.data, self.recipe, self.seeds, self.runtime = data, recipe, seeds, runtime
        self.networks = StackedNetworks(model, weights, runtime.device)
        self.parameters = dict(self.networks.module.named_parameters())
        self.buffers = dict(self.networks.module.named_buffers())
        self.mask = self.networks.spread(masks, 1.0)
        self.networks.flat.mul_(self.mask)
        self.velocity = torch.zeros_like(self.networks.flat)
        self.lr = self.networks.flat.new_zeros(())
        # For the compiled step, which updates parameter by parameter: fewer passes over memory than on flat buffers.
        self.state = [
            *(p.detach() for p in self.parameters.values()), *self.networks.views(self.velocity),
            *self.networks.views(self.mask), *self.buffers.values(),
        ]  # fmt: skip
        size = len(data.train.targets)
        if recipe.batch_size > size:
            raise ParameterError(
                f"batch_size is {recipe.batch_size}, but the training set has {size} examples."
            )
        kinds = ("none", "flip_resized_crop") if data.streamed else ("none", "crop", "flip_crop")
        if recipe.augment not in kinds:
            raise ParameterError(
                f"augment is {recipe.augment!r}; expected {' or '.join(kinds)} on {data.name}."
            )
        if runtime.microbatch is not None and runtime.microbatch < 1:
            raise ParameterError(f"microbatch is {runtime.microbatch}; expected 1 or more.")
        self.ranks = distributed.world_size()
        check_shared(recipe, runtime.compile, self.ranks)
        self.share = distributed.share(recipe.batch_size)
        self.parallel = self._parallel() if self.ranks > 1 else None
        self.steps = size // recipe.batch_size
        self.images_per_epoch = self.steps * recipe.batch_size * len(weights)
        self.step = 0
        self.losses = torch.zeros(self.steps, len(weights), device=self.networks.flat.device)
        self.program: Callable[[Tensor, Tensor], Tensor] | None = None
        # With several ranks there is one part at a time, and DDP keeps to the stream in which it was made.
        own_stream = self.networks.flat.is_cuda and self.ranks == 1
        self.stream = torch.cuda.Stream(self.networks.flat.device) if own_stream else None

    def _parallel(self) -> DistributedDataParallel:
        """The stack with its gradients averaged over the ranks."""
        for parameter in self.networks.module.parameters():
            parameter.grad = torch.zeros_like(
                parameter
            )  # laid out as DDP wants it, and added to from here on
        parallel = DistributedDataParallel(self.networks.module, gradient_as_bucket_view=True)
        parallel.broadcast_buffers = False  # statistics are equal on all ranks anyway
        # DDP rearranges the gradients after its first step, and with them the order of sums over three ranks or more.
        # That first step is an empty one, so that a run that was broken off goes on with the same sums.
        self.networks.module.eval()
        example = self.networks.flat.new_zeros(1, self.networks.members, *self.data.input_shape)
        with torch.enable_grad():
            parallel(example).sum().backward()
        return parallel

    # --- one step -----------------------------------------------------------------------------------

    def update(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step of every member, from (B, M, C, ...) and (M, B); returns the losses (M,) before it."""
        if self.program is not None:
            with torch.no_grad():
                return self.program(inputs, targets)
        networks = self.networks
        parameters = list(networks.module.parameters())
        forward = networks.module if self.parallel is None else self.parallel
        losses, gradients = self._differentiate(forward, parameters, inputs, targets)
        gradient = torch.cat([g.flatten() for g in gradients])
        self._descend(self.lr, [gradient], [networks.flat], [self.velocity], [self.mask])
        return losses

    def prepare(self, programs: Programs, threads: int) -> None:
        """Compile the step, if that is wanted, before the first one; changes no weights.

        Parameters
        ----------
        programs : of the runs beside this one, by their numbers of members; this run takes one or adds its own
        threads : how many runs are trained at a time
        """
        if not self.runtime.compile or self.program is not None:
            return
        self.networks.module.train()
        batch, count = self.recipe.batch_size, len(self.seeds)
        shape = (batch, count, *self.data.train.inputs.shape[1:])
        inputs = self.networks.flat.new_zeros(shape)
        targets = self.data.train.targets.new_zeros(count, batch)
        if count not in programs:
            programs[count] = self._compile((inputs, targets, self.lr, *self.state), threads)
        step = programs[count]
        if self.stream is None:
            self.program = lambda x, y: step(x, y, self.lr, *self.state)
        else:
            self.program = self._capture(
                partial(step, inputs, targets, self.lr, *self.state), inputs, targets
            )

    def _capture(
        self, step: Callable[[], Tensor], inputs: Tensor, targets: Tensor
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """A step as a CUDA graph: all its kernels start with one call. It reads what is in `inputs` and `targets`."""
        before = [tensor.clone() for tensor in self.state]
        with self._own_stream(), torch.no_grad():
            for _ in range(3):  # kernels are chosen and memory is taken before the capture
                step()
            for tensor, value in zip(self.state, before, strict=True):
                tensor.copy_(value)
        self.join()
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph, stream=self.stream):
            losses = step()

        def replay(x: Tensor, y: Tensor) -> Tensor:
            inputs.copy_(x)
            targets.copy_(y)
            graph.replay()
            return losses

        return replay

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """On CUDA, queue work behind what was queued so far, in this run's own stream; see `join`."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.default_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            yield

    def join(self) -> None:
        """What is queued from here on waits for this run's own stream."""
        if self.stream is not None:
            torch.cuda.default_stream(self.stream.device).wait_stream(self.stream)

    def _compile(self, arguments: Sequence[Tensor], threads: int) -> Callable[..., Tensor]:
        """The step as one compiled program, for this run's shapes and with all of its tensors as arguments.

        torch.compile's own compiler, without its front end: that checks at every step whether the program still fits
        (a fifth of the step of 8 MLPs), and keeps programs for the whole process. Here nothing can change: shapes,
        types and the recipe are those of the run. On a CPU all of it is C++, which doesn't hold Python's lock, so
        several threads can be in it at a time.
        """
        names = [*self.parameters, *self.buffers]
        count = len(self.parameters)

        def step(inputs: Tensor, targets: Tensor, lr: Tensor, *state: Tensor) -> Tensor:
            weights, velocities, masks = state[:count], state[count : 2 * count], state[2 * count : 3 * count]
            leaves = [w.detach().requires_grad_() for w in weights]
            tensors = dict(zip(names, [*leaves, *state[3 * count :]], strict=True))
            forward = partial(torch.func.functional_call, self.networks.module, tensors)
            losses, gradients = self._differentiate(forward, leaves, inputs, targets)
            self._descend(lr, gradients, weights, velocities, masks)
            return losses

        graph = make_fx(step, tracing_mode="fake")(*arguments)
        share = max(1, torch.get_num_threads() // threads)
        options = None if self.networks.flat.is_cuda else {"cpp_wrapper": True, "cpp.threads": share}
        program: Callable[..., Tensor] = torch._inductor.compile(graph, list(arguments), options=options)
        return program

    @torch.enable_grad()
    def _differentiate(
        self,
        forward: Callable[[Tensor], Tensor],
        parameters: Sequence[Tensor],
        inputs: Tensor,
        targets: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Each member's mean cross-entropy (M,) on this rank's share, and the whole batch's gradient.

        Microbatches add up. With several ranks the gradients are averaged by the hooks that `backward` runs, after the
        last one.
        """
        size = len(inputs)
        parts = [
            slice(i, i + (self.runtime.microbatch or size))
            for i in range(0, size, self.runtime.microbatch or size)
        ]
        total: Tensor | None = None
        gradients: tuple[Tensor, ...] = ()
        if self.parallel is not None:
            self.parallel.zero_grad(set_to_none=False)
        for part in parts:
            last = part is parts[-1]
            waiting = contextlib.nullcontext() if self.parallel is None or last else self.parallel.no_sync()
            with waiting:
                with self._autocast():
                    logits = forward(inputs[part])
                y = targets[:, part]
                each = F.cross_entropy(
                    logits.to(self.networks.flat.dtype).flatten(0, 1), y.flatten(), reduction="none"
                )
                losses = each.view(y.shape).mean(1)
                if len(parts) > 1:
                    losses = losses * (y.shape[1] / size)
                if self.parallel is not None:
                    losses.sum().backward()
                else:
                    new = torch.autograd.grad(losses.sum(), parameters)
                    gradients = tuple(map(torch.add, gradients, new)) if gradients else new
            total = losses.detach() if total is None else total + losses.detach()
        assert total is not None
        if self.parallel is not None:
            gradients = tuple(cast(Tensor, parameter.grad) for parameter in parameters)
        return total, gradients

    @torch.no_grad()
    def _descend(
        self,
        lr: Tensor,
        gradients: Sequence[Tensor],
        weights: Sequence[Tensor],
        velocities: Sequence[Tensor],
        masks: Sequence[Tensor],
    ) -> None:
        """v ← μ·v + (g + λ·w) ⊙ m;  w ← w − η·v."""
        for g, w, v, m in zip(gradients, weights, velocities, masks, strict=True):
            v.mul_(self.recipe.momentum).add_(g.add(w, alpha=self.recipe.weight_decay).mul_(m))
            w.sub_(v * lr)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.recipe.precision == "bfloat16":
            # Every weight is used once a step: a cache of casts would only be in the way of a CUDA graph.
            device = torch.device(self.runtime.device).type
            return torch.autocast(device, torch.bfloat16, cache_enabled=False)
        return contextlib.nullcontext()

    # --- one epoch ----------------------------------------------------------------------------------

    def advance(self, epoch: int, pause: Callable[[], bool], bar: ProgressBar | None) -> None:
        """Train on the full batches of an epoch that are left, until `pause`; at least on one.

        Several ranks pause at the same step, because they ask each other at the same steps.
        """
        ask_every = _ASK_EVERY if self.ranks > 1 else 1
        self.networks.module.train()
        with self._own_stream():
            self.lr.fill_(learning_rate(self.recipe, epoch))
            for inputs, targets in self._batches(epoch, self.step):
                self.losses[self.step] = self.update(inputs, targets)
                self.step += 1
                if bar is not None:
                    bar.update(targets.numel() * self.ranks)
                if self.step % ask_every == 0 and pause():
                    return

    def _batches(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (B, M, C, ...) and targets (M, B) of every step of an epoch, from a first one on.

        B counts this rank's share of a batch. What is drawn belongs to the example, so it is the same on any number of
        ranks.
        """
        rows = self._rows(epoch)[first : self.steps, self.share]
        if isinstance(self.data.train.inputs, ImageFiles):
            return self._stream(self.data.train.inputs, rows, epoch)
        return self._gather(self.data.train.inputs, rows, epoch)

    def _rows(self, epoch: int) -> Tensor:
        """Which examples every step of an epoch takes: int64 (steps, B, M), on the CPU."""
        # (N, M): a batch's rows are contiguous, and (B, M, C, ...) is the layout that convolutions want.
        size, batch = len(self.data.train), self.recipe.batch_size
        order = torch.stack([draw_order(size, s.order, epoch) for s in self.seeds], 1)
        return order[: self.steps * batch].unflatten(0, (self.steps, batch))

    def _gather(self, examples: Tensor, rows: Tensor, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of what is in memory, from rows (S, B, M)."""
        train, batch, rows = self.data.train, rows.shape[1], rows.to(self.runtime.device)
        draws: list[Tensor] = []
        if self.recipe.augment != "none":
            each = [draw_augmentation(len(train), s.augment, epoch, self.recipe.augment) for s in self.seeds]
            draws = [torch.stack(kind, 1).to(self.runtime.device) for kind in zip(*each, strict=True)]
        # Examples are gathered for several steps at once: fewer, larger operations.
        step = batch * len(self.seeds) * examples[0].numel()
        block = max(1, _BLOCK_VALUES[self.networks.flat.device.type] // step)
        for start in range(0, len(rows), block):
            some = rows[start : start + block]
            flat = some.flatten(0, 1)
            inputs = examples[flat]
            if draws:
                inputs = augment(inputs, *(kind.gather(0, flat) for kind in draws))
            inputs = normalize(inputs, self.data, self.networks.flat.dtype)
            targets = train.targets[some].transpose(1, 2).contiguous()
            yield from zip(inputs.split(batch), targets, strict=True)

    def _stream(self, files: ImageFiles, rows: Tensor, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an image folder, from rows (S, B, M); each member has its own picture of every example."""
        device = self.networks.flat.device
        seeds = [s.augment for s in self.seeds] if self.recipe.augment != "none" else None
        pin = device.type == "cuda"
        steps = list(rows)
        images = stream(files, steps, seeds=seeds, epoch=epoch, workers=self.runtime.readers, pin=pin)
        for some, pixels in zip(steps, images, strict=True):
            targets = self.data.train.targets[some.to(device)].T.contiguous()
            # As bytes, a quarter of what floats would be, and without waiting for the copy: the next batch is read.
            inputs = pixels.to(device, non_blocking=pin)
            yield normalize(inputs, self.data, self.networks.flat.dtype), targets

    def check_finite(self, epoch: int) -> None:
        """Raise `DivergedError` if a loss of this epoch, or a weight, is NaN or infinite.

        From here on the losses are the means over all ranks, equal on all of them.
        """
        if self.ranks > 1:
            # In float64 the mean of numbers that are equal already is that number, so this may be done again.
            self.losses.copy_(distributed.total(self.losses.double()) / self.ranks)
        finite = torch.isfinite(self.losses).all(1)
        if not bool(finite.all()):
            what, step = "loss is", int((~finite).nonzero()[0])
        elif not bool(torch.isfinite(self.networks.flat).all()):
            what, step = "weights are", self.step - 1
        else:
            return
        raise DivergedError(
            f"{what} not finite at step {epoch * self.steps + step} (epoch {epoch + 1}, lr={float(self.lr):g}). "
            "What was saved before is intact. Lower lr."
        )

    def finish_epoch(self) -> list[float]:
        """Each member's mean loss of the epoch that was trained; the next one starts at its first step."""
        means = [float(x) for x in self.losses.double().mean(0)]
        self.step = 0
        self.losses.zero_()
        return means

    @torch.no_grad()
    def evaluate(self) -> dict[str, list[float]]:
        """Accuracy and mean loss of every member on the test split; see `evaluate_stack`."""
        with self._autocast():
            return evaluate_stack(self.networks, self.data.test, self.data, workers=self.runtime.readers)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that training changes, (M, ...), not copied: networks, optimizer and this epoch's losses."""
        with torch.no_grad():
            velocities = zip(self.parameters, self.networks.views(self.velocity), strict=True)
            return {
                **{f"network/{name}": tensor for name, tensor in self.networks.module.state_dict().items()},
                **{f"velocity/{name}": tensor for name, tensor in velocities}, "losses": self.losses.T,
            }  # fmt: skip


@torch.no_grad()
def evaluate_stack(
    networks: StackedNetworks, split: Split, data: Dataset, batch: int = 1000, workers: int = 0
) -> dict[str, list[float]]:
    """Accuracy and mean cross-entropy of M networks on a split; every example weighs the same.

    Several ranks, which must all call this, take a part of the split each; their counts are added up.

    Parameters
    ----------
    networks : the stack
    split : inputs (N, C, *spatial) and targets (N,), on the stack's device; or the files of an image folder
    data : the data set that the split belongs to, for its mean and standard deviation
    batch : examples per forward pass, fewer of large images
    workers : processes that read files

    Returns
    -------
    dict
        ``{"accuracy": [M fractions], "loss": [M nats]}``; of image folders with more than five classes also ``"top5"``:
        how often the target is among the five largest logits, as is usual for ImageNet.
    """
    networks.module.eval()
    device = networks.flat.device
    hits, hits5 = torch.zeros(2, networks.members, dtype=torch.long, device=device)
    loss = torch.zeros(networks.members, dtype=torch.double, device=device)
    top5 = data.streamed and data.classes > 5
    own = distributed.share(len(split.targets))
    mine = Split(split.inputs[own], split.targets[own])
    for inputs, targets in raw_batches(mine, batch, workers, pin=device.type == "cuda"):
        x = normalize(inputs.to(device, non_blocking=True), data, networks.flat.dtype)
        logits = networks.module(x.unsqueeze(1).expand(-1, networks.members, *x.shape[1:])).float()
        hits += (logits.argmax(2) == targets).sum(1)
        if top5:
            hits5 += (logits.topk(5).indices == targets[:, None]).sum((1, 2))
        each = F.cross_entropy(logits.flatten(0, 1), targets.repeat(networks.members), reduction="none")
        loss += each.view(networks.members, -1).double().sum(1)
    size, hits, hits5, loss = len(split), *map(distributed.total, (hits, hits5, loss))
    found = {"accuracy": (hits / size).tolist(), "loss": (loss / size).tolist()}
    return {**found, "top5": (hits5 / size).tolist()} if top5 else found
