"""The ledger: verdicts follow from data by rules, and change when a number does."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lotperm.config.experiment import Experiment
from lotperm.site import claims as site_claims
from lotperm.studies.claims import (
    CLAIMS,
    VERDICTS,
    Above,
    Effect,
    Run,
    Sources,
    Within,
    agreeing_on_real_images,
    counts,
    ledger,
    ledger_sum,
    ledger_table,
    numbers,
    verdict,
)
from lotperm.studies.claims.evidence import (
    MARGIN,
    count_effect,
    exact,
    mean_effect,
    ratio_effect,
    welch_effect,
)
from lotperm.studies.claims.sources import can_be_had
from lotperm.studies.claims.theirs import spread_effect

ROOT = Path(__file__).parents[2]
BY_NUMBER = {claim.number: claim for claim in CLAIMS}

# What the data say today: (published numbers, our runs). Change a row only because data changed.
EXPECTED = {
    "1": ("weaker", "weaker"),
    "2": ("agrees", "agrees"),
    "3": ("agrees", "agrees"),
    "4": ("weaker", "weaker"),
    "5": ("agrees", "agrees"),
    "6": (None, "weaker"),
    "7": (None, "agrees"),
    "8": (None, "agrees"),
    "9": (None, "weaker"),
    "10": (None, "agrees"),
    "11": (None, "agrees"),
    "12": (None, "agrees"),
    "13": (None, "agrees"),
    "14": (None, "weaker"),
    "15": ("agrees", "weaker"),
    "16 a": ("agrees", "weaker"),
    "16 b": ("opposite", "weaker"),
    "17": ("agrees", "agrees"),
    "18": ("agrees", "weaker"),
    "19": ("agrees", "weaker"),
    "20": ("agrees", "not run here"),
    "21": ("agrees", "not run here"),
    "22": ("agrees", "cannot be run here"),
    "23 a": ("agrees", "weaker"),
    "23 b": ("weaker", "weaker"),
    "24": ("agrees", "agrees"),
    "25": ("weaker", "opposite"),
    "26": ("agrees", "weaker"),
    "27": ("agrees", "weaker"),
    "28": ("agrees", "weaker"),
    "29": ("agrees", "agrees"),
    "30": ("weaker", "weaker"),
    "31 a": ("agrees", "weaker"),
    "31 b": ("agrees", "weaker"),
    "31 c": ("agrees", "agrees"),
    "31 d": ("agrees", "agrees"),
    "32 a": (None, "agrees"),
    "32 b": (None, "weaker"),
    "33": ("agrees", "not run here"),
}


@pytest.fixture(scope="module")
def sources():
    return Sources.load()


@pytest.fixture(scope="module")
def rows():
    return site_claims.page_ledger()


def tables(number, sources):
    claim = BY_NUMBER[number]
    return verdict(claim.theirs(sources), claim.rule)


def recorded(number, sources):
    claim = BY_NUMBER[number]
    return verdict(claim.ours(sources), claim.rule)


def with_run(sources, name, change):
    """The sources, one recorded run's rows changed in place."""
    runs = []
    for run in sources.runs:
        if run.name == name:
            run = dataclasses.replace(run, rows=run.rows.copy())
            change(run.rows)
        runs.append(run)
    return dataclasses.replace(sources, runs=tuple(runs))


def without(sources, prefix):
    """The sources, but for the runs whose names begin with a prefix."""
    runs = tuple(run for run in sources.runs if not run.name.startswith(prefix))
    return dataclasses.replace(sources, runs=runs)


def set_cell(frame, column, value, **where):
    """Set exactly one cell of a table."""
    chosen = np.logical_and.reduce([frame[key] == wanted for key, wanted in where.items()])
    assert chosen.sum() == 1, where
    frame.loc[chosen, column] = value


def test_verdicts_are_what_the_data_say(rows):
    assert {row.claim.number: (row.tables, row.verdict) for row in rows} == EXPECTED


def test_every_claim_has_a_place_a_page_and_words(rows):
    for row in rows:
        claim = row.claim
        assert claim.place("post") or claim.place("paper"), claim.number
        assert list(ROOT.glob(f"{claim.page}.*")), claim.page
        assert claim.words.endswith(".") or "{cite}" in claim.words
        assert claim.theirs or claim.unproven, claim.number
    assert len({claim.slug for claim in CLAIMS}) == len(CLAIMS)


def test_what_was_not_run_says_what_would_decide_it(rows):
    undecided = [row for row in rows if "run here" in row.verdict]
    assert undecided
    assert all(row.claim.needs and not row.recorded and not row.live for row in undecided)


def test_figures_are_named_by_both_numberings():
    assert BY_NUMBER["21"].place("post") == "Figure 7"
    assert BY_NUMBER["21"].place("paper") == "Figure 8"
    assert BY_NUMBER["10"].place("paper") == "Figures 1 and 12"


def test_counts_add_up_and_the_sum_says_them(rows):
    found = counts(rows)
    assert list(found) == list(VERDICTS) and sum(found.values()) == len(rows) == len(CLAIMS)
    text = ledger_sum(rows)
    assert f"Of {len(CLAIMS)} claims our runs agree with {found['agrees']}" in text
    assert f"{found['opposite']} the other way round" in text
    borne = [row.tables for row in rows if row.tables]
    assert f"bear on {len(borne)} of them, and bear out {borne.count('agrees')}." in text


def test_real_images_and_three_seeds_count(sources):
    # Three seeds of the paper's own network, whose gain can't be told from none.
    assert "19" not in agreeing_on_real_images(ledger(sources))
    sources = without(sources, "tenth_resnet20x1_cifar10")
    assert "19" in agreeing_on_real_images(ledger(sources))
    # Two seeds are too few, and MNIST-1D isn't made of images.
    few = [
        dataclasses.replace(run, rows=run.rows[run.rows["seed"] < 2])
        for run in sources.runs
        if run.dataset == "cifar10" and run.kind == "table"
    ]
    toy = [run for run in sources.runs if run.dataset == "mnist1d"]
    for runs in (few, toy):
        left = ledger(dataclasses.replace(sources, runs=tuple(runs)))
        assert {"15", "19", "23 a"}.isdisjoint(agreeing_on_real_images(left))


def test_the_sum_follows_the_verdicts(rows):
    fewer = [row for row in rows if row.verdict != "opposite"]
    assert "0 the other way round" in ledger_sum(fewer)


def test_the_table_for_download_has_every_piece_of_evidence(rows):
    table = ledger_table(rows)
    pieces = [effect for row in rows for effect in (*row.theirs, *row.recorded, *row.live)]
    assert (table["kind"] != "").sum() == len(pieces)
    assert set(table["claim"]) == set(EXPECTED)
    shown = table.dropna(subset="value")
    judged = [
        BY_NUMBER[number].rule.judge(Effect("", "", value, low=low, high=high))
        for number, value, low, high in shown[["claim", "value", "low", "high"]].to_numpy()
    ]
    assert judged == shown["says"].to_list()


def test_no_number_of_the_paper_stands_as_ours(rows):
    for row in rows:
        assert all(effect.source.startswith(("paper, ", "REPAIR's ")) for effect in row.theirs)
        assert all(effect.source.startswith("recorded, ") for effect in row.recorded)
        assert all(effect.source.startswith("live, ") for effect in row.live)


def test_without_live_evidence_its_claims_are_undecided(sources):
    found = {row.claim.number: row.verdict for row in ledger(sources)}
    assert found["10"] == found["11"] == "not run here"


def test_the_page_shows_every_claim_once():
    page = (ROOT / "book" / "claims.md").read_text()
    shown = re.findall(r"^```\{ledger\} (.+)$", page, re.M)
    assert len(shown) == len(set(shown)) and set(shown) == {claim.theme for claim in CLAIMS}
    assert all(f"## {theme}\n" in page for theme in shown)


def test_the_page_of_tables_shows_all_ten():
    page = (ROOT / "book" / "tables.md").read_text()
    assert sorted(map(int, re.findall(r"\{paper-table\} (\d+)", page))) == list(range(5, 15))


def test_the_page_states_the_margins_that_the_rules_use():
    page = (ROOT / "book" / "claims.md").read_text()
    assert MARGIN == 2 and "a margin, two points of accuracy" in page


def test_one_recorded_accuracy_changes_a_verdict(sources):
    # Three seeds of the paper's own network, whose gain can't be told from none.
    assert recorded("19", sources) == "weaker"
    sources = without(sources, "tenth_resnet20x1_cifar10")
    assert recorded("19", sources) == "agrees"

    def lower(table):
        where = {"seed": 0, "method": "permuted", "sparsity": 0.9, "rewind_epoch": 2}
        set_cell(table, "value", 0.2, metric="test_accuracy", **where)

    assert recorded("19", with_run(sources, "desktop_resnet8_cifar10", lower)) == "weaker"


def test_one_recorded_ensemble_changes_a_verdict(sources):
    assert recorded("25", sources) == "opposite"
    sources = without(sources, "fashion_ensembles")
    assert recorded("25", sources) == "opposite"

    def change(to):
        return lambda table: set_cell(table, "ensemble_accuracy", to, method="permuted")

    name = "desktop_diversity_resnet8_cifar10"
    assert recorded("25", with_run(sources, name, change(0.60))) == "agrees"
    assert recorded("25", with_run(sources, name, change(0.56))) == "weaker"


def test_one_recorded_barrier_changes_a_verdict(sources):
    def change(table):
        where = {"seed": 1, "ends": "permuted", "repair": "bn", "alpha": 0.5}
        set_cell(table, "accuracy", 0.1, **where)

    name = "desktop_lines_resnet8_cifar10_x1"
    assert recorded("17", sources) == "agrees"
    assert recorded("17", with_run(sources, name, change)) == "weaker"


def test_one_number_of_the_papers_table_1_changes_a_verdict(sources):
    assert tables("25", sources) == "weaker"
    diversity = sources.diversity.copy()
    set_cell(diversity, "ensemble_acc", 93.0, method="permuted", dataset="cifar10")
    assert tables("25", dataclasses.replace(sources, diversity=diversity)) == "agrees"


def test_one_cell_of_the_papers_tables_changes_a_verdict(sources):
    assert tables("33", sources) == "agrees"
    cells = sources.cells.copy()
    where = {"network": "vgg11", "method": "naive", "sparsity": 0.9, "rewind_epoch": 20}
    set_cell(cells, "mean", 88.68, **where)
    assert tables("33", dataclasses.replace(sources, cells=cells)) == "opposite"


def test_one_number_of_the_papers_table_15_changes_a_verdict(sources):
    assert tables("28", sources) == "agrees"
    early = sources.early.copy()
    set_cell(early, "test_acc_mean", 88.0, method="permuted", sparsity=0.9, matching_epoch=20)
    assert tables("28", dataclasses.replace(sources, early=early)) == "weaker"


def test_exchanged_arms_turn_the_papers_evidence_round(sources):
    cells = sources.cells.assign(
        method=sources.cells["method"].replace({"permuted": "naive", "naive": "permuted"})
    )
    turned = dataclasses.replace(sources, cells=cells)
    for number in ("19", "20", "21", "22", "23 a"):
        assert (tables(number, sources), tables(number, turned)) == ("agrees", "opposite")


def another_width(sources, gain):
    """Make a recorded run at twice the width, whose permuted arm is better by a given amount."""
    (run,) = (run for run in sources.runs if run.name == "desktop_resnet8_cifar10")
    arm = run.rows["method"] == "permuted"
    rows = run.rows.assign(value=run.rows["value"] + gain * arm)
    experiment = {**run.experiment, "model": {**run.experiment["model"], "width": 1.0}}
    return Run("wider", "table", "recorded, cifar10, resnet8×1, desktop", experiment, rows)


def test_a_second_width_decides_what_width_does(sources):
    sources = without(sources, "fashion_widths")
    assert recorded("16 a", sources) is None
    for gain, expected in ((0.02, "agrees"), (-0.02, "opposite")):
        more = dataclasses.replace(sources, runs=(*sources.runs, another_width(sources, gain)))
        assert recorded("16 a", more) == recorded("16 b", more) == expected
        (effect,) = BY_NUMBER["16 b"].ours(more)
        assert effect.value == pytest.approx(100 * gain) and effect.n == 6


def test_a_run_at_k_0_decides_what_rewinding_does(sources):
    sources = without(sources, ("fashion_widths", "fashion_rewinds"))
    assert recorded("31 a", sources) is None

    def from_the_start(table):
        # What was k = 2 is now k = 0, where permuting gains nothing.
        start = table["rewind_epoch"] == 2
        table.loc[start, "rewind_epoch"] = 0
        at = table[start & (table["metric"] == "test_accuracy")]
        naive = at[at["method"] == "naive"].set_index(["seed", "sparsity"])["value"]
        permuted = at[at["method"] == "permuted"]
        keys = pd.MultiIndex.from_frame(permuted[["seed", "sparsity"]])
        table.loc[permuted.index, "value"] = naive.loc[keys].to_numpy()

    changed = with_run(sources, "desktop_mlp_fashion_mnist", from_the_start)
    assert recorded("31 a", changed) == "agrees"
    (effect,) = BY_NUMBER["31 d"].ours(changed)
    assert effect.what == "naive, at k > 0 less at k = 0"


def test_rewind_epochs_decide_about_a_plateau(sources):
    """Permuted at 16 epochs rises up to k = 2 alone; naive, a VGG11's, after it too."""
    sources = without(sources, "fashion_rewinds")
    (run,) = (run for run in sources.runs if run.name == "desktop_resnet8_cifar10")
    at = run.rows[(run.rows["rewind_epoch"] == 2) & (run.rows["metric"] == "test_accuracy")]
    rises = {"permuted": (0, 0.04, 0.04, 0.04, 0.04), "naive": (0, 0.02, 0.04, 0.06, 0.08)}
    rows = [run.rows[run.rows["rewind_epoch"].isna()]]
    for i, k in enumerate((0, 2, 4, 8, 12)):
        more = at["method"].map({arm: rise[i] for arm, rise in rises.items()}).fillna(0)
        rows.append(at.assign(rewind_epoch=k, value=at["value"] + more))
    rows = pd.concat(rows, ignore_index=True)
    experiment = {**run.experiment, "model": {**run.experiment["model"], "name": "vgg11"}}
    swept = dataclasses.replace(run, name="swept", rows=rows, experiment=experiment)
    more = dataclasses.replace(sources, runs=(*sources.runs, swept))
    assert recorded("31 c", sources) is recorded("33", sources) is None
    (effect,) = BY_NUMBER["31 c"].ours(more)
    assert effect.value == pytest.approx(4) and recorded("31 c", more) == "agrees"
    # It rises by 2 points up to k = 2, the turn, and by 6 after it.
    (effect,) = BY_NUMBER["33"].ours(more)
    assert effect.value == pytest.approx(-4) and recorded("33", more) == "opposite"
    few = dataclasses.replace(swept, rows=rows[rows["rewind_epoch"] != 4])
    assert BY_NUMBER["31 c"].ours(dataclasses.replace(sources, runs=(few,))) == []


def a_run(kind, rows):
    """A recorded run of three seeds, of a kind that has its own table."""
    experiment = Experiment.from_parameters(profile="smoke").to_dict()
    return Run(f"a_{kind}", kind, "recorded, mnist1d, mlp×1, smoke", experiment, pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("of_lth", "expected"), [(0.05, "agrees"), (0.14, "weaker"), (0.4, "opposite")]
)
def test_a_ticket_that_agrees_with_pruned_a_has_relearned_it(sources, of_lth, expected):
    rows = [
        {
            "seed": seed,
            "network": network,
            "reference": reference,
            # Towards dense A all are equal: pruned A alone decides.
            "disagreement": (share if reference == "imp" else 0.3) + 0.01 * seed,
            "barrier_repair": 0.01,
        }
        for seed in range(3)
        for network, share in (("lth", of_lth), ("permuted", 0.2))
        for reference in ("imp", "dense_a")
    ]
    only = dataclasses.replace(sources, runs=(a_run("relearning", rows),))
    assert recorded("6", only) == expected
    (effect,) = BY_NUMBER["6"].ours(only)
    assert effect.value == pytest.approx(100 * (0.2 - of_lth) / 0.21)


def lines_with_barriers(of_rounds, of_sides):
    """Lines of three seeds whose middle lies below the straight line, in points; repaired."""
    rows = []
    for seed in range(3):
        for number, network, reference, barrier in (
            *((r + 1, "imp", "dense_a", b) for r, b in enumerate(of_rounds)),
            *((len(of_rounds), "permuted", ref, of_sides) for ref in ("dense_a", "lth")),
        ):
            for repair, factor in (("none", 3), ("repair", 1)):
                for alpha in (0.0, 0.5, 1.0):
                    drop = factor * (barrier + 0.1 * seed) / 100 if alpha == 0.5 else 0
                    rows.append(
                        {
                            "round": number,
                            "sparsity": 0.2 * number,
                            "seed": seed,
                            "reference": reference,
                            "network": network,
                            "repair": repair,
                            "alpha": alpha,
                            "accuracy": 0.8 - drop,
                        }
                    )
    return a_run("basin", rows)


def test_barriers_after_repair_decide_about_one_basin(sources):
    run = lines_with_barriers(of_rounds=(0.2, 0.6, 0.4), of_sides=6)
    only = dataclasses.replace(sources, runs=(run,))
    assert recorded("32 a", only) == "agrees" and recorded("32 b", only) == "opposite"
    (effect,) = BY_NUMBER["32 a"].ours(only)
    # The largest of the rounds, not their mean; nothing that wasn't repaired.
    assert effect.value == pytest.approx(0.7) and "without repair 2.1 points" in effect.note
    (effect,) = BY_NUMBER["32 b"].ours(only)
    assert effect.value == pytest.approx(6.1)
    one_round = dataclasses.replace(sources, runs=(lines_with_barriers((0.2, 8, 0.4), 0.5),))
    assert recorded("32 a", one_round) == "opposite" and recorded("32 b", one_round) == "agrees"


@pytest.mark.parametrize(("of_copy", "expected"), [(0.62, "agrees"), (0.78, "weaker")])
def test_a_copy_out_of_order_decides_about_the_cause(sources, of_copy, expected):
    values = {"lth": 0.8, "naive": 0.6, "copy, naive": of_copy, "copy, 0% scrambled": 0.8}
    rows = [
        {"seed": seed, "arm": arm, "rewind_epoch": k, "sparsity": 0.9}
        # At k = 0 nothing holds, and it isn't asked.
        | {"accuracy": 0.5 if k == 0 else value + 0.001 * seed * (arm == "lth")}
        for seed in range(3)
        for k in (0, 2)
        for arm, value in values.items()
    ]
    only = dataclasses.replace(sources, runs=(a_run("causal", rows),))
    assert recorded("12", only) == expected


def test_a_run_on_cifar100_counts_for_cifar100_alone(sources):
    assert recorded("20", sources) is None
    run = another_width(sources, 0.02)
    run.experiment["data"] = {**run.experiment["data"], "name": "cifar100"}
    more = dataclasses.replace(sources, runs=(*sources.runs, run))
    assert recorded("20", more) == "agrees"
    assert len(BY_NUMBER["19"].ours(more)) == len(BY_NUMBER["19"].ours(sources))


def test_imagenet_alone_cannot_be_had():
    assert not can_be_had("imagefolder")
    assert all(
        can_be_had(claim.dataset) for claim in CLAIMS if claim.dataset not in ("", "imagefolder")
    )


@pytest.mark.parametrize(
    ("rule", "value", "low", "high", "expected"),
    [
        (Above(), 1.0, 0.1, 1.9, "agrees"),
        (Above(), 1.0, -0.1, 2.1, "weaker"),
        (Above(), -1.0, -2.1, 0.1, "weaker"),
        (Above(), -1.0, -1.9, -0.1, "opposite"),
        (Above(), 1.0, math.nan, math.nan, "weaker"),
        (Above(), -1.0, math.nan, math.nan, "weaker"),
        (Above(50), 60.0, 10.0, 110.0, "agrees"),
        (Above(50), 40.0, 30.0, 50.0, "weaker"),
        (Above(50), 60.0, -math.inf, math.inf, "weaker"),
        (Within(2), -0.5, -1.5, 0.5, "agrees"),
        (Within(2), -1.5, -2.5, -0.5, "weaker"),
        (Within(2), -3.0, -4.0, -2.1, "opposite"),
        (Within(2), 3.0, 2.1, 4.0, "opposite"),
        (Within(2), 0.0, math.nan, math.nan, "weaker"),
    ],
)
def test_one_effect_is_judged_by_its_interval(rule, value, low, high, expected):
    assert rule.judge(Effect("", "", value, low=low, high=high)) == expected


def test_several_effects_decide_together():
    good, unclear, bad = (exact("", "", value, 1, "") for value in (1.0, 0.0, -1.0))
    rule = Above()
    assert verdict([], rule) is None
    assert verdict([good, good], rule) == "agrees"
    assert verdict([good, unclear], rule) == "weaker"
    assert verdict([good, bad], rule) == "weaker"
    assert verdict([unclear, bad], rule) == "opposite"


@pytest.mark.parametrize(("rule", "as_claimed", "not_so"), [(Above(), 0.2, -0.2), (Within(), 1, 3)])
def test_one_seed_takes_no_part_unless_it_is_against_the_claim(rule, as_claimed, not_so):
    sure = exact("", "", 1.0, 5, "seeds")
    for value, expected in ((as_claimed, "agrees"), (not_so, "weaker")):
        seed = mean_effect("", "", [value])
        assert seed.text().endswith("n = 1 seed")
        assert verdict([sure, seed], rule) == expected
        assert verdict([seed], rule) == "weaker"
    # A ratio's interval is unbounded.
    assert verdict([sure, ratio_effect("", "", [as_claimed], [100])], rule) == "agrees"


def test_a_mean_has_the_interval_of_the_paired_test():
    x = np.array([0.3, 1.2, 0.8, 0.9])
    effect = mean_effect("", "", x)
    low, high = stats.ttest_1samp(x, 0).confidence_interval()
    assert (effect.low, effect.high) == pytest.approx((low, high))
    assert effect.p == pytest.approx(stats.ttest_1samp(x, 0).pvalue)
    assert math.isnan(mean_effect("", "", [1.0]).low)


def test_two_means_with_spreads_have_welchs_interval():
    random = np.random.default_rng(0)
    a, b = random.normal(1, 2, 5), random.normal(0, 1, 5)
    effect = welch_effect("", "", (a.mean(), a.std(ddof=1)), (b.mean(), b.std(ddof=1)), n=5)
    test = stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval()
    assert (effect.value, effect.p) == pytest.approx((a.mean() - b.mean(), test.pvalue))
    assert (effect.low, effect.high) == pytest.approx((low, high))


def test_few_rows_take_their_interval_from_the_spreads():
    effect = spread_effect("", "", pd.Series([1.0, 3.0]), pd.Series([0.3, 0.4]))
    half = stats.t.ppf(0.975, 8) * 0.25
    assert (effect.low, effect.high) == pytest.approx((2 - half, 2 + half))


def test_counts_have_a_binomial_interval():
    effect = count_effect("", "", 0.5, 0.4, images=10_000)
    half = 100 * 1.959964 * math.sqrt((0.25 + 0.24) / 10_000)
    assert (effect.low, effect.high) == pytest.approx((10 - half, 10 + half))


def test_fiellers_interval_of_a_constant_denominator_is_that_of_the_mean():
    x = np.array([0.2, 0.5, 0.8])
    effect, mean = ratio_effect("", "", x, [2.0, 2.0, 2.0]), mean_effect("", "", x)
    assert (effect.value, effect.low, effect.high) == pytest.approx(
        (50 * mean.value, 50 * mean.low, 50 * mean.high)
    )


def test_a_ratio_to_what_may_be_zero_is_unbounded():
    effect = ratio_effect("", "", [1.0, 2.0, 3.0], [0.1, -0.2, 0.3])
    assert (effect.low, effect.high) == (-math.inf, math.inf)
    assert "[−∞, ∞]" in effect.text()


def test_texts_of_effects():
    effect = Effect("", "", -0.004, low=-1.25, high=1.24, n=3, over="seeds", p=0.0004)
    assert effect.text() == "0.00 points [−1.25, 1.24], n = 3 seeds, p < 0.001"
    assert exact("", "", 5, 1, "table").shown(0).text() == "5, exact, n = 1 table"


def test_the_papers_shares_agree_with_the_shelf(sources):
    """The ledger and the page of tables draw on the same numbers."""
    (effect,) = BY_NUMBER["16 a"].theirs(sources)
    table = numbers.by_width(numbers.settings(sources.cells))
    grown = 100 * (table["share_wide"] - table["share_narrow"])
    assert effect.value == pytest.approx(grown.mean()) and "8 of 8" in effect.note
