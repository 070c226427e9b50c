"""Results of an experiment: tidy tables over seeds, comparisons of its arms, and their record."""

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
    """Results of an experiment as tidy tables, in fractions and nats.

    Attributes
    ----------
    experiment : Experiment
        The experiment that was run.
    table : DataFrame
        One row per seed, method, sparsity, rewind epoch and metric (``test_accuracy``,
        ``test_loss``).
    curves : DataFrame
        The same with a column ``epoch``, of a network's own training (an arm's begins with 0 at
        its rewind point), and metric ``train_loss``.
    stages : list of dict
        Name, key and meta (device, versions, source hash, seconds, …) of every stage behind the
        tables.
    """

    experiment: Experiment
    table: pd.DataFrame
    curves: pd.DataFrame
    stages: list[Plain]

    @classmethod
    def join(cls, parts: Sequence[Results]) -> Results:
        """Join the results of one experiment whose seeds were run in several parts.

        Parameters
        ----------
        parts : sequence of Results
            One for each group of seeds, in order.

        Returns
        -------
        Results
            As if all seeds had been run at once.
        """
        seeds = [seed for part in parts for seed in part.experiment.seeds]

        def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
            frame = pd.concat(frames, ignore_index=True)
            # A single run has its rows by network, in order of appearance, then by seed. The parts
            # stand behind one another, so both are restored; a stable sort keeps the order of
            # metrics and epochs.
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
        """Select a metric of one method at one sparsity and rewind epoch, indexed by seed."""
        t = self.table
        # Dense networks belong to no rewind epoch: theirs is missing, and missing equals nothing.
        at_k = (
            t["rewind_epoch"].isna() if rewind_epoch is None else t["rewind_epoch"] == rewind_epoch
        )
        chosen = t[
            (t["method"] == method) & (t["sparsity"] == sparsity) & at_k & (t["metric"] == metric)
        ]
        return chosen.set_index("seed")["value"]

    def summary(self) -> pd.DataFrame:
        """Average the test accuracy of every method over seeds, with half the 95 % interval."""
        rows = []
        accuracy = self.table[self.table["metric"] == "test_accuracy"]
        keys = ["sparsity", "rewind_epoch", "method"]
        # Without dropna=False, dense networks would drop out: their rewind epoch is missing.
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
        """Compare the arms by paired differences, with p-values, and by the gap closed.

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
                # In order of the seeds in every arm: differences are taken within a replicate.
                arms = {
                    arm: self.values(arm, sparsity, k).sort_index().to_numpy() for arm in PAPER_ARMS
                }
                at = {"sparsity": sparsity, "rewind_epoch": k}
                for a, b in (("permuted", "naive"), ("lth", "permuted"), ("lth", "naive")):
                    # Seeds are paired: arms of a replicate share weights, mask or the order of
                    # examples.
                    difference = paired(arms[a], arms[b])
                    rows.append(
                        {
                            **at,
                            "comparison": f"{a} - {b}",
                            **difference._asdict(),
                            "seeds": len(arms[a]),
                        }
                    )
                # A seed on which LTH isn't above naive has no gap to close, so fewer seeds may
                # count here.
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
        """Write summary, comparisons and provenance as Markdown, in percent and points."""
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
            # The gap may be over fewer seeds than the rest, which its name then says.
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
        """Write ``results.csv``, ``curves.csv``, ``results.json`` and ``summary.md``."""
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
    """Name a row of `Results.comparisons` in a table.

    Parameters
    ----------
    row : mapping
        The row.
    seeds : int
        Number of seeds of the experiment. If the gap is a mean over fewer, its name says so.
    """
    if row["comparison"] != "gap closed":
        return str(row["comparison"])
    return "gap closed (percent)" + (
        "" if row["seeds"] == seeds else f", {row['seeds']} of {seeds} seeds"
    )


def _percent(row: Mapping[Any, Any]) -> str:
    return f"{100 * row['mean']:.2f} ± {100 * row['half_width']:.2f}"
