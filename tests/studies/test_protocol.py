"""The protocol table: what the paper says, what its authors' code does, what is run here."""

from __future__ import annotations

from pathlib import Path

import pytest

from lotperm.config.experiment import Experiment
from lotperm.errors import ParameterError
from lotperm.studies.claims import numbers
from lotperm.studies.protocol import protocol, run_here
from lotperm.studies.published import paper

ROOT = Path(__file__).parents[2]
NAMED = paper("protocol").fillna("").astype(str)


def row(part: str, what: str) -> dict[str, str]:
    table = protocol()
    (found,) = table[(table["part"] == part) & (table["what"] == what)].to_dict("records")
    return found


def test_ours_is_what_the_profile_paper_runs() -> None:
    (cifar, *_), (imagenet,) = (
        Experiment.for_figure(figure, profile="paper")
        for figure in ("resnet20_cifar10", "resnet50_imagenet")
    )
    dense = "ResNet50 on ImageNet, dense A and B"
    assert row(dense, "learning rate")["ours"] == f"{imagenet.dense.lr:g}" == "0.4"
    assert row(dense, "batch")["ours"] == str(imagenet.dense.batch_size)
    assert row(dense, "steps at epochs")["ours"] == ", ".join(map(str, imagenet.dense.milestones))
    settings = "CIFAR-10 and CIFAR-100, settings"
    assert row(settings, "sparsity S")["ours"] == ", ".join(f"{s:g}" for s in cifar.sparsities)
    assert row(settings, "runs")["ours"] == str(len(cifar.seeds))


def test_ours_follows_the_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    from lotperm.config.presets import FIGURES

    monkeypatch.setitem(FIGURES["resnet50_imagenet"]["paper"], "lr", 0.3)
    found = row("ResNet50 on ImageNet, dense A and B", "learning rate")
    assert (found["paper"], found["ours"]) == ("0.4", "0.3")


def test_a_difference_is_explained_and_nothing_else_is() -> None:
    for found in protocol().itertuples():
        theirs = found.paper or found.scripts
        assert theirs, found.what
        assert (found.ours != theirs) == bool(found.why), (found.part, found.what)


def test_what_the_paper_says_names_its_place() -> None:
    assert (NAMED["paper"].eq("") == NAMED["where"].eq("")).all()


def test_the_scripts_column_of_imagenet_is_its_variant() -> None:
    rows = NAMED[(NAMED["figure"] == "resnet50_imagenet") & (NAMED["scripts"] != "")]
    assert len(rows) >= 10
    for found in rows.itertuples():
        assert run_here("resnet50_imagenet_scripts", found.value) == found.scripts, found.what


@pytest.mark.parametrize(
    ("network", "part"),
    [
        ("resnet20", "CIFAR-10 and CIFAR-100, settings"),
        ("vgg11", "VGG11 on CIFAR-10"),
        ("resnet50", "ResNet50 on ImageNet, settings"),
    ],
)
def test_the_settings_are_those_of_the_papers_tables(network: str, part: str) -> None:
    cells = numbers.cells()
    of = cells[cells["network"] == network]
    for column, what in (("sparsity", "sparsity S"), ("rewind_epoch", "rewind epoch k")):
        values = ", ".join(f"{x:g}" for x in sorted(set(of[column])))
        assert row(part, what)["paper"] == values


def test_a_figure_that_is_not_there_is_named() -> None:
    with pytest.raises(ParameterError, match="Did you mean 'resnet50_imagenet'"):
        run_here("resnet50_imagenett", "dense.lr")


def test_the_table_stands_on_the_page() -> None:
    page = (ROOT / "book" / "reproduce.md").read_text(encoding="utf-8")
    assert page.count("```{protocol}") == 1
    assert "`match_points=authors` does as they do" in page
    assert "match_points=penultimate" not in page
