"""The training of any list of arms, in one stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lotperm.config.fields import require
from lotperm.science.sparsity import Mask
from lotperm.science.symmetry import Permutation
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Plain, Source, Task, epoch_file, pack
from lotperm.store.workspace import Workspace
from lotperm.studies.arms.arms import (
    FOUND,
    Arm,
    Parts,
    networks_of,
    permutations_of,
    start,
)
from lotperm.studies.arms.permutations import FIRST_TICKET, SHARED, permutations
from lotperm.studies.stages import CURVE_POINTS, dense, halves, match, ticket
from lotperm.studies.subject import plain
from lotperm.studies.workbench import Workbench, spaced_epochs


def train_arms(
    bench: Workbench,
    name: str,
    arms: Sequence[Arm],
    sparsity: float,
    rewind_epoch: int,
    *,
    words: str = "sparse arms",
    keep_masks: bool = False,
    one_ticket: bool = False,
) -> Task:
    """Train arms of every replicate; results are ordered by arm, then by seed.

    Parameters
    ----------
    bench : Workbench
        The experiment's workbench.
    name : str
        Name of the stage.
    arms : sequence of Arm
        In the order in which their networks are kept.
    sparsity, rewind_epoch : float and int
        Those of A's mask, and of the weights that arms start from.
    words : str
        What is trained, for progress bars and plans.
    keep_masks : bool
        Keep a file "mask" with the mask of every network.
    one_ticket : bool
        Take A, its mask and its signs from the first replicate for all: members of an ensemble
        that share a ticket. π then takes this A to every B.
    """
    experiment = bench.experiment
    # As the authors train their arms: a fresh optimizer, and the schedule anew over the epochs that
    # are left after k.
    recipe = experiment.sparse_recipe(rewind_epoch)
    evaluate_at = spaced_epochs(recipe.epochs, CURVE_POINTS)
    label = f"{words}, sparsity {sparsity:g}, k = {rewind_epoch}"
    sources = sources_of(bench, arms, sparsity, rewind_epoch, one_ticket=one_ticket)

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        replicates = parts_of(bench, inputs, rewind_epoch, one_ticket=one_ticket)
        starts = [start(arm, parts) for arm in arms for parts in replicates]
        masks = [mask for _, mask in starts]
        trained = bench.train(
            workspace,
            [weights for weights, _ in starts],
            recipe,
            [arm.stream for arm in arms],
            label,
            masks=masks,
            evaluate_at=evaluate_at,
        )
        return bench.result(trained, files={"mask": pack(masks)} if keep_masks else None)

    settings: Plain = {
        "recipe": plain(recipe),
        "rewind_epoch": rewind_epoch,
        # Networks and results are ordered by arm, so the order is part of the key.
        "arms": [arm.key for arm in arms],
    }
    if one_ticket:
        settings["ticket"] = "first"
    return bench.task(
        name,
        inputs=sources,
        settings=settings,
        label=label,
        work=bench.work(len(arms) * len(experiment.seeds), recipe, len(evaluate_at)),
        compute=compute,
    )


def sources_of(
    bench: Workbench,
    arms: Sequence[Arm],
    sparsity: float,
    rewind_epoch: int,
    *,
    one_ticket: bool = False,
) -> dict[str, Source]:
    """List exactly the inputs from which `parts_of` makes the parts of arms."""
    networks, moved_by = networks_of(arms), permutations_of(arms)
    # One file has A's and B's weights after an epoch.
    dense_files = [epoch_file(rewind_epoch)]
    if networks & {"a end", "b end"}:
        dense_files.append("final")
    imp_files = ("mask", "final") if "imp end" in networks else ("mask",)
    if "imp end" in networks:
        mask = bench.experiment.pruning.mask
        require(mask == "imp", "mask", mask, "imp: an arm takes IMP's own networks")
    masks = ticket(bench, sparsity, rewind_epoch)
    sources = {
        "dense": Source(dense(bench).stage, tuple(dense_files)),
        "imp": Source(masks, imp_files),
    }
    if one_ticket:
        others = sorted(map(_of_first, moved_by))
    else:
        others = sorted(moved_by - {FOUND})
        if FOUND in moved_by:
            sources["match"] = Source(match(bench), ("permutation",))
    if others:
        sources["permutations"] = Source(permutations(bench, others, masks), tuple(others))
    return sources


def _of_first(name: str) -> str:
    """Return the name of the permutations that take the first replicate's A to every B."""
    return FIRST_TICKET if name == FOUND else f"{SHARED}{name}"


def parts_of(
    bench: Workbench, inputs: Inputs, rewind_epoch: int, *, one_ticket: bool = False
) -> list[Parts]:
    """Make the parts of every replicate's arms from the inputs that `sources_of` lists."""
    seeds = bench.experiment.seeds
    a, b = halves(inputs.replicates("dense", epoch_file(rewind_epoch)))
    networks = {"a": a, "b": b}
    if "final" in inputs.files("dense"):
        networks["a end"], networks["b end"] = halves(inputs.replicates("dense", "final"))
    if "final" in inputs.files("imp"):
        networks["imp end"] = inputs.replicates("imp", "final")
    masks: list[Mask] = inputs.replicates("imp", "mask")
    moved_by: dict[str, list[Permutation]] = {}
    if inputs.has("match"):
        moved_by[FOUND] = inputs.replicates("match", "permutation")
    for file in inputs.files("permutations"):
        name = FOUND if one_ticket and file == FIRST_TICKET else file
        moved_by[name.removeprefix(SHARED)] = inputs.replicates("permutations", file)
    if one_ticket:
        masks = masks[:1] * len(seeds)
        for name in networks.keys() & {"a", "a end", "imp end"}:
            networks[name] = networks[name][:1] * len(seeds)
    # One generator for all replicates in their order: each gets a random mask of its own.
    scattering = torch.Generator().manual_seed(0)
    return [
        Parts(
            seed=seed,
            trace=lambda: bench.spec,
            weights={name: states[i] for name, states in networks.items()},
            mask=masks[i],
            permutations={name: found[i] for name, found in moved_by.items()},
            scattering=scattering,
        )
        for i, seed in enumerate(seeds)
    ]
