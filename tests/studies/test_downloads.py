"""Published tables as downloads: names and columns say what is in them."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from lotperm.studies import downloads

ROOT = Path(__file__).parents[2]


def test_a_recorded_table_says_whose_numbers_it_has() -> None:
    named = downloads.named_file("/src/book/results/desktop_resnet8_cifar10/results.csv")
    assert named is not None
    name, content = named
    assert name == "desktop_resnet8_cifar10_recorded_cifar10_resnet8_desktop.csv"
    rows = pd.read_csv(io.StringIO(content), dtype=str, keep_default_na=False)
    first = rows.iloc[0]
    assert [first[c] for c in ("kind", "dataset", "model", "width", "profile")] == [
        "recorded", "cifar10", "resnet8", "0.5", "desktop",
    ]  # fmt: skip
    assert len(first["source"]) == 12
    # What was recorded stays as it was written, to the last digit.
    path = ROOT / "book" / "results" / "desktop_resnet8_cifar10" / "results.csv"
    written = pd.read_csv(path, dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(rows[written.columns], written)


def test_a_profile_has_its_name_of_today() -> None:
    named = downloads.named_file("book/results/mnist1d_live/curves.csv")
    assert named is not None
    assert named[0] == "mnist1d_live_curves_recorded_mnist1d_mlp_laptop.csv"
    assert set(pd.read_csv(io.StringIO(named[1]))["profile"]) == {"laptop"}


def test_the_papers_tables_keep_their_source() -> None:
    named = downloads.named_file("book/paper/table1_diversity.csv")
    assert named is not None
    assert named[0] == "paper_table1_diversity.csv"
    assert named[1] == (ROOT / "book" / "paper" / "table1_diversity.csv").read_text()


def test_other_files_keep_their_names() -> None:
    for path in ("notebooks/04_method.ipynb", "jupyter_execute/csv/x.csv", "book/paper/x.txt"):
        assert downloads.named_file(path) is None


def test_every_table_is_listed_once() -> None:
    listed = downloads.every_table()
    files = {row["file"] for row in listed}
    on_disk = [*(ROOT / "book").glob("results/*/*.csv"), *(ROOT / "book").glob("paper/*.csv")]
    assert files == {path.relative_to(ROOT).as_posix() for path in on_disk}
    assert len({row["name"] for row in listed}) == len(listed) == len(files)
    assert {row["kind"] for row in listed} == {"recorded", "paper"}
    for row in listed:
        assert row["what"] and int(row["rows"].replace(",", "")) > 0
