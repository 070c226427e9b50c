"""A symmetry that no mask can follow: rotations that mix the units inside a head."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from lotperm.engine.models import Weights
from lotperm.science.sparsity import Mask, apply_mask
from lotperm.science.symmetry import PermutationSpec, permute

_LAYERS = ("query", "key")


def rotated(weights: Weights, attention: str, heads: int, seed: int) -> Weights:
    """Rotate queries and keys of every head of an attention layer by one random rotation each.

    Parameters
    ----------
    weights : Weights
        A state dict of the tiny vision transformer.
    attention : str
        Name of the layer, as "blocks.0.attention".
    heads : int
        Number of its heads.
    seed : int
        Seed of the rotations.

    Returns
    -------
    Weights
        Queries and keys are R q and R k, so every product of a query and a key is as before.
    """
    found = dict(weights)
    dim = len(weights[f"{attention}.query.bias"]) // heads
    draw = torch.Generator().manual_seed(seed)
    turns = torch.linalg.qr(torch.randn(heads, dim, dim, generator=draw).double()).Q
    for layer in _LAYERS:
        for part in ("weight", "bias"):
            name = f"{attention}.{layer}.{part}"
            whole = weights[name]
            # Rows are the units of the heads, one head after the other.
            moved = turns @ whole.double().reshape(heads, dim, -1)
            found[name] = moved.reshape(whole.shape).to(whole.dtype)
    return found


@torch.no_grad()
def what_a_mask_can_follow(
    network: nn.Module,
    weights: Weights,
    mask: Mask,
    spec: PermutationSpec,
    inputs: Tensor,
    *,
    heads: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare a permutation with a rotation of queries and keys, on a pruned network.

    Parameters
    ----------
    network : nn.Module
        A tiny vision transformer; gets other weights here.
    weights : Weights
        Weights of the ticket; pruned here.
    mask : Mask
        Its mask.
    spec : PermutationSpec
        Symmetries of the network.
    inputs : Tensor
        ``(B, C, *spatial)``, on which outputs are compared.
    heads : int
        Heads of each attention layer.
    seed : int
        Seed of the permutation and of the rotations.

    Returns
    -------
    DataFrame
        Index: what is done; columns "largest change of an output" (relative to the largest output)
        and "zeros in queries and keys" (a percentage).
    """
    pruned = apply_mask(weights, mask)
    layers = [name.removesuffix(".query.weight") for name in mask if name.endswith(".query.weight")]
    turned = pruned
    for layer in layers:
        turned = rotated(turned, layer, heads, seed)
    permutation = spec.random(torch.Generator().manual_seed(seed))
    network.eval()

    def outputs(state: Mapping[str, Tensor]) -> Tensor:
        network.load_state_dict(state)
        logits: Tensor = network(inputs)
        return logits

    before, rows = outputs(pruned), {}
    for words, state in (
        ("as it is", pruned),
        ("heads and units permuted", permute(pruned, spec, permutation)),
        ("queries and keys rotated", turned),
    ):
        change = (outputs(state) - before).abs().max() / before.abs().max()
        weights_of = [state[f"{layer}.{one}.weight"] for layer in layers for one in _LAYERS]
        zeros = torch.cat([w.flatten() == 0 for w in weights_of]).double().mean()
        rows[words] = {
            "largest change of an output": f"{change:.0e}" if change else "0",
            "zeros in queries and keys": f"{100 * zeros:.0f} %",
        }
    return pd.DataFrame(rows).T


def symmetries(spec: PermutationSpec) -> pd.DataFrame:
    """Return the groups of units that can be permuted, in order.

    Returns
    -------
    DataFrame
        Index the name of the group; columns "units", "each inside of" and "tensors that move".
    """
    rows = {
        group: {
            "units": size,
            "each inside of": ", ".join(above.group for above in spec.inside.get(group, ())),
            "tensors that move": sum(
                any(group in role.positions for role in roles) for roles in spec.roles.values()
            ),
        }
        for group, size in spec.sizes.items()
    }
    return pd.DataFrame(rows).T.rename_axis("group")
