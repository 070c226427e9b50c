"""The stages of an experiment and their graph:

    dense A, dense B ─┬─> imp rounds (A) ──> mask ──┐
                      └─> match A to B ─────────────┴─> sparse arms: lth, permuted, naive ──> results

Every stage is a `lotperm.store` stage: keyed by its configuration and the keys of the stages before it, computed
once, shared by every figure that needs it. All replicates (seeds) of a stage are trained together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lotperm.config import ARMS, Experiment, Recipe, Seeds
from lotperm.data import Dataset, load, normalize
from lotperm.errors import ParameterError
from lotperm.evaluation import (
    REPAIRS,
    Repair,
    disagreement,
    ensemble_accuracy,
    gap_closed,
    interval,
    js_divergence,
    kl_divergence,
    loss_barrier,
    paired,
    probabilities,
)
from lotperm.masks import Mask, full_mask, magnitude_prune, prunable_parameters, round_sparsities
from lotperm.matching import Matching, match_activations, match_weights
from lotperm.models import Weights, build, initialize
from lotperm.permutation import PermutationSpec, permute
from lotperm.store import Stage, StageResult, Store, Workspace, seal, write_atomic
from lotperm.training import Runtime, Trained, train

Plain = dict[str, Any]


def _plain(config: Any) -> Plain:
    """A dataclass as plain JSON data."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(config).items()}


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


def _some(epochs: int, at_most: int) -> list[int]:
    """Evenly spaced epochs from 0, about `at_most`, the last included."""
    step = max(1, -(-epochs // at_most))
    return sorted({*range(0, epochs + 1, step), epochs})


@dataclass(frozen=True)
class DensePair:
    """The networks A and B of every replicate.

    Attributes
    ----------
    stage : where they are stored
    replicates : number of seeds
    """

    stage: Stage
    replicates: int

    def weights(self, epoch: int | str = "final") -> tuple[list[Weights], list[Weights]]:
        """(A, B) after an epoch that was kept, or "final": one state dict a replicate each."""
        file = "final" if epoch == "final" else f"epoch-{epoch:04d}"
        states = _unpack(self.stage.load(file))
        return states[: self.replicates], states[self.replicates :]


class Pipeline:
    """The stages of one experiment in one store.

    Parameters
    ----------
    experiment : what to compute
    store : where results are kept; None: the default store
    runtime : how to compute

    Raises
    ------
    ParameterError, StorageError
        If the network has no form for the data, or the data set isn't there: before anything trains.
    """

    def __init__(
        self, experiment: Experiment, store: Store | None = None, runtime: Runtime | None = None
    ) -> None:
        self.experiment = experiment
        self.store = store or Store.default()
        self.runtime = runtime or Runtime()
        self.model = self.build()

    @cached_property
    def data(self) -> Dataset:
        """The data set, loaded when it is first needed."""
        config = self.experiment.data
        return load(config.name, train_size=config.train_size, test_size=config.test_size)

    @cached_property
    def spec(self) -> PermutationSpec:
        """The permutation symmetries of the network."""
        example = normalize(self.data.train.inputs[:2], self.data)
        return PermutationSpec.trace(self.model, example)

    def build(self) -> nn.Module:
        """A new network of the experiment's architecture."""
        config = self.experiment.model
        return build(
            config.name, input_shape=self.data.input_shape, classes=self.data.classes, width=config.width,
            hidden=config.hidden or (1,),
        )  # fmt: skip

    # --- stages -------------------------------------------------------------------------------------

    def _base(self) -> Plain:
        return {"data": _plain(self.experiment.data), "model": _plain(self.experiment.model)}

    def _train(self, workspace: Workspace, start: Sequence[Weights], recipe: Recipe, networks: Sequence[str],
               label: str, **options: Any) -> Trained:  # fmt: skip
        """`train` for all replicates of some named networks; seeds follow the names."""
        seeds = [Seeds.of(network, seed) for network in networks for seed in self.experiment.seeds]
        return train(
            self.model, start, self.data, recipe, seeds, runtime=self.runtime, checkpoints=workspace, label=label,
            **options,
        )  # fmt: skip

    def _result(self, trained: Trained, files: Mapping[str, dict[str, Tensor]] | None = None) -> StageResult:
        files = {**(files or {}), "final": _pack(trained.weights)}
        for epoch, states in trained.checkpoints.items():
            files[f"epoch-{epoch:04d}"] = _pack(states)
        return StageResult(
            tensors=files, results=_curves(trained),
            meta={"device": self.runtime.device, "threads": torch.get_num_threads(), "compile": self.runtime.compile},
        )  # fmt: skip

    def dense(self) -> DensePair:
        """Train A and B of every replicate, and keep their weights at about 40 epochs for rewinding."""
        experiment = self.experiment
        grid = _some(experiment.dense.epochs, 40)
        odd = sorted(set(experiment.rewind_epochs) - set(grid))
        config = {
            **self._base(),
            "recipe": _plain(experiment.dense),
            "seeds": list(experiment.seeds),
            "also_keep": odd,
        }

        def compute(workspace: Workspace) -> StageResult:
            start = [
                initialize(self.build, Seeds.of(network, seed).init)
                for network in ("dense_a", "dense_b")
                for seed in experiment.seeds
            ]
            trained = self._train(
                workspace, start, experiment.dense, ("dense_a", "dense_b"), "dense A and B",
                save_at=[*grid, *odd], evaluate_at=_some(experiment.dense.epochs, 20),
            )  # fmt: skip
            return self._result(trained)

        return DensePair(self.store.stage("dense", config, compute), len(experiment.seeds))

    def imp_rounds(self, sparsity: float, rewind_epoch: int) -> list[Stage]:
        """Iterative magnitude pruning of A to a sparsity: one stage a round, each with its mask and weights.

        The mask of a round is found before its training, so the last stage's mask is the ticket and its weights
        are IMP's own solution. Rounds that two sparsities share are computed once.
        """
        experiment, pruning = self.experiment, self.experiment.pruning
        dense = self.dense()
        rewinding = pruning.imp == "rewind"
        recipe = experiment.sparse_recipe(rewind_epoch) if rewinding else pruning.finetune
        targets = round_sparsities(sparsity, pruning.fraction)
        stages: list[Stage] = []
        for number, target in enumerate(targets, 1):
            before = stages[-1] if stages else None
            config = {
                "dense": dense.stage.key, "before": before.key if before else None, "sparsity": target,
                "recipe": _plain(recipe), "rewind_epoch": rewind_epoch if rewinding else None,
                "scope": pruning.scope, "prunable": pruning.prunable,
            }  # fmt: skip

            def compute(
                workspace: Workspace,
                number: int = number,
                target: float = target,
                before: Stage | None = before,
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
                label = f"IMP round {number}/{len(targets)}, sparsity {target:.3f}"
                trained = self._train(workspace, start, recipe, (f"imp_{number}",), label, masks=masks)
                return self._result(trained, files={"mask": _pack(masks)})

            stages.append(self.store.stage("imp", config, compute))
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

    def match_stage(self) -> Stage:
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
            return StageResult(tensors={"permutation": _pack(found)}, results={"scores": scores})

        return self.store.stage("match", key, compute)

    def match_pair(
        self, weights_a: Weights, weights_b: Weights, *, keep_correlations: bool = False
    ) -> Matching:
        """Align one A to one B as the experiment says."""
        config = self.experiment.matching
        if config.matching == "weight":
            return match_weights(weights_a, weights_b, self.spec)
        return match_activations(
            weights_a, weights_b, self.match_batches(), self.spec, points=config.points,
            keep_correlations=keep_correlations, device=self.runtime.device,
        )  # fmt: skip

    def match_batches(self, batch: int = 500) -> Iterable[Tensor]:
        """The training inputs that activations are compared on: normalized, not augmented (B, C, *spatial)."""
        inputs = self.data.train.inputs[: self.experiment.matching.samples]
        return (normalize(part, self.data) for part in inputs.split(batch))

    def sparse(self, sparsity: float, rewind_epoch: int) -> Stage:
        """Train the three sparse arms of every replicate; weights and curves in the order arm, seed."""
        experiment = self.experiment
        dense, imp, match = self.dense(), self.imp_rounds(sparsity, rewind_epoch)[-1], self.match_stage()
        recipe = experiment.sparse_recipe(rewind_epoch)
        config = {
            "dense": dense.stage.key, "imp": imp.key, "match": match.key, "recipe": _plain(recipe),
            "rewind_epoch": rewind_epoch, "arms": list(ARMS),
        }  # fmt: skip

        def compute(workspace: Workspace) -> StageResult:
            a, b = dense.weights(rewind_epoch)
            masks = _unpack(imp.load("mask"))
            moved = [permute(m, self.spec, p) for m, p in zip(masks, self.match(), strict=True)]
            start = {"lth": (a, masks), "permuted": (b, moved), "naive": (b, masks)}
            # Permuted and naive differ in the mask alone: same weights, same order of the same examples.
            trained = self._train(
                workspace, [w for arm in ARMS for w in start[arm][0]], recipe, ("sparse_a", "sparse_b", "sparse_b"),
                f"sparse arms, sparsity {sparsity:g}, k = {rewind_epoch}",
                masks=[m for arm in ARMS for m in start[arm][1]], evaluate_at=_some(recipe.epochs, 20),
            )  # fmt: skip
            return self._result(trained)

        return self.store.stage("sparse", config, compute)

    # --- further questions --------------------------------------------------------------------------

    def early_matching(self, sparsity: float, rewind_epoch: int, epochs: Sequence[int]) -> pd.DataFrame:
        """How good is a permutation that is found before B's training has ended? (The paper's table of early matching.)

        A, fully trained, is matched to B as it was after each of the `epochs`, which dense training must have kept;
        one arm "permuted" is trained with each mask, beside the same examples as in `sparse`.

        Parameters
        ----------
        sparsity, rewind_epoch : of the mask and the arms
        epochs : t, each at most the last epoch of dense training

        Returns
        -------
        DataFrame
            One row per seed, matching epoch and metric (``test_accuracy``, a fraction; ``score``, the mean correlation
            of the matched units): columns seed, matching_epoch, metric, value.
        """
        experiment = self.experiment
        for t in epochs:
            if not 0 <= t <= experiment.dense.epochs:
                raise ParameterError(
                    f"matching epoch {t} isn't within training: expected 0 <= t <= {experiment.dense.epochs}."
                )
        dense, imp = self.dense(), self.imp_rounds(sparsity, rewind_epoch)[-1]
        recipe = experiment.sparse_recipe(rewind_epoch)
        config = {
            "dense": dense.stage.key, "imp": imp.key, "matching": _plain(experiment.matching),
            "recipe": _plain(recipe), "rewind_epoch": rewind_epoch, "epochs": list(epochs),
        }  # fmt: skip

        def compute(workspace: Workspace) -> StageResult:
            finals, start = dense.weights()[0], dense.weights(rewind_epoch)[1]
            masks = _unpack(imp.load("mask"))
            moved, scores = [], []
            for t in epochs:
                found = [self.match_pair(a, b) for a, b in zip(finals, dense.weights(t)[1], strict=True)]
                moved += [permute(m, self.spec, p) for m, p in zip(masks, found, strict=True)]
                scores += [sum(m.scores.values()) / len(m.scores) for m in found]
            trained = self._train(
                workspace, start * len(epochs), recipe, ("sparse_b",) * len(epochs),
                f"early matching, sparsity {sparsity:g}, k = {rewind_epoch}", masks=moved,
            )  # fmt: skip
            return dataclasses.replace(self._result(trained), results={**_curves(trained), "scores": scores})

        stage = self.store.stage("early", config, compute)
        accuracy = stage.results["evaluations"][str(recipe.epochs)]["accuracy"]
        rows = []
        for i, (t, seed) in enumerate((t, s) for t in epochs for s in experiment.seeds):
            for metric, values in (("test_accuracy", accuracy), ("score", stage.results["scores"])):
                rows.append({"seed": seed, "matching_epoch": t, "metric": metric, "value": values[i]})
        return pd.DataFrame(rows)

    def diversity(self, sparsity: float, rewind_epoch: int) -> pd.DataFrame:
        """How different are the networks that a method makes, and what does their ensemble gain? (The paper's Table 1.)

        One member a seed. **dense**: the networks B. **imp**: each seed's own A with its own mask. The other rows use a
        single mask, that of the first seed's A: **lth** trains this A from its rewind point with several orders of the
        examples, **naive** and **permuted** train every seed's B, the latter with the mask permuted to that B.

        Returns
        -------
        DataFrame
            One row per method: method, mean and half_width of the members' test accuracy (95 %), spread (their
            standard deviation), ensemble_accuracy (of the mean probabilities), disagreement (fractions), kl and js
            (nats), members.

        Raises
        ------
        ParameterError
            With fewer than two seeds.
        """
        experiment, seeds = self.experiment, self.experiment.seeds
        if len(seeds) < 2:
            raise ParameterError("diversity compares networks with each other: give two seeds or more.")
        dense, imp = self.dense(), self.imp_rounds(sparsity, rewind_epoch)[-1]
        arms = self.sparse(sparsity, rewind_epoch)
        recipe = experiment.sparse_recipe(rewind_epoch)
        config = {
            "dense": dense.stage.key, "imp": imp.key, "arms": arms.key, "recipe": _plain(recipe),
            "matching": _plain(experiment.matching), "rewind_epoch": rewind_epoch,
        }  # fmt: skip

        def compute(workspace: Workspace) -> StageResult:
            count = len(seeds)
            final_a, final_b = dense.weights()
            start_a, start_b = dense.weights(rewind_epoch)
            mask = _unpack(imp.load("mask"))[0]
            moved = [permute(mask, self.spec, self.match_pair(final_a[0], b)) for b in final_b]
            trained = self._train(
                workspace, [start_a[0]] * count + start_b * 2, recipe, ("ensemble_a", "sparse_b", "sparse_b"),
                f"diversity, sparsity {sparsity:g}, k = {rewind_epoch}", masks=[mask] * count + moved + [mask] * count,
            )  # fmt: skip
            groups = {
                "dense": final_b, "imp": _unpack(arms.load("final"))[:count], "lth": trained.weights[:count],
                "permuted": trained.weights[count : 2 * count], "naive": trained.weights[2 * count :],
            }  # fmt: skip
            rows = [{"method": method, **self._diversity(members)} for method, members in groups.items()]
            return dataclasses.replace(self._result(trained), results={"rows": rows})

        return pd.DataFrame(self.store.stage("diversity", config, compute).results["rows"])

    def _diversity(self, members: Sequence[Weights]) -> Plain:
        targets = self.data.test.targets.cpu()
        probs = np.stack([probabilities(self._network(weights), self._test_inputs()) for weights in members])
        accuracy = (probs.argmax(2) == targets.numpy()).mean(1)
        mean, half_width = interval(accuracy)
        return {
            "mean": mean, "half_width": half_width, "spread": float(accuracy.std(ddof=1)),
            "ensemble_accuracy": ensemble_accuracy(probs, targets.numpy()), "disagreement": disagreement(probs),
            "kl": kl_divergence(probs), "js": js_divergence(probs), "members": len(members),
        }  # fmt: skip

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
        alphas : positions on the line, 0 is A
        repairs : what is done to the statistics of the interpolated networks (see `loss_barrier`)
        replicates : only so many of the seeds; None: all
        round_number : 0 takes the dense A; r takes A after the r-th of the IMP rounds towards the first sparsity
        statistics : training examples for the repairs

        Returns
        -------
        DataFrame
            Columns seed, ends ("as trained" or "permuted"), alpha, repair, loss (nats), accuracy (fraction).
        """
        experiment, dense, match = self.experiment, self.dense(), self.match_stage()
        seeds = experiment.seeds[:replicates]
        pruned = None
        if round_number:
            rounds = self.imp_rounds(experiment.sparsities[0], experiment.rewind_epochs[0])
            pruned = rounds[round_number - 1]
        config = {
            "dense": dense.stage.key, "match": match.key, "pruned": pruned.key if pruned else None,
            "alphas": list(alphas), "repairs": list(repairs), "seeds": list(seeds), "statistics": statistics,
        }  # fmt: skip

        def compute(workspace: Workspace) -> StageResult:
            network = self.build().to(self.runtime.device)
            weights_a, weights_b = dense.weights()
            if pruned is not None:
                weights_a = _unpack(pruned.load("final"))
            test = list(zip(self._test_inputs(), self.data.test.targets.split(500), strict=True))
            inputs = normalize(self.data.train.inputs[:statistics], self.data).split(500)
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
                        rows += [{"seed": seed, "ends": ends, **row} for row in curve.to_dict("records")]
            return StageResult(tensors={}, results={"rows": rows})

        frame = pd.DataFrame(self.store.stage("connectivity", config, compute).results["rows"])
        return frame.drop(columns="split")

    def _network(self, weights: Weights) -> nn.Module:
        model = self.build().to(self.runtime.device)
        model.load_state_dict(weights)
        return model

    def _test_inputs(self, batch: int = 500) -> list[Tensor]:
        return [normalize(part, self.data) for part in self.data.test.inputs.split(batch)]

    # --- results ------------------------------------------------------------------------------------

    def run(self) -> Results:
        """Compute or load every stage and gather the results."""
        rows: list[Plain] = []
        curves: list[Plain] = []
        used: dict[str, Plain] = {}
        seeds = self.experiment.seeds

        def gather(stage: Stage, methods: Sequence[str], sparsity: float, k: int | None) -> None:
            used[stage.key] = {"stage": stage.name, "key": stage.key, **stage.meta}
            evaluations = {int(e): metrics for e, metrics in stage.results["evaluations"].items()}
            last = max(evaluations)
            for i, (method, seed) in enumerate((m, s) for m in methods for s in seeds):
                who = {"seed": seed, "method": method, "sparsity": sparsity, "rewind_epoch": k}
                for metric in ("accuracy", "loss"):
                    rows.append({**who, "metric": f"test_{metric}", "value": evaluations[last][metric][i]})
                    for epoch, metrics in sorted(evaluations.items()):
                        row = {**who, "epoch": epoch, "metric": f"test_{metric}", "value": metrics[metric][i]}
                        curves.append(row)
                for epoch, losses in enumerate(stage.results["train_loss"], 1):
                    curves.append({**who, "epoch": epoch, "metric": "train_loss", "value": losses[i]})

        gather(self.dense().stage, ("dense_a", "dense_b"), 0.0, None)
        for sparsity in self.experiment.sparsities:
            for k in self.experiment.rewind_epochs:
                gather(self.sparse(sparsity, k), ARMS, sparsity, k)
                gather(self.imp_rounds(sparsity, k)[-1], ("imp",), sparsity, k)
        table, curve_table = pd.DataFrame(rows), pd.DataFrame(curves)
        for frame in (table, curve_table):
            frame["rewind_epoch"] = frame["rewind_epoch"].astype("Int64")
        return Results(self.experiment, table, curve_table, list(used.values()))


@dataclass(frozen=True)
class Results:
    """What an experiment found, as tidy tables; fractions and nats.

    Attributes
    ----------
    experiment : what was run
    table : one row per seed, method, sparsity, rewind epoch and metric (``test_accuracy``, ``test_loss``)
    curves : the same with a column ``epoch`` of training, and metric ``train_loss``
    stages : name, key and meta (device, versions, source hash, seconds, …) of every stage behind the tables
    """

    experiment: Experiment
    table: pd.DataFrame
    curves: pd.DataFrame
    stages: list[Plain]

    def values(
        self, method: str, sparsity: float, rewind_epoch: int | None, metric: str = "test_accuracy"
    ) -> pd.Series:
        """One value a seed, indexed by seed."""
        t = self.table
        at_k = t["rewind_epoch"].isna() if rewind_epoch is None else t["rewind_epoch"] == rewind_epoch
        chosen = t[(t["method"] == method) & (t["sparsity"] == sparsity) & at_k & (t["metric"] == metric)]
        return chosen.set_index("seed")["value"]

    def summary(self) -> pd.DataFrame:
        """Mean test accuracy of every method with the half width of its 95 % interval over seeds."""
        rows = []
        accuracy = self.table[self.table["metric"] == "test_accuracy"]
        keys = ["sparsity", "rewind_epoch", "method"]
        for key, group in accuracy.groupby(keys, dropna=False, sort=False):
            mean, half = interval(group["value"].to_numpy())
            rows.append(
                {**dict(zip(keys, key, strict=True)), "mean": mean, "half_width": half, "seeds": len(group)}
            )
        return pd.DataFrame(rows)

    def comparisons(self) -> pd.DataFrame:
        """Paired differences between the arms, with p-values, and the gap that permuting closes.

        Returns
        -------
        DataFrame
            One row per sparsity, rewind epoch and comparison: ``permuted - naive``, ``lth - permuted``,
            ``lth - naive`` (mean, half_width, p_value of a two-sided paired t-test) and ``gap closed`` =
            (permuted - naive)/(lth - naive), mean of the seeds (no p-value).
        """
        rows = []
        for sparsity in self.experiment.sparsities:
            for k in self.experiment.rewind_epochs:
                arms = {arm: self.values(arm, sparsity, k).sort_index().to_numpy() for arm in ARMS}
                at = {"sparsity": sparsity, "rewind_epoch": k}
                for a, b in (("permuted", "naive"), ("lth", "permuted"), ("lth", "naive")):
                    difference = paired(arms[a], arms[b])
                    rows.append({**at, "comparison": f"{a} - {b}", **difference._asdict()})
                closed = gap_closed(arms["lth"], arms["naive"], arms["permuted"])
                rows.append(
                    {**at, "comparison": "gap closed", "mean": closed.mean, "half_width": closed.half_width}
                )
        return pd.DataFrame(rows)

    def markdown(self) -> str:
        """Summary, comparisons and provenance as a page of Markdown; percent and points."""
        e = self.experiment
        lines = [
            f"# {e.data.name}, {e.model.name}, profile {e.profile}",
            "",
            f"Test accuracy in percent and differences in points: mean ± half width of the 95 % interval over "
            f"{len(e.seeds)} seeds.",
            "",
            "| sparsity | rewind epoch | method | accuracy |",
            "| --- | --- | --- | --- |",
        ]
        for row in self.summary().to_dict("records"):
            k = "–" if pd.isna(row["rewind_epoch"]) else row["rewind_epoch"]
            lines.append(f"| {row['sparsity']:g} | {k} | {row['method']} | {_percent(row)} |")
        lines += [
            "",
            "| sparsity | rewind epoch | comparison | difference | p |",
            "| --- | --- | --- | --- | --- |",
        ]
        for row in self.comparisons().to_dict("records"):
            p = "" if pd.isna(row["p_value"]) else f"{row['p_value']:.2g}"
            words = "gap closed (percent)" if row["comparison"] == "gap closed" else row["comparison"]
            lines.append(f"| {row['sparsity']:g} | {row['rewind_epoch']} | {words} | {_percent(row)} | {p} |")
        how = self.stages[-1]
        seconds = sum(stage["seconds"] for stage in self.stages)
        lines += [
            "",
            "p: two-sided paired t-test over seeds. gap closed: (permuted − naive) / (lth − naive), mean over seeds.",
            f"Computed on {how['device']} with {how['threads']} threads, PyTorch {how['versions']['torch']}, in "
            f"{seconds:,.0f} s for the stages listed in results.json; source {how['source'][:12]}.",
        ]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path | str) -> None:
        """Write ``results.csv``, ``curves.csv``, ``results.json`` (configuration, provenance) and ``summary.md``."""
        folder = Path(folder)
        files = {"summary.md": self.markdown().encode()}
        for name, frame in (("results", self.table), ("curves", self.curves)):
            files[f"{name}.csv"] = frame.to_csv(index=False, lineterminator="\n").encode()
        content = {
            "experiment": self.experiment.to_dict(),
            "summary": _records(self.summary()),
            "comparisons": _records(self.comparisons()),
            "stages": self.stages,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        # It comes last and names the others' checksums: files of two runs are never taken for one.
        for name, data in {**files, "results.json": seal(content)}.items():
            write_atomic(folder / name, data)


def _percent(row: Mapping[Any, Any]) -> str:
    return f"{100 * row['mean']:.2f} ± {100 * row['half_width']:.2f}"


def _records(frame: pd.DataFrame) -> list[Plain]:
    """Rows as plain JSON data; what is missing or NaN becomes null."""
    records: list[Plain] = json.loads(frame.to_json(orient="records", double_precision=15))
    return records


def run(experiment: Experiment, store: Store | None = None, runtime: Runtime | None = None) -> Results:
    """Run an experiment, or load what the store has of it (idempotent and resumable).

    Parameters
    ----------
    experiment : what to compute
    store : where stages are kept; None: ``$LOTPERM_HOME``, else ``.lotperm`` here
    runtime : device, compilation, progress bars
    """
    return Pipeline(experiment, store, runtime).run()
