"""What the book shows of architectures was measured, not typed in."""

from __future__ import annotations

import json
from pathlib import Path

from architectures.measure import every
from architectures.record import cells

RESULTS = Path(__file__).parents[2] / "book" / "results"


def test_the_recorded_table() -> None:
    report = json.loads((RESULTS / "architectures.json").read_text())
    shown = (RESULTS / "architectures.md").read_text()
    names = [row["name"] for row in report["rows"]] + report["missing"]
    assert sorted(names) == sorted(name for _, name, _ in every())
    for row in report["rows"]:
        assert f"| {' | '.join(cells(row))} |" in shown
        if row["traced"]:
            assert row["deviation"] < 1e-4
            assert row["missed"] == 0
    assert all(name in shown for name in report["missing"])
