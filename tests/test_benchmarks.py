"""The benchmarks run, pass their gates and write their tables."""

import importlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "common")
)
def test_quick_run(name, tmp_path):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--quick", "--out", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert report["machine"]["torch"]
    assert (tmp_path / f"{name}.md").read_text().startswith("# ")


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "common")
)
def test_the_recorded_table_is_there(name):
    """The numbers that README quotes were measured by a full run."""
    report = json.loads((BENCHMARKS.parent / "book" / "results" / f"{name}.json").read_text())
    assert f"benchmarks/{name}.py" in report["command"]
    assert "--quick" not in report["command"]
    assert (BENCHMARKS.parent / "book" / "results" / f"{name}.md").exists()


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
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
