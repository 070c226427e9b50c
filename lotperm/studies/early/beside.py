"""Our early matching beside the paper's."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lotperm.studies.numbers import Number
from lotperm.studies.published import Recorded, live_label, paper, recorded
from lotperm.studies.results import Results


def early_means(
    table: pd.DataFrame, results: Results, sparsity: float, rewind_epoch: int
) -> tuple[float, float, dict[int, float]]:
    """Average test accuracies over seeds; parameters as for `beside_early_matching`.

    Returns
    -------
    lth, naive : float
        Fractions.
    permuted : dict of int to float
        Matching epoch -> fraction.
    """
    lth, naive = (
        float(results.values(arm, sparsity, rewind_epoch).mean()) for arm in ("lth", "naive")
    )
    permuted = table[table["metric"] == "test_accuracy"].groupby("matching_epoch")["value"].mean()
    return lth, naive, dict(zip(permuted.index.tolist(), permuted.tolist(), strict=True))


def _recorded_arms(run: Recorded, sparsity: float, rewind_epoch: int) -> dict[str, Number]:
    """Find the test accuracies of LTH and naive for a recorded run of early matching.

    They are in the recorded table of the same experiment, which may have more seeds than the run;
    only the run's are taken. Without such a table the result is empty.
    """
    # A table may cover more seeds, sparsities and rewind epochs, and keep other epochs, and still
    # hold the very arms that were trained beside this run.
    free = ("seeds", "sparsities", "rewind_epochs", "keep")
    own = {key: value for key, value in run.experiment.items() if key not in free}
    seeds = set(run.experiment["seeds"])
    for table in recorded(run.experiment["data"]["name"]):
        same = {key: value for key, value in table.experiment.items() if key not in free} == own
        if not same or not seeds <= set(table.experiment["seeds"]):
            continue
        rows = table.rows()
        rows = rows[(rows["metric"] == "test_accuracy") & rows["seed"].isin(seeds)]
        rows = rows[(rows["sparsity"] == sparsity) & (rows["rewind_epoch"] == rewind_epoch)]
        arms = {arm: part["value"] for arm, part in rows.groupby("method")}
        if {"lth", "naive"} <= arms.keys():
            return {"LTH": Number.of(arms["lth"]), "naive": Number.of(arms["naive"])}
    return {}


def beside_early_matching(
    table: pd.DataFrame, results: Results, sparsity: float, rewind_epoch: int
) -> pd.DataFrame:
    """Put our accuracies at every matching epoch, live and recorded, beside the paper's.

    Parameters
    ----------
    table : DataFrame
        As `Pipeline.early_matching` returns it.
    results : Results
        Results of the same experiment, for LTH and naive.
    sparsity, rewind_epoch : float and int
        Those of the arms.

    Returns
    -------
    DataFrame
        Index (whose, sparsity): the paper's, ours, and their differences where both have that
        sparsity and share. Columns LTH, ``t = … % of T``, naive; percent, ours with 95 % intervals
        over seeds; texts, "" where there is none.
    """

    def at(t: Any, epochs: int) -> str:
        # Runs differ in length: t can only be compared as a share of training.
        return f"t = {100 * t / epochs:.3g} % of T"

    theirs = "paper, cifar10"
    rows: dict[tuple[str, str], dict[str, Number]] = {}
    for s, part in paper("early_matching_resnet20x1_cifar10").groupby("sparsity"):
        # In the paper's table LTH and naive have no matching epoch.
        fixed = part[part["method"] != "permuted"].set_index("method")["test_acc_mean"]
        early = part[part["method"] == "permuted"].set_index("matching_epoch")["test_acc_mean"]
        rows[theirs, f"{s:g}"] = {
            "LTH": Number(fixed["lth"]),
            **{at(t, 200): Number(value) for t, value in early.items()},
            "naive": Number(fixed["naive"]),
        }
    e = results.experiment
    lth, naive = (
        Number.of(results.values(arm, sparsity, rewind_epoch)) for arm in ("lth", "naive")
    )
    accuracies = table[table["metric"] == "test_accuracy"].groupby("matching_epoch")["value"]
    live = {at(t, e.dense.epochs): Number.of(values) for t, values in accuracies}
    rows[live_label(e), f"{sparsity:g}"] = {"LTH": lth, **live, "naive": naive}
    for run in recorded(kind="early"):
        found = run.summary[run.summary["metric"] == "test_accuracy"]
        key: Any
        for key, values in found.groupby(["sparsity", "rewind_epoch", "matching_epoch"])["value"]:
            s, k, t = key
            name = (f"{run.label}, k = {k}", f"{s:g}")
            # All matching epochs of a run share a row; its LTH and naive are looked up once.
            if name not in rows:
                rows[name] = _recorded_arms(run, s, k)
            rows[name][at(t, run.experiment["dense"]["epochs"])] = Number.of(values)
    for label, s in [name for name in rows if name[0] != theirs]:
        if same := rows.get((theirs, s)):
            row = rows[label, s]
            rows[f"{label} − paper", s] = {
                what: v.less(same[what].value) for what, v in row.items() if what in same
            }
    shares = {what for row in rows.values() for what in row} - {"LTH", "naive"}
    # By the number in "t = … % of T"; sorted as texts, 100 would come before 25.
    ordered = sorted(shares, key=lambda what: float(what.split()[2]))
    columns = ["LTH", *ordered, "naive"]
    shown = {
        name: [numbers.get(what, Number(math.nan)).text(1) for what in columns]
        for name, numbers in rows.items()
    }
    return pd.DataFrame(shown, index=columns).T.rename_axis(["", "sparsity"])
