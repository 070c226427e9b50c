"""What is the same on the pages of questions that go beyond the paper."""

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
