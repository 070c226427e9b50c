"""Names of groups of units, after the layers that produce them."""

from __future__ import annotations

import re

# What groups of whole blocks are called, after the name of their layer.
OF_BLOCKS = ("heads", "blocks")

# Suffixes of groups that aren't the units of a layer, so that these keep its name.
_OF_OTHERS = (*OF_BLOCKS, "weights")


def layer_of(tensor: str) -> str:
    """Return the layer of a weight, or of a tensor from which a weight is computed."""
    tensor = re.sub(r"\.parametrizations\.([^.]+)\.original\d*$", r".\1", tensor)
    kept = r"(_orig|_mask|_v|_g)?$"  # by `torch.nn.utils.prune`, or by weight norm
    tensor = re.sub(rf"\.(in_proj_|[qkv]_proj_)weight{kept}", "", tensor)  # nn.MultiheadAttention
    # nn.LSTM and similar layers, then nn.LSTMCell and similar ones
    tensor = re.sub(rf"\.weight_[ih]h_(l\d+(_reverse)?){kept}", r".\1", tensor)
    tensor = re.sub(rf"\.weight_[ih]h{kept}", "", tensor)
    return re.sub(rf"\.weight{kept}", "", tensor)


def group_name(
    kind: int, members: dict[int, list[int]], layer: dict[int, str], suffixes: dict[int, str]
) -> str:
    """Name a group after its layer, with a suffix if other groups have the same layer."""
    alike = [other for other in members if layer[other] == layer[kind]]
    own = suffixes.get(kind, "")
    if own in _OF_OTHERS:
        same = [other for other in alike if suffixes.get(other) == own]
        return f"{layer[kind]}/{own}" + (f"{same.index(kind)}" if len(same) > 1 else "")
    alike = [other for other in alike if suffixes.get(other) not in _OF_OTHERS]
    if len(alike) == 1:
        return layer[kind]
    if own and [suffixes.get(other) for other in alike].count(own) == 1:
        return f"{layer[kind]}/{own}"
    return f"{layer[kind]}/{alike.index(kind)}"
