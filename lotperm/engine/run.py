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
from lotperm.engine.precision import autocast, products_in
from lotperm.engine.rewiring import MaskRule, Rewiring
from lotperm.engine.runtime import Mode, ProgressBar, Runtime
from lotperm.engine.schedule import learning_rate
from lotperm.engine.shared import check_shared, shared_gradients
from lotperm.engine.state import TrainingState
from lotperm.engine.step import Rule, Update, plain_gradients, updating
from lotperm.engine.ways import STACKED, Way
from lotperm.errors import DivergedError
from lotperm.parallel import distributed

_ASK_EVERY = 8
"""Number of steps after which all ranks are asked whether one wants to stop; not at every step, so
that processes seldom wait for each other.
"""


_MADE: dict[Mode, str] = {"compiled": "compiled", "graph": "made a CUDA graph"}


class Run:
    """The training of one part of the members of a call of `train`.

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
    rewire : MaskRule | None, optional
    movement : bool, optional
        As in `train`.
    way : Way, optional
        How the members are computed.

    Attributes
    ----------
    step : int
        Number of steps of the epoch that are done.
    steps : int
        Number of steps of an epoch.
    losses : Tensor
        (steps, M), the losses of the steps of the epoch that are done, in nats.
    rewiring : Rewiring | None
        Changes the masks, if they change.
    mode : "compiled", "graph" or "plain"
        The form of the step.
    failures : list[str]
        Why there is no faster form: a line for each that was tried.
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
        rewire: MaskRule | None = None,
        movement: bool = False,
        way: Way = STACKED,
    ) -> None:
        self.data, self.recipe, self.runtime = data, recipe, runtime
        self.seeds, self.random = seeds, way.random
        self.stacked = way.name == "stacked"
        self.state = TrainingState(
            model,
            weights,
            masks,
            runtime.device,
            stacked=self.stacked,
            movement=movement,
            masks_change=rewire is not None,
        )
        flat = self.state.networks.flat
        self.feed = Feed(
            data, recipe, seeds, device=flat.device, dtype=flat.dtype, readers=runtime.readers
        )
        self.rule = Rule.of(recipe, runtime.microbatch)
        ranks = distributed.world_size()
        check_shared(recipe, runtime.compile, ranks)
        self.step, self.steps = 0, self.feed.steps
        self.mode: Mode = "plain"
        self.failures: list[str] = []
        self.losses = torch.zeros(self.steps, len(weights), device=flat.device)
        gradients = (
            plain_gradients(self.rule, self.state)
            if ranks == 1
            else shared_gradients(self.rule, self.state, data.input_shape)
        )
        self._update = updating(self.rule, self.state, gradients)
        self.rewiring = Rewiring(rewire, self.state, masks, gradients) if rewire else None
        self._side = self._new_stream()

    def _new_stream(self) -> SideStream:
        # With several ranks, there is one part at a time, and DistributedDataParallel stays in the
        # stream in which it was made.
        apart = self.runtime.streams > 1 and distributed.world_size() == 1
        return SideStream(self.state.device, used=apart, priority=self.runtime.priority)

    @property
    def members(self) -> int:
        """The number of networks."""
        return self.state.networks.members

    def images_left(self, epoch: int, epochs: int) -> int:
        """Count the images that are left to train on, once for each member."""
        steps = (epochs - epoch) * self.steps - self.step
        return steps * self.recipe.batch_size * self.members

    def prepare(self, threads: int) -> None:
        """Make the fastest form of the step that is possible; call this before the first step.

        No weight is changed. If a form fails, that is added to `failures`, and the next is tried.

        Parameters
        ----------
        threads : int
            Number of runs that are trained at the same time.
        """
        # A program or graph would draw a random network's numbers from other streams.
        if distributed.world_size() > 1 or self.random:
            return
        # So that batch norm is traced in training mode.
        self.state.networks.module.train()
        for mode in self.runtime.modes[:-1]:
            # A network without stacking rules may do something else at every step.
            if mode == "graph" and not self.stacked:
                continue
            try:
                self._update = self._faster_update(mode, threads)
            # Compilers and drivers may raise anything, and none of it is worth losing hours.
            except Exception as error:
                self.failures.append(f"the step can't be {_MADE[mode]}: {_first_line(error)}")
                # A failed capture may have left its stream unusable.
                self._side = self._new_stream()
            else:
                self.mode = mode
                return

    def _faster_update(self, mode: Mode, threads: int) -> Update:
        """Make a form of the step that isn't the plain one."""
        inputs, targets = self.feed.example_batch()
        step: Callable[[], Tensor]
        if mode == "graph":
            step = partial(self._update, inputs, targets)
        else:
            program = compiled_step(self.rule, self.state, inputs, targets, threads=threads)
            tensors = self.state.by_parameter()
            if self.state.device.type != "cuda":
                return torch.no_grad()(lambda x, y: program(x, y, self.state.lr, *tensors))
            # The captured step reads exactly these tensors; later batches are copied into them.
            step = partial(program, inputs, targets, self.state.lr, *tensors)
        networks = self.state.networks
        changing = [networks.flat, self.state.velocity, *networks.module.buffers()]
        if self.state.movement is not None:
            changing.append(self.state.movement)
        return capture(step, inputs, targets, changing, self._side)

    def update(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Do one step of every member; see `lotperm.engine.step.Update`."""
        return self._update(inputs, targets)

    def advance(self, epoch: int, pause: Callable[[], bool], bar: ProgressBar | None) -> None:
        """Train on an epoch's remaining batches, at least one, until `pause` returns True.

        Several ranks pause at the same step, because they ask each other at the same steps.
        """
        ranks = distributed.world_size()
        ask_every = _ASK_EVERY if ranks > 1 else 1
        share = self.recipe.batch_size // ranks
        # Evaluation between two epochs leaves the module in its other mode.
        self.state.networks.module.train()
        begin = self.step
        with self._side.queue():
            # In the run's own stream, after the steps that still read the old rate.
            self.state.lr.fill_(learning_rate(self.recipe, epoch))
            for inputs, targets in self.feed.batches(epoch, self.step):
                # The losses stay on the device: reading one would make the CPU wait at every step.
                with self._draws(epoch):
                    self.losses[self.step] = self._next(epoch)(inputs, targets)
                self.step += 1
                if bar is not None:
                    # This rank sees its own share; the bar counts the whole batch.
                    bar.update(targets.numel() * ranks)
                # After the step, so that a run that is stopped every time still makes progress.
                if self.step % ask_every == 0 and pause():
                    break
            self.state.networks.count_batches((self.step - begin) * len(self.rule.parts(share)))

    def _next(self, epoch: int) -> Update:
        """Return the function of the next step, which updates the weights or the masks."""
        now, steps = epoch * self.steps + self.step, self.recipe.epochs * self.steps
        if self.rewiring is not None and self.rewiring.rule.due(now, steps):
            return partial(self.rewiring.update, now, steps)
        return self.update

    def _draws(self, epoch: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which a random network draws from this step's own stream."""
        if not self.random:
            return contextlib.nullcontext()
        # Such networks are alone in their part (`lotperm.engine.ways`). The stream depends on the
        # step, so that a resumed run draws the same, and on the rank, since its examples differ.
        names = (self.seeds[0].augment, epoch, self.step, distributed.rank())
        return _drawing(derive_seed("layers", *names), self.state.device)

    def done(self) -> bool:
        """Return whether the device has done all of this run's work, without waiting for it."""
        return self._side.done()

    def join(self) -> None:
        """Make all work that is queued from now on wait for this run's work on the device."""
        self._side.join()

    def check_finite(self, epoch: int) -> None:
        """Raise `DivergedError` if a loss of this epoch, or a weight, is NaN or infinite.

        Afterwards, the losses are the means over all ranks, equal on all of them.
        """
        ranks = distributed.world_size()
        if ranks > 1:
            # In float64 the mean of equal numbers is that number itself, so this may be repeated.
            self.losses.copy_(distributed.total(self.losses.double()) / ranks)
        # Checked once for all steps since the last check, to wait for the device only once.
        finite = torch.isfinite(self.losses).all(1)
        if not bool(finite.all()):
            what, step = "loss is", int((~finite).nonzero()[0])
        elif not bool(torch.isfinite(self.state.networks.flat).all()):
            # A step's loss is the one before its update, so no loss shows the last update yet.
            what, step = "weights are", self.step - 1
        else:
            return
        raise DivergedError(
            f"{what} not finite at step {epoch * self.steps + step} (epoch {epoch + 1}, "
            f"lr={float(self.state.lr):g}). What was saved before is intact. Lower lr."
        )

    def finish_epoch(self) -> list[float]:
        """Return each member's mean loss over the epoch, and begin the next epoch."""
        # In float64, since thousands of steps are averaged.
        means = [float(x) for x in self.losses.double().mean(0)]
        self.step = 0
        self.losses.zero_()
        return means

    @torch.no_grad()
    def evaluate(self) -> dict[str, list[float]]:
        """Measure every member's accuracy and mean loss on the test split; see `evaluate_stack`."""
        networks, precision = self.state.networks, self.recipe.precision
        with products_in(self.state.device, precision), autocast(self.state.device, precision):
            return evaluate_stack(networks, self.data.test, self.data, workers=self.runtime.readers)

    def weights(self) -> list[Weights]:
        """Copy every member's state dict to the CPU."""
        return self.state.networks.weights()

    def tensors(self) -> dict[str, Tensor]:
        """Return views (M, ...) of everything that training changes, by name."""
        return {**self.state.changing(), "losses": self.losses.T}


@contextlib.contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Draw random numbers from a seed's stream within a context, and restore the state after it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
