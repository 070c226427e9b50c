"""The real book, built once for all tests of the site."""

from __future__ import annotations

from pathlib import Path

import pytest

from lotperm.site import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site_store(shared: Path) -> Path:
    """The store behind `site`, empty at first, so that all is computed and nothing remembered."""
    return shared / "site-store"


@pytest.fixture(scope="session")
def site(shared: Path, site_store: Path) -> Path:
    """The real book, its notebooks at `smoke`.

    Built once, also when several processes share the tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOTPERM_HOME", str(site_store))
        patch.setenv("OMP_NUM_THREADS", "1")
        index = build.build("smoke", shared / "site", root=ROOT, progress=False, jobs=2)
    return index.parent
