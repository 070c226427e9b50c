"""The ways to make n sparse networks, and what each of them trains."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import reduce

from lotperm.config.experiment import Recipe
from lotperm.store.tasks import Task, Work
from lotperm.studies.arms.arms import ARMS, Arm
from lotperm.studies.arms.training import train_arms
from lotperm.studies.signs.arms import NAIVE_A
from lotperm.studies.stages import dense, imp_rounds
from lotperm.studies.workbench import Workbench

LTH, PERMUTED, NAIVE = ARMS["lth"], ARMS["permuted"], ARMS["naive"]


@dataclass(frozen=True)
class Method:
    """A way to make members of an ensemble.

    Attributes
    ----------
    name : str
        Its name in tables.
    words : str
        What a member is, in a few words.
    """

    name: str
    words: str


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("dense", "dense networks"),
        Method("own tickets", "each its own ticket (IMP), trained from k"),
        Method("own, as pruned", "each its own ticket, as IMP leaves it"),
        Method("lth", "one ticket, other orders of the examples"),
        Method("naive", "one ticket, mask as found"),
        Method("permuted", "one ticket, permuted, matched at the end"),
        Method("permuted at k", "one ticket, permuted, matched at epoch k"),
        Method("signs", "one ticket as found with A's signs, from k = 0"),
    )
}
"""Name -> method, in the order of figures and tables."""


def shared_arms(rewind_epoch: int) -> tuple[Arm, ...]:
    """Return the arms that share a ticket and start from epoch k."""
    # B is trained up to k in any case: if it is matched there, π costs no further epoch.
    at_k = replace(PERMUTED, name="permuted at k", permutation=f"epoch-{rewind_epoch}")
    return LTH, NAIVE, PERMUTED, at_k


def shared(bench: Workbench, sparsity: float, rewind_epoch: int) -> Task:
    """Train members that share the first replicate's ticket."""
    return train_arms(
        bench,
        "many",
        shared_arms(rewind_epoch),
        sparsity,
        rewind_epoch,
        words="members of one ticket",
        one_ticket=True,
    )


def signed(bench: Workbench, sparsity: float) -> Task:
    """Train members from their initialization, with the ticket's mask and A's signs."""
    return train_arms(
        bench, "many", [NAIVE_A], sparsity, 0, words="members with signs", one_ticket=True
    )


def own(bench: Workbench, sparsity: float, rewind_epoch: int) -> Task:
    """Train every replicate's own ticket."""
    return train_arms(bench, "many", [LTH], sparsity, rewind_epoch, words="own tickets")


def _each(task: Task) -> Work:
    """Return the work of one network of a stage."""
    count = task.work.networks
    return Work(
        networks=1,
        train_images=task.work.train_images // count,
        forward_images=task.work.forward_images // count,
    )


def _sum(*parts: Work) -> Work:
    return reduce(
        lambda a, b: Work(
            networks=a.networks + b.networks,
            train_images=a.train_images + b.train_images,
            forward_images=a.forward_images + b.forward_images,
        ),
        parts,
        Work(),
    )


def works(bench: Workbench, sparsity: float, rewind_epoch: int) -> dict[str, tuple[Work, Work]]:
    """Count what every method trains: once, and for each member.

    Numbers of images are those that plans count for the stages, divided by their networks.

    Returns
    -------
    dict
        Name of a method -> (work of what members share, work of each member).
    """
    whole = _each(dense(bench).stage)
    # Rounds of a single network: a stage has the round of all replicates.
    pruning = _sum(*(_each(task) for task in imp_rounds(bench, sparsity, rewind_epoch)))
    ticket = _sum(whole, pruning)
    arm = _each(own(bench, sparsity, rewind_epoch))
    recipe = bench.experiment.dense
    matching = bench.work(0, recipe, matches=1)
    up_to_k = _up_to(bench, recipe, rewind_epoch)
    return {
        "dense": (Work(), whole),
        "own tickets": (Work(), _sum(ticket, arm)),
        "own, as pruned": (Work(), ticket),
        "lth": (ticket, arm),
        "naive": (ticket, _sum(up_to_k, arm)),
        "permuted": (ticket, _sum(whole, matching, arm)),
        "permuted at k": (ticket, _sum(up_to_k, matching, arm)),
        "signs": (ticket, _each(signed(bench, sparsity))),
    }


def _up_to(bench: Workbench, recipe: Recipe, epoch: int) -> Work:
    """Return the work of training a network up to an epoch, without evaluating it."""
    if epoch == 0:
        return Work()
    return bench.work(1, dataclasses.replace(recipe, epochs=epoch), evaluations=0)
