"""The trained networks of an experiment, brought into one order of units."""

from __future__ import annotations

from lotperm.engine.models import Weights
from lotperm.science.symmetry import invert, permute
from lotperm.store.tasks import Inputs, Source
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.arms.study import sparse
from lotperm.studies.stages import dense, halves, imp_rounds, match
from lotperm.studies.workbench import Workbench

FROM_B = ("dense_b", "permuted", "naive")
"""Solutions that start from B, so that their units are in B's order."""


def has_imp(bench: Workbench) -> bool:
    """Return whether the mask comes from IMP, which leaves a trained network with it."""
    return bench.experiment.pruning.mask == "imp"


def sources(bench: Workbench, sparsity: float, rewind_epoch: int) -> dict[str, Source | None]:
    """List what `solutions` reads: both dense networks, IMP's, the arms, and the permutation."""
    # Other sources of masks prune without training: there is no network of their own.
    pruned = imp_rounds(bench, sparsity, rewind_epoch)[-1] if has_imp(bench) else None
    return {
        "dense": Source(dense(bench).stage, ("final",)),
        "imp": Source(pruned, ("final",)) if pruned else None,
        "arms": Source(sparse(bench, sparsity, rewind_epoch), ("final",)),
        "match": Source(match(bench), ("permutation",)),
    }


def solutions(bench: Workbench, inputs: Inputs) -> list[dict[str, Weights]]:
    """Load the solutions of every replicate, all in A's order of units.

    Those that start from B (`FROM_B`) are brought back by the inverse of the permutation that moves
    A onto B, which changes their weights' order but not what they compute.

    Parameters
    ----------
    bench : Workbench
        The experiment's workbench.
    inputs : Inputs
        The inputs of a stage that declared `sources`.

    Returns
    -------
    list of dict
        One for each seed: "dense_a", "dense_b", "lth", "permuted", "naive", and "imp" where the
        mask is IMP's -> state dict.
    """
    dense_a, dense_b = halves(inputs.replicates("dense", "final"))
    arms, count = inputs.replicates("arms", "final"), len(dense_a)
    # By arm, then by seed, as they were trained.
    of_arm = {name: arms[i * count : (i + 1) * count] for i, name in enumerate(PAPER_ARMS)}
    found = {"dense_a": dense_a, "dense_b": dense_b, **of_arm}
    if inputs.has("imp"):
        found["imp"] = inputs.replicates("imp", "final")
    permutations = [invert(p) for p in inputs.replicates("match", "permutation")]
    return [
        {
            name: permute(weights[i], bench.spec, back) if name in FROM_B else weights[i]
            for name, weights in found.items()
        }
        for i, back in enumerate(permutations)
    ]
