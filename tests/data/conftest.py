"""Data sets for these tests alone: they fetch, damage and count what is in a store."""

import pytest


@pytest.fixture(autouse=True)
def _own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOTPERM_DATA")
