"""Stages that most questions share: the dense networks, the rounds of pruning, the alignment.

    dense A, dense B ─┬─> IMP rounds (A) ──> mask ──┐        (or another source of masks)
                      └─> match A to B ─────────────┴─> what the questions train

Every function here returns tasks (`lotperm.store.tasks.Task`): each is computed once, whichever
question asks first. All replicates (seeds) of a stage are trained together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lotperm.config.experiment import Experiment
from lotperm.config.seeds import Seeds
from lotperm.engine.models import Weights, initialize
from lotperm.science.matching import Matching
from lotperm.science.sparsity import (
    Mask,
    full_mask,
    magnitude_prune,
    prunable_parameters,
    round_sparsities,
)
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Plain, Source, Task, Work, epoch_file, pack, unpack
from lotperm.store.workspace import Workspace
from lotperm.studies import sources, trained_masks
from lotperm.studies.subject import plain
from lotperm.studies.workbench import Workbench, spaced_epochs

WORDS = {
    "dense": "dense A and B",
    "imp": "IMP rounds",
    "movement": "movement of A",
    "mask": "masks",
    "match": "matching",
}
"""Stage -> what plans call it."""

CURVE_POINTS = 10
"""About how many times the test split is evaluated during a training."""

KEPT_EPOCHS = 40
"""About this many evenly spaced epochs of the dense networks are kept by default."""


def kept_epochs(experiment: Experiment) -> list[int]:
    """List the epochs after which the weights of the dense networks are kept.

    These are `Experiment.keep`, or about 40 evenly spaced ones and the rewind epochs.
    """
    if experiment.keep is not None:
        return list(experiment.keep)
    # Arms, and IMP with rewinding, start from these weights.
    return sorted({*spaced_epochs(experiment.dense.epochs, KEPT_EPOCHS), *experiment.rewind_epochs})


@dataclass(frozen=True)
class DensePair:
    """The networks A and B of every replicate.

    Attributes
    ----------
    stage : Task
        The task that trains them.
    replicates : int
        Number of seeds.
    """

    stage: Task
    replicates: int

    def weights(self, epoch: int | str = "final") -> tuple[list[Weights], list[Weights]]:
        """Load A and B as they were after a kept epoch, or at the end ("final").

        Returns
        -------
        a, b : list of Weights
            One state dict for each replicate.
        """
        file = epoch if isinstance(epoch, str) else epoch_file(epoch)
        return halves(unpack(self.stage.load(file)))


def halves(states: Sequence[Weights]) -> tuple[list[Weights], list[Weights]]:
    """Split the networks of a dense stage into those of A and those of B."""
    count = len(states) // 2
    return list(states[:count]), list(states[count:])


def dense(bench: Workbench) -> DensePair:
    """Train A and B of every replicate, and keep their weights at some epochs for rewinding."""
    experiment, kept = bench.experiment, kept_epochs(bench.experiment)
    recipe = experiment.dense
    # This stage builds on no other, so data and network must be part of its own key.
    settings: Plain = {
        **bench.identity(),
        "recipe": plain(recipe),
        "seeds": list(experiment.seeds),
    }
    if experiment.keep is None:
        # Epochs of the grid aren't named: experiments whose rewind epochs lie on it share the
        # stage.
        settings["also_keep"] = sorted(set(kept) - set(spaced_epochs(recipe.epochs, KEPT_EPOCHS)))
    else:
        settings["keep"] = kept
    evaluate_at, label = spaced_epochs(recipe.epochs, CURVE_POINTS), "dense A and B"

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        # A network that can't be aligned is refused before it is trained, not after.
        _ = bench.spec
        networks = ("dense_a", "dense_b")
        # All of A, then all of B, which `halves` relies on. The two differ only in their named
        # random streams: initialization, order of the examples, augmentation.
        start = [
            initialize(bench.build, Seeds.of(network, seed).init)
            for network in networks
            for seed in experiment.seeds
        ]
        return bench.result(
            bench.train(
                workspace,
                start,
                recipe,
                networks,
                label,
                urgent=True,
                save_at=kept,
                evaluate_at=evaluate_at,
            )
        )

    work = bench.work(2 * len(experiment.seeds), recipe, len(evaluate_at))
    # The store keeps each network after every kept epoch, and at the end.
    work = dataclasses.replace(work, kept=work.networks * (len(kept) + 1))
    task = bench.task(
        "dense", inputs={}, settings=settings, label=label, work=work, compute=compute
    )
    return DensePair(task, len(experiment.seeds))


def imp_rounds(bench: Workbench, sparsity: float, rewind_epoch: int) -> list[Task]:
    """Prune A to a sparsity by iterative magnitude pruning (IMP), one stage for each round.

    The mask of a round is found before its training, so the last stage's mask is the ticket and
    its weights are IMP's own solution. Rounds that two sparsities share are computed once.

    Parameters
    ----------
    bench : Workbench
        The experiment's workbench.
    sparsity : float
        Fraction of the prunable weights to remove in all.
    rewind_epoch : int
        Epoch to which each round goes back, if the experiment's IMP rewinds.

    Returns
    -------
    list of Task
        In order; the files "mask" and "final" hold one mask and one network for each replicate.
    """
    # A round removes a fraction of what is left, 20 % in the paper. The last one is cut so that the
    # target is met exactly; the authors' scripts stop half a percent before it.
    targets = round_sparsities(sparsity, bench.experiment.pruning.fraction)
    rounds: list[Task] = []
    for number, target in enumerate(targets, 1):
        label = f"IMP round {number}/{len(targets)}, sparsity {target:.3f}"
        before = rounds[-1] if rounds else None
        rounds.append(_imp_round(bench, number, target, rewind_epoch, before, label))
    return rounds


def _imp_round(
    bench: Workbench,
    number: int,
    target: float,
    rewind_epoch: int,
    before: Task | None,
    label: str,
) -> Task:
    """Prune once, to the target, and train what is left."""
    experiment, pruning = bench.experiment, bench.experiment.pruning
    # The authors prune by fine-tuning: a round goes on from the weights as they are. Rewinding
    # (Frankle et al.) is the alternative.
    rewinding = pruning.imp == "rewind"
    recipe = experiment.sparse_recipe(rewind_epoch) if rewinding else pruning.finetune
    # Only the first round prunes dense A. A later one reads dense weights to rewind to, or none, so
    # that only the key of the dense stage matters.
    from_dense = ("final",) if before is None else ()
    if rewinding:
        from_dense = (*from_dense, epoch_file(rewind_epoch))

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        if inputs.has("before"):
            weights = inputs.replicates("before", "final")
            masks: Sequence[Mask] = inputs.replicates("before", "mask")
        else:
            weights = halves(inputs.replicates("dense", "final"))[0]
            names = prunable_parameters(bench.model, pruning.prunable)
            # The first round begins with everything that may be pruned: by the paper's rule every
            # weight of a convolution or a linear layer, but for the convolutions of shortcuts.
            masks = [full_mask(w, names) for w in weights]
        # Magnitudes are those of trained weights; weights are rewound only afterwards.
        masks = [
            # Globally in the paper: weights of all layers compete with each other.
            magnitude_prune(w, m, target, scope=pruning.scope)
            for w, m in zip(weights, masks, strict=True)
        ]
        sources.name_collapse(bench, masks, target)
        if rewinding:
            weights = halves(inputs.replicates("dense", epoch_file(rewind_epoch)))[0]
        # A stream for each round, so that it sees the examples in another order every time.
        networks = (f"imp_{number}",)
        trained = bench.train(workspace, weights, recipe, networks, label, urgent=True, masks=masks)
        return bench.result(trained, files={"mask": pack(masks)})

    return bench.task(
        "imp",
        inputs={
            "dense": Source(dense(bench).stage, from_dense),
            "before": Source(before, ("final", "mask")) if before else None,
        },
        settings={
            # The sparsity of this round, not of the last one, so that tickets of other sparsities
            # share the round.
            "sparsity": target,
            "recipe": plain(recipe),
            # Fine-tuning doesn't depend on it, so tickets of all rewind epochs share their rounds.
            "rewind_epoch": rewind_epoch if rewinding else None,
            "scope": pruning.scope,
            "prunable": pruning.prunable,
        },
        label=label,
        work=dataclasses.replace(
            bench.work(len(experiment.seeds), recipe), masks=len(experiment.seeds)
        ),
        compute=compute,
    )


def ticket(bench: Workbench, sparsity: float, rewind_epoch: int) -> Task:
    """Return the stage that finds A's mask at a sparsity: the last round of IMP, or another source.

    Its file "mask" holds one mask for each replicate.
    """
    experiment, source = bench.experiment, bench.experiment.pruning.mask
    if source == "imp":
        return imp_rounds(bench, sparsity, rewind_epoch)[-1]
    if source in ("rigl", "movement"):
        return trained_masks.ticket(bench, dense(bench).stage, sparsity, rewind_epoch)
    file = sources.weights_file(source, rewind_epoch)

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        weights = [] if file is None else halves(inputs.replicates("dense", file))[0]
        return trained_masks.found(bench, sources.find_masks(bench, weights, sparsity), sparsity)

    count = len(experiment.seeds)
    return bench.task(
        "mask",
        inputs={"dense": Source(dense(bench).stage, (file,)) if file else None},
        settings=sources.settings(bench, sparsity, rewind_epoch),
        label=f"mask by {source}, sparsity {sparsity:g}",
        work=Work(train_images=count * sources.images(bench), masks=count),
        compute=compute,
    )


def ticket_masks(bench: Workbench, sparsity: float, rewind_epoch: int) -> list[Mask]:
    """Load the mask of A at a sparsity, for every replicate."""
    names = prunable_parameters(bench.model, bench.experiment.pruning.prunable)
    found = unpack(ticket(bench, sparsity, rewind_epoch).load("mask"))
    # Files sort their tensors by name; masks follow the network's order of layers.
    return [{name: mask[name] for name in names} for mask in found]


def match(bench: Workbench) -> Task:
    """Align A to B in every replicate, at the end of dense training."""
    experiment = bench.experiment
    by_weights = experiment.matching.matching == "weight"

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        # The paper matches fully trained networks, whatever the rewind epoch of the arms.
        pairs = zip(*halves(inputs.replicates("dense", "final")), strict=True)
        found = [bench.match_pair(a, b) for a, b in pairs]
        # Scores show how alike the matched units are, and how alike they were before.
        scores = [{"matched": m.scores, "identity": m.identity_scores} for m in found]
        return StageResult({"scores": scores}, {"permutation": pack(found)}, bench.meta())

    return bench.task(
        "match",
        inputs={"dense": Source(dense(bench).stage, ("final",))},
        # Weight matching looks at no examples, so their number and points aren't in its key.
        settings={"matching": "weight"} if by_weights else plain(experiment.matching),
        label="match A to B",
        # Nothing is trained, and weight matching sees no examples either.
        work=bench.work(0, experiment.dense, matches=0 if by_weights else len(experiment.seeds)),
        compute=compute,
    )


def matchings(bench: Workbench) -> list[Matching]:
    """Load the permutation of every replicate with the evidence for it."""
    stage = match(bench)
    permutations: list[dict[str, Tensor]] = unpack(stage.load("permutation"))
    return [
        Matching(permutation, scores=scores["matched"], identity_scores=scores["identity"])
        for permutation, scores in zip(permutations, stage.results["scores"], strict=True)
    ]
