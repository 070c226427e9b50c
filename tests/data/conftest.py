"""Data sets of their own: these tests fetch, damage and count what lies in a store."""

import pytest


@pytest.fixture(autouse=True)
def _own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOTPERM_DATA")
