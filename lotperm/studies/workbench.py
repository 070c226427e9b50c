"""An experiment with its network, data, store and runtime at hand."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lotperm.config.experiment import DataConfig, Experiment, Recipe
from lotperm.config.parameters import IMAGE_FOLDERS
from lotperm.config.seeds import Seeds
from lotperm.data.batches import Batches
from lotperm.data.dataset import Dataset, Info, Split, first
from lotperm.data.datasets import identity, info, load_configured
from lotperm.engine.models import Weights, build
from lotperm.engine.runtime import Runtime
from lotperm.engine.training import Trained, train
from lotperm.errors import ParameterError, StorageError
from lotperm.parallel import distributed
from lotperm.science.matching import Matching, match_activations, match_weights
from lotperm.science.symmetry import PermutationSpec
from lotperm.store.stages import StageResult, Store
from lotperm.store.tasks import Plain, Source, Task, Work, epoch_file, pack
from lotperm.store.workspace import Workspace

# Shared between workbenches, so that a data set is in memory once.
Datasets = dict[DataConfig, Dataset]


def plain(config: Any) -> Plain:
    """Turn a configuration dataclass into plain JSON data."""
    return {
        name: list(v) if isinstance(v, tuple) else v
        for name, v in dataclasses.asdict(config).items()
    }


def spaced_epochs(epochs: int, at_most: int) -> list[int]:
    """List evenly spaced epochs from 0, about `at_most` of them, the last one included."""
    # Rounded up: a shorter step would give more epochs than were asked for.
    step = max(1, -(-epochs // at_most))
    return sorted({*range(0, epochs + 1, step), epochs})


class Workbench:
    """Everything that the stages of one experiment share.

    Parameters
    ----------
    experiment : Experiment
        What to compute.
    store : Store, optional
        Where results are kept; the default store if None.
    runtime : Runtime, optional
        How to compute.
    datasets : dict, optional
        Data sets that are loaded already. What is loaded here is added, to be shared with others.

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
        # Shapes alone tell, at no cost, whether the network has a form for the data. They are
        # asked for before, as an image folder has to be listed.
        _ = self.info
        with torch.device("meta"):
            self.build()

    @cached_property
    def data(self) -> Dataset:
        """Data set, loaded when it is first needed: stages can be planned without it.

        Raises
        ------
        StorageError
            If the data set isn't there.
        """
        config = self.experiment.data
        if config not in self._datasets:
            # Rank 0 makes what has to be made on disk.
            self._datasets[config] = distributed.in_turn(lambda: load_configured(config))
        return self._datasets[config]

    @cached_property
    def info(self) -> Info:
        """Shape and sizes of the data, without loading them. An image folder is listed if it is here."""
        config = self.experiment.data
        if config.name in IMAGE_FOLDERS:
            # A folder may be a part of the data, so it is counted where it is; a plan does without
            # it.
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
        """Permutation symmetries of the network."""
        # Noise will do as input: no data are needed to move a mask.
        example = torch.randn(2, *self.info.shape, generator=torch.Generator().manual_seed(0))
        spec = PermutationSpec.trace(self.model, example)
        if not spec.sizes:
            raise ParameterError(
                f"{self.experiment.model.name} has no layer of two units or more here, so there is "
                "nothing to permute. Choose a larger width or hidden."
            )
        return spec

    def build(self) -> nn.Module:
        """Build a new network of the experiment's architecture."""
        config, of = self.experiment.model, self.info
        return build(
            config.name,
            input_shape=of.shape,
            classes=of.classes,
            width=config.width,
            # The other networks have no hidden widths, and ignore these.
            hidden=config.hidden or (1,),
        )

    def network(self, weights: Weights) -> nn.Module:
        """Build a network with these weights, on the runtime's device."""
        model = self.build().to(self.runtime.device)
        model.load_state_dict(weights)
        return model

    def batches(self, split: Split, size: int = 500) -> Batches:
        """Batch a split of the data, normalized and not augmented."""
        return Batches(self.data, split, size, self.runtime.readers)

    def match_batches(self, batch: int = 500) -> Iterable[Tensor]:
        """Yield the training inputs ``(B, C, *spatial)`` on which activations are compared."""
        # Not augmented, and always the first examples of the split: matching then is the same in
        # every stage that asks for it.
        return self.batches(
            first(self.data.train, self.experiment.matching.samples), batch
        ).inputs()

    def match_pair(
        self, weights_a: Weights, weights_b: Weights, *, keep_correlations: bool = False
    ) -> Matching:
        """Align one A to one B in the experiment's way."""
        config = self.experiment.matching
        if config.matching == "weight":
            # No data are needed here: weights are compared with weights.
            return match_weights(weights_a, weights_b, self.spec)
        return match_activations(
            weights_a,
            weights_b,
            self.match_batches(),
            self.spec,
            # The authors observe the last residual stream one block before its end; the experiment
            # chooses.
            points=config.points,
            keep_correlations=keep_correlations,
            device=self.runtime.device,
        )

    def train(
        self,
        workspace: Workspace,
        start: Sequence[Weights],
        recipe: Recipe,
        networks: Sequence[str],
        label: str,
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
        **options
            Further arguments of `lotperm.engine.training.train`.
        """
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
            networks * evaluations * of.test + 2 * matches * samples,
            kept=networks,
        )

    def identity(self) -> Plain:
        """Identify data and network, for the keys of stages that don't build on others."""
        config, of = self.experiment.data, None
        if config.name in IMAGE_FOLDERS:
            # Without the folder the stages can be planned, but not computed.
            with contextlib.suppress(StorageError):
                of = self.data
        return {"data": identity(config, of), "model": plain(self.experiment.model)}

    def result(
        self,
        trained: Trained,
        files: Mapping[str, dict[str, Tensor]] | None = None,
        results: Plain | None = None,
    ) -> StageResult:
        """Make a stage's result of a training.

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
        return StageResult(tensors=files, results=found, meta=self.meta())

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
        if torch.device(self.runtime.device).type == "cuda":
            meta["gpu"] = torch.cuda.get_device_name()
        return meta


def curves(trained: Trained) -> Plain:
    """Return losses and evaluations of a training as plain JSON data."""
    return {
        "train_loss": trained.train_loss,
        "evaluations": {str(epoch): metrics for epoch, metrics in trained.evaluations.items()},
    }
