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
    """Add what permuting gains, and the gap that it closes.

    `gain` is given where seeds can be paired; it is the difference of the means otherwise.
    """
    found = dict(arms)
    if {"permuted", "naive"} <= arms.keys():
        found["permuted − naive"] = gain or arms["permuted"].less(arms["naive"].value)
    if set(PAPER_ARMS) <= arms.keys() and arms["lth"].value != arms["naive"].value:
        # A ratio of means: shares of single seeds scatter wildly where the gap is small.
        gap = arms["lth"].value - arms["naive"].value
        found["gap closed (%)"] = Number(100 * found["permuted − naive"].value / gap)
    return found


def our_arms(rows: pd.DataFrame, sparsity: float, rewind_epoch: int) -> dict[str, Number]:
    """Select the arms at one sparsity and rewind epoch from a tidy table of results."""
    at = rows[(rows["sparsity"] == sparsity) & (rows["rewind_epoch"] == rewind_epoch)]
    by_seed = at[at["metric"] == "test_accuracy"].pivot(
        index="seed", columns="method", values="value"
    )
    # Paired by seed: permuted and naive share their B and the order of the examples, so most of the
    # chance cancels out.
    gain = Number.of(by_seed["permuted"] - by_seed["naive"])
    return _with_what_follows({arm: Number.of(by_seed[arm]) for arm in PAPER_ARMS}, gain)


def _nearest(share: float, available: list[int], epochs: int) -> int:
    """Return the rewind epoch nearest to a share of training; of two, the later one."""
    # The later one, as k = 0 means no training at all and should stand beside no other. Rounded,
    # since shares that should tie differ in their last bits.
    return min(available, key=lambda k: (round(abs(k / epochs - share), 9), -k))


def beside(
    ours: Mapping[str, Results | Recorded],
    reference: pd.DataFrame | None = None,
    *,
    paper_epochs: int = 200,
    paper_rewind: int = 20,
) -> pd.DataFrame:
    """Put our arms beside the paper's: accuracies, what permuting gains, and the gap closed.

    Ours are taken at the rewind epoch that is nearest to the paper's as a share of dense training,
    with 95 % intervals over seeds, paired for permuted − naive. The gap closed is a ratio of means,
    without an interval.

    Parameters
    ----------
    ours : mapping of str to Results or Recorded
        Label -> results. The label says which kind of number it is: "live, MNIST-1D",
        "recorded, ...".
    reference : DataFrame, optional
        The paper's numbers: columns sparsity, method, test_acc_mean (percent) and, unless all
        are of one, rewind_epoch. None if nothing is published.
    paper_epochs, paper_rewind : int, optional
        Dense epochs and rewind epoch of the paper's column.

    Returns
    -------
    DataFrame
        Index (sparsity, quantity); a column for each of ours, "paper", and "ours − paper" for each
        of ours; rounded texts, "" where there is none.
    """
    columns: dict[str, dict[tuple[float, str], Number]] = {}
    for label, results in ours.items():
        # A record keeps its experiment as plain data; the run of this page has the object.
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
        # Without the rewind epoch that the label ends with.
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
