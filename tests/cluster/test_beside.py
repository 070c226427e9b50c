"""Stages beside each other give what they give one after another, to the bit."""

from __future__ import annotations

import hashlib
import json
import threading

import pytest

from lotperm import Store
from lotperm.cluster import beside
from lotperm.cluster import campaign as campaigns
from lotperm.cluster.campaign import Campaign
from lotperm.engine.runtime import Runtime
from lotperm.errors import DivergedError, PreemptedError
from lotperm.parallel.turns import Turns
from lotperm.store.tasks import Task
from lotperm.studies import workbench

TINY = {
    "profile": "smoke",
    "train_size": 200,
    "test_size": 100,
    "epochs": 2,
    "finetune_epochs": 1,
    "hidden": [8],
    "seeds": 2,
    "rewind_epoch": 0,
    "keep": [0],
    "prune_fraction": 0.5,
}


@pytest.fixture
def campaign(tmp_path):
    """Two entries, as of a flight: the second prunes further than the first."""
    entries = [{"name": "half", "sparsity": 0.5}, {"name": "more", "sparsity": 0.8}]
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"defaults": TINY, "entries": entries}))
    return Campaign.load(path)


def compute(campaign, folder, **runtime):
    """Compute it in a store of its own; return what was said."""
    said = []
    campaigns.run(
        campaign, Store(folder / "store"), Runtime(**runtime), folder / "results", said.append
    )
    return said


def content(folder):
    """Folder of a stage -> its files' hashes, and its results; the records' tables by hash."""
    stages = {}
    for path in sorted((folder / "store" / "stages").glob("[!.]*/stage.json")):
        stage = json.loads(path.read_text())
        stages[path.parent.name] = (stage["files"], stage["results"])
    tables = {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "results").glob("*/results.csv"))
    }
    return stages, tables


@pytest.fixture
def alone(campaign, tmp_path):
    """What the stages give one after another."""
    said = compute(campaign, tmp_path / "alone", overlap=False)
    assert not [line for line in said if line.endswith("beside the others")]
    return content(tmp_path / "alone")


def test_beside_each_other_to_the_same_bits_also_when_stopped_anywhere(campaign, alone, tmp_path):
    said = compute(campaign, tmp_path / "beside", overlap=True)
    early = [line for line in said if line.endswith(", beside the others")]
    # The rounds that lead to the second sparsity, before the first one is recorded.
    recorded = next(i for i, line in enumerate(said) if "recorded in" in line)
    assert [line for line in early if "more: IMP round 2" in line and said.index(line) < recorded]
    assert content(tmp_path / "beside") == alone
    # Nothing twice.
    stages = [line.removesuffix(", beside the others") for line in said if "/results/" not in line]
    assert len(set(stages)) == len(stages) == len(alone[0])

    stops = 0
    while True:
        left = [6]

        def stop(left=left):
            left[0] -= 1
            return left[0] < 0

        try:
            compute(campaign, tmp_path / "sliced", overlap=True, stop=stop)
        except PreemptedError:
            stops += 1
            # Both have saved what they were at, and none goes on.
            assert "beside" not in [thread.name for thread in threading.enumerate()]
        else:
            break
    assert stops > 2
    assert content(tmp_path / "sliced") == alone


def test_what_others_wait_for_goes_first_on_a_gpu(campaign, tmp_path, monkeypatch):
    seen = {}

    def train(*arguments, runtime, label, **options):
        seen[label.split()[0]] = runtime.priority
        return real(*arguments, runtime=runtime, label=label, **options)

    real = workbench.train
    monkeypatch.setattr(workbench, "train", train)
    compute(campaign, tmp_path / "beside", overlap=True)
    assert seen == {"dense": -1, "IMP": -1, "sparse": 0}


def test_an_error_is_raised_where_the_stage_is_asked_for(campaign, tmp_path, monkeypatch):
    """And what comes before is recorded, as if there were one thread."""
    real = Task.run

    def run(self):
        if self.label.startswith("IMP round 3"):
            raise DivergedError(f"in {threading.current_thread().name}")
        return real(self)

    monkeypatch.setattr(Task, "run", run)
    with pytest.raises(DivergedError, match="in beside"):
        compute(campaign, tmp_path / "broken", overlap=True)
    assert list(content(tmp_path / "broken")[1]) == ["half"]


def test_stages_are_computed_beside_each_other_only_if_asked_for(monkeypatch):
    assert not beside.wanted(Runtime(device="cuda"))
    assert beside.wanted(Runtime(device="cuda", overlap=True))
    monkeypatch.setattr(beside.distributed, "world_size", lambda: 2)
    assert not beside.wanted(Runtime(device="cuda", overlap=True))


def test_one_thread_has_the_turn_and_the_next_in_line_gets_it():
    turns, seen, inside = Turns(), [], []

    def work(name):
        with turns.turn():
            for _ in range(3):
                inside.append(name)
                assert len(inside) == 1
                seen.append(name)
                inside.clear()
                turns.meanwhile(lambda: True)

    with turns.turn():
        threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        turns.meanwhile(lambda: len(turns._line) == 2 or seen)
    for thread in threads:
        thread.join()
    assert sorted(seen) == list("aaabbb")
    # Who has had the turn stands behind the other.
    assert "".join(seen) in ("ababab", "bababa")


def test_who_is_interrupted_while_waiting_holds_up_nobody(monkeypatch):
    turns = Turns()

    def interrupt(_):
        raise KeyboardInterrupt

    with turns.turn(), monkeypatch.context() as patch:
        # In the middle of the turn, as by a signal.
        patch.setattr(turns._condition, "wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt):
            turns.meanwhile(lambda: True)
    with turns.turn():
        assert len(turns._line) == 1
