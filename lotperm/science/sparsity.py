"""Masks: which weights are kept. Exact magnitude pruning, prunable parameters, counts.

A `Mask` holds one bool tensor for every prunable parameter, True where the weight is kept; a
parameter that it doesn't name is dense.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lotperm.errors import ParameterError, UnsupportedModelError, unknown_name
from lotperm.types import Bool, Float

Mask = dict[str, Bool[Tensor, " ..."]]

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

_SHORTCUT_NAMES = ("shortcut", "downsample")


def prunable_parameters(model: nn.Module, rule: str = "paper") -> list[str]:
    """Return the names of the parameters that pruning may touch, in the order of the model.

    Parameters
    ----------
    model : nn.Module
        The network.
    rule : str, optional
        ``"paper"``: every conv and linear weight, stem and classifier included, but not the
        convolutions on shortcuts (modules named ``shortcut`` or ``downsample``). ``"all"``: the
        shortcuts too.

    Returns
    -------
    list of str

    Raises
    ------
    ParameterError
        If the rule is unknown.
    UnsupportedModelError
        If two layers share a weight: it would be ranked twice, and could be pruned in one of them
        alone.

    Notes
    -----
    Frankle & Carbin 2019 prune convolutions and linear layers, and leave biases and norms alone.
    """
    if rule not in ("paper", "all"):
        raise unknown_name("prunable rule", rule, ("paper", "all"))
    names, owner = [], dict[int, str]()
    for name, module in model.named_modules():
        if isinstance(module, _WEIGHTED):
            if (first := owner.setdefault(id(module.weight), name)) != name:
                raise UnsupportedModelError(
                    f"layers {first!r} and {name!r} share a weight, which no mask can name."
                )
            on_shortcut = any(part in _SHORTCUT_NAMES for part in name.split("."))
            if rule == "all" or not on_shortcut:
                names.append(f"{name}.weight" if name else "weight")
    return names


def full_mask(weights: Mapping[str, Tensor], names: Iterable[str]) -> Mask:
    """Return the mask that keeps everything: True of each named tensor's shape."""
    return {name: torch.ones_like(weights[name], dtype=torch.bool) for name in names}


def kept_after(total: int, sparsity: float) -> int:
    """Return how many of `total` weights remain at a sparsity: ``total - round(sparsity * total)``.

    Halves are rounded to even.
    """
    if not 0.0 <= sparsity < 1.0:
        raise ParameterError(
            f"sparsity is {sparsity}; expected 0 <= sparsity < 1 (the fraction removed)."
        )
    return total - round(sparsity * total)


def _keep_largest(magnitudes: Float[Tensor, " n"], kept: int) -> Bool[Tensor, " n"]:
    """Return True at the `kept` largest values; among equals, the earlier stays."""
    if kept <= 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool)
    threshold = magnitudes.kthvalue(magnitudes.numel() - kept + 1).values
    keep = magnitudes > threshold
    ties = (magnitudes == threshold).nonzero().squeeze(1)
    keep[ties[: kept - int(keep.sum())]] = True
    return keep


def magnitude_prune(
    weights: Mapping[str, Tensor],
    mask: Mapping[str, Bool[Tensor, " ..."]],
    sparsity: float,
    *,
    scope: str = "global",
) -> Mask:
    """Keep the largest weights by absolute value, exactly as many as the sparsity says.

    Magnitude pruning (Han et al. 2015), the criterion of lottery tickets (Frankle & Carbin 2019).

    Parameters
    ----------
    weights : Mapping[str, Tensor]
        A state dict, floating point.
    mask : Mapping[str, Tensor]
        Bool tensors: what is kept so far. A weight pruned there stays pruned, and its tensors are
        the prunable ones.
    sparsity : float
        Fraction of the prunable weights removed in all, 0 <= sparsity < 1.
    scope : str, optional
        ``"global"``: one threshold for all tensors (the paper's L1 criterion). ``"layerwise"``:
        the same sparsity in every tensor.

    Returns
    -------
    Mask
        With ``total - round(sparsity * total)`` weights kept, in all or in each tensor. Weights of
        equal magnitude are kept in the order of the mask's tensors and then of memory.

    Raises
    ------
    ParameterError
        If fewer weights are left than should be kept, a name is missing, or weights are not
        finite.
    """
    if scope not in ("global", "layerwise"):
        raise unknown_name("pruning scope", scope, ("global", "layerwise"))
    if not mask:
        raise ParameterError("the mask names no tensor, so there is nothing to prune.")
    magnitudes = {}
    for name, kept in mask.items():
        if name not in weights:
            raise unknown_name("masked tensor", name, weights)
        if weights[name].shape != kept.shape:
            raise ParameterError(
                f"mask of {name} has shape {tuple(kept.shape)}; the weights have "
                f"{tuple(weights[name].shape)}."
            )
        magnitude = weights[name].detach().abs()
        if not bool(torch.isfinite(magnitude).all()):
            raise ParameterError(
                f"weights of {name} are not finite, so their magnitudes can't be ranked."
            )
        # -1 ranks what is pruned already below every weight that is left, zeros included.
        magnitudes[name] = torch.where(kept, magnitude, -torch.ones_like(magnitude)).flatten()
    pools = [list(mask)] if scope == "global" else [[name] for name in mask]
    pruned: Mask = {}
    for names in pools:
        pool = torch.cat([magnitudes[name] for name in names])
        target = kept_after(pool.numel(), sparsity)
        left = int((pool >= 0).sum())
        if left < target:
            raise ParameterError(
                f"sparsity {sparsity} keeps {target:,} weights of "
                f"{names[0]}{' …' if len(names) > 1 else ''}, but only {left:,} are left. Ask for a "
                "higher sparsity, or start from a denser mask."
            )
        keep = _keep_largest(pool, target)
        for name, part in zip(names, keep.split([mask[n].numel() for n in names]), strict=True):
            pruned[name] = part.view(mask[name].shape)
    return {name: pruned[name] for name in mask}


def round_sparsities(target: float, fraction: float = 0.2) -> list[float]:
    """Return the sparsity after each round of iterative pruning.

    Round r leaves ``(1 - fraction) ** r`` of the weights (Frankle & Carbin 2019).

    Parameters
    ----------
    target : float
        Final sparsity, reached exactly: the last round is cut so as not to overshoot.
    fraction : float, optional
        Share of the remaining weights removed per round, 0 < fraction < 1.

    Returns
    -------
    list of float
        Increasing; the last is `target`. Empty for target 0. 0.80/0.90/0.95/0.97 take 8/11/14/16
        rounds at fraction 0.2. (The authors' code stops half a point early, so that "95 %" takes
        it 13.)
    """
    if not 0.0 < fraction < 1.0:
        raise ParameterError(f"prune fraction is {fraction}; expected 0 < fraction < 1.")
    kept_after(1, target)  # which checks the target
    sparsities = []
    rounds = 1
    while 1 - (1 - fraction) ** rounds < target - 1e-9:
        sparsities.append(1 - (1 - fraction) ** rounds)
        rounds += 1
    return [*sparsities, target] if target > 0 else []


def apply_mask(
    weights: Mapping[str, Tensor], mask: Mapping[str, Bool[Tensor, " ..."]]
) -> dict[str, Tensor]:
    """Return a copy of a state dict with pruned weights set to exactly zero.

    Raises
    ------
    ParameterError
        If the mask names a tensor that isn't there, or that has another shape.
    """
    for name, kept in mask.items():
        if name not in weights:
            raise unknown_name("weight of the mask", name, weights)
        if kept.shape != weights[name].shape:
            raise ParameterError(
                f"the mask of {name} has shape {tuple(kept.shape)}, expected "
                f"{tuple(weights[name].shape)}."
            )
    return {
        name: tensor.masked_fill(~mask[name], 0) if name in mask else tensor.clone()
        for name, tensor in weights.items()
    }


@dataclass(frozen=True)
class Counts:
    """Weights that a mask keeps, of what is prunable and of all conv and linear weights.

    Attributes
    ----------
    kept, prunable : int
        Weights kept, and all, in the tensors that the mask names.
    dense : int
        Conv and linear weights that the rule never prunes (the paper's shortcuts).
    """

    kept: int
    prunable: int
    dense: int

    @property
    def sparsity(self) -> float:
        """Fraction removed of the prunable weights: the paper's count."""
        return 1 - self.kept / self.prunable

    @property
    def sparsity_of_all(self) -> float:
        """Fraction removed of all conv and linear weights."""
        return 1 - (self.kept + self.dense) / (self.prunable + self.dense)


def count(model: nn.Module, mask: Mapping[str, Bool[Tensor, " ..."]]) -> Counts:
    """Count what a mask keeps in a network."""
    parameters = dict(model.named_parameters())
    dense = sum(
        parameters[name].numel() for name in prunable_parameters(model, "all") if name not in mask
    )
    prunable = sum(kept.numel() for kept in mask.values())
    kept = sum(int(kept.sum()) for kept in mask.values())
    return Counts(kept=kept, prunable=prunable, dense=dense)
