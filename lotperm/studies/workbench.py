"""Workbenches: an experiment with its networks, data, store and runtime, to make its stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lotperm.config.experiment import Experiment, Recipe
from lotperm.config.seeds import Seeds
from lotperm.engine import bfloat16
from lotperm.engine.models import Weights
from lotperm.engine.runtime import Runtime
from lotperm.engine.training import Trained, train
from lotperm.parallel import distributed
from lotperm.store.stages import StageResult, Store
from lotperm.store.tasks import Plain, Source, Task, Work, epoch_file, pack
from lotperm.store.workspace import Workspace
from lotperm.studies.subject import Datasets, Subject


def spaced_epochs(epochs: int, at_most: int) -> list[int]:
    """List evenly spaced epochs from 0, about `at_most` of them, the last one included."""
    # Rounded up: a shorter step would give more epochs than were asked for.
    step = max(1, -(-epochs // at_most))
    return sorted({*range(0, epochs + 1, step), epochs})


class Workbench(Subject):
    """Everything that the stages of one experiment share.

    Parameters
    ----------
    experiment : Experiment
        What to compute.
    store : Store, optional
        Where results are kept; the default store if None.
    runtime, datasets : optional
        As in `Subject`, which also says what is refused.
    """

    def __init__(
        self,
        experiment: Experiment,
        store: Store | None = None,
        runtime: Runtime | None = None,
        datasets: Datasets | None = None,
    ) -> None:
        super().__init__(experiment, runtime, datasets)
        self.store = store or Store.default()
        self._tasks: dict[str, Task] = {}
        self._others: dict[Experiment, Workbench] = {}

    def like(self, experiment: Experiment) -> Workbench:
        """Return the workbench of another experiment, with this one's store, runtime and data."""
        if experiment not in self._others:
            other = Workbench(experiment, self.store, self.runtime, self._datasets)
            self._others[experiment] = other
        return self._others[experiment]

    def train(
        self,
        workspace: Workspace,
        start: Sequence[Weights],
        recipe: Recipe,
        networks: Sequence[str],
        label: str,
        *,
        urgent: bool = False,
        **options: Any,
    ) -> Trained:
        """Train named networks of all replicates; the seeds of each follow its name.

        Parameters
        ----------
        workspace : Workspace
            Keeps the checkpoints.
        start : sequence of Weights
            Initial weights, by network, then by seed.
        recipe : Recipe
            How to train.
        networks : sequence of str
            Names of the random streams ("dense_a", "sparse_b", ...).
        label : str
            Words for the progress bar.
        urgent : bool, optional
            True: many stages wait for this one, so on a GPU it takes precedence over what is
            trained beside it.
        **options
            Further arguments of `lotperm.engine.training.train`.
        """
        # By network, then by seed, as the weights to start from are ordered.
        seeds = [Seeds.of(network, seed) for network in networks for seed in self.experiment.seeds]
        return train(
            self.model,
            start,
            self.data,
            recipe,
            seeds,
            runtime=dataclasses.replace(self.runtime, priority=-1) if urgent else self.runtime,
            checkpoints=workspace,
            label=label,
            **options,
        )

    def task(
        self,
        name: str,
        *,
        inputs: Mapping[str, Source | None],
        settings: Plain,
        label: str,
        work: Work,
        compute: Any,
    ) -> Task:
        """Make a task of this experiment; the same stage is always the same object."""
        task = Task(
            name=name,
            inputs=inputs,
            settings=settings,
            label=label,
            work=work,
            experiment=self.experiment,
            store=self.store,
            compute=compute,
        )
        # Questions share stages by key: an equal task is the same object, so it is loaded once.
        return self._tasks.setdefault(task.key, task)

    def work(self, networks: int, recipe: Recipe, evaluations: int = 1, matches: int = 0) -> Work:
        """Count the work of a training stage that also compares `matches` pairs of networks."""
        of = self.info
        # Training drops the last batch if it isn't full, as the authors do.
        steps = of.train // recipe.batch_size
        # Without a number of samples the whole split is compared, by both networks of a pair.
        samples = min(of.train, self.experiment.matching.samples or of.train)
        return Work(
            networks,
            recipe.epochs,
            networks * recipe.epochs * steps * recipe.batch_size,
            # Every network is evaluated; of each matched pair, both networks see the samples.
            networks * evaluations * of.test + 2 * matches * samples,
            kept=networks,
        )

    def result(
        self,
        trained: Trained,
        files: Mapping[str, dict[str, Tensor]] | None = None,
        results: Plain | None = None,
    ) -> StageResult:
        """Make a stage's result from a training.

        Parameters
        ----------
        trained : Trained
            Its weights become the file "final", its checkpoints a file for each epoch.
        files : mapping, optional
            Further files.
        results : dict, optional
            Small results; by default the training's `curves`.
        """
        # The weights at the end, not the best on the way: nothing is chosen by the test split.
        files = {**(files or {}), "final": pack(trained.weights)}
        for epoch, states in trained.checkpoints.items():
            files[epoch_file(epoch)] = pack(states)
        found = curves(trained) if results is None else results
        return StageResult(tensors=files, results=found, meta={**self.meta(), "step": trained.mode})

    def meta(self) -> Plain:
        """Describe how stages are computed here, for their notes."""
        # Noted with the stage, but no part of its key.
        meta = {
            "device": self.runtime.device,
            "threads": torch.get_num_threads(),
            "compile": self.runtime.compile,
            "ranks": distributed.world_size(),
        }
        # Batch norm takes the statistics of each part, so numbers may differ a little.
        if self.runtime.microbatch is not None:
            meta["microbatch"] = self.runtime.microbatch
        device = torch.device(self.runtime.device)
        if bfloat16.computed_in_float32(device, self.experiment.dense.precision):
            meta["bfloat16"] = "factors rounded, products in float32"
        if device.type == "cuda":
            meta["gpu"] = torch.cuda.get_device_name()
        return meta


def curves(trained: Trained) -> Plain:
    """Return losses and evaluations of a training as plain JSON data."""
    return {
        "train_loss": trained.train_loss,
        "evaluations": {str(epoch): metrics for epoch, metrics in trained.evaluations.items()},
    }


def final_accuracies(stage: Task) -> list[float]:
    """Return the accuracies at the end of a training that kept its `curves`, network by network."""
    evaluations = stage.results["evaluations"]
    # Epochs are strings in JSON, and strings sort 10 before 9.
    found: list[float] = evaluations[max(evaluations, key=int)]["accuracy"]
    return found
