"""MNIST-1D, which is generated rather than downloaded."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lotperm.data.catalog import check_content, pixel_statistics, save_dataset
from lotperm.data.decode import Raw
from lotperm.errors import StorageError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def generate_mnist1d(path: Path) -> Raw:
    """MNIST-1D (Greydanus and Kobak) with the package's default arguments, seed 42 among them."""
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise StorageError(
            "MNIST-1D is made by the package mnist1d: pip install 'lotperm[data]'."
        ) from error
    with _random_state_kept():
        made = make_dataset(get_dataset_args())
    raw = {}
    for split, suffix in (("train", ""), ("test", "_test")):
        raw[f"{split}.inputs"] = torch.from_numpy(made[f"x{suffix}"]).float()[:, None]
        raw[f"{split}.targets"] = torch.from_numpy(made[f"y{suffix}"]).long()
    content = check_content("mnist1d", raw, "what the package mnist1d generated", None)
    try:
        return save_dataset("mnist1d", raw, path, content, "generated")
    except StorageError as error:
        _log.info("MNIST-1D is not kept: %s", error)
        return raw | pixel_statistics(raw["train.inputs"])
