"""What a campaign still needs: what the machine that continues it will read, and no more."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from lotperm import Store
from lotperm.carry.needed import needed
from lotperm.carry.packing import pack
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
