"""Reading and writing files of masks."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lotperm.errors import IntegrityError, ParameterError, StorageError
from lotperm.science.sparsity import Mask
from lotperm.science.state_dicts import read_mask
from lotperm.store.convert import read_pt
from lotperm.store.files import PICKLES, load_tensors, save_tensors


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
    """Read a mask from a file, in any form in which masks are kept.

    Parameters
    ----------
    path : Path | str
        A file that `save_mask` wrote; any safetensors or ``.pt`` file that holds bool tensors,
        zeros and ones of any dtype, or the state dict of a network pruned by
        `torch.nn.utils.prune`, whose masks are read; or a folder of open_lth with a ``mask.pth``
        in it. `lotperm.science.sparsity.mask_of_zeros` makes a mask from the zeros of weights.

    Returns
    -------
    Mask
        Parameter name -> bool tensor on the CPU.

    Raises
    ------
    IntegrityError
        If the file is corrupt, holds code, or a tensor in it holds anything but 0 and 1.
    StorageError
        If it can't be read.
    """
    tensors = read_tensors(Path(path))
    try:
        return read_mask(tensors)
    # What would be a wrong argument elsewhere is a bad file here, which has another exit code.
    except ParameterError as error:
        raise IntegrityError(f"{path}: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors or ``.pt`` file, or of the mask in a folder of open_lth.

    open_lth (Frankle) keeps a network in a folder such as ``level_3/main``: the mask of that level
    in ``mask.pth``, integers 0 and 1 by parameter name, and the weights after epoch e and
    iteration i in ``model_ep{e}_it{i}.pth``.

    Raises
    ------
    IntegrityError
        If the file is corrupt, or a ``.pt`` file holds more than tensors.
    StorageError
        If it can't be read.
    """
    if path.is_dir():
        if not (path / "mask.pth").is_file():
            raise StorageError(
                f"{path} has no mask.pth, which open_lth's folders have (level_0/main). Give the "
                "folder of one level, or a file."
            )
        path = path / "mask.pth"
    # Whatever its name: torch.save writes zip archives.
    if zipfile.is_zipfile(path):
        return read_pt(path)
    try:
        return load_tensors(path)[0]
    except IntegrityError:
        if path.suffix in PICKLES:
            return read_pt(path)  # whose error says what is wrong with it
        raise
