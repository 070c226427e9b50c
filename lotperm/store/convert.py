"""Weights from elsewhere: the state dict of a ``.pt`` file as a safetensors file.

A ``.pt`` file is a zip archive that holds a pickle, a program that may call any function. Here the
names that it calls are read before it is run, and all but those that make tensors are refused.
Then PyTorch's own loader for weights runs it (``torch.load`` with ``weights_only=True``), which
allows no others either.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lotperm.errors import IntegrityError, ParameterError, StorageError, shown, unknown_name
from lotperm.science.state_dicts import state_dicts
from lotperm.store.files import save_tensors

MAX_PICKLE_BYTES = 100_000_000

# What a state dict's pickle calls, as its opcode GLOBAL names it, besides storages (`_is_storage`).
_CALLED = {
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch.serialization _get_layout",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    "torch.nn.parameter Parameter",
    # For schedulers and training settings, which checkpoints hold beside a state dict. PyTorch's
    # loader allows these too.
    "collections Counter",
    "builtins set",
    "__builtin__ set",
}
# Other opcodes that import or instantiate: torch.save needs none of them for tensors.
_MAKING = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
# What zipfile, pickletools and torch.load raise for broken files.
_BROKEN = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    AssertionError,
    NotImplementedError,
    OverflowError,
)


def convert(source: Path, target: Path, *, key: str | None = None) -> int:
    """Write the tensors of a ``.pt`` file as safetensors with a checksum; run none of its code.

    The file holds a state dict (name -> tensor), or a dict with a state dict among its entries, as
    checkpoints of training do. If there are several, `key` names one. Nothing is flattened or
    renamed.

    Parameters
    ----------
    source : Path
        A file that ``torch.save`` of PyTorch 1.6 or later wrote.
    target : Path
        The file to write, usually ``*.safetensors``.
    key : str | None, optional
        The entry that holds the state dict; ``model.ema`` is the entry ``ema`` of ``model``.

    Returns
    -------
    int
        The number of tensors.

    Raises
    ------
    IntegrityError, ParameterError, StorageError
        As `read_pt`; `StorageError` also if the file can't be written.
    """
    tensors = read_pt(source, key=key)
    try:
        save_tensors(target, tensors, {"kind": "weights"})
    except (ValueError, RuntimeError, KeyError) as error:
        raise ParameterError(
            f"{source} can't be written as safetensors: {_first_line(error)}"
        ) from error
    return len(tensors)


def read_pt(source: Path, *, key: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a ``.pt`` file, and run none of its code.

    Parameters
    ----------
    source : Path
        A file that ``torch.save`` of PyTorch 1.6 or later wrote.
    key : str | None, optional
        The entry that holds the state dict, as in `convert`.

    Returns
    -------
    dict[str, Tensor]
        Name -> tensor, on the CPU.

    Raises
    ------
    IntegrityError
        If the file calls anything but what makes tensors (as a pickled module does), is compressed,
        claims more than it holds, or is broken. None of its code has run then.
    ParameterError
        If it has no state dict, several and no key is given, or none under the key.
    StorageError
        If it can't be read.
    """
    try:
        # The inspection is the first defence, PyTorch's restricted loader the second.
        _inspect(source)
        # On the CPU, as the file may come from a machine with a GPU.
        content = torch.load(source, map_location="cpu", weights_only=True)
        tensors = _state_dict(content, source, key)
        _check_sizes(tensors, source)
    except OSError as error:
        raise StorageError(
            f"cannot read {source}: {error.strerror or error}. Check the path."
        ) from error
    # A ParameterError is a ValueError too, but no sign of a broken file.
    except ParameterError:
        raise
    except _BROKEN as error:
        raise IntegrityError(f"{source} is broken: {_first_line(error)} Fetch it again.") from error
    return tensors


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{type(error).__name__}: {lines[0][:200].rstrip('.')}."


def _inspect(source: Path) -> None:
    """Refuse a file that isn't a plain archive of tensors before anything in it is loaded."""
    size = source.stat().st_size
    with open(source, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < size:
        raise ParameterError(f"{source} is a safetensors file already: use it as it is.")
    if not zipfile.is_zipfile(source):
        raise IntegrityError(
            f"{source} isn't an archive as torch.save has written since PyTorch 1.6: "
            "it was not opened. Load and save it again with a newer PyTorch, "
            "on a machine where you trust it."
        )
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        # torch.save stores without compressing; a bomb doesn't.
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        # Even stored members can claim more bytes than the file has, if they overlap.
        if not stored or sum(member.file_size for member in members) > size:
            raise IntegrityError(
                f"{source} is compressed, which torch.save never does: it was not opened."
            )
        if any(member.filename.endswith(".npy") for member in members):
            raise IntegrityError(
                f"{source} is an archive of NumPy arrays: it was not opened. Save them as "
                "safetensors, or give numpy.load(...) to the functions of the package."
            )
        # Any further pickle would go unread here.
        pickles = [member for member in members if member.filename.endswith(".pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise IntegrityError(
                f"{source} isn't a file of weights: it holds {len(pickles)} pickles; expected one."
            )
        program = archive.read(pickles[0])
    _inspect_calls(program, source)


def _inspect_calls(program: bytes, source: Path) -> None:
    """Refuse a pickle that could call anything but what makes tensors; run nothing."""
    # Disassembled, not run: every name that could be called is written in the program itself.
    for opcode, argument, _ in pickletools.genops(program):
        name = str(argument)
        known = name in _CALLED or _is_storage(name) or _is_dtype(name)
        if opcode.name == "GLOBAL" and not known:
            raise IntegrityError(
                f"{source} calls {shown(name.replace(' ', '.'))}: "
                "it was not loaded. Only tensors are taken: "
                "save model.state_dict(), on a machine where you trust the file."
            )
        if opcode.name in _MAKING:
            raise IntegrityError(
                f"{source} makes objects in a way that torch.save doesn't use for tensors "
                f"({opcode.name}): it was not loaded. "
                "Save model.state_dict() with PyTorch's default protocol."
            )


def _is_storage(name: str) -> bool:
    """Return True if a called name is the class of a tensor's memory, such as FloatStorage."""
    module, _, kind = name.partition(" ")
    # The old classes, one for each dtype, whose names PyTorch still writes.
    legacy = module == "torch" and kind.isalnum() and kind.endswith("Storage")
    return legacy or name == "torch.storage UntypedStorage"


def _is_dtype(name: str) -> bool:
    """Return True if a name is that of a dtype, such as torch.float32."""
    module, _, kind = name.partition(" ")
    return module == "torch" and isinstance(getattr(torch, kind, None), torch.dtype)


def _state_dict(content: Any, source: Path, key: str | None) -> dict[str, Tensor]:
    """Choose the state dict: the content itself, its entry `key`, or the only one it has.

    A key with dots names an entry of an entry.
    """
    found = {
        path: {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
        for path, state in state_dicts(content)
    }
    if key is None and "" in found:
        return found[""]
    if key is not None:
        if key in found:
            return found[key]
        if found.keys() - {""}:
            raise unknown_name("state dict", key, found)
        raise ParameterError(f"{source} has no entries that are state dicts; leave --key out.")
    entries = [path for path in found if "." not in path]
    if len(entries) != 1:
        names = ", ".join(shown(name) for name in entries[:10]) or "none"
        deeper = [shown(path) for path in found if "." in path][:10]
        more = f"; deeper: {', '.join(deeper)}" if deeper else ""
        raise ParameterError(
            f"{source} must hold exactly one state dict (name -> tensor): "
            f"{len(entries)} of its entries are one ({names}{more}). "
            "Choose with --key, or save model.state_dict()."
        )
    return found[entries[0]]


def _check_sizes(tensors: Mapping[str, Tensor], source: Path) -> None:
    """Refuse tensors that claim far more bytes than the file has.

    Expanded views, or one storage under very many names, can do that. A small expanded buffer is
    legitimate, and allowed.
    """
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise ParameterError(
                f"{source}: {shown(name)} isn't a dense tensor, and safetensors holds no others."
            )
        # Writing it out would take as much memory and disk as it claims.
        total += tensor.numel() * tensor.element_size()
    # Tied weights may count twice or more; thousands of names for one storage may not.
    if total > 10 * source.stat().st_size:
        raise IntegrityError(
            f"{source}: its tensors claim {total:,} bytes, far more than the file has."
        )
