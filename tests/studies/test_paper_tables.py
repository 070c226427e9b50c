"""The paper's tables on the shelf: complete, equal to what was read before, and what they say."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from lotperm.errors import ParameterError
from lotperm.studies import published
from lotperm.studies.claims import numbers

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tidy():
    return numbers.cells()


@pytest.fixture(scope="module")
def arms(tidy):
    return numbers.settings(tidy)


def test_all_672_numbers_are_there_once(tidy):
    assert len(tidy) == 672
    assert not tidy.duplicated([*numbers.SETTING, "method"]).any()
    assert tidy.drop(columns="std").notna().all(axis=None)
    assert tidy["mean"].between(40, 100).all()
    per_table = tidy.groupby("table").size().to_dict()
    assert per_table == {5: 108, 6: 108, **dict.fromkeys((7, 8), 60), 9: 42, 10: 54} | (
        dict.fromkeys((11, 12, 13, 14), 60)
    )
    assert (tidy[tidy["std"].isna()]["table"] == 10).all()
    assert tidy.loc[tidy["table"] != 10, "std"].notna().all()


def test_every_table_is_of_one_figure_network_and_data_set(tidy):
    of = tidy.groupby("table")[["figure", "network", "width", "dataset"]].agg(["nunique", "first"])
    assert (of.xs("nunique", axis=1, level=1) == 1).all(axis=None)
    first = of.xs("first", axis=1, level=1)
    assert first.loc[8].to_list() == ["resnet20_cifar10", "resnet20", 16, "cifar10"]
    assert first.loc[9].to_list() == ["vgg11_cifar10", "vgg11", 1, "cifar10"]
    assert first.loc[10].to_list() == ["resnet50_imagenet", "resnet50", 1, "imagenet"]
    assert first.loc[14].to_list() == ["resnet20_cifar100", "resnet20", 16, "cifar100"]


def test_every_setting_has_all_arms(tidy, arms):
    assert 3 * len(arms) == len(tidy)
    assert arms[["lth", "permuted", "naive"]].notna().all(axis=None)


def test_the_93_numbers_that_were_read_before_agree(tidy):
    """From the plots 81, from the table of early matching 12; those, with their spreads."""
    keys = ["network", "width", "dataset", "sparsity", "method", "rewind_epoch"]
    plots = published.paper("fig5_resnet20_cifar10_rewind")
    parts = plots["model"].str.extract(r"(?P<network>resnet20)x(?P<width>\d+)")
    plots = plots.assign(network=parts["network"], width=parts["width"].astype(int))
    early = published.paper("early_matching_resnet20x1_cifar10")
    early = early[early["matching_epoch"].isna() | (early["matching_epoch"] == 200)]
    early = early.assign(network="resnet20", width=1, dataset="cifar10", rewind_epoch=20)
    both = pd.concat([plots, early], ignore_index=True)
    top = tidy[tidy["metric"] == "top1"]
    shared = both.merge(top, on=keys, how="left", validate="many_to_one")
    assert shared["mean"].notna().sum() == len(shared) == 93
    # Both are printed with two decimals: they are the same number, or they aren't.
    differ = shared[(shared["mean"] - shared["test_acc_mean"]).abs() > 0.005]
    assert differ.empty, differ[[*keys, "mean", "test_acc_mean"]].to_string()
    spreads = shared[shared["test_acc_spread"].notna()]
    assert len(spreads) == 12
    assert ((spreads["std"] - spreads["test_acc_spread"]).abs() < 0.005).all()


def test_permuted_is_above_naive_nearly_everywhere(arms):
    count = numbers.above_naive(arms)
    assert count == (214, 1, 0) and count.total == 215
    (tie,) = arms[(arms["gain"] == 0) & (arms["metric"] == "top1")].to_dict("records")
    assert (tie["network"], tie["width"], tie["sparsity"]) == ("resnet20", 8, 0.9)
    assert (tie["dataset"], tie["rewind_epoch"]) == ("cifar10", 0)


def test_the_gain_is_small_without_rewinding(arms):
    gains = numbers.mean_gains(arms).set_index(["network", "dataset", "rewound"])["mean"]
    assert round(gains["resnet20", "cifar10", False], 2) == 0.16
    assert round(gains["resnet20", "cifar100", False], 2) == 0.45
    assert round(gains["resnet20", "cifar100", True], 2) == 1.99
    assert round(gains["resnet50", "imagenet", True], 2) == 1.34
    # Of both networks on CIFAR-10 together, every setting alike.
    rewound = (arms["dataset"] == "cifar10") & (arms["rewind_epoch"] > 0)
    assert round(arms.loc[rewound, "gain"].mean(), 2) == 0.75
    start = arms[(arms["dataset"] == "cifar10") & (arms["rewind_epoch"] == 0)]["gain"]
    assert (start.min(), start.max()) == (0.0, 0.35)


def test_with_width_the_share_grows_and_the_points_fall(arms):
    table = numbers.by_width(arms)
    assert len(table) == 8 and set(table["narrow"]) == {1} and set(table["wide"]) == {16}
    assert (table["share_wide"] > table["share_narrow"]).sum() == 8
    assert (table["gain_wide"] < table["gain_narrow"]).sum() == 7
    row = table.set_index(["dataset", "sparsity"]).loc[("cifar10", 0.9)]
    assert [round(100 * row[f"share_{w}"]) for w in ("narrow", "wide")] == [35, 98]


def test_shares_of_the_other_networks(arms):
    vgg = numbers.shares(arms, "vgg11")
    assert [round(100 * vgg["cifar10", s, 20]) for s in (0.8, 0.9)] == [44, 73]
    imagenet = numbers.shares(arms, "resnet50")
    assert [round(100 * x) for x in (imagenet.min(), imagenet.max())] == [13, 48]
    assert (imagenet < 0.3).mean() > 0.5
    narrow = numbers.shares(arms, "resnet20")
    # At k = 50; over all k it may be less or more.
    at = narrow.xs(50, level="rewind_epoch")
    assert [round(100 * x) for x in (at.min(), at.max())] == [7, 45]


def test_every_figure_has_a_place_in_both_numberings_or_in_one():
    table = numbers.figures()
    assert table.index.is_unique and len(table) == 14
    assert ((table["post"] != "") | (table["paper"] != "")).all()
    assert numbers.both_numbers("vgg11_cifar10") == (
        "Figure 7 of the post, Figure 8 of the paper (Table 9)"
    )
    assert numbers.both_numbers("connectivity") == "Figure 3 of the paper"
    assert numbers.both_numbers("problem") == "Figure 1 of the post"
    with pytest.raises(ParameterError, match="Did you mean 'landscape'"):
        numbers.both_numbers("landscpe")


def test_every_figure_of_the_paper_that_the_book_names_is_in_the_table():
    """By its number in the post, in the paper, or in both."""
    table = numbers.figures()
    known = {
        int(n)
        for text in [*table["post"], *table["paper"]]
        if text.startswith("Figure")
        for n in re.findall(r"\d+", text)
    }
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    named = {
        (path.name, int(n))
        for path in pages
        for n in re.findall(r"Figures? (\d+)(?! of (?:this|the) book)", path.read_text())
    }
    assert named
    assert not {(name, n) for name, n in named if n not in known}


def test_pages_of_figures_exist():
    for page in numbers.figures()["page"]:
        assert list(ROOT.glob(f"{page}.*")), page


EXCUSES = (
    "no table of",
    "the paper has no column",
    "couldn't be read",
    "aren't published",
    "isn't published",
    "are not published",
    "were not published",
)


def test_no_page_says_that_a_published_number_cannot_be_had() -> None:
    """All numbers of the paper's Tables 5 to 14 are on the shelf."""
    pages = [*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb"), ROOT / "README.md"]
    assert len(pages) > 15
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert [words for words in EXCUSES if words in text] == [], page.name


@pytest.mark.parametrize(
    ("notebook", "tables"),
    [
        ("05_resnet20_cifar10", range(5, 9)),
        ("06_resnet20_cifar100", range(11, 15)),
        ("07_vgg11_cifar10", [9]),
        ("11_resnet50_imagenet", [10]),
    ],
)
def test_each_of_the_papers_tables_stands_in_its_chapter(
    notebook: str, tables: Sequence[int]
) -> None:
    text = (ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8")
    for table in tables:
        assert f"{{paper-table}} {table}\\n" in text
