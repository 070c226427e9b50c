"""Masks in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lotperm.errors import IntegrityError
from lotperm.science.sparsity import Mask
from lotperm.store.files import load_tensors, save_tensors
from lotperm.types import Bool


def save_mask(path: Path | str, mask: Mapping[str, Bool[Tensor, " ..."]]) -> None:
    """Write a mask to a safetensors file with a checksum in its metadata.

    Parameters
    ----------
    path : Path | str
        The file to write, usually ``*.safetensors``.
    mask : Mapping[str, Bool[Tensor, "..."]]
        Parameter name -> True where the weight is kept.

    Raises
    ------
    StorageError
        If the disk is full or read-only; an older file is then untouched.
    """
    save_tensors(Path(path), dict(mask), {"kind": "mask"})


def load_mask(path: Path | str) -> Mask:
    """Read a mask from a safetensors file.

    Parameters
    ----------
    path : Path | str
        A file that `save_mask` wrote, or any safetensors file of bool tensors.

    Returns
    -------
    Mask
        Parameter name -> bool tensor on the CPU.

    Raises
    ------
    IntegrityError
        If the file is corrupt, or a tensor in it is not bool.
    StorageError
        If it can't be read.
    """
    mask, _ = load_tensors(Path(path))
    for name, kept in mask.items():
        # Numbers would silently scale weights instead of pruning them.
        if kept.dtype != torch.bool:
            raise IntegrityError(f"{path}: {name} is {kept.dtype}; a mask holds bool tensors.")
    return mask
