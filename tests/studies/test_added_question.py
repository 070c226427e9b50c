"""A question is added by a folder of its own; nothing else of the package is touched.

The folder ``questions/overlap`` is what a contributor writes: it is computed by a campaign,
planned, recorded, loaded again and shown by a notebook.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import lotperm.studies
from lotperm import Runtime, Store
from lotperm.cluster import campaign as campaigns
from lotperm.cluster import plan
from lotperm.config.presets import FIGURES
from lotperm.errors import ParameterError
from lotperm.site.notebooks import execute
from lotperm.studies import published, registry
from lotperm.studies.folders import FIGURE_FOLDERS, VARIABLE, _seen

QUESTIONS = Path(__file__).parent / "questions"


@pytest.fixture(autouse=True)
def _question(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add the folder for one test, and forget it afterwards."""
    monkeypatch.setenv(VARIABLE, str(QUESTIONS))
    yield
    FIGURES.pop("ticket_overlap", None)
    FIGURE_FOLDERS.pop("ticket_overlap", None)
    _seen.discard(QUESTIONS / "overlap")
    if str(QUESTIONS) in lotperm.studies.__path__:
        lotperm.studies.__path__.remove(str(QUESTIONS))


@pytest.fixture
def campaign(tmp_path: Path) -> campaigns.Campaign:
    entry = {"name": "tickets", "kind": "overlap", "profile": "smoke", "pairs": 2}
    (tmp_path / "toy.json").write_text(json.dumps({"entries": [entry]}))
    return campaigns.Campaign.load(tmp_path / "toy.json")


def test_a_campaign_computes_and_records_it(
    campaign: campaigns.Campaign, smoke: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "book" / "results"
    assert campaigns.run(campaign, Store.default(), Runtime(), results) == {}
    (part,) = campaign.parts(Store.default(), results)
    assert part.recorded()
    monkeypatch.setattr(published, "book_folder", lambda: tmp_path / "book")
    (run,) = published.recorded(kind="overlap")
    assert list(run.summary.columns) == ["sparsity", "rewind_epoch", "pair", "share"]
    assert run.summary["pair"].tolist() == [0, 1]
    # Two random tickets of density 0.2 would share a fifth of their weights.
    assert run.summary["share"].between(0.1, 0.9).all()


def test_it_is_planned_from_its_figure(tmp_path: Path) -> None:
    assert registry.study_of("ticket_overlap").name == "overlap"
    part = plan.figure("ticket_overlap", profile="smoke")
    (task,) = part.tasks(Store(tmp_path))
    assert task.name == "overlap" and [before.name for before in task.after] == ["imp"]
    assert set(task.reads.values()) == {("mask",)}
    found = plan.plan([part], plan.Estimator("h100"), Store(tmp_path))
    assert "overlap of tickets" in {line.group for line in found.lines}


def test_a_notebook_shows_it(smoke: object, tmp_path: Path) -> None:
    cells = [
        new_code_cell('profile = "smoke"\npairs = 1', metadata={"tags": ["parameters"]}),
        new_code_cell(
            "from lotperm.studies.page import open_page\n"
            'page = open_page("ticket_overlap", profile=profile, pairs=pairs)\n'
            "page.table()"
        ),
        new_code_cell("page.shares();"),
        new_code_cell("page.made()"),
    ]
    notebook = tmp_path / "13_ticket_overlap.ipynb"
    nbformat.write(new_notebook(cells=cells), notebook)
    execute(notebook, tmp_path / "out.ipynb", {"pairs": 2}, progress=False)
    shown = (tmp_path / "out.ipynb").read_text()
    assert "image/svg+xml" in shown and '"kind": "live"' in shown
    assert re.search(r"lotperm run ticket_overlap --profile smoke -p pairs=2", shown)


def test_a_wrong_option_is_refused(tmp_path: Path) -> None:
    entry = {"name": "tickets", "kind": "overlap", "profile": "smoke", "pair": 2}
    (tmp_path / "toy.json").write_text(json.dumps({"entries": [entry]}))
    with pytest.raises(ParameterError, match="Did you mean 'pairs'"):
        campaigns.Campaign.load(tmp_path / "toy.json")
    entry = {"name": "tickets", "kind": "table", "profile": "smoke", "pairs": 2}
    (tmp_path / "toy.json").write_text(json.dumps({"entries": [entry]}))
    with pytest.raises(ParameterError, match="'pairs' belongs to entries of kind 'overlap'"):
        campaigns.Campaign.load(tmp_path / "toy.json")


def test_without_the_folder_nobody_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ParameterError, match="unknown kind 'overlap'"):
        registry.study("overlap")
