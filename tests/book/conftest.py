"""The real book, built once for all tests of the site."""

from __future__ import annotations

from pathlib import Path

import pytest

from lotperm import book

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real book, its notebooks at `smoke`."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOTPERM_HOME", str(folder / "home"))
        patch.setenv("OMP_NUM_THREADS", "1")
        index = book.build("smoke", folder / "out", root=ROOT, progress=False)
    return index.parent
