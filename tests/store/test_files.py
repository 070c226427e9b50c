"""Tensor files: written whole, the same bytes for the same tensors, and never read damaged."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import same, tensors

from lotperm.errors import IntegrityError, StorageError
from lotperm.store.files import load_tensors, save_tensors


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
