"""Our arms beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.numbers import Number
from lotperm.studies.published import Recorded
from lotperm.studies.results import Results

_WORDS = {"lth": "LTH", "permuted": "permuted", "naive": "naive"}


def _with_what_follows(arms: dict[str, Number], gain: Number | None = None) -> dict[str, Number]:
    """The arms, and what permuting gains; `gain` is given where seeds can be paired."""
    found = dict(arms)
    if {"permuted", "naive"} <= arms.keys():
        found["permuted − naive"] = gain or arms["permuted"].less(arms["naive"].value)
    if set(PAPER_ARMS) <= arms.keys() and arms["lth"].value != arms["naive"].value:
        gap = arms["lth"].value - arms["naive"].value
        found["gap closed (%)"] = Number(100 * found["permuted − naive"].value / gap)
    return found


def our_arms(rows: pd.DataFrame, sparsity: float, rewind_epoch: int) -> dict[str, Number]:
    """The arms at one sparsity and rewind epoch, of a tidy table of results."""
    at = rows[(rows["sparsity"] == sparsity) & (rows["rewind_epoch"] == rewind_epoch)]
    by_seed = at[at["metric"] == "test_accuracy"].pivot(
        index="seed", columns="method", values="value"
    )
    gain = Number.of(by_seed["permuted"] - by_seed["naive"])
    return _with_what_follows({arm: Number.of(by_seed[arm]) for arm in PAPER_ARMS}, gain)


def _nearest(share: float, available: list[int], epochs: int) -> int:
    """The rewind epoch nearest to a share of training; of two, the later one, so that 0 stands
    beside no other.
    """
    return min(available, key=lambda k: (round(abs(k / epochs - share), 9), -k))


def beside(
    ours: Mapping[str, Results | Recorded],
    reference: pd.DataFrame | None = None,
    *,
    paper_epochs: int = 200,
    paper_rewind: int = 20,
) -> pd.DataFrame:
    """Our arms beside the paper's: accuracy of each arm, their difference and the gap closed,
    sparsity by sparsity.

    Ours are taken at the rewind epoch that is nearest to the paper's as a share of dense training,
    with 95 % intervals over seeds, paired for permuted − naive. The gap closed is the ratio of the
    means, which has none.

    Parameters
    ----------
    ours : Mapping[str, Results | Recorded]
        Label ("live, MNIST-1D", "recorded, ...") -> results. A label must say which kind of number
        it is.
    reference : pd.DataFrame | None, optional
        Columns sparsity, method, rewind_epoch (or none), test_acc_mean in percent; None: nothing
        is published.
    paper_epochs, paper_rewind : int, optional
        Of the paper's column.

    Returns
    -------
    DataFrame
        Index (sparsity, quantity); a column for each of ours, "paper", and "ours − paper" for each
        of ours; rounded texts, "" where there is none.
    """
    columns: dict[str, dict[tuple[float, str], Number]] = {}
    for label, results in ours.items():
        rows = results.table if isinstance(results, Results) else results.rows()
        e = results.experiment
        plain = e.to_dict() if isinstance(e, Experiment) else e
        epochs = plain["dense"]["epochs"]
        k = _nearest(paper_rewind / paper_epochs, plain["rewind_epochs"], epochs)
        columns[f"{label} (k = {k} of {epochs})"] = {
            (s, what): number
            for s in plain["sparsities"]
            for what, number in our_arms(rows, s, k).items()
        }
    theirs: dict[tuple[float, str], Number] = {}
    if reference is not None and len(reference):
        if "rewind_epoch" in reference:
            reference = reference[reference["rewind_epoch"] == paper_rewind]
        sparsity: Any
        for sparsity, part in reference.groupby("sparsity"):
            means = part.set_index("method")["test_acc_mean"]
            arms = _with_what_follows(
                {arm: Number(means[arm]) for arm in PAPER_ARMS if arm in means}
            )
            theirs |= {(float(sparsity), what): number for what, number in arms.items()}
    name = f"paper (k = {paper_rewind} of {paper_epochs})"
    differences = {
        f"{label.partition(' (')[0]} − paper": {
            key: number.less(theirs[key].value) for key, number in column.items() if key in theirs
        }
        for label, column in columns.items()
    }
    shown = {**columns, name: theirs, **differences}
    order = [*PAPER_ARMS, "permuted − naive", "gap closed (%)"]
    keys = {key for column in shown.values() for key in column}
    index = sorted(keys, key=lambda key: (key[0], order.index(key[1])))
    table = pd.DataFrame(
        {
            label: [column.get(key, Number(math.nan)).text(1) for key in index]
            for label, column in shown.items()
        }
    )
    table.index = pd.MultiIndex.from_tuples(
        [(f"{s:g}", _WORDS.get(what, what)) for s, what in index], names=["sparsity", ""]
    )
    return table
