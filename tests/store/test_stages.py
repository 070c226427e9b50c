"""Stages: computed once, found by their key, never used damaged."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from stores import CONFIG, Compute, check, tensors

from lotperm.config import canonical
from lotperm.config.canonical import sha256_json
from lotperm.errors import IntegrityError, ParameterError
from lotperm.store import stages
from lotperm.store.files import save_tensors
from lotperm.store.stages import StageResult, Store, stage_key


def test_key_depends_on_name_schema_and_config(monkeypatch: pytest.MonkeyPatch) -> None:
    key = stage_key("dense", {"a": 1})
    assert key == sha256_json({"stage": "dense", "config": {"a": 1}, "schema": canonical.SCHEMA})
    assert key not in (
        stage_key("mask", {"a": 1}),
        stage_key("dense", {"a": 2}),
        stage_key("dense", {"b": 1}),
    )
    monkeypatch.setattr(stages, "SCHEMA", canonical.SCHEMA + 1)
    assert stage_key("dense", {"a": 1}) != key


def test_a_stage_is_computed_once(tmp_path: Path) -> None:
    compute, store = Compute(), Store(tmp_path)
    assert store.find("dense", CONFIG) is None
    check(store.stage("dense", CONFIG, compute))
    stage = Store(tmp_path).stage("dense", dict(reversed(CONFIG.items())), compute)
    check(stage)
    assert compute.calls == 1
    assert stage.key == stage_key("dense", CONFIG)
    assert stage.path == tmp_path / "stages" / f"dense-{stage.key[:16]}"
    assert stage.config == CONFIG
    assert stage.meta["versions"]["torch"] == str(torch.__version__)
    store.stage("dense", {**CONFIG, "lr": 0.2}, compute)
    store.stage("mask", CONFIG, compute)
    assert compute.calls == 3
    assert sorted(p.name for p in stage.path.iterdir()) == [
        "mask.safetensors",
        "stage.json",
        "weights.safetensors",
    ]


def test_two_stores_hold_the_same_bytes(tmp_path: Path) -> None:
    one, two = (Store(tmp_path / n).stage("dense", CONFIG, Compute()) for n in "ab")
    assert one.files == two.files
    for name in one.files:
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


def test_bad_names_are_refused(tmp_path: Path) -> None:
    store, compute = Store(tmp_path), Compute()
    for name in ("../dense", "Dense", "", "a/b"):
        with pytest.raises(ParameterError):
            store.stage(name, CONFIG, compute)
    assert compute.calls == 0
    with pytest.raises(ParameterError):
        store.stage("dense", CONFIG, lambda _: StageResult({}, {"../x": tensors()}))
    with pytest.raises(ParameterError):
        store.stage("dense", CONFIG, lambda _: StageResult({"accuracy": float("nan")}))
    assert store.find("dense", CONFIG) is None
    with pytest.raises(ParameterError, match="mask"):
        store.stage("dense", CONFIG, compute).load("missing")


def test_default_root_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path / "elsewhere"))
    assert Store.default().root == tmp_path / "elsewhere"
    monkeypatch.delenv("LOTPERM_HOME")
    assert Store.default().root == Path(".lotperm")


def test_flipped_bytes_are_never_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng, store, compute = random.Random(0), Store(tmp_path), Compute()
    stage = store.stage("dense", CONFIG, compute)
    for round_ in range(120):
        name = ["stage.json", "weights.safetensors", "mask.safetensors"][round_ % 3]
        path = stage.path / name
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        path.write_bytes(content if round_ % 4 else content[: rng.randrange(len(content))])
        assert store.find("dense", CONFIG) is None
        caplog.clear()
        check(store.stage("dense", CONFIG, compute))
        assert compute.calls == round_ + 2
        assert name in caplog.text
        assert ".corrupt" in caplog.text
    assert len(list((tmp_path / "stages").glob("*.corrupt"))) == 120


def test_missing_files_and_folders_are_recomputed(tmp_path: Path) -> None:
    store, compute = Store(tmp_path), Compute()
    for name in ("stage.json", "mask.safetensors"):
        (store.stage("dense", CONFIG, compute).path / name).unlink()
        check(store.stage("dense", CONFIG, compute))
    path = store.stage("dense", CONFIG, compute).path
    assert compute.calls == 3
    path.rename(path.with_name("gone"))
    path.write_text("a file where a folder should be")
    check(store.stage("dense", CONFIG, compute))
    assert compute.calls == 4


def test_a_stage_of_another_key_is_not_used(tmp_path: Path) -> None:
    store, compute = Store(tmp_path), Compute()
    other = store.stage("dense", {"x": 1}, compute)
    wanted = tmp_path / "stages" / f"dense-{stage_key('dense', CONFIG)[:16]}"
    other.path.rename(wanted)
    check(store.stage("dense", CONFIG, compute))
    assert compute.calls == 2


def test_a_file_that_changes_after_it_was_found_is_refused(tmp_path: Path) -> None:
    stage = Store(tmp_path).stage("dense", CONFIG, Compute())
    save_tensors(stage.path / "weights.safetensors", {**tensors(), "sum": torch.tensor(0.0)})
    with pytest.raises(IntegrityError, match="weights"):
        stage.load("weights")
