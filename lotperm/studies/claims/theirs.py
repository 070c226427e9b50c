"""The paper's evidence for its claims, computed from its own tables.

A mean over many settings has an interval over *rows* of the tables: a network, width, data set and
sparsity. Settings in one row differ only in the rewind epoch and share dense networks and masks, so
they aren't independent. Where the paper prints a spread, it is taken to be a standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from lotperm.config.experiment import Experiment
from lotperm.studies.claims import costs
from lotperm.studies.claims.evidence import (
    Effect,
    mean_effect,
    ratio_effect,
    share_above,
    slope,
)
from lotperm.studies.claims.numbers import NAMES, ROW
from lotperm.studies.claims.sources import Sources

ROWS = "rows of tables"
RUNS = 3
"""Behind each number of Tables 5 to 9 and 11 to 14."""

FEW = 3
"""Rows below which their own spread says too little."""


def _source(tables: pd.Series) -> str:
    """Return "paper, Tables 5–8" from the tables that occur."""
    found = sorted(set(tables))
    spans: list[list[int]] = []
    # Neighbouring tables are joined: 5, 6, 7, 9 become 5–7, 9.
    for table in found:
        if spans and table == spans[-1][1] + 1:
            spans[-1][1] = table
        else:
            spans.append([table, table])
    text = ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in spans)
    return f"paper, Table{'' if len(found) == 1 else 's'} {text}"


def spread_effect(source: str, what: str, values: pd.Series, errors: pd.Series) -> Effect:
    """Return the mean of a few values whose standard errors are known, each from three runs.

    Parameters
    ----------
    source, what : str
        As in `Effect`.
    values, errors : Series
        In points, in the same order.
    """
    value = float(values.mean())
    error = float(np.sqrt((errors**2).sum())) / len(values)
    # Each value is a difference of two means over three runs.
    freedom = len(values) * (2 * RUNS - 2)
    half = float(stats.t.ppf(0.975, freedom)) * error
    p = float(2 * stats.t.sf(abs(value) / error, freedom))
    n = len(values)
    return Effect(source, what, value, low=value - half, high=value + half, n=n, over=ROWS, p=p)


def _over_rows(chosen: pd.DataFrame, what: str, values: pd.Series) -> Effect:
    """Return the mean over rows of the rows' means, and how many settings are above 0."""
    rows = [chosen[name] for name in ROW]
    per_row = values.groupby(rows).mean()
    note = share_above(values, "settings")
    if len(per_row) < FEW:
        # Two rows say nothing about their own spread, but the printed spreads do: they are taken to
        # be those of three runs, as if the settings of a row were one.
        errors = chosen["gain_error"].groupby(rows).mean()
        effect = spread_effect(_source(chosen["table"]), what, per_row, errors)
        return effect.noted(f"{note}; interval from the printed spreads")
    return mean_effect(_source(chosen["table"]), what, per_row, over=ROWS).noted(note)


def difference(sources: Sources, a: str, b: str, tables: Sequence[int] = range(5, 15)) -> Effect:
    """Return a − b over all settings of some of the Tables 5 to 14."""
    arms = sources.settings()
    chosen = arms[arms["table"].isin(tables)]
    # Two decimals, as in the tables, so that ties stay ties.
    values = (chosen[a] - chosen[b]).round(2)
    return _over_rows(chosen, f"{_word(a)} − {_word(b)}", values)


def _word(method: str) -> str:
    return {"lth": "LTH", "imp": "IMP"}.get(method, method)


def difference_by_network(sources: Sources, a: str, b: str) -> list[Effect]:
    """Return a − b for every network and data set by itself."""
    chosen = sources.settings()
    found = []
    for (network, dataset), part in chosen.groupby(["network", "dataset"], sort=False):
        values = (part[a] - part[b]).round(2)
        what = f"{_word(a)} − {_word(b)}, {NAMES[str(network)]} on {NAMES[str(dataset)]}"
        found.append(_over_rows(part, what, values))
    return found


def significant_gain(sources: Sources) -> Effect:
    """Return what permuting gains, and note in how many settings three runs can show it."""
    chosen = sources.settings()
    # ImageNet has no spread, so nothing can be said about its single settings.
    known = chosen[chosen["gain_error"].notna()]
    # Welch's degrees of freedom for three and three runs are 2 to 4; the largest is the kindest.
    clear = known["gain"] > stats.t.ppf(0.975, 2 * RUNS - 2) * known["gain_error"]
    effect = difference(sources, "permuted", "naive")
    return effect.noted(
        f"{effect.note}; in {int(clear.sum())} of the {len(known)} with a spread the difference of "
        "the means exceeds its own 95 % interval"
    )


def share_closed(sources: Sources) -> Effect:
    """Return the share of the gap that permuting closes at k > 0, as a ratio of means over rows."""
    chosen = sources.settings()
    chosen = chosen[chosen["rewind_epoch"] > 0]
    # A ratio of means: at single settings the gap may be nearly 0.
    per_row = chosen.groupby(ROW)[["gain", "gap"]].mean()
    effect = ratio_effect(
        _source(chosen["table"]), "share of the gap closed", per_row["gain"], per_row["gap"], ROWS
    )
    most = per_row["gain"] / per_row["gap"]
    return effect.noted(f"more than half in {int((most > 0.5).sum())} of {len(most)} rows")


def _by_width(sources: Sources, column: str, at: int) -> tuple[pd.DataFrame, pd.Series]:
    """Return the wide network's value less the narrow one's, a row for each data set and S."""
    arms = sources.settings()
    chosen = arms[(arms["network"] == "resnet20") & (arms["rewind_epoch"] == at)]
    wide = chosen.pivot_table(index=["dataset", "sparsity"], columns="width", values=column)
    return chosen, wide[wide.columns.max()] - wide[wide.columns.min()]


def share_against_width(sources: Sources, at: int = 50) -> Effect:
    """Return the share closed at the largest width less that at the smallest, k = 50."""
    chosen, grown = _by_width(sources, "share", at)
    effect = mean_effect(
        _source(chosen["table"]), f"share closed, ×16 − ×1, k = {at}", 100 * grown, ROWS, "%"
    )
    return effect.shown(0).noted(f"grows in {int((grown > 0).sum())} of {len(grown)} rows")


def gain_against_width(sources: Sources, at: int = 50) -> Effect:
    """Return the points gained at the largest width less those at the smallest, k = 50."""
    chosen, grown = _by_width(sources, "gain", at)
    effect = mean_effect(
        _source(chosen["table"]), f"permuted − naive, ×16 − ×1, k = {at}", grown, ROWS
    )
    gap = chosen.groupby("width")["gap"].mean()
    return effect.noted(
        f"falls in {int((grown < 0).sum())} of {len(grown)} rows; LTH − naive itself falls from "
        f"{gap.iloc[0]:.1f} to {gap.iloc[-1]:.1f} points"
    )


def gain_against_sparsity(sources: Sources) -> Effect:
    """Return the gain at the highest sparsity less that at the lowest, k > 0; over tables."""
    chosen = sources.settings()
    chosen = chosen[chosen["rewind_epoch"] > 0]
    wide = chosen.pivot_table(index=["table", "rewind_epoch"], columns="sparsity", values="gain")
    # Tables have different sparsities; each compares its own first and last.
    grown = wide.apply(lambda row: row.dropna().iloc[-1] - row.dropna().iloc[0], axis=1)
    effect = mean_effect(
        _source(chosen["table"]),
        "permuted − naive, highest − lowest sparsity",
        grown.groupby("table").mean(),
        "tables",
    )
    return effect.noted(share_above(grown.round(2), "tables and rewind epochs"))


def gain_of_rewinding(sources: Sources) -> Effect:
    """Return what permuting gains at k > 0 less what it gains at k = 0."""
    chosen, grown = _rewound(sources, "gain")
    effect = mean_effect(
        _source(chosen["table"]), "permuted − naive, at k > 0 less at k = 0", grown, ROWS
    )
    start = chosen.loc[chosen["rewind_epoch"] == 0, "gain"]
    return effect.noted(
        f"at k = 0 it gains {start.mean():.2f} points on average, {start.min():.2f} to "
        f"{start.max():.2f}"
    )


def lth_of_rewinding(sources: Sources) -> Effect:
    """Return LTH at k > 0 less LTH at k = 0."""
    chosen, grown = _rewound(sources, "lth")
    effect = mean_effect(_source(chosen["table"]), "LTH, at k > 0 less at k = 0", grown, ROWS)
    return effect.noted(share_above(grown, "rows"))


def _rewound(sources: Sources, column: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return a column's mean at k > 0 less its value at k = 0, for each row that has k = 0."""
    arms = sources.settings()
    chosen = arms[arms["network"] != "resnet50"]
    # ImageNet, which is left out, has no k = 0.
    late = chosen[chosen["rewind_epoch"] > 0].groupby(ROW)[column].mean()
    return chosen, late - chosen[chosen["rewind_epoch"] == 0].set_index(ROW)[column]


def _rise(chosen: pd.DataFrame, arm: str, first: int, last: int | None) -> pd.Series:
    """Return an arm's accuracy at one rewind epoch less that at another; None: the largest."""
    wide = chosen.pivot_table(index=ROW, columns="rewind_epoch", values=arm)
    # Tables end at different rewind epochs.
    end = wide.apply(lambda row: row.dropna().iloc[-1], axis=1) if last is None else wide[last]
    return (end - wide[first]).round(2)


def permuted_plateau(sources: Sources, turn: int = 25) -> Effect:
    """Return how much permuted rises up to k = 25 less how much it rises after it."""
    arms = sources.settings()
    chosen = arms[arms["network"] != "resnet50"]
    before, after = (_rise(chosen, "permuted", *ends) for ends in ((0, turn), (turn, None)))
    effect = mean_effect(
        _source(chosen["table"]),
        f"permuted: its rise up to k = {turn} less its rise after it",
        before - after,
        ROWS,
    )
    return effect.noted(f"{before.mean():.2f} points up to k = {turn}, {after.mean():.2f} after it")


def naive_against_rewinding(sources: Sources) -> Effect:
    """Return naive at the largest k less naive at k = 0."""
    arms = sources.settings()
    chosen = arms[arms["network"] != "resnet50"]
    rise = _rise(chosen, "naive", 0, None)
    effect = mean_effect(
        _source(chosen["table"]), "naive, at the largest k less at k = 0", rise, ROWS
    )
    return effect.noted(share_above(rise, "rows"))


def vgg_naive_plateau(sources: Sources, turn: int = 20) -> Effect:
    """Return how much VGG11's naive arm rises up to k = 20 less how much it rises after it."""
    cells = sources.cells
    naive = cells[(cells["network"] == "vgg11") & (cells["method"] == "naive")]
    mean, std = (
        naive.pivot(index="sparsity", columns="rewind_epoch", values=what)
        for what in ("mean", "std")
    )
    last = mean.columns.max()
    after = mean[last] - mean[turn]
    bend = mean[turn] - mean[0] - after
    # The bend is twice the value at the turn less those at both ends, so its variance counts four
    # times.
    errors = np.sqrt((4 * std[turn] ** 2 + std[0] ** 2 + std[last] ** 2) / RUNS)
    what = f"naive: its rise up to k = {turn} less its rise after it"
    effect = spread_effect(_source(naive["table"]), what, bend, errors)
    rises = " and ".join(f"{rise:.2f}" for rise in after)
    return effect.noted(
        f"after k = {turn} it still rises by {rises} points; interval from the printed spreads"
    )


# Table 15


def early_gain(sources: Sources, share: float = 0.1, epochs: int = 200) -> Effect:
    """Return what permuting gains if B was matched at a tenth of its training; over sparsities."""
    table, at = sources.early, round(share * epochs)
    fixed = table[table["method"] == "naive"].set_index("sparsity")["test_acc_mean"]
    early = table[table["method"] == "permuted"].pivot(
        index="sparsity", columns="matching_epoch", values="test_acc_mean"
    )
    effect = mean_effect(
        "paper, Table 15",
        f"permuted, matched at t = {at} of {epochs}, − naive",
        early[at] - fixed,
        "sparsities",
    )
    # A ratio of sums, for the sparsities together.
    kept = (early[at] - fixed).sum() / (early[epochs] - fixed).sum()
    return effect.noted(f"{100 * kept:.0f} % of what matching at the end gains")


def early_slope(sources: Sources) -> Effect:
    """Return permuted matched at the end of training less permuted matched at epoch 5."""
    table = sources.early[sources.early["method"] == "permuted"]
    wide = table.pivot(index="sparsity", columns="matching_epoch", values="test_acc_mean")
    effect = mean_effect(
        "paper, Table 15",
        "permuted, matched at t = 200 less at t = 5",
        wide[200] - wide[5],
        "sparsities",
    )
    return effect.noted("no table says how good the permutation is; later ones should be better")


# Other sources


def barrier_against_width(sources: Sources) -> Effect:
    """Return by how much REPAIR's published barriers fall for each doubling of the width."""
    table = sources.barriers.dropna(subset="barrier")
    width = np.log2(table["model"].str.extract(r"x(\d+)$")[0].astype(float))
    # One number is published for each width, so the interval is that of the fitted line.
    line = stats.linregress(width, table["barrier"])
    half = stats.t.ppf(0.975, len(table) - 2) * line.stderr
    value = -slope(width, table["barrier"])
    return Effect(
        "REPAIR's authors, ResNet20 on CIFAR-10",
        "barrier, fall for each doubling of the width",
        value,
        low=value - half,
        high=value + half,
        n=len(table),
        over="widths",
        p=float(line.pvalue),
        note=f"{table['barrier'].iloc[0]:.1f} to {table['barrier'].iloc[-1]:.1f} points from "
        f"{table['model'].iloc[0]} to {table['model'].iloc[-1]}; the paper draws its own, without "
        "a table",
    )


def cost_of_a_ticket() -> list[Effect]:
    """Return what finding a ticket costs by the paper's protocol of CIFAR."""
    return [costs.ticket("paper, Table 3 (protocol)", _protocol())]


def cost_of_permuting() -> list[Effect]:
    """Return what a permuted network costs beyond a ticket by the paper's protocol of CIFAR."""
    return [costs.permuting("paper, Table 3 and appendix D (protocol)", _protocol())]


def _protocol() -> dict[str, object]:
    # The profile that follows the paper's own settings.
    return Experiment.from_parameters(profile="paper").to_dict()
