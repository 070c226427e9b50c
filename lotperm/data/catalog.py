"""The data sets that are known: forms, sources and checksums, and where they are kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lotperm.config.parameters import IMAGE_FOLDERS
from lotperm.data.decode import Layout, Raw
from lotperm.errors import IntegrityError, unknown_name
from lotperm.store import files

# sha256 of the content, see `_content_hash`.
_MNIST1D = "8f963b16c13fde8b15c0f64ea780bb2b7f6e5df30da69a754bf0479fb46de7c7"


# From Debian's package. Its files differ from the original ones only in the name and time in their
# gzip headers; with those put back they have the sha256 that tensorflow-datasets publishes.
_FASHION_MNIST = "ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f"


# From the npm sheets. Written as CIFAR-10's binary version they have the published md5 of its six
# batches.
_CIFAR10 = "32e5966899bde482c0ef7d076bf69809b4b1488c806f657a814cfca4646ec493"


@dataclass(frozen=True)
class Spec(Layout):
    sources: tuple[str, ...]
    content: str | None = None  # None: no copy was at hand; the hash is recorded when it is fetched
    dtype: torch.dtype = torch.uint8


SPECS: Mapping[str, Spec] = {
    "mnist1d": Spec(10, (1, 40), 4000, 1000, ("generated",), _MNIST1D, torch.float32),
    "fashion_mnist": Spec(
        10, (1, 28, 28), 60_000, 10_000, ("torchvision", "debian"), _FASHION_MNIST
    ),
    "cifar10": Spec(10, (3, 32, 32), 50_000, 10_000, ("torchvision", "npm"), _CIFAR10),
    "cifar100": Spec(100, (3, 32, 32), 50_000, 10_000, ("torchvision",)),
    "svhn": Spec(10, (3, 32, 32), 73_257, 26_032, ("torchvision",)),
}


def spec_of(name: str) -> Spec:
    if name not in SPECS:
        raise unknown_name("data set", name, (*SPECS, *IMAGE_FOLDERS))
    return SPECS[name]


def data_folder(home: Path | None) -> Path:
    own = os.environ.get("LOTPERM_DATA")
    return home / "data" if home else Path(own) if own else files.home() / "data"


def dataset_path(name: str, home: Path | None) -> Path:
    return data_folder(home) / f"{name}.safetensors"


def content_hash(raw: Raw) -> str:
    """The sha256 over inputs, then labels, of the training set, then the test set, in original
    order.

    Floats (mnist1d) are rounded to 1e-4 first: their last bits can differ between machines.
    """
    digest = hashlib.sha256()
    for split in ("train", "test"):
        inputs = raw[f"{split}.inputs"]
        if inputs.dtype != torch.uint8:
            inputs = (inputs.double() * 1e4).round().to(torch.int32)
        digest.update(inputs.contiguous().numpy().data)
        digest.update(raw[f"{split}.targets"].to(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_content(name: str, raw: Raw, where: str, recorded: str | None) -> str:
    """Refuse what isn't this data set; return the sha256 of the content."""
    spec = spec_of(name)
    for split, n in (("train", spec.n_train), ("test", spec.n_test)):
        inputs, targets = raw.get(f"{split}.inputs"), raw.get(f"{split}.targets")
        if inputs is None or targets is None:
            raise IntegrityError(f"{where} has no {split} set of {name}.")
        if inputs.shape != (n, *spec.shape) or inputs.dtype != spec.dtype or targets.shape != (n,):
            got = f"{inputs.dtype} {tuple(inputs.shape)}, {tuple(targets.shape)} labels"
            raise IntegrityError(
                f"{where}: the {split} set is {got}; expected {spec.dtype} {(n, *spec.shape)}."
            )
        if targets.min() < 0 or targets.max() >= spec.classes:
            raise IntegrityError(
                f"{where}: labels of the {split} set must be 0..{spec.classes - 1}."
            )
    content, expected = content_hash(raw), spec.content or recorded
    if expected is not None and content != expected:
        raise IntegrityError(
            f"{where} doesn't hold {name}: sha256 of the content {content}, expected {expected}."
        )
    return content


def save_dataset(name: str, raw: Raw, path: Path, content: str, source: str) -> Raw:
    raw = raw | pixel_statistics(raw["train.inputs"])
    files.save_tensors(path, raw, {"dataset": name, "content": content, "source": source})
    return raw


def pixel_statistics(inputs: Tensor) -> Raw:
    """Mean and standard deviation (C,) of each channel, from exact counts; 0 and 1 for signals."""
    channels = inputs.shape[1]
    if inputs.dtype != torch.uint8:  # MNIST-1D comes standardized
        return {"mean": torch.zeros(channels), "std": torch.ones(channels)}
    counts = torch.stack(
        [torch.bincount(inputs[:, c].flatten(), minlength=256) for c in range(channels)]
    ).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ values
    variance = shares @ values**2 - mean**2
    return {"mean": mean.float(), "std": variance.sqrt().float()}


FOLDER_VARIABLE = "LOTPERM_IMAGEFOLDER"


# Mean and standard deviation of ImageNet's channels, as every recipe for it has them.
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
