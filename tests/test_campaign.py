"""Campaigns: read and checked, run in slices, resumed to the same bits, recorded, carried between machines."""

import json
from pathlib import Path

import pytest
import yaml

from lotperm import Store
from lotperm.campaign import KINDS, Campaign
from lotperm.errors import ParameterError, StorageError
from lotperm.experiments import kept_epochs

FOLDER = Path(__file__).parents[1] / "campaigns"
ENTRY = {"name": "one", "profile": "smoke"}


def write(path, *entries, **top):
    path.write_text(json.dumps({**top, "entries": list(entries)}))
    return path


# --- the file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_campaign_of_the_repository_is_valid(path):
    campaign = Campaign.load(path)
    assert campaign.name == path.stem
    assert campaign.entries
    assert {entry.kind for entry in campaign.entries} <= KINDS.keys()


def test_yaml_and_json_give_the_same(tmp_path):
    content = yaml.safe_load((FOLDER / "smoke.yaml").read_text())
    (tmp_path / "smoke.json").write_text(json.dumps(content))
    assert Campaign.load(tmp_path / "smoke.json") == Campaign.load(FOLDER / "smoke.yaml")


def test_tasks_come_in_order_and_once(tmp_path):
    campaign, store = Campaign.load(FOLDER / "smoke.yaml"), Store(tmp_path)
    tasks = campaign.tasks(store)
    keys = [task.key for task in tasks]
    assert len(set(keys)) == len(keys)
    assert all(before.key in keys[:i] for i, task in enumerate(tasks) for before in task.after)
    first = [task.key for task in campaign.entries[0].tasks(store)]
    assert keys[: len(first)] == first
    # The table, the two others and the lines between A and B share one dense pair; each width has its own.
    assert sum(task.name == "dense" for task in tasks) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../up"}, "name is '../up'; expected lower case"),
        ({"kind": "tabel"}, "unknown kind 'tabel'. Did you mean 'table'?"),
        ({"figure": "resnet20_cifar01"}, "Did you mean 'resnet20_cifar10'?"),
        ({"sparisty": 0.9}, "unknown key 'sparisty'. Did you mean 'sparsity'?"),
        ({"sparsity": 90}, "0 < sparsity < 1"),
        ({"seeds": "three"}, "seeds is 'three'"),
        ({"widths": [1, 2]}, "widths needs a figure"),
        ({"keep": [0, 4], "rewind_epoch": 2}, "expected every rewind epoch, 2 too"),
        ({"keep": [2, 13]}, "0 <= keep <= epochs (12)"),
        ({"alphas": [0, 0.5, 1]}, "'alphas' belongs to entries of kind 'connectivity'"),
        ({"kind": "early", "match_epochs": [13]}, "match_epochs has 13; expected epochs that are kept"),
        ({"kind": "early", "match_epochs": []}, "one value or more"),
        ({"kind": "diversity", "seeds": 1}, "two seeds or more"),
        ({"kind": "connectivity", "alphas": [0, 1]}, "three numbers or more"),
        ({"kind": "connectivity", "repairs": ["rapair"]}, "Did you mean 'repair'?"),
        ({"kind": "connectivity", "repairs": ["bn", "bn"]}, "none twice"),
        ({"compile": "yes"}, "compile is 'yes'; expected true or false"),
        ({"members": 0}, "members is 0; expected 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_entrys_name(tmp_path, changes, message):
    path = write(tmp_path / "c.json", {**ENTRY, **changes})
    with pytest.raises(ParameterError, match=r"c\.json, entry 1") as found:
        Campaign.load(path)
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_duplicates_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="'one' is taken"):
        Campaign.load(write(tmp_path / "c.json", ENTRY, {**ENTRY, "seeds": 2}))
    with pytest.raises(ParameterError, match="computes the same as entry one"):
        Campaign.load(write(tmp_path / "c.json", ENTRY, {**ENTRY, "name": "two"}))
    (tmp_path / "c.yaml").write_text("entries: [{name: one, seeds: 2, seeds: 3}]")
    with pytest.raises(ParameterError, match="'seeds' stands twice"):
        Campaign.load(tmp_path / "c.yaml")
    (tmp_path / "c.json").write_text('{"entries": [{"name": "one", "seeds": 2, "seeds": 3}]}')
    with pytest.raises(ParameterError, match="'seeds' stands twice"):
        Campaign.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.yaml", "a: [", "is not YAML"),
        ("c.yaml", "entries: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("c.yaml", "? [1]\n: 2", "can't be read"),
        ("c.json", "{", "can't be read"),
        ("c.json", '{"entries": [NaN]}', "holds NaN"),
        ("c.yaml", "- 1", "is no campaign"),
        ("c.yaml", "entries: []", "has no entries"),
        ("c.yaml", "entries: [1]", "entry 1 is 1"),
        ("c.yaml", "entrys: []", "Did you mean 'entries'?"),
        ("c.yaml", "defaults: 1\nentries: [1]", "defaults is 1"),
        ("c.yaml", "results: 1\nentries: [1]", "results is 1"),
        ("c.toml", "", "expected a file .yaml"),
    ],
)
def test_files_that_are_no_campaign(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ParameterError) as found:
        Campaign.load(tmp_path / name)
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_a_campaign_that_is_not_there(tmp_path):
    with pytest.raises(StorageError, match="nowhere"):
        Campaign.load(tmp_path / "nowhere.yaml")


def test_some_entries_only():
    campaign = Campaign.load(FOLDER / "smoke.yaml")
    assert [entry.name for entry in campaign.only(["smoke_early"]).entries] == ["smoke_early"]
    assert campaign.only(None) == campaign
    with pytest.raises(ParameterError, match="Did you mean 'smoke_early'"):
        campaign.only(["smoke_erly"])


def test_what_is_kept_is_part_of_the_key(tmp_path):
    keys = set()
    for keep in (None, [0, 2, 12], [12, 2, 0, 2], [2]):
        campaign = Campaign.load(write(tmp_path / "c.json", {**ENTRY, "keep": keep}))
        (experiment,) = campaign.entries[0].experiments
        assert set(experiment.rewind_epochs) <= set(kept_epochs(experiment))
        keys.add(campaign.tasks(Store(tmp_path))[0].key)
    assert len(keys) == 3
