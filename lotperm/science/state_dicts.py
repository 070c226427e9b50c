"""State dicts and masks as people have them: their names, their nesting, their dtypes.

Weights come as modules, as state dicts, and as checkpoints that hold one; their names carry the
prefixes of wrappers (``module.``, ``_orig_mod.``) and of training frameworks (``model.``).
`torch.nn.utils.prune` keeps a weight as ``X_orig`` and its mask as a float tensor ``X_mask``. Here
all that becomes tensors by the names of a network.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lotperm.errors import ParameterError, shown, unknown_name

# Modules that only wrap another one, by the names that PyTorch gives their child.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

# What stands for a weight X in a state dict, beside X itself: `torch.nn.utils.prune`, weight norm
# of both kinds, other parametrizations.
_STANDS_FOR = (
    "{name}_orig",
    "{name}_v",
    "{owner}parametrizations.{leaf}.original1",
    "{owner}parametrizations.{leaf}.original",
)


def is_parameter(name: str, tensor: Tensor) -> bool:
    """Return whether an entry of a state dict is trained, by its name and type.

    Running statistics of norms and integer buffers aren't.
    """
    statistics = ("running_mean", "running_var")
    return tensor.is_floating_point() and name.rpartition(".")[2] not in statistics


def state_dicts(content: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Find the state dicts in a checkpoint: (dotted path, name -> tensor); the path may be empty.

    A state dict is a mapping from text to tensors or arrays, at least one; it isn't searched any
    further.
    """
    yield from _search(content, 4, set())


def _search(content: object, depth: int, seen: set[int]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # A pickle can hold one mapping in very many places, itself among them.
    if not isinstance(content, Mapping) or depth == 0 or id(content) in seen:
        return
    seen.add(id(content))
    # torch.save keeps what `get_extra_state` returns under such names, which needn't be a tensor.
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
        A module; a state dict, also one of NumPy's arrays, as `numpy.load` opens an .npz file; or a
        mapping that holds one state dict or module at any depth. Entries that are None are left
        out.

    Returns
    -------
    dict
        Name -> Tensor, without what isn't one; with the metadata that PyTorch keeps beside it.

    Raises
    ------
    ParameterError
        If there is none, or several.
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
    # What lies deeper beside it belongs to something else, such as an optimizer.
    least = min((path.count(".") for path, _ in found), default=0)
    found = [(path, state) for path, state in found if path.count(".") == least]
    if len(found) != 1:
        paths = ", ".join(path for path, _ in found[:10]) or "none"
        raise ParameterError(
            f"expected a state dict (name -> tensor), got a mapping with {len(found)} of them "
            f"({paths}) and the entries {shown(list(weights)[:5])}. Give the one that is meant."
        )
    state = found[0][1]
    tensors = {n: _as_tensor(t, n) for n, t in state.items()}
    return dict_like(state, {n: t for n, t in tensors.items() if isinstance(t, Tensor)})


def _as_tensor(value: Any, name: str) -> Any:
    """Return an array of NumPy as a tensor, and everything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        return torch.from_numpy(np.array(value))  # a copy, which may be written into
    except TypeError:
        raise ParameterError(
            f"{name} is an array of {value.dtype}; expected numbers or booleans."
        ) from None


def as_dense(tensor: Tensor) -> Tensor:
    """Return a tensor that is kept as a sparse one with all its values."""
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def copy_of(model: nn.Module) -> nn.Module:
    """Copy a module, also one whose attributes hold computed tensors.

    `torch.nn.utils.prune` and weight norm keep such, which Python's `copy.deepcopy` refuses.
    """
    held = (value for module in model.modules() for value in vars(module).values())
    computed = {id(t): t.detach().clone() for t in held if isinstance(t, Tensor) and not t.is_leaf}
    return copy.deepcopy(model, computed)


def dict_like(given: object, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as a dict that `load_state_dict` takes as it takes the given one.

    It reads versions of modules from the attribute ``_metadata``, which is kept.
    """
    metadata = getattr(given, "_metadata", None)
    if metadata is None:
        return dict(tensors)
    result: OrderedDict[str, Tensor] = OrderedDict(tensors)
    result._metadata = metadata  # type: ignore[attr-defined]
    return result


def match_names(given: Iterable[str], names: Collection[str]) -> dict[str, str]:
    """Find the network's name for each given one.

    Names that are equal stay. Otherwise wrappers of modules are left out (``module.``,
    ``_orig_mod.``), or a prefix that all names share is taken off, or put before them. ``X_orig``
    and ``X_mask`` stand for ``X`` if the network has no such tensors itself.

    Parameters
    ----------
    given : Iterable[str]
        Names of tensors in a state dict or mask.
    names : Collection[str]
        Names of the network's tensors.

    Returns
    -------
    dict
        Given name -> the network's; names for which there is none are not there.

    Raises
    ------
    ParameterError
        If two given names would be the same tensor.
    """
    given, known = list(given), dict.fromkeys(names)
    found = _best(given, known)
    taken: dict[str, str] = {}
    for name, target in found.items():
        other = taken.setdefault(target, name)
        if other != name and {name, other} != {f"{_plain(name)}_orig", f"{_plain(name)}_mask"}:
            raise ParameterError(
                f"{shown(other)} and {shown(name)} both name the network's {shown(target)}; give "
                "one of them."
            )
    return found


def _best(given: list[str], names: Mapping[str, Any]) -> dict[str, str]:
    """Try the ways to read the given names; return what the best way finds."""

    def read(way: Callable[[str], str], known: Mapping[str, str]) -> dict[str, str]:
        pairs = ((name, _among(way(name), known)) for name in given)
        return {name: known[target] for name, target in pairs if target is not None}

    own = {name: name for name in names}
    best = read(str, own)
    if len(best) == len(given):
        return best
    unwrapped = {_unwrapped(name): name for name in names}
    ways = [read(_unwrapped, unwrapped)]
    tops = {name.split(".")[0] for name in unwrapped}
    for prefix in _prefixes(map(_unwrapped, given), unwrapped):
        # A name of the network's own isn't a wrapper's, nor is a position in a Sequential.
        top = prefix.split(".")[0]
        if top not in tops and not top.isdigit():
            ways.append(read(lambda n, p=prefix: _unwrapped(n).removeprefix(p), unwrapped))  # type: ignore[misc]
    for prefix in _prefixes(unwrapped, dict.fromkeys(map(_unwrapped, given))):
        if all(name.startswith(prefix) for name in unwrapped):
            ways.append(read(lambda n, p=prefix: p + _unwrapped(n), unwrapped))  # type: ignore[misc]
    for way in ways:
        if len(way) > len(best):
            best = way
    _refuse_twins(given, best, unwrapped)
    return best


def _refuse_twins(given: list[str], found: Mapping[str, str], unwrapped: Mapping[str, str]) -> None:
    """Raise an error if names that were left out are the same network under another prefix."""
    rest = [name for name in given if name not in found]
    for prefix in _prefixes(map(_unwrapped, rest), unwrapped) if found else ():
        again = {_among(_unwrapped(name).removeprefix(prefix), unwrapped) for name in rest}
        if len(again - {None}) >= len(found):
            raise ParameterError(
                f"{shown(next(iter(found)))} and {shown(rest[0])}: the names hold the network "
                "twice, under two prefixes. Give those of one of them."
            )


def _prefixes(longer: Iterable[str], shorter: Mapping[str, Any]) -> list[str]:
    """Return what stands before a shorter name in the first longer one that ends with one."""
    for name in longer:
        parts = name.split(".")
        found = [
            ".".join(parts[:cut]) + "."
            for cut in range(1, len(parts))
            if _among(".".join(parts[cut:]), shorter) is not None
        ]
        if found:
            return found
    return []


def _unwrapped(name: str) -> str:
    *path, leaf = name.split(".")
    return ".".join([part for part in path if part not in _WRAPPERS] + [leaf])


def _plain(name: str) -> str:
    return name.removesuffix("_orig").removesuffix("_mask")


def _among(name: str, names: Mapping[str, Any]) -> str | None:
    """Return the name if it is there, else what stands for the same weight, else None."""
    if name in names:
        return name
    plain = _plain(name)
    if plain in names:
        return plain
    return next((other for other in _stand_ins(plain) if other in names), None)


def _stand_ins(name: str) -> list[str]:
    owner, dot, leaf = name.rpartition(".")
    return [form.format(name=name, owner=owner + dot, leaf=leaf) for form in _STANDS_FOR]


def foreign_names(given: Collection[str], names: Collection[str], what: str) -> ParameterError:
    """Make the error for tensors of which the network has none."""
    return ParameterError(
        f"{what}: none of the {len(given)} names is the network's; got {shown(next(iter(given)))}, "
        f"the network has {shown(next(iter(names)))}. Give tensors of the architecture that was "
        "traced."
    )


def read_weights(
    weights: Mapping[str, Any] | nn.Module, names: Collection[str], what: str = "the weights"
) -> dict[str, Tensor]:
    """Read weights in any common form, by the names of a network.

    Parameters
    ----------
    weights : mapping or nn.Module
        See `state_dict_of` and `match_names`. Where the network has ``X`` and the weights have
        ``X_orig`` and ``X_mask``, it is their product; where it is the other way round, nothing is
        masked.
    names : Collection[str]
        Names of the network's tensors.
    what : str, optional
        For errors.

    Returns
    -------
    dict
        Name -> Tensor; what the network has no name for is left out.

    Raises
    ------
    ParameterError
        If the network has none of the names.
    """
    state = state_dict_of(weights)
    if all(name in names for name in state):
        return state
    state, found = _with_computed(state, names)
    if state and not found:
        raise foreign_names(state, names, what)
    result: dict[str, Tensor] = {}
    for name, target in found.items():
        tensor = state[name]
        if name.endswith("_mask") and not target.endswith("_mask"):
            continue  # the factor of an X_orig
        if name.endswith("_orig") and not target.endswith("_orig"):
            tensor = _required(state, _plain(name))
        result[target] = tensor
        factor = f"{_plain(target)}_mask"
        if target.endswith("_orig") and not name.endswith("_orig") and factor in names:
            result.setdefault(factor, torch.ones_like(tensor))
    return dict_like(state, result)


def _with_computed(
    state: dict[str, Tensor], names: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Match the names of a state dict; where the network has a plain weight, compute it.

    Weight norm and spectral norm keep a weight X as tensors of other names. They are replaced by X
    if the network has none of them.
    """
    found = match_names(state, names)
    missing = dict.fromkeys(_computed(name) for name in state if name not in found)
    computed = {
        name: tensor
        for name in missing
        if name not in state and (tensor := weight(state, name)) is not None
    }
    if not computed:
        return state, found
    others = {name: t for name, t in state.items() if _computed(name) not in computed}
    state = dict_like(state, others | computed)
    return state, match_names(state, names)


def read_mask(
    mask: Mapping[str, Any] | nn.Module, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Read a mask in any common form: bool tensors by the names of parameters.

    Parameters
    ----------
    mask : mapping or nn.Module
        Tensors of 0 and 1 of any dtype, True or 1 where a weight is kept; or a module, or its
        state dict, that `torch.nn.utils.prune` has pruned: of that the tensors ``X_mask``.
    names : Collection[str] or None, optional
        Names of the network's tensors, to which the mask's are matched (`match_names`).

    Returns
    -------
    dict
        Parameter name -> bool Tensor. Bool tensors are not copied.

    Raises
    ------
    ParameterError
        If a tensor holds anything but 0 and 1, or a name isn't the network's.
    """
    state = state_dict_of(mask)
    pruned = {
        n: t for n, t in state.items() if n.endswith("_mask") and f"{_plain(n)}_orig" in state
    }
    if isinstance(mask, nn.Module) and not pruned:
        raise ParameterError(
            f"{type(mask).__name__} holds no masks of torch.nn.utils.prune (X_orig and X_mask). "
            "For the zeros of its weights: mask_of_zeros."
        )
    state = pruned or state
    if names is None:
        renamed = {n: n.removesuffix("_mask") for n in state}
        if len(set(renamed.values())) < len(renamed):
            renamed = {n: n for n in state}
    else:
        renamed = _mask_names(state, names)
        for name in state:
            if name not in renamed:
                raise unknown_name("weight of the mask", name, names)
    return {renamed[name]: as_bool(tensor, name) for name, tensor in state.items()}


def _mask_names(given: Iterable[str], names: Collection[str]) -> dict[str, str]:
    """Find the network's name for each name of a mask, which may be that of a layer or buffer.

    ``layer``, ``layer.mask`` and ``layer.weight.mask`` are masks of ``layer.weight``.
    """
    given = list(given)
    found = match_names(given, names)
    for ending in (".weight", ""):
        if len(found) == len(given):
            break
        forms = {name: name.removesuffix(".mask") + ending for name in given}
        other = match_names(forms.values(), names) if len(set(forms.values())) == len(forms) else {}
        if len(other) > len(found):
            found = {name: other[form] for name, form in forms.items() if form in other}
    return found


def as_bool(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor of 0 and 1, of any dtype, as bool.

    Raises
    ------
    ParameterError
        If it holds anything else.
    """
    tensor = as_dense(tensor)
    if tensor.dtype == torch.bool:
        return tensor
    odd = (tensor != 0) & (tensor != 1)
    if bool(odd.any()):
        raise ParameterError(
            f"{name} holds {tensor[odd][0].item():.4g} ({tensor.dtype}); a mask holds bool tensors, "
            "or 0 and 1."
        )
    return tensor != 0


def weight(state: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Return a weight that a state dict holds, as the network computes with it, or None.

    It is there by its name, or as what `torch.nn.utils.prune`, weight norm or spectral norm keep in
    its place.

    Raises
    ------
    ParameterError
        If it is computed from others in a way that a state dict doesn't tell.
    """
    if name in state:
        return state[name]
    pruned, v, original1, original = _stand_ins(name)
    if pruned in state:
        if f"{name}_u" in state and f"{name}_v" in state:
            return _spectral(state[pruned], state[f"{name}_u"], state[f"{name}_v"])
        kept = state.get(f"{name}_mask")
        return state[pruned] if kept is None else state[pruned] * kept.to(state[pruned])
    for direction, size in ((v, f"{name}_g"), (original1, original1[:-1] + "0")):
        if direction in state and size in state:
            # A norm for each place along one axis; of all values if it is a single number.
            axes = [i for i, n in enumerate(state[size].shape) if n == 1]
            norm = torch.linalg.vector_norm(state[direction], dim=axes or None, keepdim=True)
            return state[direction] * (state[size] / norm)
    u, v = (f"{original.removesuffix('original')}0._{which}" for which in "uv")
    if original in state and u in state and v in state:
        return _spectral(state[original], state[u], state[v])
    if original in state:
        raise ParameterError(
            f"{name} is computed by a parametrization from {original}, so the state dict doesn't "
            "hold it; give the module in its place."
        )
    return None


def _spectral(original: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Divide a weight by its largest singular value, as spectral norm does in evaluation.

    The vectors of its power iteration say along which axis the weight is taken as a matrix.
    """
    # As PyTorch has it: axis 0 first, or axis 1 of transposed convolutions.
    axis = next((d for d in (0, 1) if d < original.dim() and len(u) == original.shape[d]), 0)
    matrix = original.movedim(axis, 0).flatten(1)
    return original / torch.dot(u, matrix @ v)


def weights_by_name(
    weights: Mapping[str, Any] | nn.Module, names: Iterable[str]
) -> dict[str, Tensor]:
    """Return the named weights, as the network computes with them.

    Parameters
    ----------
    weights : mapping or nn.Module
        In any form that `read_weights` takes; of a module also what its parametrizations compute.
    names : Iterable[str]
        Names of weights; prefixes may differ.

    Raises
    ------
    ParameterError
        If there is no such weight.
    """
    names = list(names)
    state = state_dict_of(weights)
    if all(name in state for name in names):
        return {name: state[name] for name in names}
    known = {_computed(name): None for name in state}
    renamed = match_names(names, known)
    found = {}
    for name in names:
        if name not in renamed:
            raise unknown_name("masked tensor", name, known)
        tensor = _of_module(weights, renamed[name]) if isinstance(weights, nn.Module) else None
        found[name] = _required(state, renamed[name]) if tensor is None else tensor
    return found


def _computed(name: str) -> str:
    """Return the name of the weight that a tensor of a state dict stands for."""
    owner, _, leaf = name.rpartition(".parametrizations.")
    if owner or name.startswith("parametrizations."):
        leaf = leaf or name.removeprefix("parametrizations.")
        return f"{owner}{'.' if owner else ''}{leaf.split('.')[0]}"
    plain = _plain(name)
    return plain[:-2] if plain.endswith(("_v", "_g", "_u")) else plain


def _of_module(model: nn.Module, name: str) -> Tensor | None:
    """Return a weight that a parametrization of a module computes, or None."""
    owner, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(owner)
    except AttributeError:
        return None
    return getattr(module, leaf).detach() if is_parametrized(module, leaf) else None


def _required(state: Mapping[str, Tensor], name: str) -> Tensor:
    found = weight(state, name)
    if found is None:
        raise unknown_name("masked tensor", name, state)
    return found
