"""What every live chapter of results shows, with its test: minutes, so weekly and at release.

`make evidence` runs it, in the store of this clone; `make test` leaves it out. The thresholds stand in
`lotperm.studies.arms.effects` and in the chapters' words.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lotperm.studies.arms import effects
from lotperm.studies.early import series as early
from lotperm.studies.page import open_page
from lotperm.studies.predictions import verdicts

pytestmark = pytest.mark.evidence

ROOT = Path(__file__).parents[2]

SHOWN = ("resnet20_cifar10", "resnet20_cifar100", "svhn")
"""Figures whose live run shows that permuting gains."""

NOT_SHOWN = ("vgg11_cifar10",)
"""Figures whose page says in its first lines that its live run doesn't show it."""


@pytest.fixture(autouse=True)
def _kept_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests compute is kept, and so is what the book has computed before."""
    kept = os.environ.get("LOTPERM_EVIDENCE_HOME", ROOT / ".lotperm")
    monkeypatch.setenv("LOTPERM_HOME", str(kept))


def live(figure: str):
    return open_page(figure, "laptop").live


@pytest.mark.parametrize("figure", SHOWN)
def test_permuting_gains(figure: str) -> None:
    one = live(figure)
    effect = effects.headline(one)
    assert one.seeds >= 6
    assert effect.value > 0 and effect.p < 0.01, effect.text()


@pytest.mark.parametrize("figure", NOT_SHOWN)
def test_a_twin_that_does_not_show_it_says_so_first(figure: str) -> None:
    page = open_page(figure, "laptop")
    effect = effects.headline(page.live)
    assert not effects.shows("live", effect), f"move {figure} to SHOWN: {effect.text()}"
    assert "live: not shown" in page.answer("?").data


def test_what_width_does_is_said_as_it_is() -> None:
    """With these seeds the share of the gap doesn't clearly grow; the page has to say so."""
    page = open_page("resnet20_cifar10", "laptop")
    assert len(effects.against(page.live, "units")) >= 5
    statements = {words: (e, rule) for words, e, rule in effects.statements(page.live)}
    effect, rule = statements["it closes more of the gap in wider ones"]
    verdict = rule.judge(effect)
    said = page.agreement().data.split("live: ")[1]
    assert verdict != "opposite"
    assert ("wider ones (weaker)" in said) == (verdict == "weaker"), effect.text()


def test_permuting_gains_more_in_sparser_networks() -> None:
    one = live("svhn")
    gains = effects.against(one, "sparsity")["gain"]
    assert gains.iloc[-1] > gains.iloc[0]
    (effect,) = [e for words, e, _ in effects.statements(one) if "sparser" in words]
    assert effect.value > 0 and effect.p < 0.01, effect.text()


def test_from_a_random_start_permuting_gains_less() -> None:
    one = live("resnet20_cifar10")
    (effect,) = [e for words, e, _ in effects.statements(one) if "less at k = 0" in words]
    assert effect.value > 0 and effect.p < 0.01, effect.text()


def test_an_early_match_gains() -> None:
    one = open_page("early_matching", "laptop").live
    assert one.seeds >= 6
    for at in (early.early_epoch(one), one.table["matched"].max()):
        effect = early.gain(one, at)
        assert effect.value > 0 and effect.p < 0.01, effect.text()


# What the pages beyond the paper say in their summaries: predictions that their live runs bear out.
BORNE_OUT = {
    "causal_test": ("C 1", "C 3", "C 4", "C 6"),
    "signs": ("S 1", "S 4", "S 7", "S 8", "S 9", "S 12"),
    "matchers": ("M 3", "M 4", "M 7", "M 8", "M 9"),
    "many": ("N 3", "N 6", "N 7"),
}


@pytest.mark.parametrize("figure", BORNE_OUT)
def test_a_page_beyond_the_paper_bears_its_predictions_out(figure: str) -> None:
    page = open_page(figure, "laptop")
    found = verdicts(page.predictions, page.measures, {"live": page.judged})["verdict"]
    by_number = {words.split(":")[0]: verdict for words, verdict in found.items()}
    assert {number: by_number[number] for number in BORNE_OUT[figure]} == dict.fromkeys(
        BORNE_OUT[figure], "agrees"
    )
