"""One item of a campaign."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lotperm.config.experiment import Experiment
from lotperm.data.datasets import load_configured
from lotperm.engine.runtime import Runtime
from lotperm.errors import StorageError
from lotperm.science.barrier import REPAIRS
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain
from lotperm.studies.pipeline import Datasets, Pipeline

Plain = dict[str, Any]


KINDS: dict[str, Plain] = {
    "table": {"together": None},
    "early": {"match_epochs": None},
    "diversity": {},
    "connectivity": {
        "alphas": [i / 10 for i in range(11)],
        "repairs": list(REPAIRS),
        "replicates": None,
    },
}

"""Kind of entry -> its own keys with their defaults.

``table``: the three arms at every sparsity and rewind epoch; with ``together`` so many seeds share
a stage: other seeds are other stages, so that a table can get more of them later, and a sweep has
more jobs. The others are those of `Pipeline`: ``early`` (`Pipeline.early_matching`; without
``match_epochs`` every epoch that is kept), ``diversity``, ``connectivity``.
"""


RUNTIME = ("compile", "members")


ENTRY = ("name", "kind", "figure", "widths", "keep", *RUNTIME)


@dataclass(frozen=True)
class Entry:
    """One item of a campaign.

    Attributes
    ----------
    name : str
        Lower case letters, digits, ``_`` and ``-``.
    kind : str
        One of `KINDS`.
    experiments : tuple[Experiment, ...]
        One for each width and, with ``together``, each group of seeds; those of a width follow one
        another.
    options : Mapping[str, Any]
        The keys of its kind, and ``compile`` and ``members`` if given.
    """

    name: str
    kind: str
    experiments: tuple[Experiment, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def lacking(self, datasets: Datasets) -> str | None:
        """Load the data sets that aren't in `datasets` yet; why that failed, or None."""
        try:
            for e in self.experiments:
                if e.data not in datasets:
                    datasets[e.data] = load_configured(e.data)
        except StorageError as error:
            return str(error)
        return None

    def pipelines(
        self, store: Store, runtime: Runtime | None = None, datasets: Datasets | None = None
    ) -> list[Pipeline]:
        """A pipeline for each experiment; data are loaded when they are needed, once if
        `datasets` is handed on.
        """
        runtime = runtime or Runtime()
        runtime = dataclasses.replace(
            runtime,
            compile=runtime.compile or self.options.get("compile", False),
            members=runtime.members or self.options.get("members"),
        )
        datasets = {} if datasets is None else datasets
        return [Pipeline(e, store, runtime, datasets) for e in self.experiments]

    def own_tasks(self, pipeline: Pipeline) -> list[Task]:
        """The tasks of one of the pipelines that this entry is about; those before them are in
        `tasks`.
        """
        e, o = pipeline.experiment, self.options
        cells = [(sparsity, k) for sparsity in e.sparsities for k in e.rewind_epochs]
        if self.kind == "early":
            return [pipeline.early_task(*cell, o["match_epochs"]) for cell in cells]
        if self.kind == "diversity":
            return [pipeline.diversity_task(*cell) for cell in cells]
        if self.kind == "connectivity":
            return [
                pipeline.connectivity_task(o["alphas"], o["repairs"], replicates=o["replicates"])
            ]
        return [pipeline.sparse(*cell) for cell in cells]

    def tasks(
        self, store: Store, runtime: Runtime | None = None, datasets: Datasets | None = None
    ) -> list[Task]:
        """All tasks of the entry in an order in which they can be computed; nothing is computed
        by asking.
        """
        pipelines = self.pipelines(store, runtime, datasets)
        return chain(task for pipeline in pipelines for task in self.own_tasks(pipeline))
