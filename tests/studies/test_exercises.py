"""Answers to the exercises: computed from what the chapters show, and as the tables show them."""

import importlib
import json
import math
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from lotperm.studies import exercises
from lotperm.studies.html import number_form
from lotperm.studies.published import paper, recorded

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
COMPUTED = re.compile(r"\{check\} ([\w-]+)\n:compute: ([\w.]+):(\w+)((?: [\d.]+)*)\n")


def computed() -> list[tuple[str, ...]]:
    texts = ("".join(c["source"]) for p in NOTEBOOKS for c in json.loads(p.read_text())["cells"])
    return [match.groups() for text in texts for match in COMPUTED.finditer(text)]


@pytest.mark.parametrize(("name", "module", "function", "given"), computed())
def test_an_answer_can_be_computed(name, module, function, given):
    answer = getattr(importlib.import_module(module), function)(*map(float, given.split()))
    assert math.isfinite(answer) and answer != 0


def test_answers_follow_from_the_tables():
    rows = paper("table1_diversity").set_index(["dataset", "method"]).loc["cifar10"]
    gains = [
        rows.loc[m, "ensemble_acc"] - rows.loc[m, "test_acc_mean"] for m in ("permuted", "lth")
    ]
    assert exercises.ensemble_gains_ratio() == pytest.approx(gains[0] / gains[1])
    assert exercises.ensemble_gains_ratio() > 1
    assert exercises.contrasts_by_chance() == pytest.approx(0.05 * len(exercises.CONTRASTS))


def test_the_reset_is_read_from_the_recorded_lines():
    (run,) = recorded("cifar10", "resnet8", 1.0, kind="connectivity")
    rows = run.rows()
    rows = rows[rows["ends"] == "permuted"]
    middle = rows[rows["alpha"] == 0.5].groupby("repair")["accuracy"].mean()
    ends = rows[rows["alpha"].isin([0, 1])].groupby("repair")["accuracy"].mean()
    barrier = 100 * (ends - middle)
    assert exercises.lowered_by_reset(1) == pytest.approx(barrier["none"] - barrier["bn"], abs=1e-6)


def test_groups_of_resnets():
    # What tracing finds in ResNet50, by the tests of symmetries.
    assert exercises.groups_of_bottlenecks(3, 4, 6, 3) == 1 + 4 + 2 * 16
    assert exercises.groups_of_bottlenecks(3, 4, 23, 3) == 1 + 4 + 2 * 33


def test_a_form_carries_its_answer_as_text():
    form = BeautifulSoup(number_form("ex", 1 / 3, within=0.1, unit="<b>", hint='"'), "html.parser")
    found = form.find("form")
    assert found["data-answer"] == "0.333333" and found["data-within"] == "0.1"
    assert found["data-hint"] == '"' and "<b>" in found.find("label").text
