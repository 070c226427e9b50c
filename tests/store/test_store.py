"""The store survives what machines do: killed processes, flipped bits, full and read-only
disks, company.
"""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lotperm.config import canonical
from lotperm.config.canonical import canonical_json, sha256_json
from lotperm.errors import IntegrityError, ParameterError, StorageError
from lotperm.store import provenance
from lotperm.store import stages as store_module
from lotperm.store.files import JSON, load_tensors, save_tensors, write_atomic
from lotperm.store.stages import Stage, StageResult, Store, stage_key
from lotperm.store.workspace import Workspace

CONFIG: dict[str, JSON] = {"width": 4, "lr": 0.1, "inputs": ["a" * 64]}


def tensors() -> dict[str, torch.Tensor]:
    return {
        "weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
        "mask": torch.tensor([True, False, True]),
        "order": torch.tensor([2, 0, 1]),
        "low": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "pixels": torch.tensor([[0, 255]], dtype=torch.uint8),
        "sum": torch.tensor(1 / 3, dtype=torch.float64),
        "none": torch.empty(0, 5),
    }


def same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> bool:
    return got.keys() == want.keys() and all(
        got[n].dtype == want[n].dtype
        and got[n].shape == want[n].shape
        and torch.equal(got[n], want[n])
        for n in want
    )


class Compute:
    """A stage function that counts its calls."""

    def __init__(self, value: float = 0.5) -> None:
        self.calls, self.value = 0, value

    def __call__(self, workspace: Workspace) -> StageResult:
        self.calls += 1
        return StageResult(
            {"accuracy": [self.value]}, {"weights": tensors(), "mask": {"m": tensors()["mask"]}}
        )


# --- canonical JSON ---------------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_canonical_json_round_trips(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert text.isascii()


@given(st.dictionaries(st.text(), plain, min_size=2, max_size=5), st.randoms())
def test_canonical_json_ignores_the_order_of_keys(
    value: dict[str, Any], rng: random.Random
) -> None:
    items = list(value.items())
    rng.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)


def test_canonical_json_distinguishes_types_but_not_sequences() -> None:
    assert len({canonical_json(v) for v in (1, 1.0, True, "1", [1], None)}) == 6
    assert canonical_json((1, 2)) == canonical_json([1, 2]) == "[1,2]"
    assert canonical_json({"b": 0.1, "a": 1e-07}) == '{"a":1e-07,"b":0.1}'


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {1: 2}, {"a": {3}}, [torch.tensor(1)], Path("x"), b"x", {None: 1}],
)
def test_canonical_json_refuses(value: Any) -> None:
    with pytest.raises(ParameterError):
        canonical_json({"config": [value]})


def test_key_depends_on_name_schema_and_config(monkeypatch: pytest.MonkeyPatch) -> None:
    key = stage_key("dense", {"a": 1})
    assert key == sha256_json({"stage": "dense", "config": {"a": 1}, "schema": canonical.SCHEMA})
    assert key not in (
        stage_key("mask", {"a": 1}),
        stage_key("dense", {"a": 2}),
        stage_key("dense", {"b": 1}),
    )
    monkeypatch.setattr(store_module, "SCHEMA", canonical.SCHEMA + 1)
    assert stage_key("dense", {"a": 1}) != key


# --- tensor files -----------------------------------------------------------------------------------


def test_tensors_round_trip_and_other_programs_can_read_them(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "t.safetensors"
    save_tensors(path, tensors(), {"kind": "mask", "sparsity": "0.9"})
    got, metadata = load_tensors(path, checked=True)
    assert same(got, tensors())
    assert metadata == {"kind": "mask", "sparsity": "0.9"}
    assert same(safetensors.torch.load_file(path), tensors())
    assert [p.name for p in path.parent.iterdir()] == ["t.safetensors"]


def test_same_tensors_give_the_same_bytes_whatever_their_strides_and_order(tmp_path: Path) -> None:
    base = torch.randn(2, 3, 4, 4)
    one = {"a": base, "b": base[0], "c": base.transpose(0, 1)}
    two = {
        "c": base.transpose(0, 1).contiguous(),
        "b": base[0].clone(),
        "a": base.to(memory_format=torch.channels_last),
    }
    notes = {f"note{i}": str(i) for i in range(20)}
    save_tensors(tmp_path / "1", one, notes)
    save_tensors(tmp_path / "2", two, dict(reversed(notes.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_every_header_length_is_taken_for_safetensors(tmp_path: Path) -> None:
    # A header of 640 bytes starts like a pickle of protocol 2.
    lengths = set()
    for n in range(0, 1500, 8):
        path = tmp_path / "t.safetensors"
        save_tensors(path, {"a": torch.ones(1)}, {"pad": "x" * n})
        lengths.add(int.from_bytes(path.read_bytes()[:8], "little"))
        assert load_tensors(path)[1] == {"pad": "x" * n}
    assert {640, 896, 1152, 1408} <= lengths


def test_plain_safetensors_are_read_unless_a_checksum_is_demanded(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file(tensors(), path, metadata={"format": "pt"})
    got, metadata = load_tensors(path)
    assert same(got, tensors())
    assert metadata == {"format": "pt"}
    with pytest.raises(IntegrityError):
        load_tensors(path, checked=True)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_to_a_file_is_never_silent(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damage.safetensors"
    save_tensors(path, tensors(), {"kind": "mask"})
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    kind = data.draw(st.sampled_from(["flip", "truncate", "zero", "append"]))
    bad = bytearray(good)
    if kind == "flip":
        bad[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "truncate":
        del bad[at:]
    elif kind == "zero":
        bad[at : at + 64] = bytes(len(bad[at : at + 64]))
    else:
        bad += bytes(at + 1)
    path.write_bytes(bad)
    if bytes(bad) == good:  # zeros over zeros
        assert same(load_tensors(path)[0], tensors())
    else:
        with pytest.raises(IntegrityError, match=r"damage\.safetensors"):
            load_tensors(path)


def test_no_single_bit_flip_disarms_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.ones(3)})
    good = path.read_bytes()
    for at, bit in itertools.product(range(len(good)), range(8)):
        bad = bytearray(good)
        bad[at] ^= 1 << bit
        path.write_bytes(bad)
        with pytest.raises(IntegrityError):
            load_tensors(path)


class Canary:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, ("canary",))


def test_pickles_are_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, zipped in itertools.product(("mask.pt", "mask.safetensors"), (True, False)):
        torch.save({"a": Canary()}, name, _use_new_zipfile_serialization=zipped)
        with pytest.raises(IntegrityError, match="Convert"):
            load_tensors(Path(name))
    assert not Path("canary").exists()


@pytest.mark.parametrize("length", [10**11, 2**63, 2**64 - 1, 200, 150_000_000])
def test_absurd_headers_are_refused_fast(tmp_path: Path, length: int) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":{}}')
    if length == 150_000_000:
        os.truncate(path, 300_000_000)  # sparse: the header would fit
    started = time.process_time()
    with pytest.raises(IntegrityError, match="header"):
        load_tensors(path)
    assert time.process_time() - started < 0.2  # seconds of a CPU, however busy the machine


@pytest.mark.parametrize("content", [b"", b"1234567", b"{}" * 20, b"[" * 4000])
def test_junk_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "junk").write_bytes(content)
    with pytest.raises(IntegrityError):
        load_tensors(tmp_path / "junk")
    deep = len(content).to_bytes(8, "little") + b"{" + content
    (tmp_path / "junk").write_bytes(deep)
    with pytest.raises(IntegrityError):
        load_tensors(tmp_path / "junk")


def test_a_missing_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        load_tensors(tmp_path / "nowhere.safetensors")


# --- stages -----------------------------------------------------------------------------------------


def check(stage: Stage, value: float = 0.5) -> None:
    assert stage.results == {"accuracy": [value]}
    assert same(stage.load("weights"), tensors())
    assert torch.equal(stage.load("mask")["m"], tensors()["mask"])


def test_a_stage_is_computed_once(tmp_path: Path) -> None:
    compute, store = Compute(), Store(tmp_path)
    assert store.find("dense", CONFIG) is None
    check(store.stage("dense", CONFIG, compute))
    stage = Store(tmp_path).stage("dense", dict(reversed(CONFIG.items())), compute)
    check(stage)
    assert compute.calls == 1
    assert stage.key == stage_key("dense", CONFIG)
    assert stage.path == tmp_path / "stages" / f"dense-{stage.key[:16]}"
    assert stage.config == CONFIG
    assert stage.meta["versions"]["torch"] == str(torch.__version__)
    store.stage("dense", {**CONFIG, "lr": 0.2}, compute)
    store.stage("mask", CONFIG, compute)
    assert compute.calls == 3
    assert sorted(p.name for p in stage.path.iterdir()) == [
        "mask.safetensors",
        "stage.json",
        "weights.safetensors",
    ]


def test_two_stores_hold_the_same_bytes(tmp_path: Path) -> None:
    one, two = (Store(tmp_path / n).stage("dense", CONFIG, Compute()) for n in "ab")
    assert one.files == two.files
    for name in one.files:
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


def test_bad_names_are_refused(tmp_path: Path) -> None:
    store, compute = Store(tmp_path), Compute()
    for name in ("../dense", "Dense", "", "a/b"):
        with pytest.raises(ParameterError):
            store.stage(name, CONFIG, compute)
    assert compute.calls == 0
    with pytest.raises(ParameterError):
        store.stage("dense", CONFIG, lambda _: StageResult({}, {"../x": tensors()}))
    with pytest.raises(ParameterError):
        store.stage("dense", CONFIG, lambda _: StageResult({"accuracy": float("nan")}))
    assert store.find("dense", CONFIG) is None
    with pytest.raises(ParameterError, match="mask"):
        store.stage("dense", CONFIG, compute).load("missing")


def test_default_root_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path / "elsewhere"))
    assert Store.default().root == tmp_path / "elsewhere"
    monkeypatch.delenv("LOTPERM_HOME")
    assert Store.default().root == Path(".lotperm")


def test_flipped_bytes_are_never_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng, store, compute = random.Random(0), Store(tmp_path), Compute()
    stage = store.stage("dense", CONFIG, compute)
    for round_ in range(120):
        name = ["stage.json", "weights.safetensors", "mask.safetensors"][round_ % 3]
        path = stage.path / name
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        path.write_bytes(content if round_ % 4 else content[: rng.randrange(len(content))])
        assert store.find("dense", CONFIG) is None
        caplog.clear()
        check(store.stage("dense", CONFIG, compute))
        assert compute.calls == round_ + 2
        assert name in caplog.text
        assert ".corrupt" in caplog.text
    assert len(list((tmp_path / "stages").glob("*.corrupt"))) == 120


def test_missing_files_and_folders_are_recomputed(tmp_path: Path) -> None:
    store, compute = Store(tmp_path), Compute()
    for name in ("stage.json", "mask.safetensors"):
        (store.stage("dense", CONFIG, compute).path / name).unlink()
        check(store.stage("dense", CONFIG, compute))
    path = store.stage("dense", CONFIG, compute).path
    assert compute.calls == 3
    path.rename(path.with_name("gone"))
    path.write_text("a file where a folder should be")
    check(store.stage("dense", CONFIG, compute))
    assert compute.calls == 4


def test_a_stage_of_another_key_is_not_used(tmp_path: Path) -> None:
    store, compute = Store(tmp_path), Compute()
    other = store.stage("dense", {"x": 1}, compute)
    wanted = tmp_path / "stages" / f"dense-{stage_key('dense', CONFIG)[:16]}"
    other.path.rename(wanted)
    check(store.stage("dense", CONFIG, compute))
    assert compute.calls == 2


def test_a_file_that_changes_after_it_was_found_is_refused(tmp_path: Path) -> None:
    stage = Store(tmp_path).stage("dense", CONFIG, Compute())
    save_tensors(stage.path / "weights.safetensors", {**tensors(), "sum": torch.tensor(0.0)})
    with pytest.raises(IntegrityError, match="weights"):
        stage.load("weights")


# --- checkpoints ------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def counting(steps: int, stop_at: int | None, seen: list[int]) -> Any:
    """A stage that adds up 0..steps-1 with a checkpoint after every step, and stops before
    `stop_at`.
    """

    def compute(workspace: Workspace) -> StageResult:
        state, start = torch.zeros(1), 0
        if (saved := workspace.latest()) is not None:
            state, start = saved[0]["state"], saved[1]["step"]
        seen.append(start)
        for step in range(start, steps):
            if step == stop_at:
                raise Interrupted
            state = state + step
            workspace.checkpoint({"state": state}, {"step": step + 1})
        return StageResult({"sum": state.item()})

    return compute


def test_an_interrupted_stage_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    store, seen = Store(tmp_path), list[int]()
    with pytest.raises(Interrupted):
        store.stage("sum", CONFIG, counting(10, 6, seen))
    (work,) = (tmp_path / "work").iterdir()
    assert len(list(work.iterdir())) == 2
    stage = store.stage("sum", CONFIG, counting(10, None, seen))
    assert stage.results == {"sum": 45.0}
    assert seen == [0, 6]
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(("bad", "resumes_at"), [(1, 5), (2, 0)])
def test_corrupt_checkpoints_are_moved_aside(
    tmp_path: Path, bad: int, resumes_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    store, seen = Store(tmp_path), list[int]()
    with pytest.raises(Interrupted):
        store.stage("sum", CONFIG, counting(10, 6, seen))
    (work,) = (tmp_path / "work").iterdir()
    for path in sorted(work.iterdir())[-bad:]:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert store.stage("sum", CONFIG, counting(10, None, seen)).results == {"sum": 45.0}
    assert seen == [0, resumes_at]
    assert len(list(work.glob("*.corrupt"))) == bad
    assert "checkpoint-00000005" in caplog.text


def test_time_before_an_interruption_counts(tmp_path: Path) -> None:
    first = Workspace(tmp_path / "work", "k")
    time.sleep(0.2)
    first.checkpoint({}, None)
    second = Workspace(tmp_path / "work", "k")
    assert second.seconds < 0.15
    assert second.latest() == ({}, None)
    assert second.seconds >= 0.2
    assert Workspace(tmp_path / "work", "another key").latest() is None


# --- killed, crowded, full, read-only ---------------------------------------------------------------

FORK = multiprocessing.get_context("fork")


def four_stages(root: Path, started: Any = None) -> None:
    def compute(workspace: Workspace) -> StageResult:
        state, start = torch.zeros(100_000), 0
        if (saved := workspace.latest()) is not None:
            state, start = saved[0]["state"], saved[1]
        if started is not None:
            started.set()
        for step in range(start, 20):
            state = state + step
            workspace.checkpoint({"state": state}, step + 1)
        return StageResult({"sum": state[0].item()}, {"state": {"state": state}})

    for n in range(4):
        Store(root).stage("sum", {"n": n}, compute)


def test_killed_at_any_moment_the_rerun_gives_the_same_files(tmp_path: Path) -> None:
    four_stages(tmp_path / "whole")
    rng, kills = random.Random(1), 0
    for _ in range(8):
        started = FORK.Event()
        child = FORK.Process(target=four_stages, args=(tmp_path / "killed", started))
        child.start()
        started.wait(5)
        time.sleep(rng.uniform(0, 0.1))
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
    assert kills >= 1
    four_stages(tmp_path / "killed")
    assert list((tmp_path / "killed" / "stages").glob("*.corrupt")) == []
    assert list((tmp_path / "killed" / "work").rglob("*")) == []
    names = sorted(
        p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.safetensors")
    )
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    for n in range(4):
        stage = Store(tmp_path / "killed").find("sum", {"n": n})
        assert stage is not None
        assert stage.results == {"sum": 190.0}


def crowd(root: Path, log: Path, barrier: Any) -> None:
    def compute(workspace: Workspace) -> StageResult:
        with open(log, "a") as file:
            file.write("computed\n")
        time.sleep(0.1)
        return StageResult(
            {"accuracy": [0.5]}, {"weights": tensors(), "mask": {"m": tensors()["mask"]}}
        )

    barrier.wait()
    check(Store(root).stage("dense", CONFIG, compute))


def test_of_four_processes_one_computes(tmp_path: Path) -> None:
    barrier = FORK.Barrier(4)
    children = [
        FORK.Process(target=crowd, args=(tmp_path / "store", tmp_path / "log", barrier))
        for _ in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    assert (tmp_path / "log").read_text() == "computed\n"


def no_space(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the disk be full after so many bytes: the last write is cut short, the next one
    fails.
    """
    write, left = os.write, [after]

    def limited(fd: int, data: Any) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(fd, data[: left[0]])
        left[0] -= count
        return count

    monkeypatch.setattr(os, "write", limited)


@pytest.mark.parametrize("room", [0, 1, 100, 700, 1500])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    store, compute = Store(tmp_path), Compute()
    with monkeypatch.context() as patch:
        no_space(patch, room)
        with pytest.raises(StorageError, match="No space left") as caught:
            store.stage("dense", CONFIG, compute)
    assert caught.value.exit_code == 5
    assert list((tmp_path / "stages").iterdir()) == []
    check(store.stage("dense", CONFIG, compute))


def test_a_full_disk_keeps_the_last_checkpoint_and_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, seen = Store(tmp_path), list[int]()
    with monkeypatch.context() as patch:
        no_space(patch, 1000)
        with pytest.raises(StorageError):
            store.stage("sum", CONFIG, counting(10, None, seen))
    assert store.stage("sum", CONFIG, counting(10, None, seen)).results == {"sum": 45.0}
    assert seen[1] > 0
    write_atomic(tmp_path / "file", b"old")
    with monkeypatch.context() as patch:
        no_space(patch, 1)
        with pytest.raises(StorageError):
            write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert list(tmp_path.glob(".*")) == []


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse what a read-only file system refuses. (Permissions don't bind the user root.)"""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    opened = os.open

    def open_read_only(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        return (
            refuse()
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            else opened(path, flags, *rest, **named)
        )

    for name in ("mkdir", "unlink", "rmdir", "rename", "replace"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(os, "open", open_read_only)
    monkeypatch.setattr(Path, "touch", refuse)


def test_a_read_only_store_can_be_read_but_not_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, compute = Store(tmp_path), Compute()
    store.stage("dense", CONFIG, compute)
    with monkeypatch.context() as patch:
        read_only(patch)
        check(store.stage("dense", CONFIG, compute))
        with pytest.raises(StorageError, match="Read-only") as caught:
            store.stage("dense", {"another": 1}, compute)
    assert caught.value.exit_code == 5
    assert compute.calls == 1


def test_a_root_that_cannot_be_made_is_found_before_computing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    compute = Compute()
    with pytest.raises(StorageError):
        Store(tmp_path / "file" / "store").stage("dense", CONFIG, compute)
    assert compute.calls == 0


def test_stages_that_cannot_be_written_are_found_before_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, compute = os.open, Compute()

    def refuse_stages(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT and "stages" in Path(path).parts:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse_stages)
    with pytest.raises(StorageError, match="Permission denied"):
        Store(tmp_path).stage("dense", CONFIG, compute)
    assert compute.calls == 0


def test_the_source_hash_follows_modules_and_scripts(tmp_path, monkeypatch):
    for name in ("store/stages.py", "site/js/figure.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    hashes = [provenance.source_hash()]
    for name in ("store/stages.py", "site/js/figure.js"):
        (tmp_path / name).write_text("2")
        hashes.append(provenance.source_hash())
    assert len(set(hashes)) == 3


def test_a_stage_names_the_sources_that_computed_it(tmp_path, monkeypatch):
    """Not those that are in the folder when it is written: they may have been edited since the
    process started.
    """
    (tmp_path / "store.py").write_text("1")
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    store, began = Store(tmp_path / "kept"), provenance.source_hash()

    def compute(workspace):
        (tmp_path / "store.py").write_text("2")
        return StageResult({}, {})

    store.stage("dense", CONFIG, compute)
    assert provenance.source_hash() != began
    assert store.find("dense", CONFIG).meta["source"] == began


def test_a_stage_that_was_resumed_names_all_sources(tmp_path, monkeypatch):
    (tmp_path / "store.py").write_text("1")
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    sources = []

    def attempt(text, fails=True):
        (tmp_path / "store.py").write_text(text)
        sources.append(provenance.source_hash())

        def compute(workspace):
            workspace.latest()
            workspace.checkpoint({}, None)
            if fails:
                raise KeyboardInterrupt
            return StageResult({}, {})

        Store(tmp_path / "kept").stage("dense", CONFIG, compute)

    for text in ("1", "1", "2"):
        with pytest.raises(KeyboardInterrupt):
            attempt(text)
    attempt("3", fails=False)
    meta = Store(tmp_path / "kept").find("dense", CONFIG).meta
    assert meta["source"] == sources[-1]
    assert [maker["source"] for maker in meta["earlier"]] == [sources[0], sources[2]]
    assert meta["earlier"][0]["versions"] == meta["versions"]
    Store(tmp_path / "kept").stage("imp", CONFIG, lambda workspace: StageResult({}, {}))
    assert "earlier" not in Store(tmp_path / "kept").find("imp", CONFIG).meta
