"""Do the tickets of different seeds keep the same weights? A question from a folder of its own."""

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import pandas as pd

from lotperm.config.parameters import PARAMETERS
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Source, Task, Work
from lotperm.studies.stages import imp_rounds
from lotperm.studies.study import Options, Study, cells, option
from lotperm.studies.workbench import Workbench


def overlap(bench: Workbench, sparsity: float, rewind_epoch: int, pairs: int) -> Task:
    """Compare the tickets of the first pairs of seeds."""

    def compute(inputs: Inputs, workspace: object) -> StageResult:
        masks = inputs.replicates("imp", "mask")
        shares = []
        for a, b in list(combinations(masks, 2))[:pairs]:
            both = sum(int((a[name] & b[name]).sum()) for name in a)
            shares.append(both / sum(int(kept.sum()) for kept in a.values()))
        return StageResult({"shares": shares}, {}, bench.meta())

    return bench.task(
        "overlap",
        inputs={"imp": Source(imp_rounds(bench, sparsity, rewind_epoch)[-1], ("mask",))},
        settings={"pairs": pairs},
        label=f"overlap of tickets, sparsity {sparsity:g}",
        work=Work(),
        compute=compute,
    )


@dataclass(frozen=True)
class OverlapOptions(Options):
    """How many pairs of tickets are compared."""

    pairs: int = option(3, PARAMETERS["epochs"].parse, "pairs of seeds that are compared")


class Overlap(Study[OverlapOptions]):
    """Compare the tickets of different seeds."""

    name = "overlap"
    words: ClassVar[dict[str, str]] = {"overlap": "overlap of tickets"}
    Options = OverlapOptions
    columns = ("sparsity", "rewind_epoch", "pair")

    def tasks(self, bench: Workbench, options: OverlapOptions) -> list[Task]:
        """List a stage for each sparsity and rewind epoch."""
        return [overlap(bench, *cell, options.pairs) for cell in cells(bench.experiment)]

    def table(self, bench: Workbench, options: OverlapOptions) -> pd.DataFrame:
        """Return the share of kept weights that two tickets have in common."""
        return pd.DataFrame(
            [
                {"sparsity": s, "rewind_epoch": k, "pair": pair, "share": share}
                for s, k in cells(bench.experiment)
                for pair, share in enumerate(overlap(bench, s, k, options.pairs).results["shares"])
            ]
        )


STUDY = Overlap()
