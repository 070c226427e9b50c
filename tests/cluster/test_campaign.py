"""Campaigns: read and checked, run in slices, resumed to the same bits, recorded, carried
between machines.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from little import TINY

from lotperm import Experiment, Store
from lotperm.carry import packs
from lotperm.carry.needed import needed
from lotperm.carry.packing import everything, pack
from lotperm.carry.unpacking import unpack
from lotperm.cli import app
from lotperm.cluster import campaign as campaigns
from lotperm.cluster import progress
from lotperm.cluster.campaign import Budget, Campaign
from lotperm.data.datasets import load
from lotperm.engine.runtime import Runtime
from lotperm.errors import ParameterError, PreemptedError, StorageError
from lotperm.site import notebooks
from lotperm.studies import published
from lotperm.studies.records import load_record, save_record
from lotperm.studies.registry import studies
from lotperm.studies.stages import kept_epochs
from lotperm.studies.tickets import load_ticket

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "campaigns"
ENTRY = {"name": "one", "profile": "smoke"}


def write(path, *entries, **top):
    path.write_text(json.dumps({**top, "entries": list(entries)}))
    return path


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_campaign_of_the_repository_is_valid(path):
    campaign = Campaign.load(path)
    assert campaign.name == path.stem
    assert campaign.entries
    assert {entry.kind for entry in campaign.entries} <= studies().keys()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_yaml_and_json_give_the_same(path):
    content = json.dumps(yaml.safe_load(path.with_suffix(".yaml").read_text()), indent=1) + "\n"
    assert path.read_text() == content, f"{path.name} is out of date: it should be\n{content}"
    assert Campaign.load(path) == Campaign.load(path.with_suffix(".yaml"))


def test_tasks_come_in_order_and_once(tmp_path):
    campaign, store = Campaign.load(FOLDER / "smoke.yaml"), Store(tmp_path)
    tasks = campaign.tasks(store)
    keys = [task.key for task in tasks]
    assert len(set(keys)) == len(keys)
    assert all(before.key in keys[:i] for i, task in enumerate(tasks) for before in task.after)
    first = [task.key for task in campaign.entries[0].tasks(store)]
    assert keys[: len(first)] == first
    # The table, the two others and the lines between A and B share one dense pair; each width has
    # its own.
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
        (
            {"kind": "early", "match_epochs": [13]},
            "match_epochs has 13; expected epochs that are kept",
        ),
        ({"kind": "early", "match_epochs": []}, "one value or more"),
        ({"kind": "diversity", "seeds": 1}, "two seeds or more"),
        ({"kind": "connectivity", "alphas": [0, 1]}, "three numbers or more"),
        ({"kind": "connectivity", "repairs": ["rapair"]}, "Did you mean 'repair'?"),
        ({"kind": "connectivity", "repairs": ["bn", "bn"]}, "none twice"),
        ({"compile": "yes"}, "compile is 'yes'; expected true or false"),
        ({"members": 0}, "members is 0; expected 1 or more"),
        ({"together": 0}, "together is 0; expected 1 or more"),
        ({"together": "all"}, "together is 'all'"),
        ({"kind": "early", "together": 2}, "'together' belongs to entries of kind 'table'"),
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
    with pytest.raises(ParameterError, match="'seeds' is given twice"):
        Campaign.load(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("entries: [{name: one, <<: {seeds: 1}, seeds: 2, seeds: 3}]")
    with pytest.raises(ParameterError, match="'seeds' is given twice"):
        Campaign.load(tmp_path / "c.yaml")
    (tmp_path / "c.json").write_text('{"entries": [{"name": "one", "seeds": 2, "seeds": 3}]}')
    with pytest.raises(ParameterError, match="'seeds' is given twice"):
        Campaign.load(tmp_path / "c.json")


def test_an_entry_may_change_what_it_takes_from_another(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "name: c\nentries:\n  - &first {name: one, figure: svhn, seeds: 2}\n"
        "  - {<<: *first, name: two, seeds: 3}\n"
    )
    one, two = Campaign.load(tmp_path / "c.yaml").entries
    assert (one.name, two.name) == ("one", "two")
    assert [len(entry.asks[1][0].seeds) for entry in (one, two)] == [2, 3]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.yaml", "a: [", "is not YAML"),
        ("c.yaml", "entries: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("c.yaml", "? [1]\n: 2", "can't be read"),
        ("c.json", "{", "can't be read"),
        ("c.json", '{"entries": [NaN]}', "holds NaN"),
        ("c.yaml", "- 1", "isn't a campaign"),
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


def done_in(results):
    """What was recorded: folder -> sha256 of its table."""
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.glob("*/results.csv"))
    }


class After:
    """Stops after so many questions, that is steps of training and beginnings of stages."""

    def __init__(self, questions):
        self.left = questions

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="module")
def smoke_campaign():
    return Campaign.load(FOLDER / "smoke.yaml")


@pytest.fixture(scope="module")
def unbroken(smoke_campaign, tmp_path_factory):
    """The smoke campaign in one go: (store, folder of the results, what was said)."""
    folder, said = tmp_path_factory.mktemp("unbroken"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOTPERM_HOME", str(folder / "home"))
        assert (
            campaigns.run(
                smoke_campaign, Store.default(), Runtime(), folder / "results", said.append
            )
            == {}
        )
    return Store(folder / "home"), folder / "results", said


def test_every_entry_is_recorded(unbroken, smoke_campaign):
    _, results, said = unbroken
    names = [
        "smoke_connectivity",
        "smoke_diversity",
        "smoke_early",
        "smoke_table",
        "smoke_widths_x0.25",
        "smoke_widths_x0.5",
    ]
    assert list(done_in(results)) == names
    assert sum("recorded in" in line for line in said) == len(names)
    keys = {
        "smoke_table": ["seed", "method", "sparsity", "rewind_epoch", "metric"],
        "smoke_early": ["sparsity", "rewind_epoch", "seed", "matching_epoch", "metric"],
        "smoke_diversity": ["sparsity", "rewind_epoch", "method"],
        "smoke_connectivity": ["seed", "ends", "repair", "alpha"],
    }
    for name, columns in keys.items():
        table = pd.read_csv(results / name / "results.csv")
        assert list(table.columns[: len(columns)]) == columns
        assert not table.duplicated(columns).any()
        assert table.drop(columns="rewind_epoch", errors="ignore").notna().all(axis=None)
    (early,) = smoke_campaign.only(["smoke_early"]).entries
    assert set(pd.read_csv(results / "smoke_early" / "results.csv")["matching_epoch"]) == set(
        early.options.match_epochs
    )


def test_what_is_recorded_says_how_it_was_made(unbroken, smoke_campaign):
    store, results, _ = unbroken
    for entry in smoke_campaign.entries[:4]:
        content = json.loads((results / entry.name / "results.json").read_text())
        assert content["kind"] == entry.kind
        assert content["experiment"] == entry.experiments[0].to_dict()
        (pipeline,) = entry.benches(store)
        tasks = campaigns.chain(entry.own_tasks(pipeline))
        assert [stage["key"] for stage in content["stages"]] == [task.key for task in tasks]
        for stage in content["stages"]:
            assert {"device", "threads", "versions", "source", "seconds", "created"} <= stage.keys()
        text = "".join(
            path.read_text() for path in (results / entry.name).iterdir() if path.is_file()
        )
        assert not re.search(r"(?<![\w.])/(home|Users|root|work|tmp|mnt)/", text)
        assert os.uname().nodename not in text


def test_again_computes_nothing_and_records_the_same(
    unbroken, smoke_campaign, monkeypatch, tmp_path
):
    store, results, _ = unbroken
    monkeypatch.setenv("LOTPERM_HOME", str(store.root))
    monkeypatch.setattr(
        "lotperm.studies.workbench.train", lambda *args, **kwargs: pytest.fail("trained again")
    )
    campaigns.run(smoke_campaign, store, Runtime(), tmp_path)
    for path in (path for path in results.rglob("*") if path.is_file()):
        assert (tmp_path / path.relative_to(results)).read_bytes() == path.read_bytes()


def test_tables_are_published_with_their_tickets(unbroken, smoke_campaign):
    _, results, said = unbroken
    published = {path.parents[1].name for path in results.glob("*/tickets/*.safetensors")}
    assert published == {
        entry for entry in done_in(results) if "table" in entry or "widths" in entry
    }
    (experiment,) = smoke_campaign.only(["smoke_table"]).entries[0].experiments
    files = sorted((results / "smoke_table" / "tickets").iterdir())
    assert len(files) == len(experiment.seeds) * len(experiment.rewind_epochs)
    assert sum(f"smoke_table: {len(files)} files of tickets" in line for line in said) == 1
    for path in files:
        for sparsity in experiment.sparsities:
            assert load_ticket(path, sparsity).experiment == experiment


def test_a_table_gets_more_seeds_and_none_is_trained_again(tmp_path):
    entry = {
        "name": "grows",
        "profile": "smoke",
        "train_size": 300,
        "test_size": 100,
        "epochs": 2,
        "rewind_epoch": [0, 1],
        "finetune_epochs": 1,
        "hidden": [12],
        "sparsity": [0.5, 0.75],
        "prune_fraction": 0.5,
    }

    def compute(folder: str, **more: object) -> tuple[Path, list[str], Campaign]:
        path, said = tmp_path / "campaign.json", []
        path.write_text(json.dumps({"name": "grows", "entries": [{**entry, **more}]}))
        campaign = Campaign.load(path)
        campaigns.run(campaign, Store(tmp_path / folder), Runtime(), tmp_path / folder, said.append)
        return tmp_path / folder / "grows", said, campaign

    first, said, _ = compute("store", seeds=2)
    two = (first / "results.csv").read_bytes()
    stages = sum("dense A and B" in line for line in said)
    assert stages == 1
    more, said, campaign = compute("store", seeds=5, together=2)
    assert sum("dense A and B" in line for line in said) == 2  # of seeds 2 and 3, and of seed 4
    assert [e.seeds for e in campaign.entries[0].experiments] == [(0, 1), (2, 3), (4,)]
    whole, _, _ = compute("whole", seeds=5)
    assert (more / "results.csv").read_bytes() != two
    for name in ("results.csv", "curves.csv"):
        assert (more / name).read_bytes() == (whole / name).read_bytes()
    content, other = (json.loads((f / "results.json").read_text()) for f in (more, whole))
    assert content["experiment"] == other["experiment"]
    assert content["comparisons"] == other["comparisons"] and content["summary"] == other["summary"]
    assert len(content["stages"]) == 3 * len(other["stages"])
    names = {path.name for path in (more / "tickets").iterdir()}
    assert names == {f"seed{seed}_k{k}.safetensors" for seed in range(5) for k in (0, 1)}
    ticket = load_ticket(more / "tickets" / "seed4_k1.safetensors", 0.75)
    assert ticket.seed == 4 and ticket.experiment.seeds == (4,)


def test_tickets_of_other_seeds_do_not_stay(unbroken, smoke_campaign, tmp_path, monkeypatch):
    store, results, _ = unbroken
    monkeypatch.setenv("LOTPERM_HOME", str(store.root))
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    old = tmp_path / "smoke_table" / "tickets" / "seed99_k0.safetensors"
    old.write_bytes(b"")
    said = []
    monkeypatch.setattr("lotperm.studies.arms.study.TICKET_BYTES", 1000)
    (tmp_path / "smoke_table" / "results.json").unlink()
    campaigns.run(smoke_campaign.only(["smoke_table"]), store, Runtime(), tmp_path, said.append)
    assert not old.parent.exists()
    assert said[-2] == "smoke_table: its tickets are too large to publish"


def test_in_slices_on_many_machines_it_is_the_same(unbroken, smoke_campaign, tmp_path, monkeypatch):
    """Stopped every few steps, and carried on to an empty store each time: the same tables, bit
    for bit.
    """
    monkeypatch.setattr(packs, "CHUNK", 2**14)  # so that packs can be as small as this campaign is
    _, results, _ = unbroken
    load("mnist1d")
    carried, slices, at_once = [], 0, 30
    while slices < 200:
        home = tmp_path / f"home-{slices}"
        unpacked = unpack(Store(home), carried)
        assert unpacked.problems == []
        slices += 1
        try:
            campaigns.run(
                smoke_campaign, Store(home), Runtime(stop=After(at_once)), tmp_path / "results"
            )
            break
        except PreemptedError:
            pass
        carried = pack(
            Store(home),
            needed(smoke_campaign, Store(home)),
            tmp_path / f"packs-{slices}",
            2**17,
        )
        assert all(path.stat().st_size <= 2**17 for path in carried)
    assert slices > 5
    assert done_in(tmp_path / "results") == done_in(results)
    tickets = {path.relative_to(results): path.read_bytes() for path in results.rglob("tickets/*")}
    assert tickets
    for path, content in tickets.items():
        assert (tmp_path / "results" / path).read_bytes() == content
    # Only what was still needed came along.
    left_out = [stage for stage in Store(home).stages() if stage.left_out]
    assert len(left_out) > 10
    dense = next(stage for stage in left_out if stage.name == "dense")
    with pytest.raises(StorageError, match="left out when the stage was packed"):
        dense.load(dense.left_out[0].removesuffix(".safetensors"))


def test_a_task_reads_what_it_says(smoke_campaign, unbroken, monkeypatch, tmp_path):
    store, read = unbroken[0], {}
    tasks = smoke_campaign.tasks(Store(tmp_path))
    own = {task.key: task for task in tasks}
    loaded = campaigns.Task.load

    def note(task, file):
        read.setdefault(task.key, set()).add(file)
        return loaded(task, file)

    monkeypatch.setattr(campaigns.Task, "load", note)
    unpack(Store(tmp_path), pack(store, everything(store), tmp_path / "packs"))
    for task in own.values():
        read.clear()
        # Computed again, from what the other tasks have.
        assert task.done()
        shutil.rmtree(tmp_path / "stages" / f"{task.name}-{task.key[:16]}")
        task.run()
        assert {key: set(files) for key, files in task.reads.items()} == read, task.label


@pytest.fixture
def one_thread():
    """Two would ask in an order of their own whether to stop."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_status_says_what_is_left(unbroken, smoke_campaign, tmp_path, one_thread):
    load("mnist1d")
    store = Store(tmp_path)
    status = progress.status(smoke_campaign, store, tmp_path / "results")
    stages = status.stages
    tasks = smoke_campaign.tasks(store)
    assert status.skipped == {}
    assert [stage.label for stage in stages] == [task.label for task in tasks]
    assert {stage.state for stage in stages} == {"missing"}
    assert [stage.images_left for stage in stages] == [task.work.train_images for task in tasks]
    assert {stage.seconds_left for stage in stages} == {None}
    # 600 examples are 4 steps an epoch; one question before the stage begins.
    with pytest.raises(PreemptedError):
        campaigns.run(smoke_campaign, store, Runtime(stop=After(1 + 4 + 2)), tmp_path / "results")
    first = progress.status(smoke_campaign, store, tmp_path / "results").stages[0]
    assert (first.state, first.epoch, first.epochs) == ("in progress", 1, 4)
    assert first.images_left == tasks[0].work.train_images * 3 // 4
    with pytest.raises(PreemptedError):
        campaigns.run(smoke_campaign, store, Runtime(stop=After(50)), tmp_path / "results")
    stages = progress.status(smoke_campaign, store, tmp_path / "elsewhere").stages
    assert stages[0].state == "done" and stages[0].seconds > 0
    assert next(stage for stage in stages if stage.state == "missing").seconds_left > 0
    assert stages[-1].seconds_left is None, "another network's rate isn't known"
    stages = progress.status(smoke_campaign, unbroken[0], tmp_path / "elsewhere").stages
    assert {stage.state for stage in stages} == {"done"}


def test_entries_without_data_are_skipped_and_said_once(tmp_path):
    load("mnist1d")
    tiny = {
        "profile": "smoke",
        "train_size": 300,
        "test_size": 100,
        "epochs": 1,
        "finetune_epochs": 1,
        "hidden": [4],
        "seeds": 1,
        "rewind_epoch": 0,
        "sparsity": 0.2,
        "keep": [0],
    }
    path = write(
        tmp_path / "c.json",
        {**tiny, "name": "images", "dataset": "svhn", "model": "mlp"},
        {**tiny, "name": "same", "dataset": "svhn", "model": "mlp", "seeds": 2},
        {**tiny, "name": "signals"},
    )
    said, campaign = [], Campaign.load(path)
    skipped = campaigns.run(campaign, Store(tmp_path), Runtime(), tmp_path / "results", said.append)
    assert list(skipped) == ["images", "same"]
    assert sum("lotperm data fetch svhn" in line for line in said) == 1
    assert list(done_in(tmp_path / "results")) == ["signals"]
    status = progress.status(campaign, Store(tmp_path), tmp_path / "results")
    assert status.skipped == skipped
    assert list(status.recorded) == ["signals"]
    assert status.stages == []


def test_what_is_recorded_is_not_computed_again(unbroken, smoke_campaign, monkeypatch, tmp_path):
    """Not even with an empty store: what is recorded may have been computed elsewhere."""
    store, results, _ = unbroken
    shutil.copytree(results, tmp_path / "results")
    before, said = done_in(results), []
    with monkeypatch.context() as patch:
        patch.setattr(
            "lotperm.studies.workbench.train", lambda *args, **kwargs: pytest.fail("trained again")
        )
        campaigns.run(smoke_campaign, Store(tmp_path), Runtime(), tmp_path / "results", said.append)
    assert [line.split()[1:4] for line in said] == [["is", "recorded", "in"]] * 6
    found = progress.status(smoke_campaign, Store(tmp_path), tmp_path / "results")
    assert found.stages == []
    assert {entry: len(folders) for entry, folders in found.recorded.items()} == {
        "smoke_table": 1,
        "smoke_early": 1,
        "smoke_diversity": 1,
        "smoke_connectivity": 1,
        "smoke_widths": 2,
    }
    assert smoke_campaign.missing(Store(tmp_path), tmp_path / "results") == []
    # What isn't whole, or of other stages, isn't recorded.
    with (tmp_path / "results" / "smoke_early" / "results.csv").open("a") as file:
        file.write("0.8")
    shutil.rmtree(tmp_path / "results" / "smoke_widths_x0.5")
    shutil.copytree(
        results / "smoke_table", tmp_path / "results" / "smoke_diversity", dirs_exist_ok=True
    )
    parts = smoke_campaign.parts(store, tmp_path / "results")
    assert [part.folder.name for part in parts if not part.recorded()] == [
        "smoke_early",
        "smoke_diversity",
        "smoke_widths_x0.5",
    ]
    stages = progress.status(smoke_campaign, Store(tmp_path), tmp_path / "results").stages
    assert {stage.entry for stage in stages} == {"smoke_early", "smoke_diversity", "smoke_widths"}
    assert "dense A and B" in {stage.label for stage in stages if stage.entry == "smoke_early"}
    monkeypatch.setenv("LOTPERM_HOME", str(store.root))
    campaigns.run(smoke_campaign, store, Runtime(), tmp_path / "results")
    assert done_in(tmp_path / "results") == before


def test_all_of_the_desktop_campaign_is_in_the_book(tmp_path):
    """Of the same settings; a change of the method may since have changed the keys of the
    stages.
    """
    parts = Campaign.load(FOLDER / "desktop.yaml").parts(
        Store(tmp_path), published.book_folder() / "results"
    )
    assert len(parts) == 9
    for part in parts:
        content = load_record(part.folder)
        asked = [pipeline.experiment.to_dict() for pipeline in part.benches]
        assert content["kind"] == part.entry.kind
        # What a record of older sources doesn't name has its default.
        recorded = Experiment.from_dict(content["experiment"]).to_dict()
        assert recorded == {
            **asked[0],
            "seeds": [seed for e in asked for seed in e["seeds"]],
        }


def test_what_is_recorded_needs_no_data(tmp_path):
    campaign = Campaign.load(
        write(tmp_path / "c.json", {"name": "images", "dataset": "svhn", "profile": "smoke"})
    )
    (part,) = campaign.parts(Store(tmp_path), tmp_path)
    stages = [{"stage": task.name, "key": task.key} for task in part.tasks()]
    save_record(part.folder, {"kind": "table", "stages": stages[1:]}, {})
    assert list(campaigns.run(campaign, Store(tmp_path), Runtime(), tmp_path)) == ["images"]
    save_record(part.folder, {"kind": "table", "stages": stages}, {})
    assert campaigns.run(campaign, Store(tmp_path), Runtime(), tmp_path) == {}
    assert progress.status(campaign, Store(tmp_path), tmp_path).skipped == {}


def test_a_budget_is_a_number():
    assert not Budget()()
    assert not Budget(10)()
    assert Budget(0)()
    for minutes in (-1, float("nan"), float("inf")):
        with pytest.raises(ParameterError, match="budget"):
            Budget(minutes)


@pytest.fixture
def command(command, monkeypatch, tmp_path):
    """The command line, with a store of its own."""
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path / "home"))
    return command


def test_a_budget_that_is_used_up_is_no_error(command, tmp_path):
    arguments = (
        "campaign",
        "run",
        FOLDER / "smoke.yaml",
        "--out",
        tmp_path / "results",
        "--device",
        "cpu",
    )
    code, out, err = command(*arguments, "--budget-minutes", 0)
    assert code == 0, err
    assert "The budget is used up" in out
    assert re.search(r"Left: 24 of 24 stages, [\d,]+ training images\.", out)
    code, out, err = command(*arguments, "--only", "smoke_table")
    assert code == 0, err
    assert "All entries are done." in out
    status = ("campaign", "status", FOLDER / "smoke.yaml", "--out")
    code, out, _ = command(*status, tmp_path / "results")
    assert code == 0
    assert re.search(r"smoke_table .* recorded ", out)
    done, stages = map(int, re.search(r"smoke_early .* (\d+) of (\d+) done", out).groups())
    assert done == stages - 1 > 0, "it shares all but its own with the table"
    code, out, _ = command(*status, tmp_path / "elsewhere")
    assert re.search(r"smoke_table .* done ", out)
    assert re.search(r"smoke_early .* 0 of 1 done", out)
    code, out, _ = command(*status, tmp_path / "elsewhere", "--stages", "--only", "smoke_table")
    assert "dense A and B" in out


def test_without_data_the_exit_code_says_so(command, tmp_path):
    path = write(tmp_path / "c.json", {"name": "images", "dataset": "svhn", "profile": "smoke"})
    code, out, err = command("campaign", "run", path, "--out", tmp_path / "results")
    assert code == 5
    assert "lotperm data fetch svhn" in out
    assert "images" in err and err.count("\n") == 1
    code, out, _ = command("campaign", "status", path)
    assert code == 0
    assert "data missing" in out and "without data: images" in out


def test_pack_and_unpack_by_command(command, unbroken, monkeypatch, tmp_path):
    monkeypatch.setenv("LOTPERM_HOME", str(unbroken[0].root))
    code, out, err = command("store", "pack", "--out", tmp_path / "packs", "--max-mib", 0.5)
    assert code == 0, err
    packs = sorted((tmp_path / "packs").iterdir())
    assert len(packs) > 1 and f"Wrote {len(packs)} packs" in out
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path / "home"))
    code, out, err = command("store", "unpack", tmp_path / "packs")
    assert code == 0, err
    assert "24 added" in out
    code, out, _ = command("store", "list")
    assert code == 0 and out.count(" done ") == 24
    packs[0].write_bytes(packs[0].read_bytes()[:-1])
    code, out, err = command("store", "unpack", tmp_path / "packs")
    assert code == 3
    assert packs[0].name in err and err.count("\n") == 1
    assert command("store", "unpack", tmp_path / "nowhere")[0] == 5
    assert command("store", "pack", "--out", tmp_path / "packs", "--max-mib", 0.001)[0] == 2


def test_a_pack_that_nobody_can_go_on_from_says_so(command, monkeypatch, tmp_path):
    """What is left reads A and B at their rewind epoch, and they came without it."""
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path / "home"))
    path = write(tmp_path / "c.json", {**TINY, "name": "table"})
    store = Store(tmp_path / "home")
    (dense,) = (task for task in Campaign.load(path).tasks(store) if task.name == "dense")
    folder = dense.run().path
    (folder / "epoch-0001.safetensors").unlink()
    (folder / "left-out.json").write_text(json.dumps(["epoch-0001.safetensors"]))
    code, out, err = command("store", "pack", "--campaign", path, "--out", tmp_path / "packs")
    assert code == 5 and "Wrote 1 packs" in out
    assert f"{folder.name}/epoch-0001.safetensors" in err and err.count("\n") == 1
    assert command("store", "pack", "--out", tmp_path / "all")[0] == 0


def test_a_signal_stops_it_at_a_step_and_it_goes_on(unbroken, smoke_campaign, tmp_path):
    _, results, _ = unbroken
    environment = {
        **os.environ,
        "LOTPERM_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    arguments = [
        sys.executable,
        "-m",
        "lotperm",
        "campaign",
        "run",
        FOLDER / "smoke.yaml",
        "--only",
        "smoke_table",
    ]
    arguments += ["--device", "cpu", "--out", tmp_path / "results"]
    options = {"env": environment, "cwd": ROOT, "text": True, "stdout": -1, "stderr": -1}
    process = subprocess.Popen(arguments, **options)
    assert process.stdout is not None
    for line in process.stdout:
        if "dense A and B" in line:
            process.send_signal(signal.SIGTERM)
            break
    _, err = process.communicate()
    assert process.returncode == 143, err
    assert re.fullmatch(r"\n?lotperm: error: [^\n]+ [Rr]un it again[^\n]*\n", err), err
    assert done_in(tmp_path / "results") == {}
    only = smoke_campaign.only(["smoke_table"])
    campaigns.run(only, Store(tmp_path / "home"), Runtime(), tmp_path / "results")
    assert done_in(tmp_path / "results")["smoke_table"] == done_in(results)["smoke_table"]


_WITHOUT = """
import json, sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in {missing!r} else self.finder.find_spec(name, *rest)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from lotperm.cli import main
codes, early = [], sorted({late!r} & sys.modules.keys())
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["lotperm", *arguments]
    try:
        main()
        codes.append(0)
    except SystemExit as end:
        codes.append(end.code or 0)
print(json.dumps([codes, early]))
"""


def test_a_bare_gpu_machine_has_all_that_it_needs(tmp_path, unbroken):
    """Nothing beyond the core's packages is imported, and what only some commands need isn't
    imported by all; YAML is said to need PyYAML.
    """
    late = {"matplotlib", "scipy.optimize", "sympy", "torch._dynamo", "torchvision"}
    missing = {
        "yaml",
        "mnist1d",
        "nbformat",
        "nbclient",
        "papermill",
        "ipykernel",
        "IPython",
        "jupyter_core",
        "jupyter_client",
        "jupyter_book",
        "sphinx",
        "myst_nb",
        "submitit",
        "pytest",
        "hypothesis",
        "jaxtyping",
        "beartype",
        "playwright",
    }
    _, results, _ = unbroken
    only = ("--only", "smoke_table", "--device", "cpu", "--out", tmp_path / "results")
    commands = [
        ("campaign", "run", FOLDER / "smoke.yaml", *only),
        ("campaign", "run", FOLDER / "smoke.json", *only),
        ("store", "pack", "--campaign", FOLDER / "smoke.json", "--out", tmp_path / "packs"),
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _WITHOUT.format(missing=missing, late=late),
            json.dumps(commands, default=str),
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LOTPERM_HOME": str(tmp_path / "home"),
        },
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[2, 0, 0], []], done.stderr
    assert f"Use {FOLDER / 'smoke.json'}" in done.stderr
    assert done_in(tmp_path / "results")["smoke_table"] == done_in(results)["smoke_table"]
    assert list((tmp_path / "packs").iterdir())


@pytest.fixture
def book(tmp_path, unbroken, monkeypatch):
    """A repository whose recorded results are the smoke campaign's, and a copy of its store."""
    shutil.copytree(unbroken[0].root, tmp_path / "home")
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path / "home"))
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "paper").symlink_to(ROOT / "book" / "paper")
    (tmp_path / "book" / "results").symlink_to(unbroken[1])
    monkeypatch.chdir(tmp_path)


def test_recorded_results_of_every_kind_are_found(book):
    assert [run.name for run in published.recorded("mnist1d")] == [
        "smoke_table",
        "smoke_widths_x0.25",
        "smoke_widths_x0.5",
    ]
    for kind in ("early", "diversity", "connectivity"):
        (run,) = published.recorded(kind=kind)
        assert (run.name, run.kind) == (f"smoke_{kind}", kind)
        assert run.label == "recorded, mnist1d, mlp×1, smoke"
        assert "device" in run.how
        table = pd.read_csv(f"book/results/smoke_{kind}/results.csv")
        pd.testing.assert_frame_equal(run.summary, table, check_dtype=False)
    assert published.recorded("cifar10", kind="early") == []


@pytest.mark.parametrize(
    ("notebook", "cell", "words"),
    [
        (
            "08_diversity",
            "page.beside()",
            "recorded, mnist1d, mlp×1, smoke, S = 0.8, k = 2 − paper, resnet20x1, cifar10",
        ),
        ("09_early_matching", "page.agreement()", "recorded: MLP on MNIST-1D"),
        ("10_mode_connectivity", "page.beside_lines()", "recorded, mnist1d, mlp×1, smoke"),
    ],
)
def test_chapters_show_them(book, notebook, cell, words):
    import matplotlib

    matplotlib.use("Agg")
    cells = notebooks.at_smoke(ROOT / "notebooks" / f"{notebook}.ipynb").cells
    _, parameters, opening, *others = (c.source for c in cells if c.cell_type == "code")
    names = {}
    exec(parameters, names)
    exec(opening, names)
    assert cell in others
    shown = eval(cell, names)
    assert words in (shown.to_string() if hasattr(shown, "to_string") else shown.data)


PAGE = (ROOT / "book" / "reproduce.md").read_text()
LONG = (ROOT / "book" / "cluster.md").read_text()


def test_the_page_names_every_command_and_no_other():
    import typer

    def names(group, path):
        for name, command in group.commands.items():
            yield from (
                names(command, [*path, name])
                if hasattr(command, "commands")
                else [" ".join([*path, name])]
            )

    named = set(re.findall(r"^\| `lotperm ([a-z ]+)` \|", PAGE, re.M))
    assert named == set(names(typer.main.get_command(app.app), []))


def test_the_campaign_on_the_page_is_valid(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", LONG, re.S)
    (tmp_path / "mine.yaml").write_text(text)
    campaign = Campaign.load(tmp_path / "mine.yaml")
    assert {entry.kind for entry in campaign.entries} == {
        "table",
        "early",
        "diversity",
        "connectivity",
    }


def test_the_slice_on_the_page_twice_with_a_kill_between(unbroken, tmp_path):
    """The commands of the page, at the size of the smoke campaign, ended by force in the middle
    of one.
    """
    (block,) = [
        text for text in re.findall(r"```sh\n(.*?)```", LONG, re.S) if "if [ -d packs ]" in text
    ]
    smaller = [
        ("campaigns/paper.json", str(FOLDER / "smoke.json")),
        ("--device cuda --compile", "--device cpu"),
        ("python -m", f"{sys.executable} -m"),
    ]
    for old, new in smaller:
        assert old in block
        block = block.replace(old, new)
    _, results, _ = unbroken
    for number, limits in enumerate((["--budget-minutes 0.05"], ["--budget-minutes 9"])):
        # Each slice on a machine of its own: a new store, and the packs of the one before.
        folder = tmp_path / f"machine-{number}"
        folder.mkdir()
        if number:
            shutil.copytree(
                tmp_path / f"machine-{number - 1}" / "slice" / "packs", folder / "packs"
            )
        environment = {
            **os.environ,
            "LOTPERM_HOME": str(folder / "home"),
            "PYTHONPATH": str(ROOT),
            # As many as here: how networks are put together, and so their bits, may
            # depend on it.
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        }
        commands = block.replace("--budget-minutes 9", limits[0])
        options = {"cwd": folder, "env": environment, "text": True, "stdout": -1, "stderr": -1}
        if number:
            # The first try is killed without warning, once some stages are done.
            begin = commands.splitlines()[:2]
            process = subprocess.Popen(
                ["sh", "-ec", "\n".join([begin[0], "exec " + begin[1]])], **options
            )
            assert process.stdout is not None
            for line in process.stdout:
                if "sparse arms" in line:
                    process.kill()
                    break
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        done = subprocess.run(["sh", "-ec", commands], check=False, **options)
        assert done.returncode == 0, done.stderr
    assert done_in(folder / "slice" / "results") == done_in(results)
