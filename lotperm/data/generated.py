"""MNIST-1D, which is generated rather than downloaded."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from lotperm.data.decode import Raw
from lotperm.errors import StorageError


def generate_mnist1d() -> Raw:
    """Make MNIST-1D (Greydanus and Kobak) with its package's default arguments, including seed 42.

    Raises
    ------
    StorageError
        If the package isn't installed.
    """
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
        # The package's signals have no channel axis, and may be float64.
        raw[f"{split}.inputs"] = torch.from_numpy(made[f"x{suffix}"]).float()[:, None]
        raw[f"{split}.targets"] = torch.from_numpy(made[f"y{suffix}"]).long()
    return raw


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the global random generators, which the package seeds, after a context."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
