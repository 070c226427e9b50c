"""Flipped bits, cut ends and zeroed pages: nothing damaged is used, and every file that is
refused is named.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from lotperm.data import catalog, datasets, stored
from lotperm.data.dataset import Split
from lotperm.errors import IntegrityError
from lotperm.site import build, notebooks
from lotperm.store.files import load_tensors
from lotperm.store.stages import StageResult, Store
from lotperm.store.workspace import Workspace
from lotperm.studies import published
from lotperm.studies.records import load_record

EACH = 200  # of five kinds of files: 1,000


def damage(path: Path, rng: random.Random) -> str:
    """Damage a file; returns how."""
    good = path.read_bytes()
    while True:
        bad = bytearray(good)
        how = rng.choice(
            ["flipped bit", "cut end", "zeroed page", "lost"] if rng.random() < 0.02 else _USUAL
        )
        at = rng.randrange(len(bad))
        if how == "flipped bit":
            bad[at] ^= 1 << rng.randrange(8)
        elif how == "cut end":
            del bad[at:]
        elif how == "zeroed page":
            start = at // 4096 * 4096
            bad[start : start + 4096] = bytes(len(bad[start : start + 4096]))
        if how == "lost":
            path.write_bytes(b"")
            return how
        if bytes(bad) != good:  # zeros over zeros are no damage
            path.write_bytes(bad)
            return how


_USUAL = ["flipped bit", "cut end", "zeroed page"]
TENSORS = {
    "w": torch.arange(6000, dtype=torch.float32).reshape(60, 100) / 7,
    "m": torch.arange(600) % 3 == 0,
}


def equal(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> bool:
    return got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)


def test_checkpoints(tmp_path, caplog, record):
    rng, older = random.Random(1), 0
    for number in range(EACH):
        folder = tmp_path / str(number)
        workspace = Workspace(folder, "key")
        for step in (1, 2):
            workspace.checkpoint({name: t + step for name, t in TENSORS.items()}, {"step": step})
        newest = sorted(folder.iterdir())[-1]
        damage(newest, rng)
        caplog.clear()
        found = Workspace(folder, "key").latest()
        assert found is not None
        assert found[1] == {"step": 1}
        assert equal(found[0], {name: t + 1 for name, t in TENSORS.items()})
        assert newest.name in caplog.text and ".corrupt" in caplog.text
        assert not newest.exists() and len(list(folder.glob("*.corrupt"))) == 1
        older += 1
    record("damaged checkpoint", older, "0 used: named, moved aside, the one before it used")


def test_stages(tmp_path, caplog, record):
    rng, computed = random.Random(2), []

    def compute(workspace: Workspace) -> StageResult:
        computed.append(1)
        return StageResult(
            {"accuracy": [0.5, 0.25]}, {"final": TENSORS, "mask": {"m": TENSORS["m"]}}
        )

    store = Store(tmp_path)
    good = store.stage("dense", {"lr": 0.1}, compute)
    kept = {path.name: path.read_bytes() for path in good.path.iterdir()}
    for number in range(2 * EACH):
        name = "stage.json" if number % 2 else rng.choice(["final.safetensors", "mask.safetensors"])
        damage(good.path / name, rng)
        assert store.find("dense", {"lr": 0.1}) is None
        caplog.clear()
        stage = store.stage("dense", {"lr": 0.1}, compute)
        assert len(computed) == number + 2, f"damage to {name} wasn't noticed"
        assert stage.results == {"accuracy": [0.5, 0.25]} and equal(stage.load("final"), TENSORS)
        assert name in caplog.text and ".corrupt" in caplog.text
        for path in stage.path.iterdir():
            assert path.name == "stage.json" or path.read_bytes() == kept[path.name]
        for path in (tmp_path / "stages").glob("*.corrupt"):
            shutil.rmtree(path)
    for kind in ("stage.json", "tensors of a stage"):
        record(f"damaged {kind}", EACH, "0 used: named, moved aside, the stage computed again")


def test_a_stage_damaged_after_it_was_found(tmp_path, record):
    rng = random.Random(3)
    good = Store(tmp_path).stage(
        "dense", {"lr": 0.1}, lambda _: StageResult({}, {"final": TENSORS})
    )
    path = good.path / "final.safetensors"
    kept, refused = path.read_bytes(), 0
    for _ in range(EACH // 2):
        damage(path, rng)
        with pytest.raises(IntegrityError, match=r"final\.safetensors"):
            good.load("final")
        refused += 1
        path.write_bytes(kept)
    record(
        "tensors of a stage damaged between finding and loading",
        refused,
        "0 used: refused by name, exit 3",
    )


def test_recorded_results(tmp_path, monkeypatch, record):
    rng, refused = random.Random(4), 0
    # Of one data set: to look through all that is recorded each time would show no more.
    for name in [run.name for run in published.recorded("fashion_mnist")]:
        shutil.copytree(ROOT / "book" / "results" / name, tmp_path / "results" / name)
    monkeypatch.setattr(published, "book_folder", lambda: tmp_path)
    good = published.recorded("fashion_mnist")
    assert good
    folder = tmp_path / "results" / good[0].name
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for number in range(EACH):
        name = "results.json" if number % 2 else rng.choice(sorted(kept))
        damage(folder / name, rng)
        with pytest.raises(IntegrityError, match=good[0].name) as caught:
            published.recorded("fashion_mnist")
        assert "git checkout" in str(caught.value) and "\n" not in str(caught.value)
        refused += 1
        (folder / name).write_bytes(kept[name])
    assert published.recorded("fashion_mnist")[0].summary.equals(good[0].summary)
    record("damaged recorded result", refused, "0 used: refused by name, exit 3")


def test_every_recorded_run_is_whole():
    results = ROOT / "book" / "results"
    folders = [path.parent for path in results.glob("*/results.json")]
    # A folder with tables is a recorded run; `wide` holds measurements.
    assert {path.parent for path in results.glob("*/*.csv")} == set(folders)
    assert len(folders) >= 9
    for folder in folders:
        content = load_record(folder)
        assert content["stages"] and content["summary"]
        assert set(content["files"]) == {path.name for path in folder.iterdir()} - {
            "results.json",
            "tickets",
        }
        # Beside tickets there is the card that describes them, and nothing else.
        tickets = set(folder.glob("tickets/*")) - {folder / "tickets" / "README.md"}
        for ticket in sorted(tickets):
            load_tensors(ticket, checked=True)


def test_a_recorded_run_without_a_checksum_is_refused(tmp_path, monkeypatch):
    (tmp_path / "results" / "plain").mkdir(parents=True)
    (tmp_path / "results" / "plain" / "results.json").write_text('{"experiment": {}, "files": {}}')
    monkeypatch.setattr(published, "book_folder", lambda: tmp_path)
    with pytest.raises(IntegrityError, match="without a checksum"):
        published.recorded("fashion_mnist")


def test_data_sets(tmp_path, monkeypatch, record):
    rng, refused = random.Random(5), 0
    spec = replace(catalog.SPECS["fashion_mnist"], n_train=60, n_test=20, content=None)
    monkeypatch.setitem(catalog.SPECS, "fashion_mnist", spec)
    pixels = np.random.default_rng(0).integers(0, 256, (80, 1, 28, 28), dtype=np.uint8)
    targets = torch.arange(80) % 10
    raw = {
        "train.inputs": torch.from_numpy(pixels[:60]),
        "train.targets": targets[:60],
        "test.inputs": torch.from_numpy(pixels[60:]),
        "test.targets": targets[60:],
    }
    path = tmp_path / "data" / "fashion_mnist.safetensors"
    content = stored.check_content("fashion_mnist", raw, "the test", None)
    stored.save_dataset("fashion_mnist", raw, path, content, "test")
    kept = path.read_bytes()
    for _ in range(EACH):
        damage(path, rng)
        with pytest.raises(IntegrityError, match=r"moved aside.*lotperm data fetch fashion_mnist"):
            datasets.load("fashion_mnist", home=tmp_path)
        assert not path.exists()
        (aside,) = path.parent.glob("*.corrupt")
        aside.unlink()
        refused += 1
        path.write_bytes(kept)
    assert torch.equal(
        datasets.load("fashion_mnist", home=tmp_path).train.inputs, raw["train.inputs"]
    )
    record(
        "damaged cached data set",
        refused,
        "0 used: named, moved aside, exit 3 with the command that fetches it",
    )


def test_the_generated_data_set_is_generated_again(tmp_path, caplog):
    good: Split = datasets.load("mnist1d").train  # once for all tests
    path = tmp_path / "data" / "mnist1d.safetensors"
    path.parent.mkdir()
    shutil.copy(Path(os.environ["LOTPERM_DATA"]) / path.name, path)
    damage(path, random.Random(6))
    with caplog.at_level(logging.WARNING):
        again = datasets.load("mnist1d", home=tmp_path).train
    assert torch.equal(again.inputs, good.inputs) and "mnist1d.safetensors" in caplog.text


def test_executed_pages(tmp_path, monkeypatch, caplog, record):
    """The cache of executed notebooks; what executes them is stood in for."""
    rng, executed = random.Random(7), []
    content = b'{"cells": []}' * 400

    def execute(notebook: Path, out: Path, *_: object, **__: object) -> Path:
        executed.append(notebook)
        build.write_atomic(out, content)
        return out

    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path))
    monkeypatch.setattr(notebooks, "execute", execute)
    monkeypatch.setattr(notebooks, "executed_key", lambda *_: "0" * 64)
    open_page: Callable[[], Path] = lambda: notebooks.execute_cached(page, "smoke", progress=False)  # noqa: E731
    page = ROOT / "notebooks" / "04_method.ipynb"
    out = open_page()
    for number in range(EACH // 2):
        damage(out if number % 2 else out.with_suffix(".sha256"), rng)
        caplog.clear()
        assert open_page().read_bytes() == content
        assert len(executed) == number + 2 and ".corrupt" in caplog.text
    record("damaged executed page of the book", EACH // 2, "0 used: moved aside, executed again")
