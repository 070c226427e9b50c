"""The control arm: B under a random mask that keeps as many weights in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch

from lotperm.science.sparsity import Mask
from lotperm.store.stages import StageResult
from lotperm.store.tasks import Inputs, Source, Task, epoch_file, pack
from lotperm.store.workspace import Workspace
from lotperm.studies.arms import study as arms
from lotperm.studies.arms.arms import ARMS, Moved, start
from lotperm.studies.stages import CURVE_POINTS, dense, halves, imp_rounds
from lotperm.studies.study import Options, Study, cells
from lotperm.studies.subject import plain
from lotperm.studies.workbench import Workbench, spaced_epochs


def scatter(mask: Mask, generator: torch.Generator) -> Mask:
    """Keep as many weights of every layer as a mask does, at random places.

    Parameters
    ----------
    mask : Mask
        Name -> bool tensor, True where the weight is kept.
    generator : torch.Generator
        On the CPU.
    """
    return {
        # Shuffled, so that exactly as many weights are kept, layer by layer.
        name: kept.flatten()[torch.randperm(kept.numel(), generator=generator)].view(kept.shape)
        for name, kept in mask.items()
    }


def control(bench: Workbench, sparsity: float, rewind_epoch: int) -> Task:
    """Train B of every replicate under a random mask, with the examples in naive's order."""
    experiment, b_file, arm = bench.experiment, epoch_file(rewind_epoch), ARMS["random"]
    # By the arms' recipe, with which it is compared.
    recipe = experiment.sparse_recipe(rewind_epoch)
    evaluate_at = spaced_epochs(recipe.epochs, CURVE_POINTS)
    label = f"random masks, sparsity {sparsity:g}, k = {rewind_epoch}"

    def compute(inputs: Inputs, workspace: Workspace) -> StageResult:
        # One generator for all replicates in their order: each gets a random mask of its own.
        generator = torch.Generator().manual_seed(0)
        pairs = zip(*halves(inputs.replicates("dense", b_file)), strict=True)
        starts = []
        for (a, b), mask in zip(pairs, inputs.replicates("imp", "mask"), strict=True):

            def make_mask(moved: Moved, mask: Mask = mask) -> Mask:
                return scatter(mask, generator)

            starts.append(start(arm, a, b, make_mask))
        masks = [mask for _, mask in starts]
        trained = bench.train(
            workspace,
            [weights for weights, _ in starts],
            recipe,
            # B's stream, which naive follows too: the two differ in their masks alone.
            (arm.stream,),
            label,
            masks=masks,
            evaluate_at=evaluate_at,
        )
        # The random masks are kept: the page shows that they have the ticket's layer densities.
        return bench.result(trained, files={"mask": pack(masks)})

    return bench.task(
        "control",
        inputs={
            "dense": Source(dense(bench).stage, (b_file,)),
            "imp": Source(imp_rounds(bench, sparsity, rewind_epoch)[-1], ("mask",)),
        },
        settings={"recipe": plain(recipe), "rewind_epoch": rewind_epoch, "arms": [arm.name]},
        label=label,
        work=bench.work(len(experiment.seeds), recipe, len(evaluate_at)),
        compute=compute,
    )


@dataclass(frozen=True)
class ControlOptions(Options):
    """The control has no options of its own."""


class Control(Study[ControlOptions]):
    """Train B under random masks."""

    name = "control"
    words: ClassVar[dict[str, str]] = {"control": "random masks"}
    Options = ControlOptions
    columns = ("seed", "method", "sparsity", "rewind_epoch", "metric")

    def tasks(self, bench: Workbench, options: ControlOptions) -> list[Task]:
        """List one stage for each sparsity and rewind epoch."""
        return [control(bench, *cell) for cell in cells(bench.experiment)]

    def table(self, bench: Workbench, options: ControlOptions) -> pd.DataFrame:
        """Return accuracy and loss of the control arm, in the form of `Results.table`."""
        rows = []
        for s, k in cells(bench.experiment):
            stage = control(bench, s, k)
            rows += arms.gathered(stage, ("random",), bench.experiment.seeds, s, k)[0]
        return pd.DataFrame(rows)

    def chapter(self, benches: Sequence[Workbench], options: ControlOptions) -> list[Task]:
        """List the arms, which the control is compared with, and the control of the first cell."""
        asked: list[Task] = []
        for bench in benches:
            asked += arms.STUDY.tasks(bench, arms.ArmsOptions())
            # Every cell is what a campaign records; the page shows the first.
            asked.append(control(bench, *cells(bench.experiment)[0]))
        return asked


STUDY = Control()
