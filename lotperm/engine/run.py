"""One part of a training: some networks that run together, their optimizer and their data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.parallel import DistributedDataParallel

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.augment import augment, draw_augmentation
from lotperm.data.batches import normalize
from lotperm.data.dataset import Dataset
from lotperm.data.images import ImageFiles, stream
from lotperm.engine.evaluation import evaluate_stack
from lotperm.engine.models import Weights
from lotperm.engine.runtime import ProgressBar, Runtime
from lotperm.engine.schedule import draw_order, learning_rate
from lotperm.engine.stacking import StackedNetworks
from lotperm.errors import DivergedError, ParameterError
from lotperm.parallel import distributed


def check_shared(recipe: Recipe, compile: bool, ranks: int) -> None:
    """Refuse a training that so many ranks can't share.

    Parameters
    ----------
    recipe : Recipe
        Of the training.
    compile : bool
        As of `Runtime`.
    ranks : int
        Processes, 1 or more (`lotperm.parallel.distributed`).

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
        raise ParameterError(
            "a compiled step can't be shared by several processes. Leave compile out."
        )


Programs = dict[int, Callable[..., Tensor]]

"""Compiled steps by the number of members."""


_BLOCK_VALUES = {"cpu": 2**20, "cuda": 2**23}

"""How many input values are made ready at a time: 4 and 32 MiB in float32, so that a CPU finds
them in its caches.
"""


_ASK_EVERY = 8

"""Steps between two questions to all ranks whether one wants to stop: so the processes seldom
wait for each other.
"""


class Run:
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
        # For the compiled step, which updates parameter by parameter: fewer passes over memory
        # than on flat buffers.
        self.state = [
            *(p.detach() for p in self.parameters.values()),
            *self.networks.views(self.velocity),
            *self.networks.views(self.mask),
            *self.buffers.values(),
        ]
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
        # With several ranks there is one part at a time, and DDP keeps to the stream in which it
        # was made.
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
        # DDP rearranges the gradients after its first step, and with them the order of sums over
        # three ranks or more. That first step is an empty one, so that a run that was broken off
        # goes on with the same sums.
        self.networks.module.eval()
        example = self.networks.flat.new_zeros(1, self.networks.members, *self.data.input_shape)
        with torch.enable_grad():
            parallel(example).sum().backward()
        return parallel

    def update(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step of every member, from (B, M, C, ...) and (M, B); returns the losses (M,)
        before it.
        """
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
        programs : Programs
            Of the runs beside this one, by their numbers of members; this run takes one or adds
            its own.
        threads : int
            How many runs are trained at a time.
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
        """A step as a CUDA graph: all its kernels start with one call. It reads what is in
        `inputs` and `targets`.
        """
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
        """On CUDA, queue work behind what was queued so far, in this run's own stream; see
        `join`.
        """
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
        """The step as one compiled program, for this run's shapes and with all of its tensors as
        arguments.

        torch.compile's own compiler, without its front end: that checks at every step whether the
        program still fits (a fifth of the step of 8 MLPs), and keeps programs for the whole
        process. Here nothing can change: shapes, types and the recipe are those of the run. On a
        CPU all of it is C++, which doesn't hold Python's lock, so several threads can be in it at
        a time.
        """
        names = [*self.parameters, *self.buffers]
        count = len(self.parameters)

        def step(inputs: Tensor, targets: Tensor, lr: Tensor, *state: Tensor) -> Tensor:
            weights, velocities, masks = (
                state[:count],
                state[count : 2 * count],
                state[2 * count : 3 * count],
            )
            leaves = [w.detach().requires_grad_() for w in weights]
            tensors = dict(zip(names, [*leaves, *state[3 * count :]], strict=True))
            forward = partial(torch.func.functional_call, self.networks.module, tensors)
            losses, gradients = self._differentiate(forward, leaves, inputs, targets)
            self._descend(lr, gradients, weights, velocities, masks)
            return losses

        graph = make_fx(step, tracing_mode="fake")(*arguments)
        share = max(1, torch.get_num_threads() // threads)
        options = (
            None if self.networks.flat.is_cuda else {"cpp_wrapper": True, "cpp.threads": share}
        )
        program: Callable[..., Tensor] = torch._inductor.compile(
            graph, list(arguments), options=options
        )
        return program

    @torch.enable_grad()
    def _differentiate(
        self,
        forward: Callable[[Tensor], Tensor],
        parameters: Sequence[Tensor],
        inputs: Tensor,
        targets: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Each member's mean cross-entropy (M,) on this rank's share, and the whole batch's
        gradient.

        Microbatches add up. With several ranks the gradients are averaged by the hooks that
        `backward` runs, after the last one.
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
            waiting = (
                contextlib.nullcontext()
                if self.parallel is None or last
                else self.parallel.no_sync()
            )
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
            # Every weight is used once a step: a cache of casts would only be in the way of a CUDA
            # graph.
            device = torch.device(self.runtime.device).type
            return torch.autocast(device, torch.bfloat16, cache_enabled=False)
        return contextlib.nullcontext()

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

        B counts this rank's share of a batch. What is drawn belongs to the example, so it is the
        same on any number of ranks.
        """
        rows = self._rows(epoch)[first : self.steps, self.share]
        if isinstance(self.data.train.inputs, ImageFiles):
            return self._stream(self.data.train.inputs, rows, epoch)
        return self._gather(self.data.train.inputs, rows, epoch)

    def _rows(self, epoch: int) -> Tensor:
        """Which examples every step of an epoch takes: int64 (steps, B, M), on the CPU."""
        # (N, M): a batch's rows are contiguous, and (B, M, C, ...) is the layout that convolutions
        # want.
        size, batch = len(self.data.train), self.recipe.batch_size
        order = torch.stack([draw_order(size, s.order, epoch) for s in self.seeds], 1)
        return order[: self.steps * batch].unflatten(0, (self.steps, batch))

    def _gather(
        self, examples: Tensor, rows: Tensor, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of what is in memory, from rows (S, B, M)."""
        train, batch, rows = self.data.train, rows.shape[1], rows.to(self.runtime.device)
        draws: list[Tensor] = []
        if self.recipe.augment != "none":
            each = [
                draw_augmentation(len(train), s.augment, epoch, self.recipe.augment)
                for s in self.seeds
            ]
            draws = [
                torch.stack(kind, 1).to(self.runtime.device) for kind in zip(*each, strict=True)
            ]
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

    def _stream(
        self, files: ImageFiles, rows: Tensor, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an image folder, from rows (S, B, M); each member has its own picture of
        every example.
        """
        device = self.networks.flat.device
        seeds = [s.augment for s in self.seeds] if self.recipe.augment != "none" else None
        pin = device.type == "cuda"
        steps = list(rows)
        images = stream(
            files, steps, seeds=seeds, epoch=epoch, workers=self.runtime.readers, pin=pin
        )
        for some, pixels in zip(steps, images, strict=True):
            targets = self.data.train.targets[some.to(device)].T.contiguous()
            # As bytes, a quarter of what floats would be, and without waiting for the copy: the
            # next batch is read.
            inputs = pixels.to(device, non_blocking=pin)
            yield normalize(inputs, self.data, self.networks.flat.dtype), targets

    def check_finite(self, epoch: int) -> None:
        """Raise `DivergedError` if a loss of this epoch, or a weight, is NaN or infinite.

        From here on the losses are the means over all ranks, equal on all of them.
        """
        if self.ranks > 1:
            # In float64 the mean of numbers that are equal already is that number, so this may be
            # done again.
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
        """Each member's mean loss of the epoch that was trained; the next one starts at its
        first step.
        """
        means = [float(x) for x in self.losses.double().mean(0)]
        self.step = 0
        self.losses.zero_()
        return means

    @torch.no_grad()
    def evaluate(self) -> dict[str, list[float]]:
        """Accuracy and mean loss of every member on the test split; see `evaluate_stack`."""
        with self._autocast():
            return evaluate_stack(
                self.networks, self.data.test, self.data, workers=self.runtime.readers
            )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that training changes, (M, ...), not copied: networks, optimizer and this
        epoch's losses.
        """
        with torch.no_grad():
            velocities = zip(self.parameters, self.networks.views(self.velocity), strict=True)
            return {
                **{
                    f"network/{name}": tensor
                    for name, tensor in self.networks.module.state_dict().items()
                },
                **{f"velocity/{name}": tensor for name, tensor in velocities},
                "losses": self.losses.T,
            }
