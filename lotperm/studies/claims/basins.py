"""Evidence on basins from recorded runs: what a ticket learns again, and what lies between."""

from __future__ import annotations

import pandas as pd

from lotperm.studies.basin.tables import largest
from lotperm.studies.claims.evidence import Effect, mean_effect, ratio_effect
from lotperm.studies.claims.sources import Sources
from lotperm.studies.numbers import number


def relearned(sources: Sources) -> list[Effect]:
    """Return by what percentage LTH disagrees less with pruned A than the permuted network does.

    The permuted network is the yardstick of another solution: it starts from B, and is as sparse.
    """
    found = []
    for run in sources.of_kind("relearning"):
        towards = run.rows[run.rows["reference"] == "imp"]
        wide = towards.pivot_table(index="seed", columns="network", values="disagreement")
        effect = ratio_effect(
            run.source,
            "disagreement with pruned A, LTH less than permuted",
            wide["permuted"] - wide["lth"],
            wide["permuted"],
        )
        barrier = 100 * towards.groupby("network")["barrier_repair"].mean()
        found.append(
            effect.noted(
                f"LTH disagrees on {100 * wide['lth'].mean():.1f} % of the test images, permuted on "
                f"{100 * wide['permuted'].mean():.1f} %; the barrier to pruned A after REPAIR is "
                f"{barrier['lth']:.1f} and {barrier['permuted']:.1f} points"
            )
        )
    return found


def misaligned(sources: Sources) -> list[Effect]:
    """Return the share of naive's loss that misalignment alone causes, in percent.

    A shuffled copy of A has A's own weights in another order, so that A's mask is as misaligned on
    it as on B, while nothing else is wrong. What LTH loses there is set against what it loses on B.
    """
    found = []
    for run in sources.of_kind("causal"):
        rows = run.rows[run.rows["rewind_epoch"] > 0]
        if rows.empty:
            continue
        # Cells of a seed share its dense networks, so each seed counts once.
        wide = 100 * rows.pivot_table(index="seed", columns="arm", values="accuracy")
        effect = ratio_effect(
            run.source,
            "LTH − naive on a shuffled copy of A, of LTH − naive on B",
            wide["lth"] - wide["copy, naive"],
            wide["lth"] - wide["naive"],
        )
        healed = (wide["copy, 0% scrambled"] - wide["lth"]).mean()
        found.append(
            effect.noted(
                "with the known permutation the copy is "
                f"{number(healed, 2, signed=True)} points from LTH, which symmetry demands"
            )
        )
    return found


def own_basin(sources: Sources) -> list[Effect]:
    """Return the largest error barrier between dense A and A after any round of IMP, repaired."""
    return [
        _largest(run.source, run.rows, "rounds", "largest barrier, dense A to A after a round")
        for run in sources.of_kind("basin")
    ]


def triangle(sources: Sources) -> list[Effect]:
    """Return the largest error barrier between dense A, LTH and permuted, repaired."""
    return [
        _largest(run.source, run.rows, "edges", "largest barrier, dense A, LTH and permuted")
        for run in sources.of_kind("basin")
    ]


def _largest(source: str, rows: pd.DataFrame, over: str, what: str) -> Effect:
    barrier = 100 * largest(rows, over)
    effect = mean_effect(source, f"{what}, after REPAIR", barrier["repair"])
    return effect.noted(f"without repair {barrier['none'].mean():.1f} points")
