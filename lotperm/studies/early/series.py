"""Early matching of the paper, of recorded runs and of a page in one form, for the same axes."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from lotperm.studies.arms import effects
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.arms.series import Kind, Series, described
from lotperm.studies.claims.evidence import Above, Effect, Rule, mean_effect, ratio_effect
from lotperm.studies.origin import of_file, of_record
from lotperm.studies.published import Recorded, paper, recorded
from lotperm.studies.results import Results

EARLY = 10.0
"""Percent of B's training at which a match counts as early: a tenth, as in the ledger."""


def of_paper() -> Series:
    """Return the paper's Table 15."""
    raw = paper("early_matching_resnet20x1_cifar10")
    # LTH and naive have no matching epoch.
    fixed = raw[raw["method"] != "permuted"].pivot(
        index="sparsity", columns="method", values="test_acc_mean"
    )
    early = raw[raw["method"] == "permuted"].rename(columns={"test_acc_mean": "permuted"})
    table = early[["sparsity", "matching_epoch", "permuted"]].join(fixed, on="sparsity")
    origin = of_file("early_matching_resnet20x1_cifar10", "Table 15")
    found = _series("paper", "ResNet20 on CIFAR-10", table.assign(seed=0), 200)
    return replace(found, origins=(origin,))


def of_page(table: pd.DataFrame, results: Results, sparsity: float, rewind_epoch: int) -> Series:
    """Return a page's run; parameters as in `lotperm.studies.early.tables.matching_costs`."""
    arms = pd.DataFrame({m: results.values(m, sparsity, rewind_epoch) for m in ("lth", "naive")})
    e = results.experiment
    found = _joined(table.assign(sparsity=sparsity), arms)
    return _series("live", described(e.to_dict()), found, e.dense.epochs, e.profile)


def of_records() -> list[Series]:
    """Return recorded runs whose LTH and naive are in a recorded table of the same experiment."""
    found = []
    for run in recorded(kind="early"):
        arms = recorded_arms(run)
        if arms is not None:
            e = run.experiment
            table = _joined(run.summary, arms)
            one = _series("recorded", described(e), table, e["dense"]["epochs"], e["profile"])
            found.append(replace(one, origins=(of_record(run),)))
    return found


def recorded_arms(run: Recorded) -> pd.DataFrame | None:
    """Find the accuracies of LTH and naive for a recorded run of early matching.

    They are in the recorded table of the same experiment, which may have more seeds, sparsities and
    rewind epochs than the run, and keep other epochs.

    Returns
    -------
    DataFrame or None
        Index seed, columns lth and naive (fractions), for the first cell of the run; None if no such
        table has all of its seeds.
    """
    free = ("seeds", "sparsities", "rewind_epochs", "keep")
    own = {key: value for key, value in run.experiment.items() if key not in free}
    sparsity, k = run.summary["sparsity"].iloc[0], run.summary["rewind_epoch"].iloc[0]
    for table in recorded(run.experiment["data"]["name"]):
        if {key: value for key, value in table.experiment.items() if key not in free} != own:
            continue
        rows = table.rows()
        rows = rows[
            (rows["metric"] == "test_accuracy")
            & (rows["sparsity"] == sparsity)
            & (rows["rewind_epoch"] == k)
            & rows["method"].isin(["lth", "naive"])
        ]
        arms = rows.pivot(index="seed", columns="method", values="value")
        if set(run.experiment["seeds"]) <= set(arms.index):
            return arms.loc[sorted(run.experiment["seeds"])]
    return None


def _joined(table: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """Put permuted at every matching epoch beside the arms of its seed, in percent."""
    rows = table[table["metric"] == "test_accuracy"].rename(columns={"value": "permuted"})
    rows = rows[["seed", "sparsity", "matching_epoch", "permuted"]].join(arms, on="seed")
    return rows.assign(**{arm: 100 * rows[arm] for arm in PAPER_ARMS})


def _series(kind: Kind, label: str, table: pd.DataFrame, epochs: int, profile: str = "") -> Series:
    table = table.assign(
        matched=100 * table["matching_epoch"] / epochs,
        gain=table["permuted"] - table["naive"],
        gap=table["lth"] - table["naive"],
    )
    columns = ["sparsity", "matching_epoch", "matched", "seed", *PAPER_ARMS, "gain", "gap"]
    return Series(kind, f"{kind}: {label}", table[columns], profile)


def against_matching(one: Series) -> pd.DataFrame:
    """Average gain and share of the gap at every matching epoch, as a share of training."""
    return effects.averages(one.table, "matched")


def early_epoch(one: Series) -> float:
    """Return the matching epoch, in percent of training, that is nearest to a tenth; not 0."""
    there = one.table.loc[one.table["matched"] > 0, "matched"].unique()
    return float(min(there, key=lambda t: abs(t - EARLY)))


def gain(one: Series, matched: float) -> Effect:
    """Return permuted − naive if B is matched at a share of its training (percent), in points."""
    by_seed = one.table[one.table["matched"] == matched].groupby("seed")["gain"].mean()
    return mean_effect(
        one.label, f"permuted − naive, matched at {matched:g} % of training", by_seed
    )


def kept(one: Series) -> Effect:
    """Return what an early match gains, in percent of what a match at the end gains."""
    early, end = (
        one.table[one.table["matched"] == t].groupby("seed")["gain"].mean()
        for t in (early_epoch(one), one.table["matched"].max())
    )
    return ratio_effect(one.label, "share of the gain at the end", early, end)


def statements(one: Series) -> list[tuple[str, Effect, Rule]]:
    """List the statements that can be tested, as `lotperm.studies.arms.effects.statements`."""
    table = one.table
    first, last = table.loc[table["matched"] > 0, "matched"].min(), table["matched"].max()
    ends = (table[table["matched"] == t].groupby("seed")["gain"].mean() for t in (last, first))
    late, soon = ends
    return [
        ("matched at the end, permuted beats naive", gain(one, last), Above()),
        ("matched at a tenth of training it does, too", gain(one, early_epoch(one)), Above()),
        (
            "the later the match, the better",
            mean_effect(one.label, f"gain at {last:g} % less at {first:g} %", late - soon),
            Above(),
        ),
    ]
