"""The explorer of a mask: its units in A's order and in B's, and how the two are matched."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lotperm.science.symmetry import Permutation
from lotperm.site.interactive import interactive
from lotperm.studies.charts import mask_images


def mask_explorer(
    layer: str,
    mask: Tensor,
    permutation: Permutation,
    groups: tuple[str | None, str | None],
    correlations: Mapping[str, Tensor],
) -> dict[str, str]:
    """Make a figure in which a reader looks at a mask before and after its permutation.

    It consists of ``site/js/explorer.js`` and its data, and works without a kernel and offline.

    Parameters
    ----------
    layer : str
        The layer's name.
    mask : Tensor
        bool (n, m): A's mask.
    permutation : Permutation
        π: group -> int64, the unit of A at each place of B.
    groups : tuple of (str or None, str or None)
        Groups of the layer's rows and of its columns; None where they have a fixed order, as
        inputs and outputs do.
    correlations : mapping of str to Tensor
        Correlations of both groups: float, rows are units of B and columns units of A.

    Returns
    -------
    dict
        The content by MIME type, to be displayed raw. The picture is shown where scripts don't
        run.
    """

    orders = [
        torch.arange(size) if group is None else permutation[group]
        for group, size in zip(groups, mask.shape, strict=True)
    ]

    def side(group: str | None, order: Tensor) -> dict[str, list[float]]:
        pairs = list(enumerate(order.tolist()))
        found = [1.0 if group is None else float(correlations[group][p]) for p in pairs]
        return {"permutation": order.tolist(), "correlations": [round(r, 4) for r in found]}

    rows = torch.eye(len(mask)) if groups[0] is None else correlations[groups[0]]
    data = {
        "layer": layer,
        "rows": side(groups[0], orders[0]),
        "columns": side(groups[1], orders[1]),
        "mask": "".join(str(int(kept)) for kept in mask.flatten().tolist()),
        "correlation": (100 * rows).round().int().flatten().tolist(),
    }
    moved = mask[orders[0]][:, orders[1]]
    drawn = mask_images({"in A's order": mask, "in B's order": moved}, title=f"Mask of {layer}")
    alt = f"The mask of {layer}, in A's order and with its units where the permutation puts them."
    return interactive("explorer", "lotperm-mask", data, drawn, alt)
