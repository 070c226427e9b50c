"""The paper's numbers and recorded ones beside ours."""

import base64
import io
import re

import pandas as pd
import pytest

from lotperm import reference
from lotperm.errors import ParameterError, StorageError


def test_the_papers_table_says_where_it_comes_from():
    table = reference.paper("table1_diversity")
    assert table.attrs["source"].startswith("project blog post")
    assert table["test_acc_mean"].between(0, 100).all() and len(table) == 10
    with pytest.raises(ParameterError, match="Did you mean 'table1_diversity'"):
        reference.paper("table1_diversty")


def test_without_the_repository_it_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reference, "__file__", str(tmp_path / "lotperm" / "reference.py"))
    with pytest.raises(StorageError, match="Run this in a clone"):
        reference.paper("table1_diversity")


def test_recorded_runs_are_found_by_what_they_ran():
    (run,) = reference.recorded("fashion_mnist", "mlp", 1.0)
    assert run.experiment["profile"] == "desktop" and "torch" in run.how["versions"]
    assert set(run.summary["method"]) >= {"lth", "permuted", "naive"}
    assert (
        reference.recorded("fashion_mnist", "vgg11") == [] == reference.recorded("fashion_mnist", "mlp", 2.0)
    )


def test_beside_the_paper(smoke):
    _, results = smoke
    e = results.experiment
    paper = pd.DataFrame(
        [{"sparsity": 0.8, "method": m, "rewind_epoch": k, "test_acc_mean": v + k}
         for m, v in (("lth", 90.0), ("permuted", 86.0), ("naive", 80.0)) for k in (20, 50)]
    )  # fmt: skip
    table = reference.beside({"live": results}, paper)
    ours, theirs, difference = table.columns
    assert ours == "live (k = 2 of 12)" and theirs == "paper (k = 20 of 200)" and difference == "live − paper"
    lth = 100 * results.values("lth", 0.8, e.rewind_epochs[0]).mean()
    assert table.loc[("0.8", "LTH"), ours] == f"{lth:.1f}"
    assert table.loc[("0.8", "LTH"), theirs] == "110.0"  # at 20, not at 50
    assert table.loc[("0.8", "permuted − naive"), theirs] == "6.0"
    assert table.loc[("0.8", "gap closed (%)"), theirs] == "60.0"
    assert table.loc[("0.8", "LTH"), difference] == f"{lth - 110:.1f}"


def test_beside_what_was_recorded_and_nothing_of_the_papers(smoke):
    _, results = smoke
    (run,) = reference.recorded("fashion_mnist", "mlp")
    table = reference.beside({"live": results, "recorded": run}, pd.DataFrame())
    mean = run.summary.set_index("method").loc["permuted", "mean"]
    assert table.loc[("0.9", "permuted"), "recorded (k = 4 of 20)"] == f"{100 * mean:.1f}"
    assert table.loc[("0.8", "permuted"), "recorded (k = 4 of 20)"] == ""
    assert (table["paper (k = 20 of 200)"] == "").all()


def test_the_csv_link_carries_the_table():
    table = pd.DataFrame({"x": [1.5, 2.5], "name": ["π", "b"]})
    link = reference.csv_link(table, 'data "1".csv')
    assert 'download="data &quot;1&quot;.csv"' in link
    found = re.search(r'base64,([^"]+)"', link)
    assert found is not None
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(base64.b64decode(found[1]))), table)


def test_how_it_was_made_names_what_was_given(smoke):
    _, results = smoke
    given = {"profile": "smoke", "sparsity": [0.8, 0.9], "lr": None, "dataset": "mnist1d"}
    line = reference.how_made("diversity", results.experiment, given)
    assert (
        "lotperm run diversity --profile smoke -p &#x27;sparsity=[0.8,0.9]&#x27; -p dataset=mnist1d</code>"
        in line
    )
