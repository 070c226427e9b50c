"""Masks found by a training of their own: RigL's, and those by the movement of the weights.

RigL trains A sparsely, from the weights that the arms start from, with their recipe. Movement
repeats A's dense training, from its initialization and with its very examples, and sums up what
moves each weight away from zero.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.engine.models import initialize
from lotperm.science.ranking import keep_highest
from lotperm.science.rewiring import RigL
from lotperm.science.sparsity import Mask, prunable_parameters
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Source, Task, Work, epoch_file, pack
from lotperm.store.workspace import Workspace
from lotperm.studies import sources
from lotperm.studies.subject import plain
from lotperm.studies.workbench import Workbench, curves

UPDATES = 25
"""Approximate number of updates of RigL's masks, where the authors' ΔT would give fewer."""


def rigl_of(steps: int) -> RigL:
    """Return RigL for a training of `steps` steps: the authors' α = 0.3 and ΔT = 100, or less.

    The authors update masks 250 times; short trainings update them about `UPDATES` times, or at
    every step.
    """
    usual = RigL()
    return dataclasses.replace(
        usual, every=max(1, min(usual.every, int(usual.until * steps) // UPDATES))
    )


def ticket(bench: Workbench, dense: Task, sparsity: float, rewind_epoch: int) -> Task:
    """Return the stage that finds A's masks by RigL or by movement.

    Parameters
    ----------
    bench : Workbench
        An experiment with one of these sources.
    dense : Task
        The training of A and B.
    sparsity, rewind_epoch : float and int
        Those of the masks.

    Returns
    -------
    Task
        Its file "mask" holds one mask for each replicate. RigL's results also have the `curves` of
        its own networks.
    """
    if bench.experiment.pruning.mask == "rigl":
        return _rigl(bench, dense, sparsity, rewind_epoch)
    return _movement_mask(bench, sparsity)


def found(bench: Workbench, masks: list[Mask], sparsity: float, **results: Any) -> StageResult:
    """Make the result of a stage that found a mask for each replicate; name layers that collapsed."""
    sources.name_collapse(bench, masks, sparsity)
    # What the masks keep of each layer is evidence: sources differ in it most.
    kept = [{name: int(m.sum()) for name, m in mask.items()} for mask in masks]
    return StageResult({"kept": kept, **results}, {"mask": pack(masks)}, bench.meta())


def _rigl(bench: Workbench, dense: Task, sparsity: float, rewind_epoch: int) -> Task:
    """Train A under RigL from epoch k on, with the arms' recipe, from a random ERK mask."""
    experiment, prunable = bench.experiment, bench.experiment.pruning.prunable
    recipe = experiment.sparse_recipe(rewind_epoch)
    rule = rigl_of(steps_of(bench, recipe))
    file, count = epoch_file(rewind_epoch), len(experiment.seeds)
    label = f"RigL, sparsity {sparsity:g}, k = {rewind_epoch}"

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        states = inputs.replicates("dense", file)[:count]
        masks = sources.draw_masks(bench, sparsity)
        trained = bench.train(workspace, states, recipe, ("rigl",), label, masks=masks, rewire=rule)
        return found(bench, trained.masks, sparsity, **curves(trained))

    # An update takes the place of a step and costs as much, apart from sorting the weights.
    work = bench.work(count, recipe)
    return bench.task(
        "mask",
        inputs={"dense": Source(dense, (file,))},
        settings={
            "source": "rigl",
            "sparsity": sparsity,
            "prunable": prunable,
            "recipe": plain(recipe),
            "rewind_epoch": rewind_epoch,
            "rule": dataclasses.asdict(rule),
        },
        label=label,
        work=dataclasses.replace(work, kept=0, masks=count),
        compute=compute,
    )


def steps_of(bench: Workbench, recipe: Recipe) -> int:
    """Count the steps of a training; the last batch of an epoch is dropped if it isn't full."""
    return recipe.epochs * (bench.info.train // recipe.batch_size)


def _movement_mask(bench: Workbench, sparsity: float) -> Task:
    """Keep the weights of A that its dense training moved away from zero the most."""
    pruning, count = bench.experiment.pruning, len(bench.experiment.seeds)

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        names = prunable_parameters(bench.model, pruning.prunable)
        scores = inputs.replicates("scores", "movement")
        masks = [
            keep_highest({name: s[name] for name in names}, sparsity, scope=pruning.scope)
            for s in scores
        ]
        return found(bench, masks, sparsity)

    return bench.task(
        "mask",
        inputs={"scores": Source(movement(bench), ("movement",))},
        settings={"source": "movement", "sparsity": sparsity, "scope": pruning.scope},
        label=f"mask by movement, sparsity {sparsity:g}",
        work=Work(masks=count),
        compute=compute,
    )


def movement(bench: Workbench) -> Task:
    """Train A of every replicate once more, and keep the movement of its prunable weights.

    The file "movement" holds the weights' scores, which serve every sparsity and rewind epoch.
    """
    experiment, prunable = bench.experiment, bench.experiment.pruning.prunable
    recipe, label = experiment.dense, "movement of A's weights"

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        # The streams of A itself: these are its initialization, and its order of the examples.
        start = [
            initialize(bench.build, Seeds.of("dense_a", seed).init) for seed in experiment.seeds
        ]
        trained = bench.train(workspace, start, recipe, ("dense_a",), label, movement=True)
        names = prunable_parameters(bench.model, prunable)
        scores: list[dict[str, Tensor]] = [{n: s[n] for n in names} for s in trained.movement]
        return StageResult(curves(trained), {"movement": pack(scores)}, bench.meta())

    return bench.task(
        "movement",
        inputs={},
        settings={
            **bench.identity(),
            "recipe": plain(recipe),
            "seeds": list(experiment.seeds),
            "prunable": prunable,
        },
        label=label,
        work=bench.work(len(experiment.seeds), recipe),
        compute=compute,
    )
