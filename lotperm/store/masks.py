"""Masks in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lotperm.errors import IntegrityError, ParameterError
from lotperm.science.sparsity import Mask
from lotperm.science.state_dicts import read_mask
from lotperm.store.files import load_tensors, save_tensors


def save_mask(path: Path | str, mask: Mapping[str, Any] | nn.Module) -> None:
    """Write a mask to a safetensors file with a checksum in its metadata.

    Parameters
    ----------
    path : Path | str
        The file to write, usually ``*.safetensors``.
    mask : Mapping[str, Any] | nn.Module
        Parameter name -> True where the weight is kept; or another form that `read_mask` reads.

    Raises
    ------
    StorageError
        If the disk is full or read-only; an older file is then untouched.
    """
    save_tensors(Path(path), read_mask(mask), {"kind": "mask"})


def load_mask(path: Path | str) -> Mask:
    """Read a mask from a safetensors file.

    Parameters
    ----------
    path : Path | str
        A file that `save_mask` wrote, any safetensors file of bool tensors or of 0 and 1 of any
        dtype, or the state dict of a network that `torch.nn.utils.prune` has pruned, for its masks.

    Returns
    -------
    Mask
        Parameter name -> bool tensor on the CPU.

    Raises
    ------
    IntegrityError
        If the file is corrupt, or a tensor in it holds anything but 0 and 1.
    StorageError
        If it can't be read.
    """
    tensors, _ = load_tensors(Path(path))
    try:
        return read_mask(tensors)
    except ParameterError as error:
        raise IntegrityError(f"{path}: {error}") from None
