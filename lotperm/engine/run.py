"""Networks that are trained together: their state, batches and step, and their progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds, derive_seed
from lotperm.data.dataset import Dataset
from lotperm.engine.compiled import compiled_step
from lotperm.engine.evaluation import evaluate_stack
from lotperm.engine.feed import Feed
from lotperm.engine.graphs import SideStream, capture
from lotperm.engine.models import Weights
from lotperm.engine.precision import autocast
from lotperm.engine.runtime import ProgressBar, Runtime
from lotperm.engine.schedule import learning_rate
from lotperm.engine.shared import check_shared, shared_update
from lotperm.engine.state import TrainingState
from lotperm.engine.step import Rule, plain_update
from lotperm.engine.ways import STACKED, Way
from lotperm.errors import DivergedError
from lotperm.parallel import distributed

_ASK_EVERY = 8
"""Steps between two rounds in which all ranks are asked if one wants to stop, so that processes
seldom wait for each other.
"""


class Run:
    """One part of a call of `train`: some of its members.

    Parameters
    ----------
    model : nn.Module
    weights : Sequence[Weights]
    data : Dataset
    recipe : Recipe
    seeds : Sequence[Seeds]
    masks : Sequence[Mapping[str, Tensor] | None]
    runtime : Runtime
        As in `lotperm.engine.training.train`, for these members; the data are on the device.
    way : Way, optional
        How the members are computed.

    Attributes
    ----------
    step : int
        Number of steps of the epoch that are done.
    steps : int
        Number of steps of an epoch.
    losses : Tensor
        (steps, M), the losses of those steps of the epoch that are done, in nats.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weights: Sequence[Weights],
        data: Dataset,
        recipe: Recipe,
        seeds: Sequence[Seeds],
        masks: Sequence[Mapping[str, Tensor] | None],
        runtime: Runtime,
        way: Way = STACKED,
    ) -> None:
        self.data, self.recipe, self.runtime = data, recipe, runtime
        self.seeds, self.random = seeds, way.random
        stacked = way.name == "stacked"
        self.state = TrainingState(model, weights, masks, runtime.device, stacked=stacked)
        flat = self.state.networks.flat
        self.feed = Feed(
            data, recipe, seeds, device=flat.device, dtype=flat.dtype, readers=runtime.readers
        )
        self.rule = Rule.of(recipe, runtime.microbatch)
        ranks = distributed.world_size()
        check_shared(recipe, runtime.compile, ranks)
        self.step, self.steps = 0, self.feed.steps
        self.losses = torch.zeros(self.steps, len(weights), device=flat.device)
        self._update = (
            plain_update(self.rule, self.state)
            if ranks == 1
            else shared_update(self.rule, self.state, data.input_shape)
        )
        # With several ranks there is one part at a time, and DistributedDataParallel keeps to the
        # stream in which it was made.
        self._side = SideStream(flat.device, used=ranks == 1)

    @property
    def members(self) -> int:
        """The number of networks."""
        return self.state.networks.members

    def images_left(self, epoch: int, epochs: int) -> int:
        """Count the images that are left to train on, once for each member."""
        steps = (epochs - epoch) * self.steps - self.step
        return steps * self.recipe.batch_size * self.members

    def prepare(self, threads: int) -> None:
        """Compile the step if that is wanted; call it before the first step. No weight is changed.

        Parameters
        ----------
        threads : int
            Number of runs that are trained at the same time.
        """
        # A compiled program would draw a random network's numbers from streams of its own.
        if not self.runtime.compile or self.random:
            return
        # Batch norm is traced as it is in training.
        self.state.networks.module.train()
        inputs, targets = self.feed.example_batch()
        program = compiled_step(self.rule, self.state, inputs, targets, threads=threads)
        tensors = self.state.by_parameter()
        if self._side.stream is None:
            self._update = torch.no_grad()(lambda x, y: program(x, y, self.state.lr, *tensors))
        else:
            # The captured step reads these very tensors: later batches are copied into them.
            step = partial(program, inputs, targets, self.state.lr, *tensors)
            self._update = capture(step, inputs, targets, tensors, self._side)

    def update(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Do one step of every member; see `lotperm.engine.step.Update`."""
        return self._update(inputs, targets)

    def advance(self, epoch: int, pause: Callable[[], bool], bar: ProgressBar | None) -> None:
        """Train on an epoch's remaining batches until `pause` returns True, but at least on one.

        Several ranks pause at the same step, because they ask each other at the same steps.
        """
        ranks = distributed.world_size()
        ask_every = _ASK_EVERY if ranks > 1 else 1
        # Evaluation between two epochs leaves the module in its other mode.
        self.state.networks.module.train()
        with self._side.queue():
            # In the run's own stream, behind the steps that still read the old rate.
            self.state.lr.fill_(learning_rate(self.recipe, epoch))
            for inputs, targets in self.feed.batches(epoch, self.step):
                # The losses stay on the device: to read one would make the CPU wait at every step.
                with self._draws(epoch):
                    self.losses[self.step] = self.update(inputs, targets)
                self.step += 1
                if bar is not None:
                    # This rank sees its own share; the bar counts the whole batch.
                    bar.update(targets.numel() * ranks)
                # After the step: a run that is asked to stop every time still makes progress.
                if self.step % ask_every == 0 and pause():
                    return

    @contextlib.contextmanager
    def _draws(self, epoch: int) -> Iterator[None]:
        """Let a random network draw from a stream of its own for each step."""
        if not self.random:
            yield
            return
        device = self.state.device
        # Such networks are alone in their part (`lotperm.engine.ways`). By step, so that a resumed
        # run draws the same; by rank, whose examples are others.
        names = (self.seeds[0].augment, epoch, self.step, distributed.rank())
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed("layers", *names))
            yield

    def join(self) -> None:
        """Make all work that is queued from here on wait for this run's work on the device."""
        self._side.join()

    def check_finite(self, epoch: int) -> None:
        """Raise `DivergedError` if a loss of this epoch, or a weight, is NaN or infinite.

        From here on the losses are the means over all ranks, equal on all of them.
        """
        ranks = distributed.world_size()
        if ranks > 1:
            # In float64 the mean of numbers that are equal already is that number, so this may be
            # done again.
            self.losses.copy_(distributed.total(self.losses.double()) / ranks)
        # Once for all steps since the last look: one wait for the device, not one a step.
        finite = torch.isfinite(self.losses).all(1)
        if not bool(finite.all()):
            what, step = "loss is", int((~finite).nonzero()[0])
        elif not bool(torch.isfinite(self.state.networks.flat).all()):
            # The loss of a step is that before its update, so the last update is one that no loss
            # has shown yet.
            what, step = "weights are", self.step - 1
        else:
            return
        raise DivergedError(
            f"{what} not finite at step {epoch * self.steps + step} (epoch {epoch + 1}, "
            f"lr={float(self.state.lr):g}). What was saved before is intact. Lower lr."
        )

    def finish_epoch(self) -> list[float]:
        """Return each member's mean loss of the epoch; the next one starts at its first step."""
        # In float64, as on every device: thousands of steps are averaged.
        means = [float(x) for x in self.losses.double().mean(0)]
        self.step = 0
        self.losses.zero_()
        return means

    @torch.no_grad()
    def evaluate(self) -> dict[str, list[float]]:
        """Measure every member's accuracy and mean loss on the test split; see `evaluate_stack`."""
        networks = self.state.networks
        with autocast(self.state.device, self.recipe.precision):
            return evaluate_stack(networks, self.data.test, self.data, workers=self.runtime.readers)

    def weights(self) -> list[Weights]:
        """Copy every member's state dict to the CPU."""
        return self.state.networks.weights()

    def tensors(self) -> dict[str, Tensor]:
        """Return views (M, ...) of everything that training changes, by name."""
        return {**self.state.changing(), "losses": self.losses.T}
