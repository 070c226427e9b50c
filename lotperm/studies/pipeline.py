"""The stages of an experiment and their graph:

    dense A, dense B ─┬─> imp rounds (A) ──> mask ──┐
                      └─> match A to B ─────────────┴─> sparse arms: lth, permuted, naive ──>
                      results

Every stage is a `lotperm.store.stages` stage: keyed by its configuration and the keys of the
stages before it, computed once, shared by every figure that needs it. All replicates (seeds) of a
stage are trained together. A stage is first a `lotperm.store.tasks.Task`: what will be computed is
known, with its key and its work, before anything is.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lotperm.config.experiment import DataConfig, Experiment, Recipe
from lotperm.config.parameters import ARMS, IMAGE_FOLDERS
from lotperm.config.seeds import Seeds
from lotperm.data.batches import Batches
from lotperm.data.dataset import Dataset, Info, Split, first
from lotperm.data.datasets import identity, info, load_configured
from lotperm.engine.models import Weights, build, initialize
from lotperm.engine.runtime import Runtime
from lotperm.engine.training import Trained, train
from lotperm.errors import ParameterError, StorageError
from lotperm.parallel import distributed
from lotperm.science.barrier import REPAIRS, Repair, loss_barrier
from lotperm.science.diversity import disagreement, ensemble_accuracy, js_divergence, kl_divergence
from lotperm.science.evaluation import probabilities
from lotperm.science.matching import Matching, match_activations, match_weights
from lotperm.science.sparsity import (
    Mask,
    full_mask,
    magnitude_prune,
    prunable_parameters,
    round_sparsities,
)
from lotperm.science.statistics import interval
from lotperm.science.symmetry import PermutationSpec, permute
from lotperm.store.stages import StageResult, Store
from lotperm.store.tasks import Plain, Task, Work, chain, epoch_file, provenance
from lotperm.store.workspace import Workspace
from lotperm.studies.results import Results

Datasets = dict[DataConfig, Dataset]

ARM_NETWORKS = {"lth": "sparse_a", "permuted": "sparse_b", "naive": "sparse_b"}
"""Arm -> the name that its seeds follow: permuted and naive see the same examples in the same
order.
"""


def _plain(config: Any) -> Plain:
    """A dataclass as plain JSON data."""
    return {
        name: list(v) if isinstance(v, tuple) else v
        for name, v in dataclasses.asdict(config).items()
    }


def _pack(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One dict a replicate -> one dict of stacked tensors (M, ...)."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def _unpack(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The inverse of `_pack`."""
    members = len(next(iter(tensors.values())))
    return [{name: tensor[m] for name, tensor in tensors.items()} for m in range(members)]


def _curves(trained: Trained) -> Plain:
    """Losses and evaluations as plain JSON."""
    return {
        "train_loss": trained.train_loss,
        "evaluations": {str(epoch): metrics for epoch, metrics in trained.evaluations.items()},
    }


_CURVE_POINTS = 10
"""About so many times during a training the test split is evaluated."""


def _some(epochs: int, at_most: int) -> list[int]:
    """Evenly spaced epochs from 0, about `at_most`, the last included."""
    step = max(1, -(-epochs // at_most))
    return sorted({*range(0, epochs + 1, step), epochs})


def kept_epochs(experiment: Experiment) -> list[int]:
    """Epochs after which the dense networks' weights are kept: `Experiment.keep`, or about 40
    and the rewind epochs.
    """
    if experiment.keep is not None:
        return list(experiment.keep)
    return sorted({*_some(experiment.dense.epochs, 40), *experiment.rewind_epochs})


@dataclass(frozen=True)
class DensePair:
    """The networks A and B of every replicate.

    Attributes
    ----------
    stage : Task
        The task behind them.
    replicates : int
        Number of seeds.
    """

    stage: Task
    replicates: int

    def weights(self, epoch: int | str = "final") -> tuple[list[Weights], list[Weights]]:
        """(A, B) after an epoch that was kept, or "final": one state dict a replicate each."""
        file = epoch if isinstance(epoch, str) else epoch_file(epoch)
        states = _unpack(self.stage.load(file))
        return states[: self.replicates], states[self.replicates :]


class Pipeline:
    """The stages of one experiment in one store.

    Parameters
    ----------
    experiment : Experiment
        What to compute.
    store : Store | None, optional
        Where results are kept; None: the default store.
    runtime : Runtime | None, optional
        How to compute.
    datasets : Datasets | None, optional
        Data sets that are loaded already; what is loaded here is added, to be shared with other
        pipelines.

    Raises
    ------
    ParameterError
        If the network has no form for the data.
    """

    def __init__(
        self,
        experiment: Experiment,
        store: Store | None = None,
        runtime: Runtime | None = None,
        datasets: Datasets | None = None,
    ) -> None:
        self.experiment = experiment
        self.store = store or Store.default()
        self.runtime = runtime or Runtime()
        self._datasets = {} if datasets is None else datasets
        self._tasks: dict[str, Task] = {}
        # Whether the network has a form for the data is known by shapes alone, at no cost. They
        # are asked for before: an image folder has to be listed.
        _ = self._info
        with torch.device("meta"):
            self.build()

    @cached_property
    def data(self) -> Dataset:
        """The data set, loaded when it is first needed: stages can be planned where it isn't.

        Raises
        ------
        StorageError
            If it isn't there.
        """
        config = self.experiment.data
        if config not in self._datasets:
            # What has to be made on disk, rank 0 makes.
            self._datasets[config] = distributed.in_turn(lambda: load_configured(config))
        return self._datasets[config]

    @cached_property
    def _info(self) -> Info:
        """Shape and sizes of the data. An image folder has to be looked at, if it is here."""
        config = self.experiment.data
        if config.name in IMAGE_FOLDERS:
            with contextlib.suppress(StorageError):
                of = self.data
                return Info(of.input_shape, of.classes, len(of.train), len(of.test), bytes=0)
        return info(config)

    @cached_property
    def model(self) -> nn.Module:
        """A network of the experiment's architecture, for its form; its weights mean nothing."""
        return self.build()

    @cached_property
    def spec(self) -> PermutationSpec:
        """The permutation symmetries of the network."""
        # Noise will do: data aren't needed to move a mask.
        example = torch.randn(2, *self._info.shape, generator=torch.Generator().manual_seed(0))
        spec = PermutationSpec.trace(self.model, example)
        if not spec.sizes:
            raise ParameterError(
                f"{self.experiment.model.name} has no layer of two units or more here, so there is nothing to permute. "
                "Choose a larger width or hidden."
            )
        return spec

    def build(self) -> nn.Module:
        """A new network of the experiment's architecture."""
        config, of = self.experiment.model, self._info
        return build(
            config.name,
            input_shape=of.shape,
            classes=of.classes,
            width=config.width,
            hidden=config.hidden or (1,),
        )

    def _task(
        self,
        name: str,
        config: Plain,
        compute: Callable[[Workspace], StageResult],
        label: str,
        work: Work,
        reads: Sequence[tuple[Task, Iterable[str]]] = (),
    ) -> Task:
        """A task, always the same one for the same name and configuration; `reads`: files of
        tasks before it.
        """
        files = {before.key: tuple(dict.fromkeys(names)) for before, names in reads}
        task = Task(
            name,
            config,
            tuple(before for before, _ in reads),
            files,
            label,
            work,
            self.experiment,
            self.store,
            compute,
        )
        return self._tasks.setdefault(task.key, task)

    def _work(self, networks: int, recipe: Recipe, evaluations: int = 1, matches: int = 0) -> Work:
        """The work of a training stage; `matches` pairs of networks are compared besides."""
        of = self._info
        steps = of.train // recipe.batch_size
        samples = min(of.train, self.experiment.matching.samples or of.train)
        return Work(
            networks,
            recipe.epochs,
            networks * recipe.epochs * steps * recipe.batch_size,
            networks * evaluations * of.test + 2 * matches * samples,
            kept=networks,
        )

    def _base(self) -> Plain:
        config, of = self.experiment.data, None
        if config.name in IMAGE_FOLDERS:
            with contextlib.suppress(StorageError):  # can be planned, but not computed
                of = self.data
        return {"data": identity(config, of), "model": _plain(self.experiment.model)}

    def _train(
        self,
        workspace: Workspace,
        start: Sequence[Weights],
        recipe: Recipe,
        networks: Sequence[str],
        label: str,
        **options: Any,
    ) -> Trained:
        """`train` for all replicates of some named networks; seeds follow the names."""
        seeds = [Seeds.of(network, seed) for network in networks for seed in self.experiment.seeds]
        return train(
            self.model,
            start,
            self.data,
            recipe,
            seeds,
            runtime=self.runtime,
            checkpoints=workspace,
            label=label,
            **options,
        )

    def _result(
        self, trained: Trained, files: Mapping[str, dict[str, Tensor]] | None = None
    ) -> StageResult:
        files = {**(files or {}), "final": _pack(trained.weights)}
        for epoch, states in trained.checkpoints.items():
            files[epoch_file(epoch)] = _pack(states)
        return StageResult(tensors=files, results=_curves(trained), meta=self._meta())

    def _meta(self) -> Plain:
        """How a stage is computed, for its notes."""
        meta = {
            "device": self.runtime.device,
            "threads": torch.get_num_threads(),
            "compile": self.runtime.compile,
            "ranks": distributed.world_size(),
        }
        if self.runtime.microbatch is not None:  # batch norm feels it
            meta["microbatch"] = self.runtime.microbatch
        if torch.device(self.runtime.device).type == "cuda":
            meta["gpu"] = torch.cuda.get_device_name()
        return meta

    def dense(self) -> DensePair:
        """Train A and B of every replicate, and keep their weights at some epochs
        (`kept_epochs`) for rewinding.
        """
        experiment, kept = self.experiment, kept_epochs(self.experiment)
        config = {
            **self._base(),
            "recipe": _plain(experiment.dense),
            "seeds": list(experiment.seeds),
        }
        if experiment.keep is None:
            config["also_keep"] = sorted(set(kept) - set(_some(experiment.dense.epochs, 40)))
        else:
            config["keep"] = kept

        def compute(workspace: Workspace) -> StageResult:
            _ = self.spec  # whether it can be aligned is known before it is trained
            start = [
                initialize(self.build, Seeds.of(network, seed).init)
                for network in ("dense_a", "dense_b")
                for seed in experiment.seeds
            ]
            trained = self._train(
                workspace,
                start,
                experiment.dense,
                ("dense_a", "dense_b"),
                label,
                save_at=kept,
                evaluate_at=evaluate_at,
            )
            return self._result(trained)

        evaluate_at, label = _some(experiment.dense.epochs, _CURVE_POINTS), "dense A and B"
        work = self._work(2 * len(experiment.seeds), experiment.dense, len(evaluate_at))
        work = dataclasses.replace(work, kept=work.networks * (len(kept) + 1))
        return DensePair(self._task("dense", config, compute, label, work), len(experiment.seeds))

    def imp_rounds(self, sparsity: float, rewind_epoch: int) -> list[Task]:
        """Iterative magnitude pruning of A to a sparsity: one stage a round, each with its mask
        and weights.

        The mask of a round is found before its training, so the last stage's mask is the ticket
        and its weights are IMP's own solution. Rounds that two sparsities share are computed once.
        """
        experiment, pruning = self.experiment, self.experiment.pruning
        dense = self.dense()
        rewinding = pruning.imp == "rewind"
        recipe = experiment.sparse_recipe(rewind_epoch) if rewinding else pruning.finetune
        targets = round_sparsities(sparsity, pruning.fraction)
        stages: list[Task] = []
        for number, target in enumerate(targets, 1):
            before = stages[-1] if stages else None
            label = f"IMP round {number}/{len(targets)}, sparsity {target:.3f}"
            config = {
                "dense": dense.stage.key,
                "before": before.key if before else None,
                "sparsity": target,
                "recipe": _plain(recipe),
                "rewind_epoch": rewind_epoch if rewinding else None,
                "scope": pruning.scope,
                "prunable": pruning.prunable,
            }

            def compute(
                workspace: Workspace,
                number: int = number,
                target: float = target,
                before: Task | None = before,
                label: str = label,
            ) -> StageResult:
                if before is None:
                    weights = dense.weights()[0]
                    names = prunable_parameters(self.model, pruning.prunable)
                    masks = [full_mask(w, names) for w in weights]
                else:
                    weights, masks = _unpack(before.load("final")), _unpack(before.load("mask"))
                masks = [
                    magnitude_prune(w, m, target, scope=pruning.scope)
                    for w, m in zip(weights, masks, strict=True)
                ]
                start = dense.weights(rewind_epoch)[0] if rewinding else weights
                trained = self._train(
                    workspace, start, recipe, (f"imp_{number}",), label, masks=masks
                )
                return self._result(trained, files={"mask": _pack(masks)})

            work = dataclasses.replace(
                self._work(len(experiment.seeds), recipe), masks=len(experiment.seeds)
            )
            reads = [(before, ("final", "mask"))] if before else [(dense.stage, ("final",))]
            if rewinding:
                old = (
                    ("final", epoch_file(rewind_epoch))
                    if before is None
                    else (epoch_file(rewind_epoch),)
                )
                reads = [*([] if before is None else reads), (dense.stage, old)]
            stages.append(self._task("imp", config, compute, label, work, reads))
        return stages

    def masks(self, sparsity: float, rewind_epoch: int) -> list[Mask]:
        """The ticket of every replicate: A's mask at a sparsity."""
        names = prunable_parameters(self.model, self.experiment.pruning.prunable)
        found = _unpack(self.imp_rounds(sparsity, rewind_epoch)[-1].load("mask"))
        return [{name: mask[name] for name in names} for mask in found]

    def match(self) -> list[Matching]:
        """Align A to B in every replicate, at the end of dense training."""
        return [
            Matching(permutation, scores=scores["matched"], identity_scores=scores["identity"])
            for permutation, scores in zip(*self._match_parts(), strict=True)
        ]

    def _match_parts(self) -> tuple[list[dict[str, Tensor]], list[Plain]]:
        stage = self.match_stage()
        return _unpack(stage.load("permutation")), stage.results["scores"]

    def match_stage(self) -> Task:
        """The stage behind `match`."""
        config = self.experiment.matching
        dense = self.dense()
        key = {"dense": dense.stage.key, **_plain(config)}
        if config.matching == "weight":
            # What the weights decide doesn't depend on how many examples there are.
            key = {"dense": dense.stage.key, "matching": "weight"}

        def compute(workspace: Workspace) -> StageResult:
            found = [self.match_pair(a, b) for a, b in zip(*dense.weights(), strict=True)]
            scores = [{"matched": m.scores, "identity": m.identity_scores} for m in found]
            return StageResult({"scores": scores}, {"permutation": _pack(found)}, self._meta())

        pairs = 0 if config.matching == "weight" else len(self.experiment.seeds)
        work = self._work(0, self.experiment.dense, matches=pairs)
        return self._task("match", key, compute, "match A to B", work, [(dense.stage, ["final"])])

    def match_pair(
        self, weights_a: Weights, weights_b: Weights, *, keep_correlations: bool = False
    ) -> Matching:
        """Align one A to one B as the experiment says."""
        config = self.experiment.matching
        if config.matching == "weight":
            return match_weights(weights_a, weights_b, self.spec)
        return match_activations(
            weights_a,
            weights_b,
            self.match_batches(),
            self.spec,
            points=config.points,
            keep_correlations=keep_correlations,
            device=self.runtime.device,
        )

    def match_batches(self, batch: int = 500) -> Iterable[Tensor]:
        """The training inputs that activations are compared on: normalized, not augmented (B,
        C, *spatial).
        """
        return self._batches(
            first(self.data.train, self.experiment.matching.samples), batch
        ).inputs()

    def sparse(self, sparsity: float, rewind_epoch: int) -> Task:
        """Train the three sparse arms of every replicate; weights and curves in the order arm,
        seed.
        """
        experiment = self.experiment
        dense, imp, match = (
            self.dense(),
            self.imp_rounds(sparsity, rewind_epoch)[-1],
            self.match_stage(),
        )
        recipe = experiment.sparse_recipe(rewind_epoch)
        config = {
            "dense": dense.stage.key,
            "imp": imp.key,
            "match": match.key,
            "recipe": _plain(recipe),
            "rewind_epoch": rewind_epoch,
            "arms": list(ARMS),
        }

        def compute(workspace: Workspace) -> StageResult:
            a, b = dense.weights(rewind_epoch)
            masks = _unpack(imp.load("mask"))
            moved = [permute(m, self.spec, p) for m, p in zip(masks, self.match(), strict=True)]
            start = {"lth": (a, masks), "permuted": (b, moved), "naive": (b, masks)}
            trained = self._train(
                workspace,
                [w for arm in ARMS for w in start[arm][0]],
                recipe,
                [ARM_NETWORKS[arm] for arm in ARMS],
                label,
                masks=[m for arm in ARMS for m in start[arm][1]],
                evaluate_at=evaluate_at,
            )
            return self._result(trained)

        evaluate_at = _some(recipe.epochs, _CURVE_POINTS)
        label = f"sparse arms, sparsity {sparsity:g}, k = {rewind_epoch}"
        work = self._work(len(ARMS) * len(experiment.seeds), recipe, len(evaluate_at))
        reads = [
            (dense.stage, [epoch_file(rewind_epoch)]),
            (imp, ["mask"]),
            (match, ["permutation"]),
        ]
        return self._task("sparse", config, compute, label, work, reads)

    def early_matching(
        self, sparsity: float, rewind_epoch: int, epochs: Sequence[int]
    ) -> pd.DataFrame:
        """How good is a permutation that is found before B's training has ended? (The paper's
        table of early matching.)

        A, fully trained, is matched to B as it was after each of the `epochs`, which dense
        training must have kept; one arm "permuted" is trained with each mask, beside the same
        examples as in `sparse`.

        Parameters
        ----------
        sparsity, rewind_epoch : float
            Of the mask and the arms.
        epochs : Sequence[int]
            t, each at most the last epoch of dense training.

        Returns
        -------
        DataFrame
            One row per seed, matching epoch and metric (``test_accuracy``, a fraction; ``score``,
            the mean correlation of the matched units): columns seed, matching_epoch, metric,
            value.
        """
        experiment = self.experiment
        task = self.early_task(sparsity, rewind_epoch, epochs)
        last = str(experiment.sparse_recipe(rewind_epoch).epochs)
        accuracy = task.results["evaluations"][last]["accuracy"]
        rows = []
        for i, (t, seed) in enumerate((t, s) for t in epochs for s in experiment.seeds):
            for metric, values in (("test_accuracy", accuracy), ("score", task.results["scores"])):
                rows.append(
                    {"seed": seed, "matching_epoch": t, "metric": metric, "value": values[i]}
                )
        return pd.DataFrame(rows)

    def early_task(self, sparsity: float, rewind_epoch: int, epochs: Sequence[int]) -> Task:
        """The task behind `early_matching`."""
        experiment, kept = self.experiment, kept_epochs(self.experiment)
        for t in epochs:
            if not 0 <= t <= experiment.dense.epochs:
                raise ParameterError(
                    f"matching epoch {t} isn't within training: expected 0 <= t <= {experiment.dense.epochs}."
                )
            if t not in kept:
                raise ParameterError(
                    f"matching epoch {t} isn't kept; kept are {', '.join(map(str, kept))}."
                )
        dense, imp = self.dense(), self.imp_rounds(sparsity, rewind_epoch)[-1]
        recipe = experiment.sparse_recipe(rewind_epoch)
        config = {
            "dense": dense.stage.key,
            "imp": imp.key,
            "matching": _plain(experiment.matching),
            "recipe": _plain(recipe),
            "rewind_epoch": rewind_epoch,
            "epochs": list(epochs),
        }

        def compute(workspace: Workspace) -> StageResult:
            finals, start = dense.weights()[0], dense.weights(rewind_epoch)[1]
            masks = _unpack(imp.load("mask"))
            moved, scores = [], []
            for t in epochs:
                found = [
                    self.match_pair(a, b) for a, b in zip(finals, dense.weights(t)[1], strict=True)
                ]
                moved += [permute(m, self.spec, p) for m, p in zip(masks, found, strict=True)]
                scores += [sum(m.scores.values()) / len(m.scores) for m in found]
            trained = self._train(
                workspace,
                start * len(epochs),
                recipe,
                ("sparse_b",) * len(epochs),
                label,
                masks=moved,
            )
            return dataclasses.replace(
                self._result(trained), results={**_curves(trained), "scores": scores}
            )

        label = f"early matching, sparsity {sparsity:g}, k = {rewind_epoch}"
        networks = len(epochs) * len(experiment.seeds)
        work = self._work(networks, recipe, matches=networks)
        reads = [
            (dense.stage, ["final", *map(epoch_file, (rewind_epoch, *epochs))]),
            (imp, ["mask"]),
        ]
        return self._task("early", config, compute, label, work, reads)

    def diversity(self, sparsity: float, rewind_epoch: int) -> pd.DataFrame:
        """How different are the networks that a method makes, and what does their ensemble gain?
        (The paper's Table 1.)

        One member a seed. **dense**: the networks B. **imp**: each seed's own A with its own mask.
        The other rows use a single mask, that of the first seed's A: **lth** trains this A from
        its rewind point with several orders of the examples, **naive** and **permuted** train
        every seed's B, the latter with the mask permuted to that B.

        Returns
        -------
        DataFrame
            One row per method: method, mean and half_width of the members' test accuracy (95 %),
            spread (their standard deviation), ensemble_accuracy (of the mean probabilities),
            disagreement (fractions), kl and js (nats), members.

        Raises
        ------
        ParameterError
            With fewer than two seeds.
        """
        return pd.DataFrame(self.diversity_task(sparsity, rewind_epoch).results["rows"])

    def diversity_task(self, sparsity: float, rewind_epoch: int) -> Task:
        """The task behind `diversity`."""
        experiment, seeds = self.experiment, self.experiment.seeds
        if len(seeds) < 2:
            raise ParameterError(
                "diversity compares networks with each other: give two seeds or more."
            )
        dense, imp = self.dense(), self.imp_rounds(sparsity, rewind_epoch)[-1]
        arms = self.sparse(sparsity, rewind_epoch)
        recipe = experiment.sparse_recipe(rewind_epoch)
        config = {
            "dense": dense.stage.key,
            "imp": imp.key,
            "arms": arms.key,
            "recipe": _plain(recipe),
            "matching": _plain(experiment.matching),
            "rewind_epoch": rewind_epoch,
        }

        def compute(workspace: Workspace) -> StageResult:
            count = len(seeds)
            final_a, final_b = dense.weights()
            start_a, start_b = dense.weights(rewind_epoch)
            mask = _unpack(imp.load("mask"))[0]
            moved = [permute(mask, self.spec, self.match_pair(final_a[0], b)) for b in final_b]
            trained = self._train(
                workspace,
                [start_a[0]] * count + start_b * 2,
                recipe,
                ("ensemble_a", "sparse_b", "sparse_b"),
                label,
                masks=[mask] * count + moved + [mask] * count,
            )
            groups = {
                "dense": final_b,
                "imp": _unpack(arms.load("final"))[:count],
                "lth": trained.weights[:count],
                "permuted": trained.weights[count : 2 * count],
                "naive": trained.weights[2 * count :],
            }
            rows = [
                {"method": method, **self._diversity(members)} for method, members in groups.items()
            ]
            return dataclasses.replace(self._result(trained), results={"rows": rows})

        label = f"diversity, sparsity {sparsity:g}, k = {rewind_epoch}"
        # Every row's members predict the test split once more.
        work = self._work(3 * len(seeds), recipe, evaluations=3, matches=len(seeds))
        reads = [
            (dense.stage, ["final", epoch_file(rewind_epoch)]),
            (imp, ["mask"]),
            (arms, ["final"]),
        ]
        return self._task("diversity", config, compute, label, work, reads)

    def _diversity(self, members: Sequence[Weights]) -> Plain:
        targets = self.data.test.targets.cpu()
        probs = np.stack(
            [
                probabilities(self._network(weights), self._batches(self.data.test).inputs())
                for weights in members
            ]
        )
        accuracy = (probs.argmax(2) == targets.numpy()).mean(1)
        mean, half_width = interval(accuracy)
        return {
            "mean": mean,
            "half_width": half_width,
            "spread": float(accuracy.std(ddof=1)),
            "ensemble_accuracy": ensemble_accuracy(probs, targets.numpy()),
            "disagreement": disagreement(probs),
            "kl": kl_divergence(probs),
            "js": js_divergence(probs),
            "members": len(members),
        }

    def connectivity(
        self,
        alphas: Sequence[float],
        repairs: Sequence[Repair] = REPAIRS,
        *,
        replicates: int | None = None,
        round_number: int = 0,
        statistics: int = 2_000,
    ) -> pd.DataFrame:
        """Loss and accuracy on the test split along the lines from A to B and from π(A) to B.

        Parameters
        ----------
        alphas : Sequence[float]
            Positions on the line, 0 is A.
        repairs : Sequence[Repair], optional
            What is done to the statistics of the interpolated networks (see `loss_barrier`).
        replicates : int | None, optional
            Only so many of the seeds; None: all.
        round_number : int, optional
            0 takes the dense A; r takes A after the r-th of the IMP rounds towards the first
            sparsity.
        statistics : int, optional
            Training examples for the repairs.

        Returns
        -------
        DataFrame
            Columns seed, ends ("as trained" or "permuted"), alpha, repair, loss (nats), accuracy
            (fraction).
        """
        task = self.connectivity_task(
            alphas, repairs, replicates=replicates, round_number=round_number, statistics=statistics
        )
        return pd.DataFrame(task.results["rows"]).drop(columns="split")

    def connectivity_task(
        self,
        alphas: Sequence[float],
        repairs: Sequence[Repair] = REPAIRS,
        *,
        replicates: int | None = None,
        round_number: int = 0,
        statistics: int = 2_000,
    ) -> Task:
        """The task behind `connectivity`, which says what the parameters are."""
        experiment, dense, match = self.experiment, self.dense(), self.match_stage()
        if replicates is not None and replicates < 1:
            raise ParameterError(
                f"replicates is {replicates}; expected 1 or more, or nothing for all seeds."
            )
        seeds = experiment.seeds[:replicates]
        pruned = None
        if round_number:
            rounds = self.imp_rounds(experiment.sparsities[0], experiment.rewind_epochs[0])
            pruned = rounds[round_number - 1]
        config = {
            "dense": dense.stage.key,
            "match": match.key,
            "pruned": pruned.key if pruned else None,
            "alphas": list(alphas),
            "repairs": list(repairs),
            "seeds": list(seeds),
            "statistics": statistics,
        }

        def compute(workspace: Workspace) -> StageResult:
            network = self.build().to(self.runtime.device)
            weights_a, weights_b = dense.weights()
            if pruned is not None:
                weights_a = _unpack(pruned.load("final"))
            batches = self._batches(self.data.test)
            test = batches if self.data.streamed else list(batches)
            inputs = list(self._batches(first(self.data.train, statistics)).inputs())
            rows = []
            for i, (seed, permutation) in enumerate(zip(seeds, self.match(), strict=False)):
                moved = permute(weights_a[i], self.spec, permutation)
                for ends, a in (("as trained", weights_a[i]), ("permuted", moved)):
                    for repair in repairs:
                        curve = loss_barrier(
                            network,
                            a,
                            weights_b[i],
                            {"test": test},
                            alphas,
                            repair=repair,
                            statistics=inputs,
                        )
                        rows += [
                            {"seed": seed, "ends": ends, **row} for row in curve.to_dict("records")
                        ]
            return StageResult({"rows": rows}, {}, self._meta())

        lines = 2 * len(seeds) * len(alphas)
        repaired = sum(repair != "none" for repair in repairs)
        images = lines * (len(repairs) * info(experiment.data).test + repaired * statistics)
        reads = [
            (dense.stage, ["final"]),
            (match, ["permutation"]),
            *([(pruned, ["final"])] if pruned else []),
        ]
        work = Work(forward_images=images)
        return self._task(
            "connectivity", config, compute, "loss along the line from A to B", work, reads
        )

    def _network(self, weights: Weights) -> nn.Module:
        model = self.build().to(self.runtime.device)
        model.load_state_dict(weights)
        return model

    def _batches(self, split: Split, size: int = 500) -> Batches:
        return Batches(self.data, split, size, self.runtime.readers)

    def tasks(self) -> list[Task]:
        """The tasks behind `run`, in an order in which they can be computed; nothing is
        computed by asking.
        """
        e = self.experiment
        return chain(self.sparse(sparsity, k) for sparsity in e.sparsities for k in e.rewind_epochs)

    def run(self) -> Results:
        """Compute or load every stage and gather the results."""
        rows: list[Plain] = []
        curves: list[Plain] = []
        seeds = self.experiment.seeds

        def gather(stage: Task, methods: Sequence[str], sparsity: float, k: int | None) -> None:
            evaluations = {int(e): metrics for e, metrics in stage.results["evaluations"].items()}
            last = max(evaluations)
            for i, (method, seed) in enumerate((m, s) for m in methods for s in seeds):
                who = {"seed": seed, "method": method, "sparsity": sparsity, "rewind_epoch": k}
                for metric in evaluations[last]:
                    rows.append(
                        {**who, "metric": f"test_{metric}", "value": evaluations[last][metric][i]}
                    )
                    for epoch, metrics in sorted(evaluations.items()):
                        row = {
                            **who,
                            "epoch": epoch,
                            "metric": f"test_{metric}",
                            "value": metrics[metric][i],
                        }
                        curves.append(row)
                for epoch, losses in enumerate(stage.results["train_loss"], 1):
                    curves.append(
                        {**who, "epoch": epoch, "metric": "train_loss", "value": losses[i]}
                    )

        gather(self.dense().stage, ("dense_a", "dense_b"), 0.0, None)
        for sparsity in self.experiment.sparsities:
            for k in self.experiment.rewind_epochs:
                gather(self.sparse(sparsity, k), ARMS, sparsity, k)
                gather(self.imp_rounds(sparsity, k)[-1], ("imp",), sparsity, k)
        table, curve_table = pd.DataFrame(rows), pd.DataFrame(curves)
        for frame in (table, curve_table):
            frame["rewind_epoch"] = frame["rewind_epoch"].astype("Int64")
        return Results(self.experiment, table, curve_table, provenance(self.tasks()))


def run(
    experiment: Experiment, store: Store | None = None, runtime: Runtime | None = None
) -> Results:
    """Run an experiment, or load what the store has of it (idempotent and resumable).

    Parameters
    ----------
    experiment : Experiment
        What to compute.
    store : Store | None, optional
        Where stages are kept; None: ``$LOTPERM_HOME``, else ``.lotperm`` here.
    runtime : Runtime | None, optional
        Device, compilation, progress bars.
    """
    return Pipeline(experiment, store, runtime).run()
