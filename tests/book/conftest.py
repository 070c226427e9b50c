"""The real book, built once for all tests of the site."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import checks
import pytest
from bs4 import BeautifulSoup
from filelock import FileLock

from lotperm.site import build
from lotperm.store.provenance import source_hash

ROOT = Path(__file__).parents[2]


@cache
def made_here() -> bool:
    """Say whether ``make book PROFILE=smoke`` has just left a book of this package, as in CI."""
    if not (ROOT / "_build" / ".lock").exists():
        return False
    # Another process of these tests may be bringing it up to date.
    with FileLock(ROOT / "_build" / ".lock"):
        executed = list((ROOT / "_build" / "src" / "notebooks").glob("*.ipynb"))
        found = [json.loads(path.read_text())["metadata"]["lotperm"] for path in executed]
    return bool(found) and all(
        (made["source_hash"], made["parameters"]["profile"]) == (source_hash(), "smoke")
        for made in found
    )


@pytest.fixture(scope="session")
def site_store(shared: Path) -> Path:
    """The store behind `site`; empty at first, unless the book was made here."""
    return ROOT / ".lotperm" if made_here() else shared / "site-store"


@pytest.fixture(scope="session")
def site(shared: Path, site_store: Path) -> Path:
    """The real book, its notebooks at `smoke`.

    Built once, also when several processes share the tests. What ``make book`` left here is
    brought up to date: nothing is taken that isn't of this package and these sources.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOTPERM_HOME", str(site_store))
        patch.setenv("OMP_NUM_THREADS", "1")
        out = ROOT / "_build" if made_here() else shared / "site"
        index = build.build("smoke", out, root=ROOT, progress=False, jobs=2)
    return index.parent


@pytest.fixture(scope="session")
def parsed(site: Path) -> dict[Path, BeautifulSoup]:
    """Every page of the site, read once."""
    return checks.parse(site)
