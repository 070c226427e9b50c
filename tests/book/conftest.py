"""The real book, built once for all tests of the site."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lotperm.site import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site_store() -> Path:
    """The store behind `site`: that of `make nbval`, which computes the very same stages."""
    return ROOT / "_build" / "nbval"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, site_store: Path) -> Path:
    """The real book, its notebooks at `smoke`.

    Built once, also when several processes share the tests.
    """
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOTPERM_HOME", str(site_store))
        patch.setenv("OMP_NUM_THREADS", "1")
        index = build.build("smoke", folder / "site", root=ROOT, progress=False, jobs=2)
    return index.parent
