"""Match names of tensors, as found in checkpoints and masks, to those of a network.

The names may have prefixes from wrappers (``module.``, ``_orig_mod.``) and training frameworks
(``model.``). `torch.nn.utils.prune`, weight norm and other parametrizations keep a weight ``X``
under other names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from lotperm.errors import ParameterError, shown

# Modules that only wrap another one, by the names that PyTorch gives their child.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

# Names that can represent a weight X in a state dict, besides X itself: of `torch.nn.utils.prune`,
# of both kinds of weight norm, and of other parametrizations.
_STANDS_FOR = (
    "{name}_orig",
    "{name}_v",
    "{owner}parametrizations.{leaf}.original1",
    "{owner}parametrizations.{leaf}.original",
)


def match_names(given: Iterable[str], names: Collection[str]) -> dict[str, str]:
    """Find the network's name for each given one.

    Equal names match. Otherwise, the names of wrappers are removed (``module.``, ``_orig_mod.``),
    or a shared prefix is removed or added. ``X_orig`` and ``X_mask`` represent ``X`` if the
    network has no such tensors itself.

    Parameters
    ----------
    given : Iterable[str]
        Names of tensors in a state dict or mask.
    names : Collection[str]
        Names of the network's tensors.

    Returns
    -------
    dict
        Given name -> the network's name; given names without a match are left out.

    Raises
    ------
    ParameterError
        If two given names would match the same tensor.
    """
    given, known = list(given), dict.fromkeys(names)
    found = _best(given, known)
    taken: dict[str, str] = {}
    for name, target in found.items():
        other = taken.setdefault(target, name)
        if other != name and {name, other} != {
            f"{plain_name(name)}_orig",
            f"{plain_name(name)}_mask",
        }:
            raise ParameterError(
                f"{shown(other)} and {shown(name)} both name the network's {shown(target)}; give "
                "one of them."
            )
    return found


def mask_names(given: Iterable[str], names: Collection[str]) -> dict[str, str]:
    """Find the network's name for each name of a mask, which may be that of a layer or buffer.

    ``layer``, ``layer.mask`` and ``layer.weight.mask`` are masks of ``layer.weight``.
    """
    given = list(given)
    found = match_names(given, names)
    # Such names have several forms; take the one that matches most.
    for ending in (".weight", ""):
        if len(found) == len(given):
            break
        forms = {name: name.removesuffix(".mask") + ending for name in given}
        other = match_names(forms.values(), names) if len(set(forms.values())) == len(forms) else {}
        # A weight of the network itself belongs to no layer, so no layer's name can mean it.
        named = not ending or all("." in target for target in other.values())
        if named and len(other) > len(found):
            found = {name: other[form] for name, form in forms.items() if form in other}
    return found


def _best(given: list[str], names: Mapping[str, Any]) -> dict[str, str]:
    """Try several ways to read the given names, and return the matches of the best one."""

    def read(way: Callable[[str], str], known: Mapping[str, str]) -> dict[str, str]:
        pairs = ((name, _among(way(name), known)) for name in given)
        return {name: known[target] for name, target in pairs if target is not None}

    own = {name: name for name in names}
    best = read(str, own)
    if len(best) == len(given):
        return best
    unwrapped = {_unwrapped(name): name for name in names}
    plain = read(_unwrapped, unwrapped)
    if len(plain) > len(best):
        best = plain
    ways = []
    tops = {name.split(".")[0] for name in unwrapped}
    for prefix in _prefixes(map(_unwrapped, given), unwrapped):
        # A name that the network itself has isn't a wrapper, nor is a position in a Sequential.
        top = prefix.split(".")[0]
        if top not in tops and not top.isdigit():
            ways.append(read(lambda n, p=prefix: _unwrapped(n).removeprefix(p), unwrapped))  # type: ignore[misc]
    for prefix in _prefixes(unwrapped, dict.fromkeys(map(_unwrapped, given))):
        if all(name.startswith(prefix) for name in unwrapped) or _alone(given, unwrapped):
            ways.append(read(lambda n, p=prefix: p + _unwrapped(n), unwrapped))  # type: ignore[misc]
    for way in ways:
        # Distinct matches count: another module's tensor may end like one of the network's own.
        if len(set(way.values())) > len(set(best.values())):
            best = way
    _refuse_twins(given, best, unwrapped)
    return best


def _alone(given: Iterable[str], names: Iterable[str]) -> bool:
    """Return whether no given name is the end of more than one of the network's names."""
    names = list(names)
    ends = (f".{_unwrapped(name)}" for name in given)
    return all(sum(name.endswith(end) for name in names) < 2 for end in ends)


def _refuse_twins(given: list[str], found: Mapping[str, str], unwrapped: Mapping[str, str]) -> None:
    """Raise an error if unmatched names hold the same network under another prefix."""
    rest = [name for name in given if name not in found]
    for prefix in _prefixes(map(_unwrapped, rest), unwrapped) if found else ():
        again = {_among(_unwrapped(name).removeprefix(prefix), unwrapped) for name in rest}
        if len(again - {None}) >= len(found):
            raise ParameterError(
                f"{shown(next(iter(found)))} and {shown(rest[0])}: the names hold the network "
                "twice, under two prefixes. Give the names with one of them."
            )


def _prefixes(longer: Iterable[str], shorter: Mapping[str, Any]) -> list[str]:
    """Return the possible prefixes of the first longer name that ends with a shorter one."""
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


def _among(name: str, names: Mapping[str, Any]) -> str | None:
    """Return a name if it is in `names`, else one that represents the same weight, else None."""
    if name in names:
        return name
    plain = plain_name(name)
    if plain in names:
        return plain
    return next((other for other in stand_ins(plain) if other in names), None)


def plain_name(name: str) -> str:
    """Return X for ``X_orig`` and ``X_mask``, the names of `torch.nn.utils.prune`."""
    return name.removesuffix("_orig").removesuffix("_mask")


def stand_ins(name: str) -> list[str]:
    """Return the names that can represent a weight, in the order of `_STANDS_FOR`."""
    owner, dot, leaf = name.rpartition(".")
    return [form.format(name=name, owner=owner + dot, leaf=leaf) for form in _STANDS_FOR]


def computed_name(name: str) -> str:
    """Return the name of the weight that a tensor of a state dict represents."""
    owner, _, leaf = name.rpartition(".parametrizations.")
    if owner or name.startswith("parametrizations."):
        leaf = leaf or name.removeprefix("parametrizations.")
        return f"{owner}{'.' if owner else ''}{leaf.split('.')[0]}"
    plain = plain_name(name)
    return plain[:-2] if plain.endswith(("_v", "_g", "_u")) else plain


def foreign_names(given: Collection[str], names: Collection[str], what: str) -> ParameterError:
    """Make an error for tensors none of which belongs to the network."""
    return ParameterError(
        f"{what}: none of the {len(given)} names is the network's; got {shown(next(iter(given)))}, "
        f"the network has {shown(next(iter(names), 'none'))}. Give tensors of the architecture that was "
        "traced."
    )
