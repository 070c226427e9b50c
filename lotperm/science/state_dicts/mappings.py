"""Turn modules, and checkpoints that hold a state dict at some depth, into state dicts."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lotperm.errors import ParameterError, shown


def is_parameter(name: str, tensor: Tensor) -> bool:
    """Return whether an entry of a state dict is trained, by its name and type.

    Running statistics of norms and integer buffers aren't trained.
    """
    statistics = ("running_mean", "running_var")
    return tensor.is_floating_point() and name.rpartition(".")[2] not in statistics


def state_dicts(content: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Find the state dicts in a checkpoint: (dotted path, name -> tensor); the path may be empty.

    A state dict is a mapping from strings to tensors or arrays, at least one; it isn't searched
    further.
    """
    yield from _search(content, 4, set())


def _search(content: object, depth: int, seen: set[int]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # A pickle can hold one mapping in very many places, even inside itself.
    if not isinstance(content, Mapping) or depth == 0 or id(content) in seen:
        return
    seen.add(id(content))
    # Under such names are the results of `get_extra_state`, which needn't be tensors.
    entries = {n: v for n, v in content.items() if not str(n).endswith("_extra_state")}
    tensors = [isinstance(value, (Tensor, np.ndarray)) for value in entries.values()]
    if tensors and all(tensors) and all(isinstance(name, str) for name in entries):
        yield "", content
        return
    for name, value in content.items():
        if not isinstance(name, str):
            continue  # the optimizer's state of a parameter, by its number
        for path, found in _search(value, depth - 1, seen):
            yield f"{name}.{path}" if path else name, found


def state_dict_of(weights: Mapping[str, Any] | nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a module, or the one that a checkpoint holds.

    Parameters
    ----------
    weights : mapping or nn.Module
        A module; a state dict of tensors or NumPy arrays, such as an .npz file from `numpy.load`;
        or a mapping that holds one state dict at up to three levels of depth, or one module as an
        entry. Entries that are None are left out.

    Returns
    -------
    dict
        Name -> Tensor, without entries that aren't tensors, and with PyTorch's metadata attribute.

    Raises
    ------
    ParameterError
        If there is no state dict, or there are several.
    """
    if isinstance(weights, nn.Module):
        return dict_like(weights.state_dict(), weights.state_dict())
    if not isinstance(weights, Mapping):
        raise ParameterError(
            f"expected a module or a state dict (name -> tensor), got a {type(weights).__name__}."
        )
    odd = [name for name, value in weights.items() if value is None]
    if odd and any(isinstance(value, (Tensor, np.ndarray)) for value in weights.values()):
        weights = {name: value for name, value in weights.items() if value is not None}
    modules = [value for value in weights.values() if isinstance(value, nn.Module)]
    if len(modules) == 1:
        return state_dict_of(modules[0])
    if not weights:
        return {}
    found = list(state_dicts(weights))
    # State dicts that lie deeper belong to something else, such as an optimizer.
    least = min((path.count(".") for path, _ in found), default=0)
    found = [(path, state) for path, state in found if path.count(".") == least]
    if len(found) != 1:
        paths = ", ".join(path for path, _ in found[:10]) or "none"
        raise ParameterError(
            f"expected a state dict (name -> tensor), got a mapping with {len(found)} of them "
            f"({paths}) and the entries {shown(list(weights)[:5])}. Give the one that you mean."
        )
    state = found[0][1]
    tensors = {n: _as_tensor(t, n) for n, t in state.items()}
    return dict_like(state, {n: t for n, t in tensors.items() if isinstance(t, Tensor)})


def _as_tensor(value: Any, name: str) -> Any:
    """Return a NumPy array as a tensor, and everything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        return torch.from_numpy(np.array(value))  # a copy, which may be written into
    except TypeError:
        raise ParameterError(
            f"{name} is an array of {value.dtype}; expected numbers or booleans."
        ) from None


def as_dense(tensor: Tensor) -> Tensor:
    """Return a tensor in dense form, even if it is stored in a sparse one."""
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def copy_of(model: nn.Module) -> nn.Module:
    """Copy a module, even one whose attributes hold computed tensors.

    `torch.nn.utils.prune` and weight norm keep such tensors, which `copy.deepcopy` refuses. Other
    objects that it refuses, such as an open file, are shared between the copy and the module.
    """
    values = [value for module in model.modules() for value in vars(module).values()]
    # Recurrent layers also keep a list of their weights.
    held = [part for value in values for part in (value if isinstance(value, list) else [value])]
    computed = {id(t): t.detach().clone() for t in held if isinstance(t, Tensor) and not t.is_leaf}
    try:
        return copy.deepcopy(model, dict(computed))
    except Exception:  # whatever foreign objects raise
        shared = {id(value): value for value in _own_objects(model) if _refuses(value, computed)}
        if not shared:
            raise
        return copy.deepcopy(model, computed | shared)


def _own_objects(model: nn.Module) -> Iterator[object]:
    """Yield the attributes of modules that aren't PyTorch's, and their hooks."""
    of_pytorch = vars(nn.Module()).keys()
    for module in model.modules():
        for name, value in vars(module).items():
            if name.endswith("_hooks"):
                yield from value.values()
            elif name not in of_pytorch:
                yield value


def _refuses(value: object, known: Mapping[int, Any]) -> bool:
    """Return whether an object can't be copied."""
    try:
        copy.deepcopy(value, dict(known))
    except Exception:  # as above
        return True
    return False


def dict_like(given: object, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as a dict that `load_state_dict` treats like the given state dict.

    The attribute ``_metadata``, from which it reads versions of modules, is kept.
    """
    metadata = getattr(given, "_metadata", None)
    if metadata is None:
        return dict(tensors)
    result: OrderedDict[str, Tensor] = OrderedDict(tensors)
    result._metadata = metadata  # type: ignore[attr-defined]
    return result
