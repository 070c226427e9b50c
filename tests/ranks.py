"""Jobs of tests/parallel/test_distributed.py: the same code in this process, or by torchrun on
several ranks.

``torchrun --nproc-per-node 2 tests/ranks.py JOB FOLDER``: each rank writes what JOB returns to
``FOLDER/JOB-RANK.safetensors``.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import cbook, image
from torch import Tensor

from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.batches import Batches, normalize
from lotperm.data.dataset import Dataset, Split
from lotperm.data.datasets import load
from lotperm.data.images import ImageFiles
from lotperm.engine.models import build, initialize
from lotperm.engine.runtime import Runtime
from lotperm.engine.training import train
from lotperm.errors import (
    DivergedError,
    LotpermError,
    ParameterError,
    PreemptedError,
    UnsupportedModelError,
)
from lotperm.parallel import distributed
from lotperm.science.correlation import correlate
from lotperm.science.matching import match_activations
from lotperm.science.rewiring import RigL
from lotperm.science.sparsity import full_mask, magnitude_prune, prunable_parameters
from lotperm.science.symmetry import PermutationSpec
from lotperm.store.files import save_tensors
from lotperm.store.stages import StageResult, Store
from lotperm.store.workspace import Workspace


def torchrun(
    *arguments: object, processes: int = 2, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        processes,
    ]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*map(str, command), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment},
    )


CLASSES = 4
RIGL = RigL(every=5)


def crops(train: int = 96, test: int = 50, side: int = 16) -> Dataset:
    """Pieces of a photograph (Grace Hopper's, which matplotlib ships); the class is the quarter
    they are from.
    """
    pixels = image.imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    photo = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    generator = torch.Generator().manual_seed(0)
    height, width = photo.shape[1] // 2, photo.shape[2] // 2

    def split(size: int) -> Split:
        targets = torch.randint(CLASSES, (size,), generator=generator)
        y = torch.randint(height - side, (size,), generator=generator) + targets // 2 * height
        x = torch.randint(width - side, (size,), generator=generator) + targets % 2 * width
        pieces = [
            photo[:, r : r + side, c : c + side]
            for r, c in zip(y.tolist(), x.tolist(), strict=True)
        ]
        return Split(torch.stack(pieces), targets)

    parts = split(train), split(test)
    values = parts[0].inputs.double() / 255
    return Dataset(
        "photo", *parts, CLASSES, values.mean((0, 2, 3)).float(), values.std((0, 2, 3)).float()
    )


def double(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.double() if t.is_floating_point() else t for name, t in state.items()}


def network(name: str, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    return build(name, input_shape=(3, 16, 16), classes=CLASSES, width=0.25, hidden=(24, 20)).to(
        dtype
    )


def learn(name: str, *, epochs: int = 3, **options: object) -> dict[str, Tensor]:
    """Train two networks in float64, one of them masked, prune them, and match one to the
    other.
    """
    data, model = crops(), network(name)
    # Twelve steps an epoch: ranks ask each other after the eighth and at the end.
    recipe = Recipe(epochs=epochs, lr=0.02, batch_size=8, augment="flip_crop")
    starts = [double(initialize(partial(network, name, torch.float32), i)) for i in range(2)]
    full = full_mask(starts[0], prunable_parameters(model))
    masks = [magnitude_prune(starts[0], full, 0.5), None]
    if "rewire" in options:
        masks[1] = magnitude_prune(starts[1], full, 0.4)
    seeds = [Seeds.of("test", i) for i in range(2)]
    options.setdefault("runtime", Runtime(members=1))
    trained = train(model, starts, data, recipe, seeds, masks=masks, save_at=(1,), **options)
    found = {
        f"final.{m}.{n}": t for m, state in enumerate(trained.weights) for n, t in state.items()
    }
    found |= {
        f"first.{m}.{n}": t
        for m, state in enumerate(trained.checkpoints[1])
        for n, t in state.items()
    }
    found["train_loss"] = torch.tensor(trained.train_loss, dtype=torch.float64)
    for metric, values in trained.evaluations[epochs].items():
        found[metric] = torch.tensor(values, dtype=torch.float64)
    masks = trained.masks or masks
    for m, state in enumerate(trained.weights):
        pruned = magnitude_prune(state, masks[m] or full, 0.7)
        found |= {f"mask.{m}.{n}": kept for n, kept in pruned.items()}
    return found


def match(name: str) -> dict[str, Tensor]:
    """Match two fresh networks on 96 crops, in batches that aren't equally large."""
    data, model = crops(), network(name, torch.float32)
    a, b = (initialize(partial(network, name, torch.float32), i) for i in range(2))
    spec = PermutationSpec.trace(model, normalize(data.train.inputs[:2], data))
    batches = normalize(data.train.inputs, data).split([70, 21, 5])
    points = {group: nodes[-1] for group, nodes in spec.points.items()}
    moments = correlate(a, b, batches, spec, points)
    found = {f"correlation.{group}": sums.correlation() for group, sums in moments.items()}
    matching = match_activations(a, b, batches, spec)
    return found | {f"permutation.{group}": p for group, p in matching.items()}


def match_files(folder: Path) -> dict[str, Tensor]:
    """Match two fresh networks on 96 crops that lie in files, and count the files that all
    ranks read together.
    """

    def write() -> None:
        data = crops()
        for name, split in (("train", data.train), ("val", data.test)):
            for i, (pixels, target) in enumerate(
                zip(split.inputs, split.targets.tolist(), strict=True)
            ):
                place = folder / name / str(target)
                place.mkdir(parents=True, exist_ok=True)
                image.imsave(place / f"{i}.png", pixels.permute(1, 2, 0).numpy())

    distributed.once(write)
    opened = []

    def note(
        images: ImageFiles, row: int, original: Callable[..., object] = ImageFiles.open
    ) -> object:
        opened.append(row)
        return original(images, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOTPERM_IMAGEFOLDER", str(folder))
        patch.setattr(ImageFiles, "open", note)
        data = load("imagefolder", image_size=16, resize_size=16)
        a, b = (initialize(partial(network, "resnet8", torch.float32), i) for i in range(2))
        spec = PermutationSpec.trace(network("resnet8", torch.float32), torch.zeros(2, 3, 16, 16))
        points = {group: nodes[-1] for group, nodes in spec.points.items()}
        moments = correlate(a, b, Batches(data, data.train, 70).inputs(), spec, points)
    found = {f"correlation.{group}": sums.correlation() for group, sums in moments.items()}
    return found | {"opened": distributed.total(torch.tensor(len(opened)))}


def stopping(after: int, only: int | None = None) -> Runtime:
    """A runtime that is asked to stop after so many steps, on one rank alone or on all."""
    asked = itertools.count(1)
    return Runtime(
        members=1, stop=lambda: next(asked) >= after and only in (None, distributed.rank())
    )


def stopped(folder: Path, after: int, only: int | None = None) -> None:
    """Leave a checkpoint in the middle of a training."""
    with pytest.raises(PreemptedError, match="Its state is saved"):
        learn("resnet8", runtime=stopping(after, only), checkpoints=Workspace(folder, "key"))


def refused(expected: type[LotpermError], **changes: object) -> str:
    """The message of the error that a training ends with."""
    data, model = crops(), network("mlp")
    inputs = data.train.inputs.double()
    if expected is DivergedError:
        inputs[5] = torch.nan  # which one rank sees, at some step
    data = Dataset(
        "photo", Split(inputs, data.train.targets), data.test, CLASSES, data.mean, data.std
    )
    recipe = Recipe(**{"epochs": 2, "lr": 0.1, "batch_size": 24, **changes.pop("recipe", {})})
    start = double(initialize(partial(network, "mlp", torch.float32), 0))
    if changes.pop("spare", False):
        model.spare = torch.nn.Linear(3, 3).double()
        start |= {f"spare.{name}": t.clone() for name, t in model.spare.state_dict().items()}
    with pytest.raises(expected) as caught:
        train(model, [start], data, recipe, [Seeds.of("test", 0)], **changes)
    return str(caught.value)


def everything(folder: Path) -> dict[str, Tensor]:
    """What two ranks do in one launch; `test_distributed` looks at the parts."""
    rank, ranks = distributed.rank(), distributed.world_size()
    found = {f"{name}/{key}": t for name in ("mlp", "resnet8") for key, t in learn(name).items()}
    found |= {
        f"match/{name}/{key}": t for name in ("mlp", "resnet8") for key, t in match(name).items()
    }
    found |= {f"match_files/{key}": t for key, t in match_files(folder / "images").items()}

    found |= {f"rigl/{key}": t for key, t in learn("mlp", rewire=RIGL).items()}

    # Decisions, sums and their gradients.
    x = torch.tensor([1.0 + rank], requires_grad=True)
    y = distributed.total(x)
    ((1 + rank) * y).backward()
    assert y.item() == ranks * (ranks + 1) / 2 == x.grad.item()
    assert distributed.once(lambda: rank) == 0
    assert distributed.gather(rank) == (list(range(ranks)) if rank == 0 else [])
    assert distributed.any_rank(rank == ranks - 1)
    assert not distributed.any_rank(False)

    def fail() -> None:
        raise ParameterError(f"from rank {distributed.rank()}")

    with pytest.raises(ParameterError, match="from rank 0"):
        distributed.once(fail)

    # One rank alone is asked to stop: all do, at the same step, and go on from there as if nothing
    # had been.
    stopped(folder / "work-of-two", 5, only=1)
    if rank == 0:
        os.system(f"cp -r {folder / 'work-of-two'} {folder / 'work-for-one'}")
    for name, work in (("again", "work-of-two"), ("from_one", "work-of-one")):
        resumed = learn("resnet8", checkpoints=Workspace(folder / work, "key"))
        found |= {f"{name}/{key}": t for key, t in resumed.items()}

    # A stage whose computation was cut off by a kill is finished, once.
    calls = []
    finished = Store(folder / "store").stage("job", {}, partial(job, calls=calls)).load("final")
    found |= {f"killed/{key}": t for key, t in finished.items()}
    Store(folder / "store").stage("job", {}, partial(job, calls=calls))
    assert len(calls) == 1

    messages = [
        refused(DivergedError),
        refused(ParameterError, recipe={"batch_size": 25}),
        refused(ParameterError, runtime=Runtime(compile=True)),
        refused(UnsupportedModelError, spare=True),
    ]
    if rank == 0:
        (folder / "messages.txt").write_text("\n".join(messages))
    return found


def job(workspace: Workspace, calls: list[int], runtime: Runtime | None = None) -> StageResult:
    calls.append(1)
    trained = learn(
        "resnet8",
        checkpoints=workspace,
        checkpoint_seconds=0.0,
        runtime=runtime or Runtime(members=1),
    )
    return StageResult(tensors={"final": trained})


def killed(folder: Path) -> dict[str, Tensor]:
    """Rank 1 kills itself in the middle of a stage."""
    asked = itertools.count(1)

    def stop() -> bool:
        if distributed.rank() == 1 and next(asked) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    Store(folder / "store").stage(
        "job", {}, partial(job, calls=[], runtime=Runtime(members=1, stop=stop))
    )
    raise AssertionError("nobody was killed")


if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    with distributed.processes("cpu"):
        result = {"everything": everything, "killed": killed}[name](folder)
        save_tensors(folder / f"{name}-{distributed.rank()}.safetensors", result)
