"""The keys of all stages, as they were written down: results that are stored are found by them.

A changed key means that stored results are no longer found, so that all is computed anew. The
reference holds, for each figure at each profile and for each entry of the campaign files, the
number of stages of each name, and a digest of their keys in the order in which they are computed.
What is new is added to it, from what the failing test prints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from lotperm.cluster import plan
from lotperm.cluster.campaign import Campaign
from lotperm.config.presets import FIGURES
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain

ROOT = Path(__file__).parents[2]
REFERENCE = json.loads((ROOT / "tests" / "reference" / "keys.json").read_text())
PROFILES = ("smoke", "laptop", "desktop", "paper")
FOLDER = ROOT / "campaigns"
CAMPAIGNS = sorted(FOLDER.rglob("*.yaml"))

# Of each name: how many stages, and the SHA-256 of their keys, one a line.
Digest = dict[str, list[object]]


def digest(tasks: Iterable[Task]) -> Digest:
    """Return the digest of the tasks' keys."""
    keys: dict[str, list[str]] = {}
    for task in tasks:
        keys.setdefault(task.name, []).append(task.key)
    return {
        name: [len(found), hashlib.sha256("\n".join(found).encode()).hexdigest()]
        for name, found in keys.items()
    }


def label(path: Path) -> str:
    """Name a campaign file by its place."""
    return path.relative_to(FOLDER).with_suffix("").as_posix()


def campaign_digests(path: Path, store: Store) -> Iterator[tuple[str, Digest]]:
    """Yield the label and the digest of each entry of a campaign file."""
    for entry in Campaign.load(path).entries:
        yield f"campaign {label(path)}, {entry.name}", digest(entry.tasks(store))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store without data: no stage's key may depend on what is there."""
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path))
    return Store.default()


def test_every_figure_and_campaign_is_written_down() -> None:
    figures = {f"{figure}, {profile}" for figure in FIGURES for profile in PROFILES}
    entries = {
        f"campaign {label(path)}, {entry.name}"
        for path in CAMPAIGNS
        for entry in Campaign.load(path).entries
    }
    assert set(REFERENCE) == figures | entries


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("figure", FIGURES)
def test_a_figures_stages_keep_their_keys(figure: str, profile: str, store: Store) -> None:
    found = digest(chain(plan.figure(figure, profile=profile).tasks(store)))
    assert found == REFERENCE.get(f"{figure}, {profile}")


@pytest.mark.parametrize("path", CAMPAIGNS, ids=label)
def test_a_campaigns_stages_keep_their_keys(path: Path, store: Store) -> None:
    found = dict(campaign_digests(path, store))
    assert found
    assert found == {label: REFERENCE.get(label) for label in found}


def test_a_table_of_all_seeds_has_the_stages_of_each(store: Store) -> None:
    """So that what is computed seed by seed makes one record in the end."""
    paper = FOLDER / "paper"
    whole, *seeds = (
        {task.key for task in Campaign.load(paper / f"{name}.yaml").tasks(store)}
        for name in ("seeds", "seed0", "seed1", "seed2")
    )
    assert whole == set().union(*seeds)
    assert all(len(seed) == len(whole) // 3 for seed in seeds)
