"""What the ledger is computed from: the paper's tables, and this project's recorded runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lotperm.data.catalog import SPECS, spec_of
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.claims import numbers
from lotperm.studies.published import book_folder, paper, recorded

KINDS = (
    "table",
    "early",
    "diversity",
    "connectivity",
    "relearning",
    "basin",
    "causal",
    "signs",
    "matchers",
    "many",
)


@dataclass(frozen=True)
class Run:
    """A recorded run, in memory.

    Attributes
    ----------
    name, kind, label : str
        As in `lotperm.studies.published.Recorded`; the label names data, network and profile.
    experiment : dict
        The experiment that was run, as plain data.
    rows : DataFrame
        Its ``results.csv``.
    """

    name: str
    kind: str
    label: str
    experiment: dict[str, Any]
    rows: pd.DataFrame

    @property
    def source(self) -> str:
        """Return the words by which an effect of this run names its source."""
        return f"{self.label} ({self.name})"

    @property
    def dataset(self) -> str:
        """Return the name of its data set."""
        return str(self.experiment["data"]["name"])

    @property
    def model(self) -> str:
        """Return the name of its network, without the width."""
        return str(self.experiment["model"]["name"])

    @property
    def width(self) -> float:
        """Return the width of its network."""
        return float(self.experiment["model"]["width"])

    @property
    def epochs(self) -> int:
        """Return the epochs of dense training."""
        return int(self.experiment["dense"]["epochs"])

    @property
    def test_images(self) -> int:
        """Return the number of test examples."""
        # Without a size, the whole test split was evaluated.
        return int(self.experiment["data"]["test_size"] or spec_of(self.dataset).n_test)

    def accuracies(self) -> pd.DataFrame:
        """Return the arms' test accuracies of a table, in percent.

        Returns
        -------
        DataFrame
            Index (sparsity, rewind_epoch, seed); columns dense_a, dense_b, imp, lth, permuted,
            naive. Dense networks and IMP are repeated at every sparsity and rewind epoch that they
            belong to.
        """
        rows = self.rows[self.rows["metric"] == "test_accuracy"]
        arms = rows[rows["method"].isin(PAPER_ARMS)]
        wide = 100 * arms.pivot(
            index=["sparsity", "rewind_epoch", "seed"], columns="method", values="value"
        )
        dense = rows[rows["method"].isin(["dense_a", "dense_b"])]
        dense = 100 * dense.pivot(index="seed", columns="method", values="value")
        # IMP by fine-tuning is the same at every rewind epoch: this is a mean of equal numbers.
        imp = rows[rows["method"] == "imp"].groupby(["sparsity", "seed"])["value"].mean()
        # Dense networks and IMP belong to several cells, so they are put beside the arms of each.
        both = wide.join(dense, on="seed").join(100 * imp.rename("imp"), on=["sparsity", "seed"])
        return both.sort_index()


@dataclass(frozen=True)
class Sources:
    """All data from which evidence is computed. Tests replace it by changed copies.

    Attributes
    ----------
    cells : DataFrame
        Tables 5 to 14, as `lotperm.studies.claims.numbers.cells` returns them.
    diversity, early, barriers : DataFrame
        The paper's Table 1, its Table 15, and the barriers that REPAIR's authors published.
    runs : tuple of Run
        Recorded by this project.
    """

    cells: pd.DataFrame
    diversity: pd.DataFrame
    early: pd.DataFrame
    barriers: pd.DataFrame
    runs: tuple[Run, ...]

    @classmethod
    def load(cls) -> Sources:
        """Read everything from ``book/paper`` and ``book/results``.

        Raises
        ------
        IntegrityError
            If a recorded run isn't what was written.
        StorageError
            If the repository isn't there.
        """
        runs = tuple(
            Run(found.name, found.kind, found.label, found.experiment, found.rows())
            for kind in KINDS
            for found in recorded(kind=kind)
            # The paper's claims are about masks of IMP; older records name no source.
            if found.experiment["pruning"].get("mask", "imp") == "imp"
        )
        return cls(
            numbers.cells(),
            paper("table1_diversity"),
            paper("early_matching_resnet20x1_cifar10"),
            paper("lmc_reference"),
            runs,
        )

    def of_kind(self, kind: str, dataset: str | None = None, model: str = "") -> list[Run]:
        """Return a kind's runs, on `dataset` if given, of models whose names begin with `model`."""
        return [
            run
            for run in self.runs
            if run.kind == kind and dataset in (None, run.dataset) and run.model.startswith(model)
        ]

    def settings(self) -> pd.DataFrame:
        """Return the paper's settings in top-1 accuracy, as `numbers.settings` returns them."""
        # Top-5 accuracies are of the same networks, and would count them twice.
        arms = numbers.settings(self.cells)
        return arms[arms["metric"] == "top1"]


def can_be_had(dataset: str) -> bool:
    """Return True if this project can get a data set by itself.

    ImageNet must be supplied by the user: nobody may pass it on, and one figure on it takes a week
    or more on one GPU.
    """
    return dataset in SPECS


def ticket_files(run: Run) -> list[Path]:
    """Return the files of a recorded run's tickets, sorted."""
    return sorted((book_folder() / "results" / run.name / "tickets").glob("*.safetensors"))
