"""Train M masked networks at once.

`train` runs masked SGD (`lotperm.engine.step`) on stacks of networks (`lotperm.engine.stacking`,
`lotperm.engine.mapped`), or on one network at a time if neither is possible
(`lotperm.engine.ways`). With w ⊙ m = w at the start, a pruned weight is exactly zero at all times,
despite momentum and weight decay (the momentum of Sutskever et al. 2013 in PyTorch's form, with the
mask m folded in). Every random number belongs to one member and is drawn on the CPU from the
member's own seeds, so up to rounding its result depends neither on the device nor on the networks
trained alongside; only what a network draws itself, as dropout does, is drawn on its device.

If there are several ranks (`lotperm.parallel.distributed`), each takes an equal share of the rows
of every batch. Gradients are averaged by DistributedDataParallel, the statistics of batch norm are
those of the whole batch, and each batch has the same examples as in a single process. So weights
are equal in every bit on all ranks, and differ from those of a single process only by rounding.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.batches import Batches
from lotperm.data.dataset import Dataset, first
from lotperm.engine import turns
from lotperm.engine.checkpoints import Checkpoints, Keeper, restore
from lotperm.engine.models import Weights
from lotperm.engine.partition import partition
from lotperm.engine.precision import settings
from lotperm.engine.rewiring import MaskRule
from lotperm.engine.run import Run
from lotperm.engine.runtime import ProgressBar, Runtime
from lotperm.engine.trained import Trained, all_weights
from lotperm.engine.ways import check_ranks, choose
from lotperm.errors import ParameterError, PreemptedError
from lotperm.parallel.threads import keep_freed_memory, workers
from lotperm.science.sparsity import Mask
from lotperm.science.state_dicts import read_mask, read_weights

__all__ = ["Checkpoints", "Trained", "train"]

_log = logging.getLogger(__name__)


def train(
    model: nn.Module,
    weights: Sequence[Weights],
    data: Dataset,
    recipe: Recipe,
    seeds: Sequence[Seeds],
    *,
    masks: Sequence[Mapping[str, Tensor] | None] | None = None,
    rewire: MaskRule | None = None,
    movement: bool = False,
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
        The architecture: any module that maps a batch to logits. Parameters that don't require
        gradients stay as they are. A network that draws random numbers, as dropout does, draws
        them from a separate stream for each member and rank.
    weights : Sequence[Weights]
        M state dicts to start from.
    data : Dataset
        Inputs and targets; moved to the device once.
    recipe : Recipe
        Optimizer, schedule, batch size, augmentation and number of epochs, the same for all.
    seeds : Sequence[Seeds]
        Seeds of the order of examples and of the augmentation, for each of the M members.
    masks : Sequence[Mapping[str, Tensor] | None] | None, optional
        M masks, or None where a member is dense; parameters that a mask doesn't name are dense.
        A mask holds tensors of True and False, or of 1 and 0 in any dtype.
    rewire : MaskRule | None, optional
        Change the masks during training by this rule, such as `lotperm.science.rewiring.RigL`.
        `Trained.masks` holds the masks at the end.
    movement : bool, optional
        Sum up the movement of every weight (Sanh et al. 2020), -w ⊙ ∂L/∂w over all steps, as
        `Trained.movement`.
    until : int | None, optional
        Stop after this number of epochs of the recipe; None: after all.
    save_at : Collection[int], optional
        Epochs whose weights are kept: 0 means the (masked) start, k after exactly k epochs.
    evaluate_at : Collection[int] | None, optional
        Epochs after which the test split is evaluated; None: only the last.
    runtime : Runtime | None, optional
        Device, compilation, networks at once, progress bars.
    checkpoints : Checkpoints | None, optional
        Where to keep the state of the run. A run that finds a state there resumes from it, with the
        same result as an uninterrupted run.
    checkpoint_seconds : float, optional
        Approximate number of seconds between two checkpoints; 0 saves after every step.
    label : str, optional
        Label of the progress bar.

    Returns
    -------
    Trained
        The same on every rank, if there are several. All of them must call this; rank 0 keeps the
        checkpoints, and the run can resume with another number of ranks.

    Raises
    ------
    ParameterError
        If the numbers of weights, seeds and masks differ, a mask names a tied weight twice with
        different values, the batch is larger than the training set, several ranks can't share it
        equally, or the augmentation doesn't suit the inputs; if masks should change and a network
        has none, or one is of a parameter that isn't trained or that `torch.nn.utils.prune` also
        masks; or if movement should be summed up while masks change.
    DivergedError
        If a loss or a weight is NaN or infinite; the message names the step. It is raised before
        anything of that kind is saved or evaluated.
    PreemptedError
        If `Runtime.stop` asked for it; the same call resumes from there.
    UnsupportedModelError
        If the network can't be trained here (`lotperm.engine.ways`); the message says why.

    Warns
    -----
    UserWarning
        If networks are trained one at a time because an operation can't be computed for several.
    """
    runtime = runtime or Runtime()
    masks = masks if masks is not None else [None] * len(weights)
    if not len(weights) == len(seeds) == len(masks):
        raise ParameterError(
            f"got {len(weights)} weights, {len(seeds)} seeds and {len(masks)} masks; "
            "expected the same number."
        )
    if movement and rewire is not None:
        raise ParameterError(
            "movement is summed up at steps that change weights, and some change masks instead. "
            "Leave movement or rewire out."
        )
    names = model.state_dict()
    weights = [read_weights(w, names, f"weights of member {i}") for i, w in enumerate(weights)]
    masks = [None if mask is None else _read(mask, model, i) for i, mask in enumerate(masks)]
    epochs = recipe.epochs if until is None else until
    evaluate_at = {epochs} if evaluate_at is None else evaluate_at
    way = choose(
        model, len(weights), data.input_shape, lambda: next(iter(_few(data).inputs())).cpu()
    )
    check_ranks(model, way)
    # Once for all parts, which share the examples.
    data = data.to(runtime.device)
    # Before the first step, since every step frees its activations.
    keep_freed_memory()
    keeper = Keeper(checkpoints, checkpoint_seconds, runtime.stop)
    # Looked up before the members are divided, since members that a checkpoint left at different
    # steps can't run as one part.
    found = keeper.found(len(weights))
    parts, threads = partition(
        model,
        (runtime.microbatch or recipe.batch_size, *data.input_shape),
        len(weights),
        precision=recipe.precision,
        runtime=runtime,
        way=way,
        steps=found[1]["steps"] if found else None,
    )
    runs = [
        Run(
            model,
            weights=weights[part],
            data=data,
            recipe=recipe,
            seeds=seeds[part],
            masks=masks[part],
            runtime=runtime,
            rewire=rewire,
            movement=movement,
            way=way,
        )
        for part in parts
    ]
    # Entered again after every pause, as another stage may have needed other settings meanwhile.
    computing = partial(settings, torch.device(runtime.device), recipe.precision)
    done, epoch = restore(runs, parts, found) if found else (Trained(), 0)
    # A resumed run has recorded its start before it was interrupted.
    if epoch == 0 and not any(run.step for run in runs):
        with computing():
            done.note(runs, 0, save_at, evaluate_at)
    images = sum(run.images_left(epoch, epochs) for run in runs)
    with _bar(runtime, label, images) as bar, workers(threads) as each:
        if epoch < epochs:
            # Only if something is left to train, since compiling takes up to a minute.
            with computing():
                for run in runs:
                    run.prepare(threads)
            # What failed for one part failed for all parts of its kind; report it once.
            for line in dict.fromkeys(line for run in runs for line in run.failures):
                _log.warning("%s: %s", label, line)
            done.mode = ", ".join(dict.fromkeys(run.mode for run in runs))
        while epoch < epochs:
            # Every part runs to the end of the epoch, or pauses earlier to save or to stop.
            with computing():
                turns.advance(each, threads, runs, epoch, keeper.wanted, bar)
            # Nothing that the device still needs is freed here; only what follows waits for it.
            if runtime.meanwhile is not None:
                runtime.meanwhile(lambda: all(run.done() for run in runs))
            with computing():
                for run in runs:
                    # Work may still be queued on the run's own stream, so what follows must wait.
                    run.join()
                    # Before anything is recorded, evaluated or saved.
                    run.check_finite(epoch)
                # After a pause some parts may be at the end of the epoch and others not.
                if all(run.step == run.steps for run in runs):
                    loss = done.add_epoch(runs)
                    epoch += 1
                    done.note(runs, epoch, save_at, evaluate_at)
                    if bar is not None:
                        bar.set_postfix_str(f"epoch {epoch}/{epochs}, loss {loss:.3f}")
            # At the end there is nothing to resume, so the result is returned instead.
            if epoch < epochs and keeper.save_if_wanted(runs, done, epoch):
                kept = "Its state is saved" if checkpoints is not None else "Its state isn't kept"
                raise PreemptedError(
                    f"{label} was stopped in epoch {epoch + 1} of {epochs}. {kept}: run it again."
                )
    done.weights = all_weights(runs)
    # By part, then by member, which is the members' own order.
    done.masks = [mask for run in runs if run.rewiring for mask in run.rewiring.masks()]
    done.movement = [moved for run in runs for moved in run.state.movements()]
    return done


def _read(mask: Mapping[str, Tensor], model: nn.Module, member: int) -> Mask:
    """Read a mask, with each tied weight under its first name, the one that PyTorch uses."""
    first: dict[int, str] = {}
    own = {
        name: first.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    found: Mask = {}
    for name, kept in read_mask(mask, model.state_dict()).items():
        other = found.setdefault(own.get(name, name), kept)
        if not torch.equal(other, kept):
            raise ParameterError(
                f"the mask of member {member} has {own[name]} and {name}, which are one weight, and "
                "prunes it differently. Leave one of them out."
            )
    return found


def _few(data: Dataset) -> Batches:
    """Batch a few training examples, on which networks without stacking rules are tested."""
    return Batches(data, first(data.train, 4), 4)


@contextlib.contextmanager
def _bar(runtime: Runtime, label: str, images: int) -> Iterator[ProgressBar | None]:
    """Show a progress bar over `images` images, if one is wanted."""
    if runtime.progress is None:
        yield None
        return
    with contextlib.closing(runtime.progress(label, images)) as bar:
        yield bar
