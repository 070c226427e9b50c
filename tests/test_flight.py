"""Minutes on a rented GPU, rehearsed on the CPU: the program, and the commands of the page."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from stand_in import rehearse
from torch import nn

from lotperm import Store
from lotperm.carry.unpacking import unpack
from lotperm.studies.records import load_record

ROOT = Path(__file__).parents[1]


def small(name, width):
    """In the place of the campaign's network, which takes long on a CPU."""
    return lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10)
    )


@pytest.fixture
def flight(monkeypatch):
    spec = importlib.util.spec_from_file_location(
        "first_flight", ROOT / "tools" / "first_flight.py"
    )
    module = importlib.util.module_from_spec(spec)
    # What it sets for itself must not stay.
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "8")
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "resnet", small)
    # So few that it fits on a machine that is busy with something else.
    monkeypatch.setattr(module, "EPOCH", 4)
    monkeypatch.setattr(module, "STEPS", 4)
    return module


def fly(flight, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["first_flight.py", *map(str, arguments), "--device", "cpu"])
    return flight.main()


@pytest.fixture
def campaign(tmp_path):
    """A table that takes a second."""
    content = {
        "entries": [
            {
                "name": "tiny",
                "profile": "smoke",
                "train_size": 200,
                "test_size": 100,
                "epochs": 1,
                "finetune_epochs": 1,
                "hidden": [8],
                "seeds": 2,
                "rewind_epoch": 0,
                "keep": [0],
                "sparsity": 0.5,
                "prune_fraction": 0.5,
            }
        ]
    }
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(content))
    return path


def test_a_flight_checks_trains_records_and_leaves_with_what_travels(
    flight, monkeypatch, campaign, tmp_path
):
    """Also where the compiler fails, which is tried elsewhere and takes long on a CPU."""

    def broken(self):
        raise RuntimeError("no compiler\nand a page about it")

    monkeypatch.setattr(flight.Flight, "compiler", broken)
    folder = tmp_path / "flight"
    told = ("--measure", "0.1", "--in-flight", "1")
    assert fly(flight, monkeypatch, folder, campaign, *told) == 0
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["good"]
    assert verdict["failed"] == {"compiler": "RuntimeError: no compiler"}
    assert verdict["mode"] == "graph"
    assert list(verdict["images_per_second"]) == ["1"]
    assert verdict["fits"]
    left = json.loads((folder / "left.json").read_text())
    assert left["trained"]
    whole = b"".join((folder / "back" / name).read_bytes() for name in sorted(left["parts"]))
    (tmp_path / "back.tgz").write_bytes(whole)
    with tarfile.open(tmp_path / "back.tgz") as archive:
        archive.extractall(tmp_path / "back", filter="data")
    record = load_record(tmp_path / "back" / "results" / "tiny")
    assert {stage["stage"] for stage in record["stages"]} == {"dense", "imp", "match", "sparse"}
    packs = sorted((tmp_path / "back" / "packs").glob("pack-*.bin"))
    assert not unpack(Store(tmp_path / "elsewhere"), packs).problems


def test_wrong_numbers_end_the_flight(flight, monkeypatch, campaign, tmp_path):
    monkeypatch.setattr(flight, "apart", lambda one, other: {"loss": 0.5, "statistics": 0.0})
    assert fly(flight, monkeypatch, tmp_path / "wrong", campaign) == 1
    verdict = json.loads((tmp_path / "wrong" / "verdict.json").read_text())
    assert not verdict["good"]
    assert "numbers" in verdict["failed"]
    assert not (tmp_path / "wrong" / "left.json").exists()


def test_a_stopped_flight_leaves_with_what_there_is(flight, monkeypatch, campaign, tmp_path):
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(flight.Flight, "checked", lambda self, **_: True)
    monkeypatch.setattr(flight.Flight, "compared", lambda self, *_, **__: None)
    monkeypatch.setattr(flight, "data_there", lambda plan: True)
    folder = tmp_path / "stopped"
    folder.mkdir()
    (folder / "stop").touch()
    assert fly(flight, monkeypatch, folder, campaign) == 0
    assert "stopped before dense A and B of tiny" in (folder / "log").read_text()
    assert json.loads((folder / "left.json").read_text())["parts"]


def test_what_fits_is_counted_as_the_campaigns_do(flight, monkeypatch):
    """Up to 80 %: two dense networks, eight rounds, three arms; 67 million images."""
    monkeypatch.setattr(flight, "EPOCH", 49_920)
    rates = dict.fromkeys((1, 3, 9, 16), 1e6)
    assert flight.Flight.needed(rates, 0.8) == pytest.approx((400 + 8 * 50 + 540) * 0.04992)
    assert flight.Flight.needed(rates, 0.97) > 2 * flight.Flight.needed(rates, 0.8)


def test_the_commands_of_the_page_are_whole_and_short(flight):
    commands = rehearse.commands()
    assert len(commands) == 4
    for command in commands:
        assert len(command) <= 2000
        subprocess.run(["bash", "-n"], input=command, text=True, check=True)
    assert "tools/first_flight.py ~/flight campaigns/paper/seed0.yaml" in commands[0]
