"""The page of the sparse training problem: one mask on A, on B, and a random mask on B."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from lotperm.config.fields import require
from lotperm.science.sparsity import count
from lotperm.science.statistics import paired
from lotperm.store.tasks import Task, unpack
from lotperm.studies import page
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.arms.charts import accuracy_by_method, learning_curves
from lotperm.studies.arms.study import run, sparse
from lotperm.studies.control import charts
from lotperm.studies.control.study import STUDY, control
from lotperm.studies.results import Results
from lotperm.studies.study import Study, cells
from lotperm.studies.workbench import final_accuracies

QUESTIONS = {
    "pruning costs: dense A − IMP": ("dense_a", "imp"),
    "the start matters: LTH − naive": ("lth", "naive"),
    "the mask helps B: naive − random": ("naive", "random"),
}
"""A comparison in words -> the two methods that it compares."""


class Page(page.Page):
    """The page of the sparse training problem, at the first sparsity and rewind epoch."""

    study: ClassVar[Study[Any]] = STUDY

    @cached_property
    def cell(self) -> tuple[float, int]:
        """The sparsity and rewind epoch that are shown."""
        mask = self.experiment.pruning.mask
        require(mask == "imp", "mask", mask, "imp: this page shows what IMP's networks do")
        return cells(self.experiment)[0]

    @cached_property
    def results(self) -> Results:
        """Results of the arms."""
        return run(self.pipeline)

    @cached_property
    def control(self) -> Task:
        """The stage of the random masks."""
        return control(self.pipeline, *self.cell)

    @cached_property
    def values(self) -> dict[str, pd.Series]:
        """Test accuracy of every method, a value for each seed."""
        found = {m: self.results.values(m, *self.cell) for m in ("imp", "lth", "naive")}
        found["dense_a"] = self.results.values("dense_a", 0.0, None)
        last = final_accuracies(self.control)
        found["random"] = pd.Series(last, index=list(self.experiment.seeds))
        return found

    def settings(self) -> pd.DataFrame:
        """Return the settings of the run."""
        s, k = self.cell
        rows = super().settings()
        # The page is about the price of a ticket, which grows with the rounds.
        rows.loc["rounds of pruning"] = str(len(self.pipeline.imp_rounds(s, k)))
        return rows

    def networks(self) -> Figure:
        """Draw a part of the first replicate's networks, and the mask that they share."""
        mask = self.pipeline.masks(*self.cell)[0]
        # Two layers show what a mask does to a unit: connections into it, and out of it.
        names = list(mask)[:2]
        part = _part(mask, names)
        dense = self.pipeline.dense()
        start, end = dense.weights(self.cell[1]), dense.weights()
        arms, seeds = unpack(sparse(self.pipeline, *self.cell).load("final")), len(start[0])
        imp = unpack(self.pipeline.imp_rounds(*self.cell)[-1].load("final"))
        networks = {
            "a_start": part(start[0][0]),
            "b_start": part(start[1][0]),
            "dense_a": part(end[0][0]),
            "imp": part(imp[0]),
            # Networks of a stage are ordered by arm, then by seed: this is the first seed of each.
            "lth": part(arms[PAPER_ARMS.index("lth") * seeds]),
            "naive": part(arms[PAPER_ARMS.index("naive") * seeds]),
        }
        means = {m: self.values[m].mean() for m in ("dense_a", "imp", "lth", "naive")}
        return charts.sparse_training_problem(
            networks, part(mask), means, title=f"One mask, two starting points ({self.about})"
        )

    def accuracies(self) -> Figure:
        """Draw the accuracy of every method."""
        order = ("dense_a", "imp", "lth", "naive", "random")
        title = f"Sparsity {self.cell[0]:g}, k = {self.cell[1]} ({self.about})"
        return accuracy_by_method({m: self.values[m].tolist() for m in order}, title=title)

    def comparisons(self) -> pd.DataFrame:
        """Return the paired differences behind the page's three statements."""
        rows = {}
        for words, (a, b) in QUESTIONS.items():
            found = paired(self.values[a].to_numpy(), self.values[b].to_numpy())
            rows[words] = {
                "difference (points)": f"{100 * found.mean:.1f} ± {100 * found.half_width:.1f}",
                "p (paired t-test)": "" if pd.isna(found.p_value) else f"{found.p_value:.1g}",
            }
        return pd.DataFrame(rows).T

    def in_short(self) -> str:
        """Say what is equal on every machine."""
        masks = self.pipeline.masks(*self.cell)
        scattered = unpack(self.control.load("mask"))
        counts = count(self.pipeline.model, masks[0])
        same = all(
            int(kept.sum()) == int(random[name].sum())
            for mask, random in zip(masks, scattered, strict=True)
            for name, kept in mask.items()
        )
        # A sign rather than numbers, which differ a little from machine to machine.
        better = bool(self.values["lth"].mean() > self.values["naive"].mean())
        return "\n".join(
            (
                f"weights kept by each mask: {counts.kept:,} of {counts.prunable:,}",
                f"the random masks keep as many in every layer: {same}",
                f"the ticket ends above naive: {better}",
            )
        )

    def curves(self) -> Figure:
        """Draw the learning curves of LTH and naive."""
        title = f"The same mask on A and on B ({self.about})"
        return learning_curves(self.results, ("lth", "naive"), title=title)

    def costs(self) -> pd.DataFrame:
        """Return what a ticket costs, in epochs of a dense network."""
        e, (s, k) = self.experiment, self.cell
        rounds = self.pipeline.imp_rounds(s, k)
        sparse_epochs = e.sparse_recipe(k).epochs
        each = e.pruning.finetune.epochs if e.pruning.imp == "finetune" else sparse_epochs
        # A sparse epoch counts as the share of weights that it trains, the least that it can cost:
        # unstructured masks save no time on today's hardware.
        kept = [sum(float(mask[0].sum()) for mask in r.load("mask").values()) for r in rounds]
        prunable = count(self.pipeline.model, self.pipeline.masks(s, k)[0]).prunable
        cost = {
            "train A, dense": e.dense.epochs,
            f"prune A, {len(rounds)} rounds": sum(each * share / prunable for share in kept),
            "train one sparse network": sparse_epochs * (1 - s),
        }
        return pd.DataFrame(
            {"cost (dense epochs)": [f"{c:.1f}" for c in cost.values()]}, index=list(cost)
        )


def _part(
    mask: Mapping[str, Tensor], names: list[str]
) -> Callable[[Mapping[str, Tensor]], list[Tensor]]:
    """Choose units of the first two layers to draw, from busy to idle ones under a mask.

    Returns
    -------
    callable
        Takes weights or a mask; returns the part of the two layers that is drawn.
    """

    def plane(tensor: Tensor) -> Tensor:
        """Return a layer as a matrix; for a convolution, the weights at its centre."""
        return tensor if tensor.dim() == 2 else tensor.flatten(2)[..., tensor[0, 0].numel() // 2]

    def spread(kept: Tensor, n: int) -> Tensor:
        """Return n indices, from where most weights are kept to where few are."""
        ranked = kept.argsort(descending=True, stable=True)
        return ranked[:: -(-len(ranked) // n)]

    into, out_of = (plane(mask[name]).int() for name in names)
    # A busy unit has many paths: kept connections into it times kept connections out of it.
    units = spread(into.sum(1) * out_of.sum(0), 5)
    inputs, outputs = spread(into[units].sum(0), 4), spread(out_of[:, units].sum(1), 3)

    def part(tensors: Mapping[str, Tensor]) -> list[Tensor]:
        one, two = (plane(tensors[name]) for name in names)
        return [one[units][:, inputs], two[outputs][:, units]]

    return part
