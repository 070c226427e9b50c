"""The benchmarks run, pass their gates and write their tables."""

import importlib
import json
import math
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "common")


# Their gates look at the peak memory of processes: a child's begins with that of its parent.
IN_A_PROCESS_OF_THEIR_OWN = {"matching", "resnet50_matching"}


@pytest.fixture(autouse=True)
def _as_in_its_folder(monkeypatch):
    """A script's own folder is where Python looks first; its threads are its own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
def test_a_quick_run_passes_its_gates_and_writes_its_table(name, tmp_path, monkeypatch):
    """In this process where that is the same: to import PyTorch once more takes seconds."""
    arguments = [str(BENCHMARKS / f"{name}.py"), "--quick", "--out", str(tmp_path)]
    if name in IN_A_PROCESS_OF_THEIR_OWN:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(arguments[0], run_name="__main__")
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert report["machine"]["torch"]
    assert (tmp_path / f"{name}.md").read_text().startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_table_is_there(name):
    """The numbers that README quotes were measured by a full run."""
    report = json.loads((BENCHMARKS.parent / "book" / "results" / f"{name}.json").read_text())
    assert f"benchmarks/{name}.py" in report["command"]
    assert "--quick" not in report["command"]
    assert (BENCHMARKS.parent / "book" / "results" / f"{name}.md").exists()


@pytest.fixture
def engine():
    return importlib.import_module("engine")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("mlp", "no training"), ("mlp", "no mask"), ("mlp", "not a number"), ("vgg11", "no training")],
)
def test_the_engines_gate_refuses_what_is_wrong(engine, monkeypatch, name, wrong):
    """Of VGG11, too, whose losses a mask of one threshold for all layers keeps at log 10
    whatever is done.
    """
    real = engine.Engine

    def spoiled(network, starts, masks, data, recipe, runtime):
        if wrong == "no training":
            recipe = replace(recipe, lr=1e-9)
        elif wrong == "no mask":
            masks = [{key: torch.ones_like(kept) for key, kept in mask.items()} for mask in masks]
        else:
            starts = [{key: weight * math.nan for key, weight in start.items()} for start in starts]
        return real(network, starts, masks, data, recipe, runtime)

    network = engine.NETWORKS[name]
    monkeypatch.setattr(engine, "Engine", spoiled)
    with pytest.raises(SystemExit, match=rf"{name}, float32: losses differ by .* nothing timed\."):
        engine.gate(network, ["float32"], "cpu")


def test_the_engines_gate_refuses_networks_that_do_not_learn(engine, monkeypatch):
    """Whose losses would agree with anything's."""
    prepared = engine.prepared

    def still(network, members):
        starts, masks = prepared(network, members)
        return [{key: 0 * weight for key, weight in start.items()} for start in starts], masks

    monkeypatch.setattr(engine, "prepared", still)
    with pytest.raises(SystemExit, match=r"mlp: its losses move by .*, which proves nothing"):
        engine.gate(engine.NETWORKS["mlp"], ["float32"], "cpu")


def test_costs_that_are_not_measured_again_stay(tmp_path, monkeypatch):
    """Unless they were measured on another machine."""
    costs = importlib.import_module("costs")
    measured = {"seconds": 2.0, "seconds_again": 1.0, "store_mib": 3.0}
    monkeypatch.setattr(costs, "measure", lambda page, *_: {"page": page.stem, **measured})
    monkeypatch.setattr(costs, "whole", lambda _, jobs: {"jobs": jobs, "seconds": 60.0})
    kept = tmp_path / "costs.json"

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["costs.py", "--quick", "--out", str(tmp_path), *options])
        costs.main()
        return json.loads(kept.read_text())

    pages = run()["rows"]
    assert [row["page"] for row in pages] == ["03_loss_landscape"]
    report = run("--no-pages", "--jobs", "2", "1")
    assert report["rows"] == pages
    assert [book["jobs"] for book in report["books"]] == [1, 2]
    report["machine"]["cpu"] = "another"
    kept.write_text(json.dumps(report))
    report = run("--no-pages", "--jobs", "2")
    assert (report["rows"], [book["jobs"] for book in report["books"]]) == ([], [2])
