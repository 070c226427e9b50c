"""What the pages of questions that go beyond the paper have in common."""

from __future__ import annotations

import pandas as pd

from lotperm.studies.page import open_page


def test_predictions_are_judged_by_every_record_also_by_those_of_one_label() -> None:
    page = open_page("attention", "smoke", None, None, None, None, "cpu")
    page.__dict__["table"] = pd.DataFrame({"sparsity": [0.5]})  # nothing is trained here
    names = [run.name for run in page.recorded]
    assert len(names) > len({run.label for run in page.recorded})
    tables = page.tables
    assert next(iter(tables)) == "live" and len(tables) == 1 + len(names)
    assert {s for rows in tables.values() for s in rows["sparsity"]} == {0.5, 0.8, 0.9}


def test_runs_of_one_label_have_a_row_each() -> None:
    page = open_page("matchers", "smoke")
    rows = page.records().T
    runs = {run.name: run.rows() for run in page.recorded}
    cells = [r.groupby(["sparsity", "rewind_epoch"]).ngroups for r in runs.values()]
    assert len(rows) == sum(cells) > len({run.label for run in page.recorded})
    for name in ("matchers_mlp_mnist1d", "matchers_gradients_mlp_mnist1d"):
        (row,) = [row for head, row in rows.iterrows() if head.endswith(f"({name})")]
        mean = 100 * runs[name].query("arm == 'weights'")["accuracy"].mean()
        assert row["weights"].startswith(f"{mean:.1f}")
        assert (row["gradients"] != "") == ("gradients" in name)


def test_a_page_answers_by_its_predictions() -> None:
    page = open_page("causal_test", "smoke")
    page.__dict__["found"] = pd.DataFrame(
        {"verdict": ["agrees", "weaker", "agrees"]},
        index=["C 1: One holds.", "C 2: Another <may>.", "C 3: So does this."],
    )
    said = page.answer("Is it so?").data
    assert "Is it so?" in said and "agrees: 2 of 3" in said and "C 1, C 3." in said
    assert "weaker: 1 of 3" in said and "C 2: Another &lt;may&gt;." in said
    assert "opposite" not in said and "numbers mean nothing" in said
    page.found["verdict"] = "opposite"
    assert "opposite: 3 of 3" in page.answer("Is it so?").data


def test_how_sure_names_seeds_and_what_was_known() -> None:
    page = open_page("causal_test", "smoke")
    said = page.how_sure().data
    assert f"{len(page.experiment.seeds)} live" in said
    assert {len(run.experiment["seeds"]) for run in page.recorded} == {6}
    assert "6 in the recorded runs" in said
    assert page.predictions.stated in said and "six other seeds" in said
