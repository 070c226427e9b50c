"""What an experiment found: tidy tables over seeds, how its arms compare, and how both are
recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.science.statistics import gap_closed, interval, paired
from lotperm.store.tasks import Plain
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.records import records, save_record


@dataclass(frozen=True)
class Results:
    """What an experiment found, as tidy tables; fractions and nats.

    Attributes
    ----------
    experiment : Experiment
        What was run.
    table : pd.DataFrame
        One row per seed, method, sparsity, rewind epoch and metric (``test_accuracy``,
        ``test_loss``).
    curves : pd.DataFrame
        The same with a column ``epoch``, of a network's own training (an arm's begins with 0 at
        its rewind point), and metric ``train_loss``.
    stages : list[Plain]
        Name, key and meta (device, versions, source hash, seconds, …) of every stage behind the
        tables.
    """

    experiment: Experiment
    table: pd.DataFrame
    curves: pd.DataFrame
    stages: list[Plain]

    @classmethod
    def join(cls, parts: Sequence[Results]) -> Results:
        """The results of one experiment whose seeds were run in several parts, as if they had
        been run at once.
        """
        seeds = [seed for part in parts for seed in part.experiment.seeds]

        def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
            frame = pd.concat(frames, ignore_index=True)
            networks = frame.groupby(
                ["sparsity", "rewind_epoch", "method"], dropna=False, sort=False
            ).ngroup()
            order = pd.DataFrame({"network": networks, "seed": frame["seed"].map(seeds.index)})
            return frame.loc[
                order.sort_values(["network", "seed"], kind="stable").index
            ].reset_index(drop=True)

        return cls(
            dataclasses.replace(parts[0].experiment, seeds=tuple(seeds)),
            joined([part.table for part in parts]),
            joined([part.curves for part in parts]),
            [stage for part in parts for stage in part.stages],
        )

    def values(
        self, method: str, sparsity: float, rewind_epoch: int | None, metric: str = "test_accuracy"
    ) -> pd.Series:
        """One value a seed, indexed by seed."""
        t = self.table
        at_k = (
            t["rewind_epoch"].isna() if rewind_epoch is None else t["rewind_epoch"] == rewind_epoch
        )
        chosen = t[
            (t["method"] == method) & (t["sparsity"] == sparsity) & at_k & (t["metric"] == metric)
        ]
        return chosen.set_index("seed")["value"]

    def summary(self) -> pd.DataFrame:
        """Mean test accuracy of every method with the half width of its 95 % interval over
        seeds.
        """
        rows = []
        accuracy = self.table[self.table["metric"] == "test_accuracy"]
        keys = ["sparsity", "rewind_epoch", "method"]
        for key, group in accuracy.groupby(keys, dropna=False, sort=False):
            mean, half = interval(group["value"].to_numpy())
            rows.append(
                {
                    **dict(zip(keys, key, strict=True)),
                    "mean": mean,
                    "half_width": half,
                    "seeds": len(group),
                }
            )
        return pd.DataFrame(rows)

    def comparisons(self) -> pd.DataFrame:
        """Paired differences between the arms, with p-values, and the gap that permuting closes.

        Returns
        -------
        DataFrame
            One row per sparsity, rewind epoch and comparison: ``permuted - naive``, ``lth -
            permuted``, ``lth - naive`` (mean, half_width, p_value of a two-sided paired t-test)
            and ``gap closed`` = (permuted - naive)/(lth - naive), mean of the seeds on which LTH
            is above naive (no p-value). ``seeds`` says of how many.
        """
        rows = []
        for sparsity in self.experiment.sparsities:
            for k in self.experiment.rewind_epochs:
                arms = {
                    arm: self.values(arm, sparsity, k).sort_index().to_numpy() for arm in PAPER_ARMS
                }
                at = {"sparsity": sparsity, "rewind_epoch": k}
                for a, b in (("permuted", "naive"), ("lth", "permuted"), ("lth", "naive")):
                    difference = paired(arms[a], arms[b])
                    rows.append(
                        {
                            **at,
                            "comparison": f"{a} - {b}",
                            **difference._asdict(),
                            "seeds": len(arms[a]),
                        }
                    )
                closed = gap_closed(arms["lth"], arms["naive"], arms["permuted"])
                rows.append(
                    {
                        **at,
                        "comparison": "gap closed",
                        "mean": closed.mean,
                        "half_width": closed.half_width,
                        "seeds": int(np.isfinite(closed.per_seed).sum()),
                    }
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
            words = comparison_words(row, len(e.seeds))
            lines.append(
                f"| {row['sparsity']:g} | {row['rewind_epoch']} | {words} | {_percent(row)} | {p} |"
            )
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
        """Write ``results.csv``, ``curves.csv``, ``results.json`` (configuration, provenance)
        and ``summary.md``.
        """
        folder = Path(folder)
        content = {
            "kind": "table",
            "experiment": self.experiment.to_dict(),
            "summary": records(self.summary()),
            "comparisons": records(self.comparisons()),
            "stages": self.stages,
        }
        tables = {"results": self.table, "curves": self.curves}
        save_record(folder, content, tables, {"summary.md": self.markdown()})


def comparison_words(row: Mapping[Any, Any], seeds: int) -> str:
    """What a row of `Results.comparisons` is called in a table; the gap, of how many of the
    seeds, if not of all.
    """
    if row["comparison"] != "gap closed":
        return str(row["comparison"])
    return "gap closed (percent)" + (
        "" if row["seeds"] == seeds else f", {row['seeds']} of {seeds} seeds"
    )


def _percent(row: Mapping[Any, Any]) -> str:
    return f"{100 * row['mean']:.2f} ± {100 * row['half_width']:.2f}"
