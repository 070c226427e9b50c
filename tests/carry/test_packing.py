"""Packs: what goes in comes out, bit for bit; what is damaged or hostile never does."""

import hashlib
import json
import random
import zlib
from pathlib import Path

import pytest
import torch

from lotperm.carry import packs
from lotperm.carry.packing import Parcel, everything, pack
from lotperm.carry.packs import MAGIC
from lotperm.carry.unpacking import unpack
from lotperm.config.canonical import canonical_json
from lotperm.errors import ParameterError, StorageError
from lotperm.store.stages import StageResult, Store, stage_key

CONFIG = {"width": 4}
KEY = stage_key("dense", CONFIG)


def fill(store):
    """Two finished stages that share a file's content, and one in progress; returns the key of
    the last.
    """
    weights = {"w": torch.arange(3000.0)}
    files = {"final": weights, "epoch-0001": weights, "epoch-0002": {"w": torch.randn(3000)}}
    store.stage("dense", CONFIG, lambda _: StageResult({"loss": [0.5]}, files))
    store.stage(
        "imp", CONFIG, lambda _: StageResult({}, {"mask": {"m": torch.ones(9, dtype=torch.bool)}})
    )
    key = stage_key("sparse", CONFIG)
    begin(store, key, epoch=3)
    return key


def begin(store, key, epoch, steps=(0,)):
    workspace = store.workspace("sparse", key)
    workspace.path.mkdir(parents=True, exist_ok=True)
    workspace.checkpoint(
        {"w": torch.full((5,), float(epoch))}, {"epoch": epoch, "steps": list(steps)}
    )


def contents(store):
    """Every file of the stages and the newest checkpoints."""
    found = {
        str(path.relative_to(store.root)): path.read_bytes()
        for path in store.root.glob("stages/[!.]*/*")
        if ".corrupt" not in str(path)
    }
    for folder in store.root.glob("work/*"):
        found[folder.name] = sorted(folder.glob("checkpoint-*"))[-1].read_bytes()
    return found


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """A filled store, and an empty one; files are cut into small chunks."""
    monkeypatch.setattr(packs, "CHUNK", 2000)
    full, empty = Store(tmp_path / "full"), Store(tmp_path / "empty")
    fill(full)
    return full, empty


def test_a_store_round_trips_and_again_changes_nothing(stores, tmp_path):
    full, empty = stores
    packs = pack(full, everything(full), tmp_path / "packs")
    assert len(packs) == 1
    done = unpack(empty, packs)
    assert (done.counts, done.problems) == ({"added": 3}, [])
    assert contents(empty) == contents(full)
    assert [stage.results for stage in empty.stages()] == [stage.results for stage in full.stages()]
    before = {path: path.stat().st_mtime_ns for path in empty.root.rglob("*.safetensors")}
    assert unpack(empty, packs).counts == {"present": 3}
    assert {path: path.stat().st_mtime_ns for path in empty.root.rglob("*.safetensors")} == before
    assert not list(empty.root.rglob(".incoming*"))


def test_the_same_content_gives_the_same_packs_and_is_carried_once(stores, tmp_path):
    full, empty = stores
    packs = pack(full, everything(full), tmp_path / "one")
    unpack(empty, packs)
    again = pack(empty, everything(empty), tmp_path / "two")
    assert [path.name for path in again] == [path.name for path in packs]
    assert packs[0].name == f"pack-{hashlib.sha256(packs[0].read_bytes()).hexdigest()[:16]}.bin"
    # epoch-0001 has the bytes of final.
    assert (
        sum(path.stat().st_size for path in packs) < sum(map(len, contents(full).values())) - 8000
    )


def test_packs_are_no_larger_than_they_may_be(stores, tmp_path):
    full, _ = stores
    with pytest.raises(ParameterError, match="too small: these need") as found:
        pack(full, everything(full), tmp_path / "none", 4_000)
    least = int(str(found.value).split("need ")[1].split()[0].replace(",", ""))
    for bound in (least + 200, least + 1_000, 2 * least):
        packs = pack(full, everything(full), tmp_path / f"packs-{bound}", bound)
        assert len(packs) > 1
        assert all(path.stat().st_size <= bound for path in packs)
        store = Store(tmp_path / f"store-{bound}")
        random.Random(bound).shuffle(packs)
        assert unpack(store, packs).counts == {"added": 3}
        assert contents(store) == contents(full)


def test_every_damage_is_refused(stores, tmp_path):
    """Each byte flipped in turn; cut, lengthened, zeroed: nothing of it gets into the store,
    and it is said.
    """
    full, empty = stores
    (path,) = pack(full, [Parcel("imp", stage_key("imp", CONFIG))], tmp_path / "packs")
    good, rng = path.read_bytes(), random.Random(0)
    bad = [
        good[:i] + bytes([good[i] ^ (1 << rng.randrange(8))]) + good[i + 1 :]
        for i in range(len(good))
    ]
    bad += [good[:n] for n in (0, 5, 16, 24, 200, len(good) - 1)]
    bad += [
        good + b"\0",
        good + good,
        b"\0" * len(good),
        good[: len(good) // 2] + bytes(len(good) - len(good) // 2),
    ]
    bad += [good[:16] + (2**63).to_bytes(8, "little") + good[24:]]
    for content in bad:
        path.write_bytes(content)
        done = unpack(empty, [path])
        assert done.counts == {} and len(done.problems) == 1
        assert path.name in done.problems[0] and "\n" not in done.problems[0]
    assert not list(empty.root.rglob("*.safetensors"))
    path.write_bytes(good)
    assert unpack(empty, [path]).counts == {"added": 1}


def test_what_good_packs_hold_is_not_lost_with_a_bad_one(stores, tmp_path):
    full, empty = stores
    packs = pack(full, everything(full), tmp_path / "packs", 8_000)
    assert len(packs) > 2
    packs[0].write_bytes(b"")
    done = unpack(empty, packs)
    assert done.counts == {"added": 2}  # all but the dense stage, whose chunks come first
    assert (
        len(done.problems) == 2 and "dense" in done.problems[1] and "incomplete" in done.problems[1]
    )
    # A set that lacks a pack is no different.
    assert unpack(Store(tmp_path / "third"), packs[1:]).counts == done.counts


def forge(folder, items, chunks=()):
    """A pack that is well formed, whatever it says."""
    body = [zlib.compress(raw, 1) for raw in chunks]
    listed = [
        [hashlib.sha256(raw).hexdigest(), len(data), len(raw)]
        for raw, data in zip(chunks, body, strict=True)
    ]
    content = {"body": hashlib.sha256(b"".join(body)).hexdigest(), "chunks": listed, "items": items}
    seal = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    header = canonical_json({**content, "sha256": seal}).encode()
    folder.mkdir(exist_ok=True)
    path = folder / "pack-forged.bin"
    path.write_bytes(b"".join([MAGIC, len(header).to_bytes(8, "little"), header, *body]))
    return path


@pytest.mark.parametrize(
    "item",
    [
        {"name": "../../up", "key": KEY, "files": {"stage.json": []}},
        {"name": "dense", "key": "../../up", "files": {"stage.json": []}},
        {"name": "dense", "key": KEY, "files": {"stage.json": [], "../../../up.safetensors": []}},
        {"name": "dense", "key": KEY, "files": {"stage.json": [], "/up.safetensors": []}},
        {"name": "dense", "key": KEY, "files": {"stage.json": [], ".up.safetensors": []}},
        {"name": "dense", "key": KEY, "files": {"stage.json": [], "up.py": []}},
        {"name": "dense", "key": KEY, "files": {"final.safetensors": []}},
        {"name": "dense", "key": KEY, "files": {}},
        {"name": "dense", "key": KEY},
        {"name": ["dense"], "key": KEY, "files": {"stage.json": []}},
        {"name": "dense\n", "key": KEY, "files": {"stage.json": []}},
        "dense",
    ],
)
def test_hostile_names_are_refused(stores, tmp_path, item):
    before = set(tmp_path.rglob("*"))
    done = unpack(stores[1], [forge(tmp_path / "packs", [item])])
    assert done.counts == {} and len(done.problems) == 1
    assert {path for path in set(tmp_path.rglob("*")) - before if "packs" not in str(path)} == set()


def test_a_stage_must_be_what_its_key_says(stores, tmp_path):
    full, empty = stores
    path = full.load("dense", KEY).path
    stage = json.loads((path / "stage.json").read_bytes())
    for change in (
        {"config": {"width": 5}},
        {"results": {"loss": [0.4]}},
        {"files": {}},
        {"stage": "../x"},
    ):
        raw = (json.dumps({**stage, **change}, sort_keys=True, indent=1) + "\n").encode()
        item = {
            "name": "dense",
            "key": KEY,
            "files": {"stage.json": [hashlib.sha256(raw).hexdigest()]},
        }
        done = unpack(empty, [forge(tmp_path / "packs", [item], [raw])])
        assert done.counts == {} and "was refused" in done.problems[0]
    assert list(empty.stages()) == []


def test_a_chunk_never_becomes_larger_than_it_may(stores, tmp_path):
    bomb = zlib.compress(bytes(10**7), 9)
    content = {"chunks": [["0" * 64, len(bomb), 2000]], "items": []}
    seal = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    header = canonical_json({**content, "sha256": seal}).encode()
    path = tmp_path / "pack-bomb.bin"
    path.write_bytes(b"".join([MAGIC, len(header).to_bytes(8, "little"), header, bomb]))
    assert "cut or followed" in unpack(stores[1], [path]).problems[0]


def test_only_what_is_asked_for_travels_and_the_rest_can_follow(stores, tmp_path):
    full, empty = stores
    some = pack(full, [Parcel("dense", KEY, frozenset({"epoch-0002"}))], tmp_path / "some")
    assert unpack(empty, some).counts == {"added": 1}
    stage = empty.load("dense", KEY)
    assert stage.left_out == ("epoch-0001.safetensors", "final.safetensors")
    assert torch.equal(
        stage.load("epoch-0002")["w"], full.load("dense", KEY).load("epoch-0002")["w"]
    )
    with pytest.raises(StorageError, match="left out when the stage was packed"):
        stage.load("final")
    # A store that lacks files packs what it has.
    third = Store(tmp_path / "third")
    assert unpack(third, pack(empty, everything(empty), tmp_path / "again")).counts == {"added": 1}
    assert third.load("dense", KEY).left_out == stage.left_out
    final = pack(full, [Parcel("dense", KEY, frozenset({"final"}))], tmp_path / "final")
    assert unpack(empty, final).counts == {"completed": 1}
    assert empty.load("dense", KEY).left_out == ("epoch-0001.safetensors",)
    assert unpack(empty, pack(full, everything(full), tmp_path / "all")).counts == {
        "added": 2,
        "completed": 1,
    }
    assert contents(empty) == contents(full)
    # A file that is missing without being on the list is damage, as ever.
    (empty.load("dense", KEY).path / "final.safetensors").unlink()
    assert empty.load("dense", KEY) is None


def test_a_stage_computed_elsewhere_never_replaces_or_mixes_with_a_good_one(stores, tmp_path):
    full, other = stores
    fill(other)  # the same stages, with another random file
    mine = contents(other)
    packs = pack(full, everything(full), tmp_path / "packs")
    assert unpack(other, packs).counts == {"present": 3}
    assert contents(other) == mine
    (other.load("dense", KEY).path / "final.safetensors").write_bytes(b"damaged")
    assert unpack(other, packs).counts == {"added": 1, "present": 2}
    assert contents(other)["stages/" + full.load("dense", KEY).path.name + "/stage.json"] != mine


def test_the_checkpoint_that_is_further_stays(stores, tmp_path):
    full, empty = stores
    key = stage_key("sparse", CONFIG)
    packs = pack(full, everything(full), tmp_path / "packs")
    begin(empty, key, epoch=3, steps=(1,))
    assert unpack(empty, packs).counts == {"added": 2, "present": 1}
    assert empty.workspace("sparse", key).latest()[1]["steps"] == [1]
    behind = Store(tmp_path / "behind")
    begin(behind, key, epoch=2, steps=(9,))
    assert unpack(behind, packs).counts == {"added": 3}
    assert behind.workspace("sparse", key).latest()[1]["epoch"] == 3
    # What is finished needs no checkpoint.
    done = Store(tmp_path / "done")
    done.stage("sparse", CONFIG, lambda _: StageResult({}, {}))
    assert unpack(done, packs).counts == {"added": 2, "present": 1}
    assert not list((done.root / "work").glob("*/*"))


def test_what_another_process_computes_is_left_to_it(stores, tmp_path):
    full, empty = stores
    packs = pack(full, everything(full), tmp_path / "packs")
    seen = []

    def compute(_):
        seen.append(unpack(empty, packs).counts)
        return StageResult({"loss": [0.25]}, {})

    empty.stage("dense", CONFIG, compute)
    assert seen == [{"added": 2, "busy": 1}]
    assert empty.load("dense", KEY).results == {"loss": [0.25]}


def test_a_pack_that_was_written_long_ago(tmp_path):
    """Of the first version of the format: a stage without all of its files, and a checkpoint."""
    store = Store(tmp_path)
    done = unpack(store, [Path(__file__).with_name("first-version.bin")])
    assert (done.counts, done.problems) == ({"added": 2}, [])
    stage = store.load("dense", KEY)
    assert stage.results == {"loss": [0.5]} and stage.config == CONFIG
    assert torch.equal(stage.load("final")["w"], torch.arange(8.0))
    assert stage.left_out == ("epoch-0001.safetensors",)
    tensors, info = store.workspace("sparse", stage_key("sparse", CONFIG)).latest()
    assert torch.equal(tensors["w"], torch.full((5,), 3.0)) and info == {"epoch": 3, "steps": [0]}


def test_a_pack_that_is_not_there(stores, tmp_path):
    with pytest.raises(StorageError, match="nowhere"):
        unpack(stores[1], [tmp_path / "nowhere.bin"])
