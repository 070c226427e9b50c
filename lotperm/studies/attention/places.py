"""Likeness of the units that π joins, at every place where they show, not only where matched."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pandas as pd
import torch
from torch import Tensor, nn

from lotperm.engine.models import Weights
from lotperm.science.assignment import assign, mean_matched
from lotperm.science.correlation import CorrelationAccumulator
from lotperm.science.symmetry import Permutation

# Place in words -> the module, whether its input (else its output), the group of its units.
Places = dict[str, tuple[str, bool, str]]


def places_of(depth: int) -> Places:
    """List the places of a tiny vision transformer, in the order of its computation."""
    found: Places = {"stream: patches and positions": ("blocks.0", True, "patches")}
    for i in range(depth):
        block, attention = f"blocks.{i}", f"blocks.{i}.attention"
        found[f"block {i + 1}: queries"] = (f"{attention}.query", False, f"{attention}.query")
        found[f"block {i + 1}: keys"] = (f"{attention}.key", False, f"{attention}.query")
        # After attention, where the values' units are matched.
        found[f"block {i + 1}: values, mixed"] = (f"{attention}.out", True, f"{attention}.value")
        found[f"block {i + 1}: MLP units"] = (f"{block}.mlp.1", False, f"{block}.mlp.0")
        found[f"stream: after block {i + 1}"] = (block, False, "patches")
    return found


@torch.no_grad()
def _activations(
    network: nn.Module, weights: Weights, inputs: Tensor, places: Places
) -> list[Tensor]:
    """Return the activations (B·T, n) at all places."""
    network.load_state_dict(weights)
    network.eval()
    seen: dict[str, Tensor] = {}

    def note(place: str, of_input: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
            seen[place] = (given[0] if of_input else result).flatten(0, -2)

        return hook

    hooks = [
        network.get_submodule(module).register_forward_hook(note(place, of_input))
        for place, (module, of_input, _) in places.items()
    ]
    try:
        network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [seen[place] for place in places]


def likeness_by_place(
    network: nn.Module,
    pairs: Iterable[tuple[Weights, Weights, Permutation]],
    inputs: Tensor,
) -> pd.DataFrame:
    """Correlate the units of A and B at every place, joined by π and as well as that place allows.

    Parameters
    ----------
    network : nn.Module
        A tiny vision transformer; gets other weights here.
    pairs : iterable of (Weights, Weights, Permutation)
        A, B and π of every replicate.
    inputs : Tensor
        ``(B, C, *spatial)``.

    Returns
    -------
    DataFrame
        Index the place; columns "joined by π", and "by this place alone": the units of this place
        matched without regard to any other, nor to heads. Means over replicates.
    """
    places = places_of(len(list(network.get_submodule("blocks").children())))
    rows: list[dict[str, object]] = []
    for a, b, permutation in pairs:
        both = [_activations(network, weights, inputs, places) for weights in (a, b)]
        for (place, (_, _, group)), x, y in zip(places.items(), *both, strict=True):
            moments = CorrelationAccumulator()
            moments.update(x, y)
            matrix = moments.correlation()
            rows.append(
                {
                    "place": place,
                    "joined by π": mean_matched(matrix, permutation[group]),
                    "by this place alone": mean_matched(matrix, assign(matrix)),
                }
            )
    return pd.DataFrame(rows).groupby("place", sort=False).mean()
