"""About 80 networks of torchvision, timm and transformers: traced, permuted, matched again.

`make architectures` runs it weekly and writes the table of the book; `make test` leaves it out. Each
row is kept in _build/architectures, so that the whole can be run in parts (``-k``).
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from architectures.measure import every, measure

pytestmark = pytest.mark.architectures

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "_build" / "architectures"

UNTRACED: dict[str, str] = {}
"""Those that are refused, and what the error says."""


@pytest.mark.parametrize(("library", "name", "size"), every(), ids=[name for _, name, _ in every()])
def test_architecture(library: str, name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    row = measure(library, name, size)
    # Rows may come from several machines, as the whole can be run in parts.
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    row["cpu"] = importlib.import_module("common").environment()["cpu"]
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_text(json.dumps(row) + "\n")
    if name in UNTRACED:
        assert UNTRACED[name] in row["error"]
        return
    assert row["traced"], row["error"]
    assert row["groups"] > 0
    assert row["deviation"] < 1e-4
    # Dead units, and equal ones, can't be told apart; every other is found again.
    assert row["missed"] == 0
    assert row["recovered"] > 0.5 * row["shown"]
