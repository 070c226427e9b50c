"""Files from a stranger: refused by name, at once, without growing, and nothing in them is run."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Warm

from lotperm.errors import IntegrityError, ParameterError, StorageError
from lotperm.store.convert import convert
from lotperm.store.files import load_tensors, save_tensors

SECONDS, GROWTH = 1.0, 64 * 1024  # of a CPU; of memory, in KiB


class Canary:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


class Greedy:
    """A pickle that only wants memory."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return bytearray, (3 * 10**9,)


def header(entries: dict[str, Any] | str, data: bytes = b"", length: int | None = None) -> bytes:
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS: dict[str, bytes] = {
    "a header of 100 GB": header({"a": entry(0, 4, [1])}, bytes(4), 10**11),
    "a header of 2^64": header({"a": entry(0, 4, [1])}, bytes(4), 2**64 - 1),
    "overlapping tensors": header({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
    "a duplicate key": header('{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4, [1])),) * 2), bytes(4)),
    "offsets past the end": header({"a": entry(0, 4 * 10**12, [10**12])}, bytes(4)),
    "a negative offset": header({"a": entry(-4, 0, [1])}, bytes(4)),
    "a shape that overflows": header({"a": entry(0, 4, [2**62, 2**62])}, bytes(4)),
    "a hole": header({"a": entry(8, 12, [1])}, bytes(12)),
    "an unknown type": header({"a": entry(0, 4, [1], "F33")}, bytes(4)),
    "nested to a depth of 100,000": header('{"a":' * 100_000, b""),
    "metadata that is no text": header(
        {"__metadata__": {"sha256": 1}, "a": entry(0, 4, [1])}, bytes(4)
    ),
    "a checksum of another file": header(
        {"__metadata__": {"sha256": "0" * 64, "lotperm": "1"}, "a": entry(0, 4, [1])}, bytes(4)
    ),
    "an empty checksum": header({"__metadata__": {"sha256": ""}, "a": entry(0, 4, [1])}, bytes(4)),
    "a list for a header": header("[" + "1," * 1000 + "1]"),
}


def pickles(folder: Path) -> dict[str, Path]:
    canary = Canary(folder / "canary")
    made: dict[str, Path] = {}

    def save(name: str, value: Any, **options: Any) -> None:
        made[name] = folder / f"{len(made)}.pt"
        torch.save(value, made[name], **options)

    save("a pickle with a canary", {"w": torch.ones(2), "x": canary})
    save("the same, in the old format", {"w": canary}, _use_new_zipfile_serialization=False)
    save("the same, protocol 4", {"w": canary}, pickle_protocol=4)
    save("a whole module", torch.nn.Linear(2, 2))
    save("a pickle that wants 3 GB", {"w": Greedy()})
    save("an expanded view of 4 TB", {"w": torch.zeros(1).expand(10**6, 10**6)})
    tensor = torch.ones(1000)
    save("one tensor under 1,000 names", {f"w{i}": tensor for i in range(1000)})
    made["a bare pickle"] = folder / "bare.pt"
    made["a bare pickle"].write_bytes(pickle.dumps({"w": canary}))
    made["a compressed bomb"] = folder / "bomb.pt"
    with zipfile.ZipFile(made["a compressed bomb"], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(300_000_000))
    made["a broken archive"] = folder / "broken.pt"
    whole = made["one tensor under 1,000 names"].read_bytes()
    made["a broken archive"].write_bytes(whole[: len(whole) // 2])
    made["an archive whose end is torn"] = folder / "torn.pt"
    made["an archive whose end is torn"].write_bytes(
        whole.replace(b"archive/data", b"brchive/data")
    )
    return made


def archives(folder: Path) -> dict[str, tuple[str, Path]]:
    """Make hostile archives: what is wrong -> (data set, path)."""
    made: dict[str, tuple[str, Path]] = {}
    wanted = "train-images-idx3-ubyte.gz"

    def tar(what: str, *members: tuple[tarfile.TarInfo, bytes], name: str = "") -> None:
        path = folder / (name or f"{len(made)}.tar.gz")
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            for member, content in members:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        made[what] = ("cifar10" if name else "fashion_mnist", path)

    def link(kind: bytes, target: str) -> tarfile.TarInfo:
        member = tarfile.TarInfo(wanted)
        member.type, member.linkname = kind, target
        return member

    info = tarfile.TarInfo
    tar("a name with ../", (info("../canary"), b"x"), (info(f"../{wanted}"), b"x"))
    tar(
        "an absolute path",
        (info(str(folder / "canary")), b"x"),
        (info(f"/{folder}/canary/{wanted}"), b"x"),
    )
    tar("a symbolic link", (link(tarfile.SYMTYPE, "/etc/passwd"), b""))
    tar("a hard link", (link(tarfile.LNKTYPE, "/etc/passwd"), b""))
    tar("a device", (link(tarfile.CHRTYPE, ""), b""))
    tar("a fifo", (link(tarfile.FIFOTYPE, ""), b""))
    tar(
        "an archive that isn't the published one",
        (info("data_batch_1"), b"x"),
        name="cifar-10-python.tar.gz",
    )
    huge = info(wanted)
    path = folder / "claims.tar"
    huge.size = 10**13
    path.write_bytes(huge.tobuf() + bytes(1024))
    made["a member that claims 10 TB"] = ("fashion_mnist", path)
    return made


def notebooks(folder: Path) -> dict[str, Path]:
    cell = {
        "cell_type": "code",
        "source": f"import os; os.mkdir({str(folder / 'canary')!r})",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
        "id": "a",
    }
    parameters = {
        **cell,
        "source": "profile = 'smoke'",
        "metadata": {"tags": ["parameters"]},
        "id": "b",
    }
    whole: dict[str, Any] = {
        "cells": [parameters, cell],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    spec = {"name": "python3", "language": "python", "display_name": "x"}
    evil = {**parameters, "source": f"profile = __import__('os').mkdir({str(folder / 'canary')!r})"}
    broken = {**parameters, "source": "profile = ("}
    texts = {
        "no JSON": "not JSON",
        "no notebook": "{}",
        "a list": "[]",
        "nested to a depth of 100,000": "[" * 100_000,
        "a kernel of R": json.dumps(
            {**whole, "metadata": {"kernelspec": {**spec, "name": "ir", "language": "R"}}}
        ),
        "a kernel of a shell": json.dumps(
            {**whole, "metadata": {"kernelspec": {**spec, "name": "bash"}}}
        ),
        "another language": json.dumps({**whole, "metadata": {"language_info": {"name": "julia"}}}),
        "a version from the future": json.dumps({**whole, "nbformat": 99}),
        "cells that are none": json.dumps({**whole, "cells": [{"x": 1}]}),
        "parameters that call": json.dumps({**whole, "cells": [evil, cell]}),
        "parameters that are no Python": json.dumps({**whole, "cells": [broken, cell]}),
        "no parameters": json.dumps({**whole, "cells": [cell]}),
    }
    made = {}
    for number, (what, text) in enumerate(texts.items()):
        made[what] = folder / f"{number}.ipynb"
        made[what].write_text(text)
    made["bytes that are no text"] = folder / "bytes.ipynb"
    made["bytes that are no text"].write_bytes(b"\xff\xfe" * 100)
    made["a notebook of 10 GB"] = folder / "huge.ipynb"
    made["a notebook of 10 GB"].touch()
    os.truncate(made["a notebook of 10 GB"], 10**10)  # sparse
    return made


def test_hostile_files_are_refused(warm: Warm, tmp_path, record):
    folder = tmp_path / "in"
    folder.mkdir()
    attacks: list[tuple[str, str, Path]] = []
    for number, (what, content) in enumerate(SAFETENSORS.items()):
        path = folder / f"{number}.safetensors"
        path.write_bytes(content)
        attacks.append(("load", what, path))
    hostile = pickles(folder)
    attacks += [("convert", what, path) for what, path in hostile.items()]
    attacks += [("load", f"{what}, loaded as it is", path) for what, path in hostile.items()]
    attacks += [(door, what, path) for what, (door, path) in archives(folder).items()]
    attacks += [("notebook", what, path) for what, path in notebooks(folder).items()]
    before = set(folder.rglob("*"))
    count: collections.Counter[str] = collections.Counter()
    allowed = {"IntegrityError", "ParameterError", "StorageError"}
    for door, what, path in attacks:
        home = tmp_path / "home" / str(sum(count.values()))
        options = {"door": door, "path": str(path), "out": str(home)}
        done = warm.ask(warm.call("attack", home, options), timeout=30)
        assert done["codes"] == [0], (what, done["printed"])
        seen = json.loads(done["printed"][0].splitlines()[-1])
        assert seen["error"] in allowed, (door, what, seen)
        assert "\n" not in seen["message"] and len(seen["message"]) < 900, (what, seen)
        assert seen["seconds"] < SECONDS and seen["kib"] < GROWTH, (door, what, seen)
        assert set(folder.rglob("*")) == before, f"{what} made a file"
        assert not list(tmp_path.rglob("canary")), what
        count[door] += 1
    for door, words in (
        ("load", "hostile safetensors, and pickles in their place"),
        ("convert", "hostile .pt files, converted"),
        ("notebook", "hostile notebooks"),
    ):
        record(
            words,
            count.pop(door),
            "all refused: under 1 s of a CPU, memory bounded, canary untouched",
        )
    record(
        "hostile archives of data sets",
        count.total(),
        "all refused: under 1 s of a CPU, memory bounded, canary untouched",
    )


def test_a_bomb_in_an_archive(warm: Warm, tmp_path, record):
    """3 GB of zeros in 3 MB: read up to the limit at most, never kept."""
    path = tmp_path / "bomb.tar.gz"
    member = tarfile.TarInfo("train-images-idx3-ubyte.gz")
    member.size = 3 * 10**9
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.addfile(tarfile.TarInfo("nothing"))
        archive.fileobj.write(member.tobuf() + bytes(5_000_000))  # type: ignore[union-attr]
    options = {"door": "fashion_mnist", "path": str(path), "out": str(tmp_path / "home")}
    done = warm.ask(warm.call("attack", tmp_path / "home", options), timeout=60)
    seen = json.loads(done["printed"][0].splitlines()[-1])
    assert seen["error"] == "IntegrityError" and "too large" in seen["message"], seen
    assert seen["seconds"] < SECONDS and seen["kib"] < GROWTH, seen
    record("a bomb in an archive (3 GB claimed)", 1, "refused by its size, nothing unpacked")


def test_weights_are_converted(tmp_path, record):
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
    state["half"] = torch.ones(3, dtype=torch.bfloat16)
    state["strided"] = torch.arange(6.0).reshape(2, 3).t()
    shapes = {
        "plain": (state, None),
        "nested": ({"epoch": 3, "state_dict": state, "lr": 0.1}, None),
        "several": ({"model": state, "ema": {"a": torch.ones(1)}}, "model"),
    }
    for name, (content, key) in shapes.items():
        torch.save(content, tmp_path / f"{name}.pt")
        assert convert(tmp_path / f"{name}.pt", tmp_path / "out.safetensors", key=key) == len(state)
        got, notes = load_tensors(tmp_path / "out.safetensors", checked=True)
        assert notes == {"kind": "weights"} and got.keys() == state.keys()
        assert all(torch.equal(got[n], state[n]) and got[n].dtype == state[n].dtype for n in state)
    record("honest .pt files, converted (control)", len(shapes), "same tensors, with a checksum")


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"model": {"a": torch.ones(3)}, "lr_scheduler": {"milestones": Counter([10, 20])}}, None),
        ({"model": {"a": torch.ones(3)}, "dtype": torch.float32, "on": torch.device("cpu")}, None),
        ({"model": {"a": torch.ones(3)}, "frozen": {"b", "c"}}, None),
        ({"a": torch.ones(1).expand(3)}, None),
        ({"state": {"model": {"a": torch.ones(3)}}}, "state.model"),
        ({"state": {"model": {"a": torch.ones(3)}, "ema": {"a": torch.zeros(3)}}}, "state.model"),
        ({"model": {"a": torch.ones(3)}, "old": {"net": {"a": torch.zeros(3)}}}, None),
    ],
)
def test_checkpoints_of_training_are_converted(tmp_path, content, key):
    torch.save(content, tmp_path / "a.pt")
    assert convert(tmp_path / "a.pt", tmp_path / "a.safetensors", key=key) == 1
    assert torch.equal(load_tensors(tmp_path / "a.safetensors")[0]["a"], torch.ones(3))


def test_what_cannot_be_converted_says_why(tmp_path):
    def made(content: Any) -> Path:
        torch.save(content, tmp_path / "a.pt")
        return tmp_path / "a.pt"

    two = {"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}
    for content, key, message in (
        (two, None, "2 of its entries.*'model', 'ema'.*--key"),
        (two, "modl", "Did you mean 'model'"),
        ({"model": {"layers": {"a": torch.ones(1)}}}, None, "exactly one state dict"),
        ({"state": {"model": two["model"]}}, None, r"deeper: 'state\.model'.*--key"),
        ({"state": {"model": two["model"]}}, "state.modl", r"Did you mean 'state\.model'"),
        ([1, 2], None, "exactly one state dict"),
        ({"epoch": 1}, "model", "has no entries"),
        ({"w": torch.ones(2, 2).to_sparse()}, None, "sparse|isn't a dense tensor|calls"),
    ):
        with pytest.raises((ParameterError, IntegrityError), match=message):
            convert(made(content), tmp_path / "out.safetensors", key=key)
        assert not (tmp_path / "out.safetensors").exists()
    save_tensors(tmp_path / "done.safetensors", {"a": torch.ones(1)})
    with pytest.raises(ParameterError, match="safetensors file already"):
        convert(tmp_path / "done.safetensors", tmp_path / "out.safetensors")
    itself: dict[str, Any] = {}
    itself.update({str(number): itself for number in range(1000)})
    with pytest.raises(ParameterError, match="exactly one state dict"):
        convert(made(itself), tmp_path / "out.safetensors")
    with pytest.raises(StorageError):
        convert(tmp_path / "nowhere.pt", tmp_path / "out.safetensors")


def test_the_command(warm: Warm, tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pt")
    good = warm.ask(
        warm.command(tmp_path, "convert", tmp_path / "a.pt", tmp_path / "a.safetensors")
    )
    assert good["codes"] == [0] and torch.equal(
        load_tensors(tmp_path / "a.safetensors")[0]["w"], torch.ones(2)
    )
    bad = warm.ask(
        warm.command(tmp_path, "convert", tmp_path / "module.pt", tmp_path / "b.safetensors")
    )
    assert bad["codes"] == [3] and "model.state_dict()" in bad["printed"][0], bad
    assert bad["printed"][0].count("\n") == 1


def test_the_package_never_loads_a_pickle_with_code():
    modules = list((ROOT / "lotperm").rglob("*.py"))
    assert len(modules) > 60
    for path in modules:
        text = path.read_text()
        assert "weights_only=False" not in text
        loads = re.findall(r"(?<!safetensors\.)torch\.load\([^\n]*", text)
        assert all("weights_only=True" in line for line in loads), (path, loads)
        for pattern in (
            r"pickle\.loads?\(",
            "joblib",
            "allow_pickle=True",
            r"(?<!literal_)\beval\(\w",
            r"\bexec\(",
        ):
            found = re.findall(pattern, text.replace(".eval()", ""))
            assert not found, (path, found)
