"""A stage names the versions and sources that computed it."""

from __future__ import annotations

import pytest
from stores import CONFIG

from lotperm.store import provenance
from lotperm.store.stages import StageResult, Store


def test_the_source_hash_follows_modules_and_scripts(tmp_path, monkeypatch):
    for name in ("store/stages.py", "site/js/figure.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    hashes = [provenance.source_hash()]
    for name in ("store/stages.py", "site/js/figure.js"):
        (tmp_path / name).write_text("2")
        hashes.append(provenance.source_hash())
    assert len(set(hashes)) == 3


def test_a_stage_names_the_sources_that_computed_it(tmp_path, monkeypatch):
    """Not those that are in the folder when it is written: they may have been edited since the
    process started.
    """
    (tmp_path / "store.py").write_text("1")
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    store, began = Store(tmp_path / "kept"), provenance.source_hash()

    def compute(workspace):
        (tmp_path / "store.py").write_text("2")
        return StageResult({}, {})

    store.stage("dense", CONFIG, compute)
    assert provenance.source_hash() != began
    assert store.find("dense", CONFIG).meta["source"] == began


def test_a_stage_that_was_resumed_names_all_sources(tmp_path, monkeypatch):
    (tmp_path / "store.py").write_text("1")
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    sources = []

    def attempt(text, fails=True):
        (tmp_path / "store.py").write_text(text)
        sources.append(provenance.source_hash())

        def compute(workspace):
            workspace.latest()
            workspace.checkpoint({}, None)
            if fails:
                raise KeyboardInterrupt
            return StageResult({}, {})

        Store(tmp_path / "kept").stage("dense", CONFIG, compute)

    for text in ("1", "1", "2"):
        with pytest.raises(KeyboardInterrupt):
            attempt(text)
    attempt("3", fails=False)
    meta = Store(tmp_path / "kept").find("dense", CONFIG).meta
    assert meta["source"] == sources[-1]
    assert [maker["source"] for maker in meta["earlier"]] == [sources[0], sources[2]]
    assert meta["earlier"][0]["versions"] == meta["versions"]
    Store(tmp_path / "kept").stage("imp", CONFIG, lambda workspace: StageResult({}, {}))
    assert "earlier" not in Store(tmp_path / "kept").find("imp", CONFIG).meta
