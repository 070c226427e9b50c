"""This project's evidence for the paper's claims, computed from its recorded runs.

A run has one effect for a claim: every seed's mean over all sparsities and rewind epochs that were
run, and a paired 95 % interval over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from lotperm.science.barrier import accuracy_barriers
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.claims import costs
from lotperm.studies.claims.evidence import (
    Effect,
    exact,
    mean_effect,
    ratio_effect,
    share_above,
    slope,
)
from lotperm.studies.claims.sources import Run, Sources

_WORDS = {"lth": "LTH", "imp": "IMP", "dense_a": "dense A"}


def difference(
    sources: Sources,
    a: str,
    b: str,
    *,
    dataset: str | None = None,
    model: str = "",
    sparsity: float | None = None,
) -> list[Effect]:
    """Return a − b for every recorded table, one effect for each.

    Parameters
    ----------
    sources : Sources
        The recorded runs.
    a, b : str
        Methods: arms, "imp", "dense_a" or "dense_b".
    dataset, model : str, optional
        Only of these runs, as in `Sources.of_kind`.
    sparsity : float, optional
        Only at this one.
    """
    found = []
    for run in sources.of_kind("table", dataset, model):
        table = run.accuracies()
        if sparsity is not None:
            table = table[table.index.get_level_values("sparsity") == sparsity]
        values = table[a] - table[b]
        if values.empty:
            continue
        # Settings of a seed share its dense networks and aren't independent, so each seed counts
        # once, by its mean over them.
        what = f"{_WORDS.get(a, a)} − {_WORDS.get(b, b)}"
        effect = mean_effect(run.source, what, values.groupby("seed").mean())
        per_setting = values.groupby(["sparsity", "rewind_epoch"]).mean()
        found.append(effect.noted(_settings(per_setting, sparsity)))
    return found


def _settings(per_setting: pd.Series, sparsity: float | None) -> str:
    """Say at which settings a difference was taken, for a note."""
    if sparsity is None and len(per_setting) > 1:
        return share_above(per_setting, "settings")
    places = ", ".join(f"{k:g}" for k in per_setting.index.unique("rewind_epoch"))
    return f"at S = {per_setting.index[0][0]:g}, k = {places}"


def order_of_arms(sources: Sources) -> list[Effect]:
    """Return the smaller of LTH − permuted and permuted − naive, for every recorded table."""
    pairs = (("lth", "permuted"), ("permuted", "naive"))
    both = [difference(sources, *pair) for pair in pairs]
    # The claim needs both differences, so the less certain one decides; of one seed, the smaller.
    return [
        min(two, key=lambda effect: effect.value if math.isnan(effect.low) else effect.low)
        for two in zip(*both, strict=True)
    ]


def share_closed(sources: Sources) -> list[Effect]:
    """Return the share of the gap that permuting closes, as a ratio of means, for every table."""
    found = []
    for run in sources.of_kind("table"):
        table = run.accuracies()
        gain = (table["permuted"] - table["naive"]).groupby("seed").mean()
        gap = (table["lth"] - table["naive"]).groupby("seed").mean()
        found.append(ratio_effect(run.source, "share of the gap closed", gain, gap))
    return found


def gain_against_sparsity(sources: Sources) -> list[Effect]:
    """Return permuted − naive at the highest less that at the lowest sparsity, for every table.

    It is taken at k > 0, as for the paper's tables, or at k = 0 where there is no other.
    """
    found = []
    for run in sources.of_kind("table"):
        table = run.accuracies()
        late = table[table.index.get_level_values("rewind_epoch") > 0]
        table = table if late.empty else late
        gain = (table["permuted"] - table["naive"]).groupby(["sparsity", "seed"]).mean().unstack(0)
        # A run at one sparsity says nothing about it.
        if len(gain.columns) < 2:
            continue
        low, high = gain.columns.min(), gain.columns.max()
        what = f"permuted − naive, at S = {high:g} less at {low:g}"
        found.append(mean_effect(run.source, what, gain[high] - gain[low]))
    return found


def against_width(sources: Sources, quantity: str) -> list[Effect]:
    """Return the share closed or the points gained at the largest width less at the smallest.

    It is taken at the latest rewind epoch of each run, as for the paper's tables.

    Parameters
    ----------
    sources : Sources
        The recorded runs.
    quantity : str
        "share" (in percent, each seed's own ratio of means) or "gain" (points).

    Returns
    -------
    list[Effect]
        One for each network that was recorded at two widths or more on the same data, over the
        seeds that both have.
    """
    found = []
    for runs in _series_of_widths(sources.of_kind("table")):
        narrow, wide = (_per_seed(run, quantity) for run in (runs[0], runs[-1]))
        grown = (wide - narrow).dropna()
        what = f"{quantity}, ×{runs[-1].width:g} − ×{runs[0].width:g}"
        unit = "%" if quantity == "share" else "points"
        found.append(mean_effect(runs[-1].source, what, grown, unit=unit))
    return found


def _per_seed(run: Run, quantity: str) -> pd.Series:
    table = run.accuracies()
    k = table.index.get_level_values("rewind_epoch")
    table = table[k == k.max()].groupby("seed").mean()
    gain = table["permuted"] - table["naive"]
    return gain if quantity == "gain" else 100 * gain / (table["lth"] - table["naive"])


def _series_of_widths(runs: Sequence[Run]) -> list[list[Run]]:
    """Return runs that differ only in width, each series sorted by width."""
    series: dict[str, list[Run]] = {}
    for run in runs:
        e = run.experiment
        # Runs are compared if they differ in nothing else that matters: a comparison of widths must
        # not be one of recipes.
        same = {key: value for key, value in e.items() if key not in ("seeds", "keep", "model")}
        # As text, since experiments are nested dictionaries, which can't be keys.
        series.setdefault(f"{run.model} {sorted(same.items(), key=str)}", []).append(run)
    ordered = [sorted(group, key=lambda run: run.width) for group in series.values()]
    # Two records of one width aren't a series.
    return [group for group in ordered if group[0].width < group[-1].width]


def at_first_rewind_epoch(
    sources: Sources, of: Callable[[pd.DataFrame], pd.Series], what: str
) -> list[Effect]:
    """Return a quantity at k > 0 less the same at k = 0, for every table that has k = 0.

    Parameters
    ----------
    sources : Sources
        The recorded runs.
    of : callable
        The quantity, from `Run.accuracies`.
    what : str
        Its name.
    """
    found = []
    for run in sources.of_kind("table"):
        values = of(run.accuracies())
        k = values.index.get_level_values("rewind_epoch")
        # A run without k = 0, or with only k = 0, has nothing to compare.
        if not ((k == 0).any() and (k > 0).any()):
            continue
        late, start = (values[at].groupby("seed").mean() for at in (k > 0, k == 0))
        found.append(mean_effect(run.source, f"{what}, at k > 0 less at k = 0", late - start))
    return found


def plateau(
    sources: Sources, arm: str, share: float, *, dataset: str | None = None, model: str = ""
) -> list[Effect]:
    """Return how much an arm rises with k up to a share of the epochs, less its rise after that.

    Parameters
    ----------
    sources : Sources
        The recorded runs.
    arm : str
        Its name.
    share : float
        Where the rise should end, as a share of dense training; the nearest k that was run counts.
    dataset, model : str, optional
        Only of these runs, as in `Sources.of_kind`.

    Returns
    -------
    list[Effect]
        One for each table of five rewind epochs or more, k = 0 among them.
    """
    found = []
    for run in sources.of_kind("table", dataset, model):
        arms = run.accuracies()[arm].groupby(["seed", "rewind_epoch"]).mean().unstack()
        first, *inner = arms.columns.astype(int)
        if first != 0 or len(inner) < 4:
            continue
        last = inner.pop()
        turn = min(inner, key=lambda k: abs(k / run.epochs - share))
        before, after = arms[turn] - arms[first], arms[last] - arms[turn]
        what = f"{arm}: its rise up to k = {turn} of {run.epochs} less its rise after it"
        effect = mean_effect(run.source, what, before - after)
        rises = f"{before.mean():.2f} points up to k = {turn}, {after.mean():.2f} after it"
        found.append(effect.noted(rises))
    return found


def cost_of_a_ticket(sources: Sources) -> list[Effect]:
    """Return what finding a ticket costs, by the protocol of every recorded table."""
    return [costs.ticket(run.source, run.experiment) for run in sources.of_kind("table")]


def cost_of_permuting(sources: Sources) -> list[Effect]:
    """Return what a permuted network costs beyond a ticket, for every recorded table."""
    return [costs.permuting(run.source, run.experiment) for run in sources.of_kind("table")]


def steps(sources: Sources) -> list[Effect]:
    """Return for how many of the five steps each recorded table has the networks."""
    found = []
    for run in sources.of_kind("table"):
        methods = set(run.rows["method"])
        # Matching and permuting have no row of their own; without them there is no permuted arm.
        done = (
            {"dense_a", "dense_b"} <= methods,
            "imp" in methods,
            "permuted" in methods,
            "permuted" in methods,
            set(PAPER_ARMS) <= methods,
        )
        effect = exact(run.source, "steps that were run", sum(done), 1, "table")
        found.append(effect.shown(0))
    return found


# Recorded lines


def barrier_removed(sources: Sources) -> list[Effect]:
    """Return the share of the barrier between A and B that permuting removes, after BN reset."""
    found = []
    for run in sources.of_kind("connectivity"):
        before, after = (_barriers(run, ends) for ends in ("as trained", "permuted"))
        effect = ratio_effect(
            run.source, "share of the barrier that permuting removes", before - after, before
        )
        found.append(
            effect.noted(f"from {before.mean():.1f} to {after.mean():.1f} points, batch norm reset")
        )
    return found


def _barriers(run: Run, ends: str, repair: str = "bn") -> pd.Series:
    """Return the accuracy barrier of every seed in points."""
    # After batch norm reset: without any repair, networks on the line suffer from collapsed
    # variance as well, which isn't what the claim is about.
    table = accuracy_barriers(run.rows)
    chosen = table[(table["ends"] == ends) & (table["repair"] == repair)]
    return 100 * chosen.set_index("seed")["barrier"]


def barrier_against_width(sources: Sources) -> list[Effect]:
    """Return by how much the barrier after permuting falls for each doubling of the width."""
    found = []
    for runs in _series_of_widths(sources.of_kind("connectivity")):
        table = pd.DataFrame({np.log2(run.width): _barriers(run, "permuted") for run in runs})
        # Falls are positive: an effect is positive if it is as claimed. Only seeds that all widths
        # have are compared.
        falls = [-slope(table.columns, row) for row in table.dropna().to_numpy()]
        what = "barrier, fall for each doubling of the width"
        effect = mean_effect(f"{runs[0].label} to ×{runs[-1].width:g}", what, falls)
        means = ", ".join(f"{x:.1f}" for x in table.mean())
        found.append(effect.noted(f"{means} points at {len(runs)} widths, batch norm reset"))
    return found


# Recorded early matching


def early_gain(sources: Sources, share: float = 0.1) -> list[Effect]:
    """Return what permuting gains if B was matched at about a tenth of its training.

    LTH and naive come from the recorded table of the same experiment, for the same seeds.
    """
    found = []
    for run in sources.of_kind("early"):
        early = _early(run, "test_accuracy")
        available = early.columns.astype(int)
        # Not t = 0, where B isn't trained at all.
        at = min(available[available > 0], key=lambda t: abs(t / run.epochs - share))
        naive = _naive_of(sources, run)
        if naive is None:
            continue
        what = f"permuted, matched at t = {at} of {run.epochs}, − naive"
        effect = mean_effect(run.source, what, 100 * early[at] - naive)
        last = (100 * early[run.epochs] - naive).mean()
        found.append(effect.noted(f"matched at the end it gains {last:.2f} points"))
    return found


def _early(run: Run, metric: str) -> pd.DataFrame:
    """Return a metric of early matching, index seed and columns the matching epoch."""
    rows = run.rows[run.rows["metric"] == metric]
    return rows.pivot_table(index="seed", columns="matching_epoch", values="value")


def _naive_of(sources: Sources, run: Run) -> pd.Series | None:
    """Return naive's accuracies for the seeds of a run of early matching, from its table."""
    sparsity, k = run.rows["sparsity"].iloc[0], run.rows["rewind_epoch"].iloc[0]
    # A table of the same experiment may cover more, and its arms are still the same.
    free = ("seeds", "sparsities", "rewind_epochs", "keep")
    own = {key: value for key, value in run.experiment.items() if key not in free}
    for table in sources.of_kind("table", run.dataset, run.model):
        if {key: value for key, value in table.experiment.items() if key not in free} == own:
            naive = table.accuracies()["naive"].xs((sparsity, k))
            return naive.loc[sorted(run.experiment["seeds"])]
    return None


def better_permutation(sources: Sources) -> list[Effect]:
    """Return the accuracy that 0.1 more correlation of matched units brings, over matching epochs."""
    found = []
    for run in sources.of_kind("early"):
        score, accuracy = _early(run, "score"), 100 * _early(run, "test_accuracy")
        # Within a seed, since seeds differ in accuracy for other reasons. By tenths, since matching
        # epochs don't differ by more.
        slopes = [slope(score.loc[seed], accuracy.loc[seed]) / 10 for seed in score.index]
        what = "permuted, for 0.1 more correlation of matched units"
        effect = mean_effect(run.source, what, slopes)
        ends = score.mean()
        found.append(
            effect.noted(f"correlation {ends.min():.2f} to {ends.max():.2f} over matching epochs")
        )
    return found
