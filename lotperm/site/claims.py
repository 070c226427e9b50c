"""The ledger of claims with, besides records, the evidence computed while a page is built."""

from __future__ import annotations

from functools import cache

import numpy as np

from lotperm.site import landscape
from lotperm.studies.claims import Effect, Row, ledger
from lotperm.studies.claims.evidence import exact

_PAIRS = 2000


def live() -> dict[str, list[Effect]]:
    """Return what the network with two weights shows; number of a claim -> effects."""
    scene = landscape.Scene()
    result = landscape.simulate(scene)
    losses = {name: float(loss) for name, loss in result.final_losses().items()}
    source = "live, two neurons"
    chosen = landscape.outcomes(scene, _PAIRS)
    (share,) = chosen.loc[chosen.index == "in mirrored minima", "share"]
    axis = [
        exact(source, f"loss, naive − {word}", losses["naive"] - losses[arm], 1, "scene").noted(
            f"of random pairs of initializations {100 * share:.0f} % end as this one"
        )
        for arm, word in (("lth", "LTH"), ("permuted", "permuted"))
    ]
    # Weights that the mask removes must be exactly 0 at every step.
    inside = np.mean(result.paths["lth"][:, ~result.mask] == 0)
    subspace = exact(source, "steps of LTH in the subspace", 100 * float(inside), 1, "scene", "%")
    return {"10": axis, "11": [subspace.shown(0)]}


@cache
def page_ledger() -> tuple[Row, ...]:
    """Return the ledger with recorded and live evidence, computed once in a build."""
    return tuple(ledger(live=live()))
