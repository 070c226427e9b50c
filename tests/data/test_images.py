"""Image folders: real files, the same batch by any number of workers and after any stop, and
bad files named.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from lotperm import Experiment, Pipeline, Store
from lotperm.cluster.campaign import Campaign
from lotperm.config.choices import IMAGE_FOLDERS
from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data import batches, datasets, folders, sources
from lotperm.data import dataset as data_sets
from lotperm.data.batches import Batches
from lotperm.data.datasets import load
from lotperm.data.folders import check_images, list_folder
from lotperm.data.images import ImageFiles, draw_crop, stream
from lotperm.data.pictures import write_picture_crops
from lotperm.engine.evaluation import evaluate_stack
from lotperm.engine.models import build, initialize
from lotperm.engine.runtime import Runtime
from lotperm.engine.stacking import StackedNetworks
from lotperm.engine.training import train
from lotperm.errors import (
    IntegrityError,
    LotpermError,
    ParameterError,
    PreemptedError,
    StorageError,
)

CLASSES = tuple(f"class{i}" for i in range(6))
ONE = ("train", "val")


def write_folder(root: Path, n: dict[str, int] | None = None, seed: int = 0) -> Path:
    """A folder of small pictures, JPEG and PNG by turns; the class shows in the colour."""
    rng = np.random.default_rng(seed)
    for split, count in (n or {"train": 8, "val": 4}).items():
        for target, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                height, width = rng.integers(36, 60, 2)
                pixels = rng.integers(0, 120, (height, width, 3))
                pixels[..., target % 3] += 60 + 60 * (target // 3)
                file = root / split / name / (f"{i}.JPEG" if i % 2 else f"{i}.png")
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture
def own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> data_sets.Dataset:
    monkeypatch.setenv("LOTPERM_IMAGEFOLDER", str(folder))
    return load("imagefolder", image_size=32, resize_size=36)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images", {"train": 2, "val": 2})


def files(dataset: data_sets.Dataset) -> ImageFiles:
    assert isinstance(dataset.train.inputs, ImageFiles)
    return dataset.train.inputs


def test_a_folder_is_listed_class_by_class_in_turns(own: data_sets.Dataset) -> None:
    assert (own.classes, own.input_shape, len(own.train), len(own.test)) == (6, (3, 32, 32), 48, 24)
    names = [os.fsdecode(name).split("/")[0] for name in files(own).names]
    assert names == [CLASSES[t] for t in own.train.targets.tolist()]
    for n in (6, 12, 30):
        assert set(torch.bincount(own.train.targets[:n]).tolist()) == {n // 6}
    part = load("imagefolder", image_size=32, resize_size=36, train_size=12)
    assert files(part).names.tolist() == files(own).names[:12].tolist()
    with pytest.raises(ParameterError, match="train_size of imagefolder is 49; expected 1 to 48"):
        load("imagefolder", train_size=49)


def test_the_content_is_names_sizes_and_classes_not_the_place(folder: Path, tmp_path: Path) -> None:
    content = list_folder(folder).content
    copy = write_folder(tmp_path / "elsewhere")
    assert list_folder(copy).content == content
    (copy / "train" / ".hidden").write_bytes(b"x")
    assert list_folder(copy).content == content
    one = copy / "train" / CLASSES[0] / "0.png"
    one.write_bytes(one.read_bytes() + b"\0")
    sizes = list_folder(copy).content
    one.rename(one.with_name("9.png"))
    names = list_folder(copy).content
    for split in ONE:
        (copy / split / CLASSES[5]).rename(copy / split / "other")
    assert len({content, sizes, names, list_folder(copy).content}) == 4


def test_a_stage_depends_on_the_content_and_the_sizes_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def base(root: Path, **changes: int) -> object:
        monkeypatch.setenv("LOTPERM_IMAGEFOLDER", str(root))
        sizes = {"image_size": 32, "resize_size": 36, **changes}
        experiment = Experiment.from_parameters(
            profile="smoke", dataset="imagefolder", model="resnet8", **sizes
        )
        return Pipeline(experiment, Store(tmp_path / "store")).identity()["data"]

    here = base(folder)
    assert base(write_folder(tmp_path / "copy")) == here
    other = write_folder(tmp_path / "other", seed=1)
    assert base(other) != here
    assert base(folder, image_size=34) != here != base(folder, resize_size=40)
    assert str(folder) not in json.dumps(here)


def test_what_is_in_memory_keeps_its_keys() -> None:
    experiment = Experiment.from_parameters(profile="smoke")
    plain = datasets.identity(experiment.data, load("mnist1d"))
    assert plain == {"name": "mnist1d", "train_size": None, "test_size": None}


def remove(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


BAD = {
    "empty class": (lambda r: remove(r / "train" / "class3"), r"class3 holds no image"),
    "missing class": (
        lambda r: (remove(r / "val" / "class3"), (r / "val" / "class3").rmdir()),
        r"6 classes and val 5, expected the same ones: 'class3' is only in train",
    ),
    "other file": (
        lambda r: (r / "val" / "class1" / "a.gif").write_text("x"),
        r"a\.gif isn't an image file",
    ),
    "folder in itself": (
        lambda r: (r / "val" / "class1" / "b").symlink_to(r / "val" / "class1"),
        r"class1/b is a link to a folder that it lies in",
    ),
    "stray file": (lambda r: (r / "train" / "a.png").write_bytes(b"x"), r"a\.png is not a folder"),
    "empty file": (
        lambda r: (r / "train" / "class0" / "0.png").write_bytes(b""),
        r"0\.png is empty",
    ),
    "link": (
        lambda r: (r / "train" / "class0" / "l.png").symlink_to("/etc/passwd"),
        r"l\.png is a link that leaves",
    ),
    "linked folder": (
        lambda r: (r / "train" / "out").symlink_to("/usr"),
        r"out is a link that leaves",
    ),
    "no class": (
        lambda r: [os.rename(p, r / p.name) for p in (r / "val").iterdir()],
        r"val holds no class folder",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_wrong_form_is_named(what: str, damaged: Path) -> None:
    spoil, message = BAD[what]
    spoil(damaged)
    with pytest.raises(IntegrityError, match=message) as caught:
        list_folder(damaged)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3


def test_links_inside_the_folder_and_to_it_are_followed(damaged: Path, tmp_path: Path) -> None:
    (damaged / "train" / "class0" / "again.png").symlink_to(damaged / "train" / "class0" / "0.png")
    (tmp_path / "link").symlink_to(damaged)
    assert list_folder(tmp_path / "link").content == list_folder(damaged).content


def test_folders_within_a_class_belong_to_it(tmp_path: Path) -> None:
    """As in Tiny ImageNet: train/<class>/images/*.JPEG, beside train/<class>/<class>_boxes.txt."""
    root = write_folder(tmp_path / "images", {"train": 3, "val": 2})
    flat = list_folder(root)
    expected = ImageFiles(flat.folders["train"], flat.train[0], 32, 32).read()
    for folder in (root / "train").iterdir():
        files = list(folder.iterdir())
        (folder / "images" / "more").mkdir(parents=True)
        for file in files:
            file.rename(folder / "images" / file.name)
        (folder / f"{folder.name}_boxes.txt").write_text("0 0 1 1")
    deep = list_folder(root)
    assert deep.classes == flat.classes
    assert torch.equal(deep.train[1], flat.train[1])
    read = ImageFiles(deep.folders["train"], deep.train[0], 32, 32).read()
    assert torch.equal(read, expected)
    # Names are part of what identifies a folder.
    assert deep.content != flat.content


def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path))
    with pytest.raises(StorageError, match="lotperm data fetch imagefolder --source PATH"):
        load("imagefolder")
    (tmp_path / "images").mkdir()
    for root in (tmp_path / "nowhere", tmp_path / "images"):
        monkeypatch.setenv("LOTPERM_IMAGEFOLDER", str(root))
        with pytest.raises(StorageError, match="train/<class>"):
            load("imagefolder")


def spoiled(path: Path, how: str) -> None:
    whole = path.read_bytes()
    at = len(whole) // 2
    path.write_bytes(
        {
            "truncated": whole[:at],
            "text": b"<html>not found</html>",
            "header alone": whole[:20],
            "flipped": whole[:at] + bytes(b ^ 255 for b in whole[at : at + 40]) + whole[at + 40 :],
            "gif": b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
        }[how]
    )


@pytest.mark.parametrize("file", ["0.png", "1.JPEG"])
@pytest.mark.parametrize("how", ["truncated", "text", "header alone", "flipped", "gif"])
def test_a_bad_file_is_named(how: str, file: str, damaged: Path) -> None:
    path = damaged / "val" / "class2" / file
    spoiled(path, how)
    listed = list_folder(damaged)
    images = ImageFiles(listed.root / "val", listed.val[0], 32, 32)
    if (how, file) == ("flipped", "1.JPEG"):
        images.read()  # JPEG has no checksum: garbled pixels are still pixels
        return
    for workers in (0, 2):
        with pytest.raises(
            IntegrityError, match=f"class2/{file} is not a whole JPEG or PNG"
        ) as caught:
            list(stream(images, list(torch.arange(len(images)).split(5)), workers=workers))
        assert "\n" not in str(caught.value)
    with pytest.raises(IntegrityError, match=f"class2/{file}"):
        check_images(images)


def test_training_stops_at_a_bad_file_and_names_it(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(damaged / "train" / "class4" / "1.JPEG", "truncated")
    monkeypatch.setenv("LOTPERM_IMAGEFOLDER", str(damaged))
    own = load("imagefolder", image_size=32, resize_size=32)
    recipe = Recipe(epochs=1, lr=0.05, batch_size=4, augment="flip_resized_crop")
    for workers in (0, 1):
        with pytest.raises(IntegrityError, match=r"class4/1\.JPEG"):
            train(make(), starts(1), own, recipe, seeds(1), runtime=Runtime(workers=workers))


def test_several_bad_files_are_counted(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("class1", "class2", "class5"):
        spoiled(damaged / "train" / name / "0.png", "text")
    with pytest.raises(
        IntegrityError, match=r"train/class\d/0\.png .* 2 more can't be read either"
    ):
        sources.fetch("imagefolder", source=damaged)
    monkeypatch.setenv("LOTPERM_IMAGEFOLDER", str(damaged))
    with pytest.raises(IntegrityError, match="2 more"):
        datasets.verify("imagefolder")


def test_a_file_that_is_gone_is_a_matter_of_storage(damaged: Path) -> None:
    listed = list_folder(damaged)
    images = ImageFiles(listed.root / "val", listed.val[0], 32, 32)
    images.path(3).unlink()
    with pytest.raises(StorageError, match="cannot read"):
        images.read()


@pytest.mark.parametrize(
    ("height", "width"), [(50, 60), (224, 500), (30, 900), (900, 30), (40, 53)]
)
def test_crops_are_those_of_torchvision(height: int, width: int) -> None:
    theirs = v2.RandomResizedCrop(32)
    for seed in range(50):
        torch.manual_seed(seed)
        expected = theirs.make_params([torch.zeros(3, height, width)])
        found = draw_crop(height, width, torch.Generator().manual_seed(seed))
        assert found == tuple(expected[name] for name in ("top", "left", "height", "width"))


def test_evaluation_is_torchvisions_resize_and_centre(own: data_sets.Dataset) -> None:
    plain = v2.Compose([v2.Resize(36), v2.CenterCrop(32), v2.PILToTensor()])
    images = files(own)
    for row in range(8):
        with Image.open(images.path(row)) as image:
            assert torch.equal(images.read(torch.tensor([row]))[0], plain(image.convert("RGB")))


def test_grey_transparent_and_indexed_images_become_rgb(damaged: Path) -> None:
    place = damaged / "train" / "class0"
    with Image.open(place / "0.png") as image:
        for i, mode in enumerate(("L", "RGBA", "P", "1", "LA")):
            image.convert(mode).save(place / f"mode{i}.png")
        image.convert("CMYK").save(place / "cmyk.jpg")
    listed = list_folder(damaged)
    assert ImageFiles(listed.root / "train", listed.train[0], 32, 32).read().shape == (
        12 + 6,
        3,
        32,
        32,
    )


def test_a_batch_depends_on_member_epoch_and_example_alone(own: data_sets.Dataset) -> None:
    images = files(own)
    rows = torch.stack([torch.randperm(len(images)) for _ in range(2)], 1)
    steps = list(rows.split(7))
    state = torch.get_rng_state()
    first = list(stream(images, steps, seeds=[5, 6], epoch=1))
    assert torch.equal(state, torch.get_rng_state())
    for workers in (1, 2):
        again = list(stream(images, steps, seeds=[5, 6], epoch=1, workers=workers))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    later = list(stream(images, steps[3:], seeds=[5, 6], epoch=1))
    assert all(torch.equal(a, b) for a, b in zip(first[3:], later, strict=True))
    alone = list(stream(images, [step[:, 1:] for step in steps], seeds=[6], epoch=1))
    assert all(torch.equal(a[:, 1:], b) for a, b in zip(first, alone, strict=True))
    for other in ({"seeds": [7, 8], "epoch": 1}, {"seeds": [5, 6], "epoch": 2}):
        assert not torch.equal(next(stream(images, steps, **other)), first[0])


def test_augmentation_flips_half_and_moves(own: data_sets.Dataset) -> None:
    """Without scaling, a crop of the whole image is the image or its mirror."""
    images = dataclasses.replace(files(own), image_size=32, resize_size=32)
    plain = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    drawn = torch.stack([images._random(plain, seed) for seed in range(200)])
    assert len(drawn.flatten(1).unique(dim=0)) > 190
    rising = (drawn[:, 0, :, -1].float() - drawn[:, 0, :, 0].float()).mean(1) > 0
    assert 60 < int(rising.sum()) < 140


def test_batches_are_normalized_and_can_be_read_again(own: data_sets.Dataset) -> None:
    batches = Batches(own, own.train, 20, workers=2)
    once, twice = list(batches), list(batches)
    assert [len(x) for x, _ in once] == [20, 20, 8]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(once, twice, strict=True))
    pixels = files(own).read().double() / 255
    expected = (pixels - own.mean.view(3, 1, 1)) / own.std.view(3, 1, 1)
    assert (torch.cat([x for x, _ in once]) - expected).abs().max() < 1e-5
    assert torch.equal(torch.cat([y for _, y in once]), own.train.targets)
    some = data_sets.first(own.train, 5)
    assert torch.equal(next(iter(Batches(own, some)))[0], once[0][0][:5])


def test_large_images_come_in_smaller_batches(
    own: data_sets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_BATCH_VALUES", 10 * 3 * 32 * 32)
    assert [len(x) for x, _ in Batches(own, own.train)] == [10, 10, 10, 10, 8]


def make() -> nn.Module:
    return build("resnet8", input_shape=(3, 32, 32), classes=6, width=0.25)


def starts(n: int) -> list[dict[str, torch.Tensor]]:
    return [initialize(make, i) for i in range(n)]


def seeds(n: int) -> list[Seeds]:
    return [Seeds.of("test", i) for i in range(n)]


RECIPE = Recipe(epochs=3, lr=0.05, batch_size=10, augment="flip_resized_crop")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_training_does_not_depend_on_the_number_of_workers(own: data_sets.Dataset) -> None:
    runs = [
        train(
            make(), starts(2), own, RECIPE, seeds(2), evaluate_at=(0, 3), runtime=Runtime(workers=n)
        )
        for n in (None, 1, 2)
    ]
    for other in runs[1:]:
        assert all(same(a, b) for a, b in zip(runs[0].weights, other.weights, strict=True))
        assert (runs[0].train_loss, runs[0].evaluations) == (other.train_loss, other.evaluations)
    assert runs[0].train_loss[-1] < runs[0].train_loss[0]


class Notes:
    """Keeps the newest state in memory."""

    kept = None

    def checkpoint(self, tensors, info):
        self.kept = ({n: t.clone() for n, t in tensors.items()}, json.loads(json.dumps(info)))

    def latest(self):
        return self.kept


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_goes_on_in_the_middle_of_an_epoch(
    own: data_sets.Dataset, workers: int
) -> None:
    whole = train(make(), starts(2), own, RECIPE, seeds(2))
    notes, stopped = Notes(), []
    for _ in range(20):
        asked = itertools.count()
        runtime = Runtime(stop=lambda asked=asked: next(asked) >= 2, workers=workers)
        try:
            found = train(
                make(), starts(2), own, RECIPE, seeds(2), runtime=runtime, checkpoints=notes
            )
            break
        except PreemptedError:
            stopped.append(max(notes.kept[1]["steps"]))
    assert any(0 < step < 4 for step in stopped)
    assert all(same(a, b) for a, b in zip(whole.weights, found.weights, strict=True))
    assert (whole.train_loss, whole.evaluations) == (found.train_loss, found.evaluations)


def test_files_train_like_the_same_pixels_in_memory(own: data_sets.Dataset) -> None:
    """Without augmentation the stream is the tensor, read bit by bit."""
    memory = dataclasses.replace(
        own,
        train=data_sets.Split(files(own).read(), own.train.targets),
        test=data_sets.Split(own.test.inputs.read(), own.test.targets),
        content=None,
    )
    recipe = dataclasses.replace(RECIPE, augment="none")
    runs = [train(make(), starts(2), which, recipe, seeds(2)) for which in (own, memory)]
    assert all(same(a, b) for a, b in zip(runs[0].weights, runs[1].weights, strict=True))
    metrics = [run.evaluations[3] for run in runs]
    assert metrics[0]["accuracy"] == metrics[1]["accuracy"] and "top5" not in metrics[1]


def test_top5_counts_the_five_largest(own: data_sets.Dataset) -> None:
    networks = StackedNetworks(make(), starts(2))
    found = evaluate_stack(networks, own.test, own, batch=7)
    x, y = torch.cat(list(Batches(own, own.test).inputs())), own.test.targets
    for member, weights in enumerate(starts(2)):
        logits = torch.func.functional_call(make().eval(), weights, x)
        top1, top5 = (
            (logits.topk(k).indices == y[:, None]).any(1).double().mean().item() for k in (1, 5)
        )
        assert found["accuracy"][member] == pytest.approx(top1)
        assert found["top5"][member] == pytest.approx(top5)
        assert top1 < top5 < 1


def test_augmentation_must_fit_the_kind_of_data(own: data_sets.Dataset) -> None:
    with pytest.raises(
        ParameterError, match="augment is 'flip_crop'; expected none or flip_resized_crop"
    ):
        train(make(), starts(1), own, dataclasses.replace(RECIPE, augment="flip_crop"), seeds(1))
    for dataset, augment in (("imagefolder", "crop"), ("mnist1d", "flip_resized_crop")):
        with pytest.raises(ParameterError, match=f"augment is '{augment}'"):
            Experiment.from_parameters(profile="smoke", dataset=dataset, augment=augment)
    for parameters, message in (
        ({"image_size": 32}, "image_size is 32; expected nothing: mnist1d"),
        ({"dataset": "imagefolder", "image_size": 64, "resize_size": 32}, "64 or more"),
        ({"dataset": "imagefolder", "image_size": 2}, "image_size is 2; expected 8 to 4,096"),
    ):
        with pytest.raises(ParameterError, match=message):
            Experiment.from_parameters(profile="smoke", **parameters)


def test_picture_crops_are_real_and_their_splits_disjoint(tmp_path: Path) -> None:
    write_picture_crops(tmp_path)
    listed = list_folder(tmp_path)
    assert len(listed.classes) == 9
    counts = [torch.bincount(targets) for _, targets in (listed.train, listed.val)]
    for count, low in zip(counts, (36, 18), strict=True):
        assert all(low <= n <= low + 12 for n in count.tolist())
    tiles = [
        {(name.split(b"-")[0], *name.split(b"-")[2:4]) for name in names.tolist()}
        for names, _ in (listed.train, listed.val)
    ]
    assert tiles[0] and tiles[1] and not tiles[0] & tiles[1]
    pixels = ImageFiles(tmp_path / "train", listed.train[0], 48, 48).read()
    assert pixels.float().std() > 40 and len(pixels.flatten(1).unique(dim=0)) > 200
    write_picture_crops(tmp_path / "again")
    assert list_folder(tmp_path / "again").content == listed.content


def test_picture_crops_without_matplotlibs_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path))
    with pytest.raises(StorageError, match="LOTPERM_IMAGEFOLDER"):
        load("picture_crops")
    assert not (tmp_path / "data" / "picture_crops").exists()


def test_cifar10_as_files_has_its_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    raw = {}
    for split, n in (("train", 40), ("test", 20)):
        shape = (n, 3, 32, 32)
        raw[f"{split}.inputs"] = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        raw[f"{split}.targets"] = torch.arange(n) % 10
    monkeypatch.setattr(folders, "load_stored", lambda name, home: {"cifar10": raw}[name])
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path))
    split = load("cifar10_png", image_size=32, resize_size=32).train
    assert isinstance(split.inputs, ImageFiles)
    numbers = [int(name.split(b"/")[1][:5]) for name in split.inputs.names.tolist()]
    assert torch.equal(split.inputs.read(), raw["train.inputs"][numbers])
    assert torch.equal(split.targets, raw["train.targets"][numbers])


def test_a_fetched_folder_is_remembered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path))
    assert not {r["name"]: r for r in datasets.available()}["imagefolder"]["present"]
    content = sources.fetch("imagefolder", source=folder)
    assert (
        content
        == datasets.verify("imagefolder")
        == load("imagefolder").content
        == list_folder(folder).content
    )
    assert {r["name"]: r for r in datasets.available()}["imagefolder"]["present"]
    with pytest.raises(ParameterError, match="--source PATH"):
        sources.fetch("imagefolder")
    (tmp_path / "data" / "imagefolder.json").write_text("{")
    with pytest.raises(LotpermError, match="is damaged"):
        load("imagefolder")


@pytest.mark.parametrize(
    ("figure", "epochs", "batch_size", "lr", "finetune_lr", "sparsities", "rewind_epochs"),
    [
        # Tables 3, 4 and 10 of the paper, and the authors' scripts.
        ("resnet50_imagenet", 80, 1024, 0.4, 0.04, (0.8, 0.9, 0.95), (10, 25, 50)),
        ("resnet50_imagenet_scripts", 90, 256, 0.04, 0.002, (0.8, 0.9, 0.95, 0.97), (20,)),
    ],
)
def test_the_paper_profile_of_imagenet_is_the_protocol(
    figure: str,
    epochs: int,
    batch_size: int,
    lr: float,
    finetune_lr: float,
    sparsities: tuple[float, ...],
    rewind_epochs: tuple[int, ...],
) -> None:
    (e,) = Experiment.for_figure(figure, profile="paper")
    assert (e.data.name, e.data.image_size, e.data.resize_size) == ("imagefolder", 224, 256)
    assert (e.model.name, e.model.width, len(e.seeds)) == ("resnet50", 1.0, 1)
    assert (e.sparsities, e.rewind_epochs) == (sparsities, rewind_epochs)
    d = e.dense
    assert (d.epochs, d.batch_size, d.lr, d.momentum, d.weight_decay) == (
        epochs,
        batch_size,
        lr,
        0.9,
        1e-4,
    )
    assert (d.schedule, d.milestones, d.gamma, d.warmup_epochs) == ("step", (31, 62), 0.1, 5)
    f = e.pruning.finetune
    assert (f.epochs, f.lr, f.schedule, f.milestones) == (20, finetune_lr, "constant", ())
    assert (f.batch_size, f.warmup_epochs) == (batch_size, 0)
    assert e.pruning.prunable == "paper"
    arm = e.sparse_recipe(20)
    assert (arm.epochs, arm.lr, arm.schedule, arm.milestones, arm.warmup_epochs) == (
        epochs - 20,
        lr,
        "step",
        (31, 62),
        5,
    )
    (wide,) = Experiment.for_figure(figure, profile="paper", widths=2)
    assert wide.model.width == 2.0


def test_every_folder_of_images_follows_the_paper_at_its_profile() -> None:
    (figure,) = Experiment.for_figure("resnet50_imagenet", profile="paper")
    for name in IMAGE_FOLDERS:
        e = Experiment.from_parameters(profile="paper", dataset=name)
        assert (e.dense, e.pruning, e.sparse_lr) == (figure.dense, figure.pruning, figure.sparse_lr)
        assert (e.sparsities, e.rewind_epochs) == (figure.sparsities, figure.rewind_epochs)


def test_a_campaign_trains_on_images_of_the_size_that_was_asked_for(
    own: data_sets.Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "campaign.json"
    entry = {
        "name": "one",
        "kind": "connectivity",
        "profile": "smoke",
        "dataset": "imagefolder",
        "model": "resnet8",
        "image_size": 32,
        "resize_size": 36,
        "train_size": 24,
        "test_size": 12,
        "epochs": 2,
        "rewind_epoch": 1,
    }
    file.write_text(json.dumps({"name": "small", "entries": [entry]}))
    (read,), datasets, store = Campaign.load(file).entries, {}, Store(tmp_path)
    assert read.lacking(datasets) is None
    ((_, loaded),) = datasets.items()
    assert (loaded.input_shape, files(loaded).resize_size) == ((3, 32, 32), 36)
    keys = [task.key for task in read.tasks(store)]
    assert [task.key for task in read.tasks(store, None, datasets)] == keys


def test_the_whole_method_runs_on_an_image_folder(own: data_sets.Dataset, tmp_path: Path) -> None:
    (experiment,) = Experiment.for_figure(
        "resnet50_imagenet",
        profile="smoke",
        dataset="imagefolder",
        train_size=24,
        test_size=12,
        image_size=32,
        resize_size=36,
        widths=0.0625,
        seeds=2,
        epochs=2,
        rewind_epoch=1,
        finetune_epochs=1,
        sparsity=0.5,
        prune_fraction=0.5,
        batch_size=12,
    )
    pipeline = Pipeline(experiment, Store(tmp_path), Runtime(workers=1))
    results = pipeline.run()
    assert set(results.table["metric"]) == {"test_accuracy", "test_loss", "test_top5"}
    assert results.table["value"].notna().all()
    assert len(pipeline.match()[0]) == 1 + 4 + 2 * 16
    assert not any("downsample" in name for name in pipeline.masks(0.5, 1)[0])
    lines = pipeline.connectivity([0.0, 0.5, 1.0], ["bn", "repair"], replicates=1, statistics=12)
    assert lines["accuracy"].between(0, 1).all() and len(lines) == 2 * 2 * 3


def one_image(
    folder: Path, image: Image.Image, name: str = "a.png", **options: object
) -> np.ndarray:
    """Return the pixels of an image of 32×32 after it was saved and read: (3, 32, 32)."""
    (folder / "c").mkdir(parents=True, exist_ok=True)
    image.save(folder / "c" / name, **options)  # type: ignore[arg-type]
    names = np.array([f"c/{name}".encode()])
    return ImageFiles(folder, names, 32, 32).read()[0].numpy()


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint16, ">u2"])
def test_grey_of_16_bits_keeps_its_levels(tmp_path: Path, suffix: str, dtype: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 32).astype(dtype), (32, 1))
    read = one_image(tmp_path, Image.fromarray(ramp), f"a.{suffix}")
    assert np.array_equal(read, np.broadcast_to((ramp >> 8).astype(np.uint8), (3, 32, 32)))
    assert len(np.unique(read)) == 32 and round(float(read.mean()), 1) == 127.5


def test_pixels_of_an_unknown_range_are_refused(tmp_path: Path) -> None:
    deep = np.full((32, 32), 70_000, np.int32)
    with pytest.raises(IntegrityError, match="more than 16 bits"):
        one_image(tmp_path, Image.fromarray(deep), "a.tif")
    with pytest.raises(IntegrityError, match="whose range isn't known"):
        one_image(tmp_path, Image.fromarray(deep.astype(np.float32)), "b.tif")
    low = np.tile((np.arange(32) * 256).astype(np.int32), (32, 1))
    assert one_image(tmp_path, Image.fromarray(low), "c.tif").max() == 31


@pytest.mark.parametrize("suffix", ["bmp", "tiff", "webp", "PNG"])
def test_other_kinds_of_images(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    options = {"lossless": True} if suffix == "webp" else {}
    read = one_image(tmp_path, Image.fromarray(pixels), f"a.{suffix}", **options)
    assert np.array_equal(read.transpose(1, 2, 0), pixels)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
def test_folders_as_people_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, val: str
) -> None:
    root = write_folder(tmp_path / "images", {"train": 2, "val": 2})
    content = list_folder(root).content
    for name in ("Thumbs.db", "train/desktop.ini", "train/class0/Thumbs.db", "val/labels.txt"):
        (root / name).write_bytes(b"x")
    for name in ("train/class1/labels.txt", "train/notes.csv", "val/README.md"):
        (root / name).write_text("x")
    (root / "train" / "__MACOSX").mkdir()
    (root / "val").rename(root / val)
    assert list_folder(root).content == content
    monkeypatch.setenv("LOTPERM_IMAGEFOLDER", str(root))
    images = load("imagefolder", image_size=32, resize_size=36).test.inputs
    assert isinstance(images, ImageFiles) and images.read().shape == (12, 3, 32, 32)
    assert folders.check_image_folder(root).folders["val"] == root.resolve() / val
