"""Results of an experiment: tidy tables over seeds, comparisons of its arms, and their record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.science.statistics import interval, paired, ratio_of_means
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
        The same with a column ``epoch``, counted in a network's own training (for an arm from 0 at
        its rewind point), and the metric ``train_loss``.
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
            # A single run orders its rows by network, as they appear, then by seed. The parts
            # follow one another, so this order is restored; a stable sort keeps the order of
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
        # Dense networks have no rewind epoch: theirs is missing, and a missing value equals none.
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
            and ``gap closed`` = (permuted - naive)/(lth - naive), a ratio of means with Fieller's
            interval (no half width, no p-value; infinite ends where the gap may be 0). Columns low
            and high are the ends of every interval, ``seeds`` the number of seeds.
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
                    found = paired(arms[a], arms[b])
                    ends = {
                        "low": found.mean - found.half_width,
                        "high": found.mean + found.half_width,
                    }
                    row = {**at, "comparison": f"{a} - {b}", **found._asdict(), **ends}
                    rows.append({**row, "seeds": len(arms[a])})
                # A ratio of means: shares of single seeds scatter wildly where the gap is small.
                closed = ratio_of_means(
                    arms["permuted"] - arms["naive"], arms["lth"] - arms["naive"]
                )
                low, high = closed.bounds
                row = {**at, "comparison": "gap closed", "mean": closed.ratio}
                rows.append({**row, "low": low, "high": high, "seeds": len(arms["lth"])})
        return pd.DataFrame(rows)

    def markdown(self) -> str:
        """Write summary, comparisons and provenance as Markdown, in percent and points."""
        e = self.experiment
        over = (
            "of one seed, which has no interval."
            if len(e.seeds) == 1
            else f"mean ± half width of the 95 % interval over {len(e.seeds)} seeds."
        )
        lines = [
            f"# {e.data.name}, {e.model.name}, profile {e.profile}",
            "",
            f"Test accuracy in percent and differences in points: {over}",
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
            words, shown = comparison_words(row), comparison_text(row, 2)
            lines.append(
                f"| {row['sparsity']:g} | {row['rewind_epoch']} | {words} | {shown} | {p} |"
            )
        how = self.stages[-1]
        seconds = sum(stage["seconds"] for stage in self.stages)
        lines += [
            "",
            "p: two-sided paired t-test over seeds. gap closed: (permuted − naive) / (lth − naive), a ratio of means "
            "with Fieller's 95 % interval.",
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


def comparison_words(row: Mapping[Any, Any]) -> str:
    """Name a row of `Results.comparisons` in a table."""
    shared = str(row["comparison"])
    return "gap closed (percent)" if shared == "gap closed" else shared


def comparison_text(row: Mapping[Any, Any], digits: int) -> str:
    """Format a row of `Results.comparisons`, in points or percent.

    Returns
    -------
    str
        As "1.3 ± 0.4", or "80.1 [76.2, 84.4]" for a ratio; without an interval where there is none;
        "" if the gap is 0.
    """
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    if not math.isfinite(mean):
        return ""
    shown = f"{mean:.{digits}f}"
    if row["comparison"] != "gap closed":
        half = 100 * row["half_width"]
        return shown if math.isnan(half) else f"{shown} ± {half:.{digits}f}"
    # The gap may be 0: then the share may be anything.
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{shown}, no interval"
    return f"{shown} [{low:.{digits}f}, {high:.{digits}f}]"


def _percent(row: Mapping[Any, Any]) -> str:
    # One seed has no interval.
    half = "" if math.isnan(row["half_width"]) else f" ± {100 * row['half_width']:.2f}"
    return f"{100 * row['mean']:.2f}{half}"
