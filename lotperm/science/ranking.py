"""Masks from numbers: the highest scores, or weights drawn at random, with exact counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lotperm.errors import ParameterError, unknown_name
from lotperm.types import Bool, Float


def kept_after(total: int, sparsity: Any) -> int:
    """Return how many of `total` weights remain at a sparsity: ``total - round(sparsity * total)``.

    Halves are rounded to even. The sparsity is a number, or a tensor or array that holds one.
    """
    try:
        sparsity = sparsity if isinstance(sparsity, (int, str)) else float(sparsity)
        valid = 0 <= sparsity < 1
    except (TypeError, ValueError, RuntimeError):
        valid = False
    if not valid:
        percent = isinstance(sparsity, (int, float)) and 1 < sparsity < 100
        hint = f" {sparsity:g} % is {sparsity / 100:g}." if percent else ""
        raise ParameterError(
            f"sparsity is {sparsity!r}; expected 0 <= sparsity < 1 (the fraction removed).{hint}"
        )
    return total - round(sparsity * total)


def _keep_largest(scores: Float[Tensor, " n"], kept: int) -> Bool[Tensor, " n"]:
    """Return True at the `kept` largest values, the earlier ones among equals."""
    if kept <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(scores.numel() - kept + 1).values
    keep = scores > threshold
    ties = (scores == threshold).nonzero().squeeze(1)
    keep[ties[: kept - int(keep.sum())]] = True
    return keep


def keep_highest(
    scores: Mapping[str, Tensor],
    sparsity: Any,
    *,
    among: Mapping[str, Tensor] | None = None,
    scope: str = "global",
    what: str = "scores",
) -> dict[str, Tensor]:
    """Keep the weights with the highest scores, exactly as many as the sparsity implies.

    Parameters
    ----------
    scores : Mapping[str, Tensor]
        Parameter name -> a score for each weight, floating point, of either sign.
    sparsity : float
        Fraction of these weights removed in all, 0 <= sparsity < 1.
    among : Mapping[str, Tensor] | None, optional
        Bool mask of the weights kept so far; removed ones stay removed. None: all are kept so far.
    scope : str, optional
        ``"global"``: one threshold for all tensors. ``"layerwise"``: the same sparsity in each.
    what : str, optional
        Name of the scores, for errors.

    Returns
    -------
    Mask
        Keeps ``total - round(sparsity * total)`` weights, in all or in each tensor. Among weights
        of equal score, earlier tensors come first, then earlier places in memory.

    Raises
    ------
    ParameterError
        If fewer weights are left than should be kept, or scores are not finite.
    """
    if scope not in ("global", "layerwise"):
        raise unknown_name("pruning scope", scope, ("global", "layerwise"))
    ranked = {}
    for name, score in scores.items():
        score = score.detach() if score.is_floating_point() else score.detach().double()
        if not bool(torch.isfinite(score).all()):
            raise ParameterError(f"{what} of {name} are not finite, so they can't be ranked.")
        if among is not None:
            # Below every remaining weight, whatever its score.
            score = score.masked_fill(~among[name].to(score.device), -math.inf)
        ranked[name] = score.flatten()
    pools = [list(scores)] if scope == "global" else [[name] for name in scores]
    kept: dict[str, Tensor] = {}
    for names in pools:
        pool = torch.cat([ranked[name] for name in names])
        target, left = kept_after(pool.numel(), sparsity), int((pool > -math.inf).sum())
        if left < target:
            raise ParameterError(
                f"sparsity {sparsity} keeps {target:,} weights of "
                f"{names[0]}{' …' if len(names) > 1 else ''}, but only {left:,} are left. Ask for a "
                "higher sparsity, or start from a denser mask."
            )
        keep = _keep_largest(pool, target)
        sizes = [scores[name].numel() for name in names]
        for name, part in zip(names, keep.split(sizes), strict=True):
            kept[name] = part.view(scores[name].shape)
    return {name: kept[name] for name in scores}


def erdos_renyi_densities(shapes: Mapping[str, Sequence[int]], sparsity: float) -> dict[str, float]:
    r"""Return the densities of an Erdős-Rényi-kernel (ERK) network at a sparsity.

    .. math::

        d_l = \min\Bigl(1,\ \varepsilon\,
        \frac{n^{out}_l + n^{in}_l + w_l + h_l}{n^{out}_l\, n^{in}_l\, w_l\, h_l}\Bigr),
        \qquad \sum_l d_l N_l = (1 - S) \sum_l N_l .

    Evci et al. 2020, after Mocanu et al. 2018: small layers stay denser than large ones. ε is the
    number that satisfies the equation; layers whose density would exceed 1 are dense.

    Parameters
    ----------
    shapes : Mapping[str, Sequence[int]]
        Parameter name -> shape of the weight, ``(out, in, *kernel)``.
    sparsity : float
        S, the fraction of all these weights that is removed.

    Returns
    -------
    dict[str, float]
        Parameter name -> density in (0, 1].
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    budget = (1 - sparsity) * sum(sizes.values())
    kept_after(1, sparsity)  # checks that the sparsity is valid
    dense: set[str] = set()
    while True:
        rest = [name for name in shapes if name not in dense]
        # Density times size is ε times the sum of the sides.
        sides = sum(sum(shapes[name]) for name in rest)
        left = budget - sum(sizes[name] for name in dense)
        epsilon = left / sides if rest else 0.0
        full = {name for name in rest if epsilon * sum(shapes[name]) > sizes[name]}
        if not full:
            return {
                name: 1.0 if name in dense else epsilon * sum(shape) / sizes[name]
                for name, shape in shapes.items()
            }
        dense |= full


def random_mask(
    shapes: Mapping[str, Sequence[int]],
    densities: Mapping[str, float],
    sparsity: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Draw a mask at random, with every weight of a layer equally likely to be kept.

    Parameters
    ----------
    shapes : Mapping[str, Sequence[int]]
        Parameter name -> shape.
    densities : Mapping[str, float]
        Parameter name -> fraction of its weights to keep, as `erdos_renyi_densities` returns.
    sparsity : float
        Fraction removed in all; it must agree with the densities.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    Mask
        Exactly ``total - round(sparsity * total)`` weights are kept. Each layer's number follows
        from its density, rounded up in the layers with the largest fractional parts, else down.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    exact = {name: densities[name] * sizes[name] for name in shapes}
    # A product that should be a whole number may be a rounding error too small.
    counts = {name: min(math.floor(exact[name] + 1e-9), sizes[name]) for name in shapes}
    missing = kept_after(sum(sizes.values()), sparsity) - sum(counts.values())
    room = [name for name in shapes if counts[name] < sizes[name]]
    for name in sorted(room, key=lambda name: counts[name] - exact[name])[: max(missing, 0)]:
        counts[name] += 1
    mask = {}
    for name, shape in shapes.items():
        kept = torch.zeros(sizes[name], dtype=torch.bool)
        kept[torch.randperm(sizes[name], generator=generator)[: counts[name]]] = True
        mask[name] = kept.view(tuple(shape))
    return mask


def collapsed(mask: Mapping[str, Tensor]) -> list[str]:
    """Name the tensors of which a mask keeps nothing, so that no signal passes their layers."""
    return [name for name, kept in mask.items() if not bool(kept.any())]
