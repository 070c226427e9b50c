"""The file of a data set: where it is, and what it must hold.

It is one checked safetensors file of uint8 tensors under ``$LOTPERM_DATA``, else ``data`` in
`lotperm.store.files.home`. Whatever source it came from, the sha256 over its decoded pixels and
labels must be the one in `lotperm.data.catalog`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import torch
from torch import Tensor

from lotperm.data.catalog import spec_of
from lotperm.data.decode import Raw
from lotperm.errors import IntegrityError, StorageError
from lotperm.store import files

_log = logging.getLogger(__name__)


def data_folder(home: Path | None) -> Path:
    """Return the folder of all data sets; `home` is as for `lotperm.data.datasets.load`."""
    own = os.environ.get("LOTPERM_DATA")
    return home / "data" if home else Path(own) if own else files.home() / "data"


def dataset_path(name: str, home: Path | None) -> Path:
    """Return the file of a data set."""
    return data_folder(home) / f"{name}.safetensors"


def load_stored(name: str, home: Path | None) -> Raw:
    """Read the file of a data set and check it; generate one that is generated if it isn't there.

    Parameters
    ----------
    name : str
        Of `lotperm.data.catalog.SPECS`.
    home : Path | None
        As for `lotperm.data.datasets.load`.

    Returns
    -------
    Raw
        With ``mean`` and ``std``, see `pixel_statistics`.

    Raises
    ------
    StorageError
        If it isn't there; the message names the command that fetches it.
    IntegrityError
        If it is corrupt; it is then moved aside.
    """
    spec, path = spec_of(name), dataset_path(name, home)
    if not path.exists():
        if spec.generate is not None:
            return generate(name, path)
        sources = " or ".join(f"--source {s}" for s in (*spec.sources, "PATH"))
        raise StorageError(
            f"data set {name} is not at {path}. Get it: lotperm data fetch {name} {sources}"
        )
    try:
        raw, notes = files.load_tensors(path, checked=True)
        check_content(name, raw, str(path), notes.get("content"))
    except IntegrityError as error:
        files.move_aside(path, str(error))
        if spec.generate is not None:
            return generate(name, path)
        raise IntegrityError(
            f"{error} It was moved aside. Get it again: lotperm data fetch {name}"
        ) from error
    return raw


def generate(name: str, path: Path) -> Raw:
    """Generate a data set and keep it, if it can be kept; return it with its statistics."""
    make = spec_of(name).generate
    assert make is not None
    raw = make()
    content = check_content(name, raw, f"{name} as it was generated", None)
    try:
        return save_dataset(name, raw, path, content, "generated")
    except StorageError as error:
        _log.info("%s is not kept: %s", name, error)
        return raw | pixel_statistics(raw["train.inputs"])


def save_dataset(name: str, raw: Raw, path: Path, content: str, source: str) -> Raw:
    """Write the file of a data set with its statistics; return what was written.

    Parameters
    ----------
    name : str
        Its name.
    raw : Raw
        Its examples.
    path : Path
        The file.
    content : str
        The sha256 that `check_content` returned.
    source : str
        Where it came from, for the record.
    """
    raw = raw | pixel_statistics(raw["train.inputs"])
    files.save_tensors(path, raw, {"dataset": name, "content": content, "source": source})
    return raw


def content_hash(raw: Raw) -> str:
    """Compute the sha256 over inputs, then labels, of the training set, then of the test set.

    They are in original order. Floats (mnist1d) are rounded to 1e-4 first: their last bits can
    differ between machines.
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
    """Refuse what isn't this data set; return the sha256 of the content.

    Parameters
    ----------
    name : str
        The data set that it should be.
    raw : Raw
        What was read, of any content.
    where : str
        Where it was read, for the message.
    recorded : str | None
        The sha256 noted when it was fetched; counts where the catalog has none.

    Raises
    ------
    IntegrityError
        If shapes, types, labels or the sha256 are others.
    """
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


def pixel_statistics(inputs: Tensor) -> Raw:
    """Compute mean and standard deviation (C,) of each channel of ``(N, C, *spatial)``.

    From exact counts of uint8 pixels, which stand for [0, 1]; 0 and 1 for signals.
    """
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
