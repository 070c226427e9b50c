"""What an experiment is about: its data and its networks, and how they are aligned."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lotperm.config.choices import IMAGE_FOLDERS
from lotperm.config.experiment import DataConfig, Experiment
from lotperm.data.batches import Batches
from lotperm.data.dataset import Dataset, Info, Split, first
from lotperm.data.datasets import identity, info, load_configured
from lotperm.engine.models import Weights, build, shapes_alone
from lotperm.engine.runtime import Runtime
from lotperm.errors import ParameterError, StorageError
from lotperm.parallel import distributed
from lotperm.science.matching import Matching, match_activations, match_weights
from lotperm.science.symmetry import PermutationSpec
from lotperm.store.tasks import Plain

# Shared between workbenches, so that a data set is in memory once.
Datasets = dict[DataConfig, Dataset]


def plain(config: Any) -> Plain:
    """Turn a configuration dataclass into plain JSON data."""
    return {
        name: list(v) if isinstance(v, tuple) else v
        for name, v in dataclasses.asdict(config).items()
    }


class Subject:
    """The data and the networks of an experiment, loaded and built when they are needed.

    Parameters
    ----------
    experiment : Experiment
        What to compute.
    runtime : Runtime, optional
        How to compute.
    datasets : dict, optional
        Data sets that are loaded already. Those loaded here are added, to be shared with others.

    Raises
    ------
    ParameterError
        If the network has no form for the data.
    """

    def __init__(
        self,
        experiment: Experiment,
        runtime: Runtime | None = None,
        datasets: Datasets | None = None,
    ) -> None:
        self.experiment = experiment
        self.runtime = runtime or Runtime()
        self._datasets = {} if datasets is None else datasets
        # Shapes alone tell, at no cost, whether the network has a form for the data. `info` comes
        # first, since an image folder has to be listed.
        _ = self.info
        with shapes_alone():
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
            # Rank 0 goes first, and makes what has to be made on disk.
            self._datasets[config] = distributed.in_turn(lambda: load_configured(config))
        return self._datasets[config]

    @cached_property
    def info(self) -> Info:
        """Shape and sizes of the data, without loading them; an image folder is listed if here."""
        config = self.experiment.data
        if config.name in IMAGE_FOLDERS:
            # A folder may hold only part of the data, so its files are counted if it is here; a
            # plan does without it.
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
        """Batch a split of the data, normalized and not augmented, on the runtime's device."""
        device = self.runtime.device
        # All at once: one transfer takes less time than one for each batch.
        return Batches(self.data.to(device), split.to(device), size, self.runtime.readers)

    def match_examples(self, batch: int = 500) -> Batches:
        """Batch the training examples on which networks are compared, inputs and classes."""
        # Not augmented, and always the first examples of the split, so that matching is the same in
        # every stage that asks for it.
        return self.batches(first(self.data.train, self.experiment.matching.samples), batch)

    def match_batches(self, batch: int = 500) -> Iterable[Tensor]:
        """Yield the training inputs ``(B, C, *spatial)`` on which activations are compared."""
        return self.match_examples(batch).inputs()

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
            points=config.points,
            keep_correlations=keep_correlations,
            device=self.runtime.device,
        )

    def identity(self) -> Plain:
        """Describe data and network, for the keys of stages that don't build on others."""
        config, of = self.experiment.data, None
        if config.name in IMAGE_FOLDERS:
            # Without the folder the stages can be planned, but not computed.
            with contextlib.suppress(StorageError):
                of = self.data
        return {"data": identity(config, of), "model": plain(self.experiment.model)}
