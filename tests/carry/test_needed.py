"""What a campaign still needs: what the machine that continues it will read, and no more."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from lotperm import Store
from lotperm.carry.needed import needed
from lotperm.carry.packing import everything, lacking, pack
from lotperm.carry.unpacking import unpack
from lotperm.cluster import campaign as campaigns
from lotperm.cluster.campaign import Campaign
from lotperm.engine.runtime import Runtime
from lotperm.store.tasks import epoch_file

CAMPAIGNS = Path(__file__).parents[2] / "campaigns"
ENTRY = {
    "name": "small",
    "profile": "smoke",
    "train_size": 300,
    "test_size": 100,
    "epochs": 3,
    "rewind_epoch": [0, 1],
    "finetune_epochs": 1,
    "hidden": [12],
    "seeds": 2,
    "sparsity": 0.75,
    "prune_fraction": 0.5,
}


@pytest.fixture
def campaign(tmp_path):
    """One table, at two rewind epochs, whose mask needs two rounds of pruning."""
    path = tmp_path / "campaign.json"
    path.write_text(json.dumps({"name": "small", "entries": [ENTRY]}))
    return Campaign.load(path)


def test_the_pack_of_the_tenth_goes_on_at_its_last_entry(tmp_path):
    store = Store(tmp_path / "store")
    done = unpack(store, [CAMPAIGNS / "tenth.bin"])
    last = Campaign.load(CAMPAIGNS / "tenth.yaml").entries[-1]
    tasks = last.tasks(store)
    assert Counter(task.name for task in tasks if task.done()) == {
        "dense": 3,
        "imp": 33,
        "match": 3,
    }
    # The masks are those of the other rewind point, so that only the arms are left.
    assert Counter(task.name for task in tasks if not task.done()) == {"sparse": 3}
    assert (done.counts, done.problems) == ({"added": 63}, [])
    # Everything that they read is there, the initial weights of the first seed among it.
    read = {(key, name) for task in tasks if not task.done() for key, name in reads(task)}
    stages = {stage.key: stage for stage in store.stages()}
    assert read and not [name for key, name in read if name in stages[key].left_out]


def reads(task):
    """Yield the key of each stage that a task reads, with the name of the file."""
    for key, files in task.reads.items():
        for file in files:
            yield key, f"{file}.safetensors"


def travelling(campaign, store):
    """Key of each stage that travels -> its files that do."""
    return {parcel.key: parcel.files for parcel in needed(campaign, store)}


def test_what_missing_stages_read_travels(campaign, tmp_path):
    store = Store(tmp_path / "store")
    tasks = campaign.tasks(store)
    assert [(parcel.name, parcel.key) for parcel in needed(campaign, store)] == [
        (task.name, task.key) for task in tasks
    ]
    (dense,) = (task for task in tasks if task.name == "dense")
    first, last = (task for task in tasks if task.name == "imp")
    arms = [task for task in tasks if task.name == "sparse"]
    assert len(arms) == 2
    arms[0].run()
    files = travelling(campaign, store)
    assert files[first.key] == files[arms[0].key] == frozenset()
    assert files[last.key] == {"mask"}
    # One epoch for the arms that are missing, the other for the tickets of those that are done.
    assert files[dense.key] == {epoch_file(0), epoch_file(1)}
    arms[1].run()
    assert set(travelling(campaign, store).values()) == {frozenset()}


def test_what_came_without_a_file_that_is_still_read_is_named(campaign, tmp_path):
    """A pack for a later moment has fewer files, and from it the earlier one can't be made."""
    there, here = Store(tmp_path / "there"), Store(tmp_path / "here")
    tasks = campaign.tasks(there)
    arms = [task for task in tasks if task.name == "sparse"]
    arms[0].run()
    unpack(here, pack(there, needed(campaign, there), tmp_path / "packs"))
    assert lacking(here, needed(campaign, here)) == []
    # A further sparsity, whose arms read what those that are done did.
    path = tmp_path / "wider.json"
    wider = {**ENTRY, "name": "wider", "rewind_epoch": [0, 1], "sparsity": [0.5, 0.75]}
    path.write_text(json.dumps({"name": "small", "entries": [wider]}))
    missing = lacking(here, needed(Campaign.load(path), here))
    (imp, *_) = (task for task in Campaign.load(path).tasks(here) if task.name == "imp")
    assert missing == [f"{here.folder('imp', imp.key).name}/mask.safetensors"]
    # With all files of the store, nothing is.
    unpack(here, pack(there, everything(there), tmp_path / "all"))
    assert lacking(here, needed(Campaign.load(path), here)) == []


def done(store):
    return {stage.key for stage in store.stages()}


def test_a_table_that_was_recorded_before_it_was_carried_keeps_its_tickets(campaign, tmp_path):
    results, said = tmp_path / "results", []
    there, here = Store(tmp_path / "there"), Store(tmp_path / "here")
    campaigns.run(campaign, there, Runtime(), results)
    tickets = {path: path.read_bytes() for path in (results / "small" / "tickets").iterdir()}
    assert len(tickets) == 4
    assert unpack(here, pack(there, needed(campaign, there), tmp_path / "packs")).problems == []
    assert done(here) == done(there) and not list(here.root.rglob("stages/*/*.safetensors"))
    (results / "small" / "results.json").unlink()
    campaigns.run(campaign, here, Runtime(), results, said.append)
    assert "small: its tickets stay as they are" in said
    assert {path: path.read_bytes() for path in tickets} == tickets
    shutil.rmtree(results)
    campaigns.run(campaign, here, Runtime(), results, said.append)
    assert any("its tickets can't be written" in line for line in said)
    assert (results / "small" / "results.json").exists()
