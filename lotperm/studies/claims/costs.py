"""What a ticket and a permuted network cost in epochs, which follows from the protocol."""

from __future__ import annotations

from typing import Any

from lotperm.science.sparsity import round_sparsities
from lotperm.studies.claims.evidence import Effect, exact


def _epochs(experiment: dict[str, Any]) -> tuple[int, int, int, float]:
    """Return the epochs of dense training, of pruning, of an arm, and the sparsity."""
    sparsities = experiment["sparsities"]
    # Claims about accuracy at a single sparsity use 0.9. The cost grows with the sparsity.
    sparsity = 0.9 if 0.9 in sparsities else sparsities[0]
    rounds = len(round_sparsities(sparsity, experiment["pruning"]["fraction"]))
    dense = int(experiment["dense"]["epochs"])
    # By fine-tuning, as the paper prunes.
    pruning = rounds * int(experiment["pruning"]["finetune"]["epochs"])
    # An arm trains the epochs that are left after its rewind point.
    return dense, pruning, dense - int(experiment["rewind_epochs"][-1]), sparsity


def ticket(source: str, experiment: dict[str, Any]) -> Effect:
    """Return the epochs of finding and training a ticket over those of dense training, less 1.

    Every epoch counts as one, a sparse one too: unstructured masks save no time on today's
    hardware.

    Parameters
    ----------
    source : str
        As in `Effect`.
    experiment : dict
        As `Experiment.to_dict` returns it.
    """
    dense, pruning, arm, sparsity = _epochs(experiment)
    effect = exact(
        source,
        "ticket: epochs beyond one dense training",
        100 * (pruning + arm) / dense,
        1,
        "protocol",
        "%",
    )
    return effect.shown(0).noted(
        f"S = {sparsity:g}: {dense} dense, {pruning} of pruning, {arm} of the ticket"
    )


def permuting(source: str, experiment: dict[str, Any]) -> Effect:
    """Return the epochs that a permuted network costs beyond a ticket: those of the dense B."""
    dense, pruning, arm, sparsity = _epochs(experiment)
    # The second dense network gives B's rewind point and the permutation.
    extra = 100 * dense / (dense + pruning + arm)
    effect = exact(source, "permuted: epochs beyond a ticket's", extra, 1, "protocol", "%")
    return effect.shown(0).noted(f"S = {sparsity:g}: a second dense network of {dense} epochs")
