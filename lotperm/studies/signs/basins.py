"""Where arms end: their distance from A's ticket, the barrier to it, and their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lotperm.data.dataset import first
from lotperm.engine.models import Weights
from lotperm.science.barrier import interpolate
from lotperm.science.diversity import FLOOR
from lotperm.science.evaluation import probabilities
from lotperm.science.repair import reset_batch_norm
from lotperm.science.sparsity import prunable_parameters
from lotperm.science.symmetry import permute
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Source, Task, Work
from lotperm.store.workspace import Workspace
from lotperm.studies.arms.arms import Arm
from lotperm.studies.stages import match
from lotperm.studies.workbench import Workbench

STATISTICS = 2_000
"""Training examples from which the batch norms of networks on a line take their statistics."""


class _Seen(NamedTuple):
    """A network's results on the test split."""

    accuracy: float
    loss: float
    votes: np.ndarray

    @classmethod
    def of(cls, probs: np.ndarray, targets: np.ndarray) -> _Seen:
        """Evaluate predicted probabilities, (N, K)."""
        votes = probs.argmax(1)
        right = np.maximum(probs[np.arange(len(targets)), targets], FLOOR)
        return cls(float(np.mean(votes == targets)), float(-np.log(right).mean()), votes)


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: Sequence[str]) -> float:
    """Return the distance of two networks' prunable weights, divided by the norm of b's."""
    apart = sum(float((a[name] - b[name]).double().square().sum()) for name in names)
    size = sum(float(b[name].double().square().sum()) for name in names)
    return float(np.sqrt(apart / size))


def basins(bench: Workbench, trained: Task, arms: Sequence[Arm], lth: int) -> Task:
    """Compare every arm at its end with the ticket at its end, as found and permuted to B.

    Parameters
    ----------
    bench : Workbench
        The experiment's workbench.
    trained : Task
        The arms' training (`lotperm.studies.arms.training.train_arms`).
    arms : sequence of Arm
        Its arms.
    lth : int
        Index of the arm that is the ticket on A.

    Returns
    -------
    Task
        Its results have ``rows``: for each arm and seed, and for the ticket "as found" and
        "permuted": distance; loss barrier (nats) and accuracy barrier (a fraction), of the middle
        of the line against the mean of its ends; disagreement (a fraction).
    """
    seeds = bench.experiment.seeds

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        networks = inputs.replicates("arms", "final")
        permutations = inputs.replicates("match", "permutation")
        names = prunable_parameters(bench.model, bench.experiment.pruning.prunable)
        normed = any(isinstance(module, _NormBase) for module in bench.model.modules())
        examples = list(bench.batches(first(bench.data.train, STATISTICS)).inputs())
        test = list(bench.batches(bench.data.test).inputs())
        targets = bench.data.test.targets.cpu().numpy()
        network = bench.build().to(bench.runtime.device)

        def seen(weights: Weights, *, reset: bool = False) -> _Seen:
            network.load_state_dict(weights)
            if reset and normed:
                # A network between two others needs statistics of its own.
                reset_batch_norm(network, examples)
            return _Seen.of(probabilities(network, test), targets)

        rows = []
        for i, seed in enumerate(seeds):
            ticket = networks[lth * len(seeds) + i]
            ends = {"as found": ticket, "permuted": permute(ticket, bench.spec, permutations[i])}
            # The permuted ticket is the same function.
            of_ticket = seen(ticket)
            for n, arm in enumerate(arms):
                weights = networks[n * len(seeds) + i]
                own = seen(weights)
                for moved, end in ends.items():
                    middle = seen(interpolate(end, weights, 0.5), reset=True)
                    rows.append(
                        {
                            "seed": seed,
                            "arm": arm.name,
                            "ticket": moved,
                            "distance": distance(weights, end, names),
                            "loss_barrier": middle.loss - (own.loss + of_ticket.loss) / 2,
                            "accuracy_barrier": (own.accuracy + of_ticket.accuracy) / 2
                            - middle.accuracy,
                            "disagreement": float(np.mean(own.votes != of_ticket.votes)),
                        }
                    )
        return StageResult({"rows": rows}, {}, bench.meta())

    lines = 2 * len(arms) * len(seeds)
    of = bench.info
    return bench.task(
        "basins",
        inputs={
            "arms": Source(trained, ("final",)),
            "match": Source(match(bench), ("permutation",)),
        },
        settings={
            "names": [arm.name for arm in arms],
            "lth": lth,
            "statistics": STATISTICS,
        },
        label=f"where arms end, {trained.label}",
        # Each arm itself, and the middles of its two lines.
        work=Work(forward_images=lines * (of.test + STATISTICS) + lines // 2 * of.test),
        compute=compute,
    )


def between(bench: Workbench, trained: Task, arms: Sequence[Arm]) -> Task:
    """Compare the members that share a ticket, arm by arm.

    Returns
    -------
    Task
        Its results have ``rows``: for each arm and seed ``between``, the share of test examples on
        which this member and another predict different classes, a mean over the others; and
        ``ensemble``, the accuracy of all members together.
    """
    seeds = bench.experiment.seeds

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        networks = inputs.replicates("arms", "final")
        test = bench.data.test
        targets = test.targets.cpu().numpy()
        rows = []
        for n, arm in enumerate(arms):
            members = networks[n * len(seeds) : (n + 1) * len(seeds)]
            probs = np.stack([_probabilities(bench, weights) for weights in members])
            votes = probs.argmax(2)
            ensemble = float(np.mean(probs.mean(0).argmax(1) == targets))
            for i, seed in enumerate(seeds):
                others = [np.mean(votes[i] != votes[j]) for j in range(len(seeds)) if j != i]
                rows.append(
                    {
                        "seed": seed,
                        "arm": arm.name,
                        "between": float(np.mean(others)),
                        "ensemble": ensemble,
                    }
                )
        return StageResult({"rows": rows}, {}, bench.meta())

    return bench.task(
        "between",
        inputs={"arms": Source(trained, ("final",))},
        settings={"names": [arm.name for arm in arms]},
        label=f"members, {trained.label}",
        work=Work(forward_images=len(arms) * len(seeds) * bench.info.test),
        compute=compute,
    )


def _probabilities(bench: Workbench, weights: Weights) -> np.ndarray:
    network: nn.Module = bench.network(weights)
    return probabilities(network, bench.batches(bench.data.test).inputs())
