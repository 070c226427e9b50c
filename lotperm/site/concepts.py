"""Figures that explain an idea rather than show a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from lotperm.engine.models import MLP, initialize
from lotperm.site.interactive import interactive
from lotperm.studies.charts import NEGATIVE, POSITIVE, UNIT_COLOURS
from lotperm.studies.control.charts import draw_network


def swapped_units(
    before: Sequence[Tensor], after: Sequence[Tensor], order: Sequence[int], *, title: str
) -> Figure:
    """Draw Figure 2 of the paper: a network before and after its hidden units are reordered.

    Parameters
    ----------
    before, after : sequence of Tensor
        The weights of the two layers, (hidden, inputs) and (outputs, hidden).
    order : sequence of int
        The unit of `before` at each place of `after`.
    title : str
        The figure's title.
    """
    hidden, inputs = before[0].shape
    figure = plt.figure(figsize=(8, 5.2))
    grid = figure.add_gridspec(
        2, 4, height_ratios=[1.7, 1], hspace=0.35, wspace=0.45, top=0.86, bottom=0.07
    )
    limit = max(float(w.abs().max()) for w in before)
    signs = LinearSegmentedColormap.from_list("signs", (NEGATIVE, "#ffffff", POSITIVE))
    for side, (words, weights, units) in enumerate(
        (("before", before, list(range(hidden))), ("after", after, list(order)))
    ):
        # A unit keeps letter and colour wherever it moves.
        letters = [chr(ord("a") + unit) for unit in units]
        names = [
            [f"x{i + 1}" for i in range(inputs)],
            letters,
            [f"f{i + 1}" for i in range(len(weights[1]))],
        ]
        colours = [
            ["#dddddd"] * inputs,
            [UNIT_COLOURS[u % len(UNIT_COLOURS)] for u in units],
            ["#dddddd"] * len(weights[1]),
        ]
        ax = figure.add_subplot(grid[0, 2 * side : 2 * side + 2])
        draw_network(ax, weights, names=names, colours=colours)
        ax.set_title(words, fontweight="bold")
        for layer, (matrix, what) in enumerate(
            zip(weights, ("into the units", "out of the units"), strict=True)
        ):
            ax = figure.add_subplot(grid[1, 2 * side + layer])
            # Half the range of colours is enough, and numbers stay legible on them.
            ax.imshow(matrix.numpy(), cmap=signs, vmin=-2 * limit, vmax=2 * limit, aspect="auto")
            for (i, j), value in np.ndenumerate(matrix.numpy()):
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
            ax.set_xticks(range(matrix.shape[1]), names[layer])
            ax.set_yticks(range(matrix.shape[0]), names[layer + 1])
            ax.xaxis.tick_top()
            ax.grid(False)
            ax.set_xlabel(what, fontsize=9)
    figure.suptitle(title)
    return figure


def quadrants(
    seed: int = 79, steps: int = 600
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """Train the network of the interactive figure to tell two opposite quadrants from the others.

    Parameters
    ----------
    seed : int, optional
        Seed of its initialization. The default was found among 400: its network is right on every
        point at sparsity 0.3, and every swap of two connected units under the old mask costs at
        least 5 points of accuracy, so that a reader sees what the figure is about.
    steps : int, optional
        Steps of training.

    Returns
    -------
    weights, other : dict of str to Tensor
        State dicts of two trained networks, float64.
    inputs : Tensor of float64, shape (120, 2)
        Points of the plane.
    targets : Tensor, shape (120,)
        1 in two opposite quadrants, else 0.
    """
    draw = torch.Generator().manual_seed(0)
    inputs = 2 * torch.rand(120, 2, generator=draw, dtype=torch.float64) - 1
    targets = (inputs.prod(1) > 0).double()

    def build() -> MLP:
        return MLP(2, [4, 4], 1).double()

    def fitted(start: int) -> dict[str, Tensor]:
        model = build()
        model.load_state_dict(initialize(build, start))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            logits = model(inputs).squeeze(1)
            torch.nn.functional.binary_cross_entropy_with_logits(logits, targets).backward()
            optimizer.step()
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    return fitted(seed), fitted(0), inputs, targets


def clickable_network(
    weights: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    sparsity: float,
) -> dict[str, str]:
    """Make a figure in which the reader of a web page reorders hidden units.

    It consists of ``site/js/symmetry.js`` and its data, and works without a kernel and offline.

    Parameters
    ----------
    weights : mapping of str to Tensor
        State dict of a network of linear layers, in order.
    other : mapping of str to Tensor
        State dict of another network, for comparison with a usual distance.
    inputs : Tensor of float, shape (n, 2)
        Points of the plane.
    targets : Tensor, shape (n,)
        1 where the network's one output should be above 0, else 0.
    sparsity : float
        The initial sparsity of the mask.

    Returns
    -------
    dict
        The content by MIME type, to be displayed raw. The picture is shown where scripts don't
        run.
    """
    names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    data = {
        # In double precision, as JavaScript computes.
        "layers": [
            {kind: weights[f"{name}.{kind}"].double().tolist() for kind in ("weight", "bias")}
            for name in names
        ],
        "inputs": inputs.double().tolist(),
        "targets": targets.int().tolist(),
        "range": 1.05 * inputs.abs().max().item(),
        "sparsity": sparsity,
        "otherDistance": float(
            sum(((weights[n] - other[n]).double() ** 2).sum() for n in weights) ** 0.5
        ),
    }
    sizes = [
        weights[f"{names[0]}.weight"].shape[1],
        *(len(weights[f"{name}.bias"]) for name in names),
    ]
    letters = [
        # Letters go on from layer to layer, so each unit has one of its own.
        [chr(ord("a") + sum(sizes[1:i]) + unit) for unit in range(sizes[i])]
        for i in range(1, len(names))
    ]
    colours = [[UNIT_COLOURS[i % len(UNIT_COLOURS)] for i in range(n)] for n in sizes[1:-1]]
    figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    draw_network(
        ax,
        [weights[f"{name}.weight"] for name in names],
        names=[[f"x{i + 1}" for i in range(sizes[0])], *letters, ["y"]],
        colours=[["#dddddd"] * sizes[0], *colours, ["#dddddd"]],
    )
    alt = f"A network with layers of {', '.join(map(str, sizes))} units; the hidden ones have letters and colours."
    return interactive("symmetry", "lotperm-symmetry", data, figure, alt)
