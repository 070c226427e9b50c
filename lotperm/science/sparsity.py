"""Masks, which say which weights are kept: exact magnitude pruning, prunable parameters, counts.

A `Mask` holds one bool tensor for every prunable parameter, True where the weight is kept; a
parameter that it doesn't name is dense.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import prune
from torch.nn.utils.parametrize import ParametrizationList

from lotperm.errors import ParameterError, UnsupportedModelError, unknown_name
from lotperm.science.ranking import keep_highest, kept_after
from lotperm.science.state_dicts import dict_like, read_mask, state_dict_of, weights_by_name
from lotperm.types import Bool

Mask = dict[str, Bool[Tensor, " ..."]]

_WEIGHTED = (nn.Linear, _ConvNd)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

_SHORTCUT_NAMES = ("shortcut", "downsample")


def prunable_parameters(model: nn.Module, rule: str = "paper") -> list[str]:
    """Return the names of the parameters that pruning may touch, in the order of the model.

    Parameters
    ----------
    model : nn.Module
        The network.
    rule : str, optional
        ``"paper"``: every conv and linear weight, including stem and classifier, except the
        convolutions on shortcuts (modules named ``shortcut`` or ``downsample``). ``"all"``: the
        shortcuts too, and every other parameter of two or more axes that isn't a norm's:
        embeddings, recurrent and bilinear layers, attention, parameters of custom modules.

    Returns
    -------
    list of str

    Raises
    ------
    ParameterError
        If the rule is unknown.
    UnsupportedModelError
        If two layers share a weight: it would be ranked twice, and could be pruned in only one of
        them.

    Warns
    -----
    UserWarning
        If, apart from shortcuts, there are weights that only rule ``"all"`` names, since they stay
        dense. A module can list parameters that are meant to in its attribute `stay_dense`.

    Notes
    -----
    Frankle & Carbin 2019 prune convolutions and linear layers, and leave biases and norms alone.
    Transposed convolutions count as convolutions. A weight that is computed from others (by
    `torch.nn.utils.prune`, weight norm or another parametrization) has the name of the result.
    """
    if rule not in ("paper", "all"):
        raise unknown_name("prunable rule", rule, ("paper", "all"))
    names, left, owner = [], [], dict[int, str]()
    for name, module, tensor in _weights(model):
        layer, _, leaf = name.rpartition(".")
        usual = isinstance(module, _WEIGHTED) and leaf == "weight"
        counted = usual or rule == "all"
        if counted and (first := owner.setdefault(id(tensor), layer)) != layer:
            raise UnsupportedModelError(
                f"layers {first!r} and {layer!r} share a weight, which no mask can name."
            )
        on_shortcut = any(part in _SHORTCUT_NAMES for part in layer.split("."))
        if rule == "all" or (usual and not on_shortcut):
            names.append(name)
        # A network may declare which of its parameters aren't weights.
        elif not usual and leaf not in getattr(module, "stay_dense", ()):
            left.append(f"{name} ({type(module).__name__})")
    if left:
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        warnings.warn(
            f"{', '.join(left[:4])}{more} stay dense: rule 'paper' prunes conv and linear weights, "
            "rule 'all' these too.",
            stacklevel=2,
        )
    return names


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield (name, layer, underlying parameter) for all weights of two or more axes except norms'.

    A parametrized weight counts once, under the name of the computed weight.
    """
    for prefix, module in model.named_modules():
        if isinstance(module, (*_NORMS, ParametrizationList)):
            continue
        found = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        if isinstance(lists := getattr(module, "parametrizations", None), nn.ModuleDict):
            # In weight norm, original0 is the norm, original1 the direction.
            for leaf, steps in lists.items():
                parameters = dict(steps.named_parameters(recurse=False))
                found[leaf] = parameters.get("original1", next(iter(parameters.values())))
        for leaf, tensor in found.items():
            if isinstance(tensor, UninitializedParameter):
                raise UnsupportedModelError(
                    f"{prefix or type(module).__name__} has no weights yet: run the network once."
                )
            plain = leaf.removesuffix("_orig")
            # The older weight norm has X_g, the norm, and X_v, the direction, which represents X.
            if leaf.endswith("_g") and f"{leaf[:-1]}v" in found:
                continue
            if leaf.endswith("_v") and f"{leaf[:-1]}g" in found:
                plain = leaf[:-2]
            kind = isinstance(module, _WEIGHTED) and plain == "weight"
            if kind or tensor.dim() > 1:
                yield f"{prefix}.{plain}" if prefix else plain, module, tensor


def full_mask(weights: Mapping[str, Any] | nn.Module, names: Iterable[str]) -> Mask:
    """Return a mask that keeps every weight of the named tensors.

    Raises
    ------
    ParameterError
        If there is no such weight. In networks that `torch.nn.utils.prune` has pruned, the names
        are those of the weights, without ``_orig``.
    """
    return {
        name: torch.ones_like(tensor, dtype=torch.bool)
        for name, tensor in weights_by_name(weights, names).items()
    }


def magnitude_prune(
    weights: Mapping[str, Any] | nn.Module,
    mask: Mapping[str, Any] | nn.Module,
    sparsity: Any,
    *,
    scope: str = "global",
) -> Mask:
    """Keep the largest weights by absolute value, exactly as many as the sparsity implies.

    Magnitude pruning (Han et al. 2015), the criterion of lottery tickets (Frankle & Carbin 2019).

    Parameters
    ----------
    weights : Mapping[str, Any] | nn.Module
        A module or its state dict, floating point. For weights that are computed (masked by
        `torch.nn.utils.prune`, weight norm), the values that the network uses are ranked.
    mask : Mapping[str, Any] | nn.Module
        Which weights are kept so far: bool tensors, or 0 and 1 of any dtype, by the names of
        weights or as ``X_mask``; or a module that `torch.nn.utils.prune` has pruned. Weights pruned
        there stay pruned, and its tensors are the prunable ones.
    sparsity : number
        Fraction of the prunable weights removed in all, 0 <= sparsity < 1.
    scope : str, optional
        ``"global"``: one threshold for all tensors (the paper's L1 criterion). ``"layerwise"``:
        the same sparsity in every tensor.

    Returns
    -------
    Mask
        Keeps ``total - round(sparsity * total)`` weights, in all or in each tensor. Among weights
        of equal magnitude, the mask's earlier tensors come first, then earlier places in memory.

    Raises
    ------
    ParameterError
        If fewer weights are left than should be kept, a name is missing, or weights are not
        finite.
    """
    if not (mask := read_mask(mask)):
        raise ParameterError("the mask names no tensor, so there is nothing to prune.")
    values = weights_by_name(weights, mask)
    for name, kept in mask.items():
        if values[name].shape != kept.shape:
            raise ParameterError(
                f"mask of {name} has shape {tuple(kept.shape)}; the weights have "
                f"{tuple(values[name].shape)}."
            )
    magnitudes = {name: values[name].detach().abs() for name in mask}
    return keep_highest(magnitudes, sparsity, among=mask, scope=scope, what="weights")


def round_sparsities(target: float, fraction: float = 0.2) -> list[float]:
    """Return the sparsity after each round of iterative pruning.

    Round r leaves ``(1 - fraction) ** r`` of the weights (Frankle & Carbin 2019).

    Parameters
    ----------
    target : float
        Final sparsity, reached exactly: the last round is cut so as not to overshoot.
    fraction : float, optional
        Fraction of the remaining weights removed per round, 0 < fraction < 1.

    Returns
    -------
    list of float
        Increasing; the last is `target`. Empty for target 0. 0.80/0.90/0.95/0.97 take 8/11/14/16
        rounds at fraction 0.2. (The authors' code stops half a point early, so it needs 13 rounds
        for "95 %".)
    """
    if not 0.0 < fraction < 1.0:
        raise ParameterError(f"prune fraction is {fraction}; expected 0 < fraction < 1.")
    kept_after(1, target)  # checks that the target is valid
    sparsities = []
    rounds = 1
    # A round that reaches the target up to rounding is the last.
    while 1 - (1 - fraction) ** rounds < target - 1e-9:
        sparsities.append(1 - (1 - fraction) ** rounds)
        rounds += 1
    return [*sparsities, target] if target > 0 else []


def apply_mask(
    weights: Mapping[str, Any] | nn.Module, mask: Mapping[str, Any] | nn.Module
) -> dict[str, Tensor]:
    """Return a copy of a state dict with pruned weights set to exactly zero.

    Parameters
    ----------
    weights : Mapping[str, Any] | nn.Module
        A module or its state dict. If `torch.nn.utils.prune` keeps a weight as ``X_orig``, the
        zeros are set there.
    mask : Mapping[str, Any] | nn.Module
        As in `magnitude_prune`.

    Returns
    -------
    dict
        With the names of the state dict; `load_state_dict` takes it.

    Raises
    ------
    ParameterError
        If the mask names a tensor that is missing, has another shape, or is one of the tensors
        from which weight norm or a parametrization computes the weight.
    """
    state = state_dict_of(weights)
    mask = read_mask(mask, state)
    for name, kept in mask.items():
        normed = name.endswith("_v") and f"{name[:-1]}g" in state
        if normed or ".parametrizations." in f".{name}":
            raise ParameterError(
                f"the weight that the mask names is computed from {name}, so zeros there needn't "
                "be zeros of the weight. Make it a plain parameter first (remove_weight_norm, "
                "remove_parametrizations)."
            )
        if kept.shape != state[name].shape:
            raise ParameterError(
                f"the mask of {name} has shape {tuple(kept.shape)}, expected "
                f"{tuple(state[name].shape)}."
            )
    masked = {
        name: tensor.masked_fill(~mask[name].to(tensor.device), 0)
        if name in mask
        else tensor.clone()
        for name, tensor in state.items()
    }
    return dict_like(state, masked)


def mask_of_zeros(weights: Mapping[str, Any] | nn.Module, names: Iterable[str]) -> Mask:
    """Return the mask that keeps the nonzero weights of a network that was pruned elsewhere.

    Parameters
    ----------
    weights : Mapping[str, Any] | nn.Module
        A module or its state dict; pruned weights are zeros, or masked by `torch.nn.utils.prune`.
    names : Iterable[str]
        The prunable weights (`prunable_parameters`).

    Raises
    ------
    ParameterError
        If there is no such weight, or one is NaN or infinite.
    """
    found = weights_by_name(weights, names)
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise ParameterError(f"weights of {name} are not finite, so their zeros say nothing.")
    return {name: tensor != 0 for name, tensor in found.items()}


def from_torch_prune(model: Mapping[str, Any] | nn.Module) -> Mask:
    """Return the masks that `torch.nn.utils.prune` keeps in a module or its state dict.

    Returns
    -------
    Mask
        Parameter name, without ``_mask`` -> bool tensor.

    Raises
    ------
    ParameterError
        If there are none.
    """
    masks = {name: t for name, t in state_dict_of(model).items() if name.endswith("_mask")}
    if not masks:
        raise ParameterError(
            "there are no masks of torch.nn.utils.prune (X_mask). If pruned weights are zeros, use "
            "mask_of_zeros."
        )
    return read_mask(masks)


def to_torch_prune(model: nn.Module, mask: Mapping[str, Any] | nn.Module) -> None:
    """Prune a module in place by a mask, as `torch.nn.utils.prune.custom_from_mask` does.

    Each masked weight ``X`` becomes the parameter ``X_orig`` and the buffer ``X_mask``.

    Parameters
    ----------
    model : nn.Module
        The network.
    mask : Mapping[str, Any] | nn.Module
        As in `magnitude_prune`.

    Raises
    ------
    ParameterError
        If the mask names a weight that is missing or has another shape. The module is then
        unchanged.
    """
    kept = read_mask(mask, dict(model.named_parameters()))
    weights = weights_by_name(model, kept)
    for name, tensor in kept.items():
        if tensor.shape != weights[name].shape:
            raise ParameterError(
                f"the mask of {name} has shape {tuple(tensor.shape)}, expected "
                f"{tuple(weights[name].shape)}."
            )
    for name, tensor in kept.items():
        owner, _, leaf = name.removesuffix("_orig").rpartition(".")
        prune.custom_from_mask(model.get_submodule(owner), leaf, tensor.to(weights[name].device))


@dataclass(frozen=True)
class Counts:
    """How many weights a mask keeps, how many are prunable, and how many others there are.

    Attributes
    ----------
    kept, prunable : int
        Number of kept weights, and of all weights, in the tensors that the mask names.
    dense : int
        Number of weights that the mask doesn't name but rule ``"all"`` of `prunable_parameters`
        would: under rule ``"paper"``, shortcuts, embeddings, recurrent layers and so on.
    """

    kept: int
    prunable: int
    dense: int

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that is removed, as the paper counts."""
        return 1 - self.kept / self.prunable

    @property
    def sparsity_of_all(self) -> float:
        """Fraction of all weights that is removed."""
        return 1 - (self.kept + self.dense) / (self.prunable + self.dense)


def count(model: nn.Module, mask: Mapping[str, Any] | nn.Module) -> Counts:
    """Count what a mask keeps in a network."""
    weights = {name: tensor for name, _, tensor in _weights(model)}
    mask = read_mask(mask, {**weights, **dict(model.named_parameters())})
    # By identity, so that a weight shared by layers counts once.
    masked = {id(weights[name]) for name in mask if name in weights}
    others = {id(tensor): tensor.numel() for tensor in weights.values()}
    dense = sum(size for key, size in others.items() if key not in masked)
    prunable = sum(kept.numel() for kept in mask.values())
    kept = sum(int(kept.sum()) for kept in mask.values())
    return Counts(kept=kept, prunable=prunable, dense=dense)
