"""Matching by gradients of the loss: by error signals, or by contributions to the loss.

Activations say what a unit does with the inputs, gradients what later layers do with the unit's
output. Up to its sign, their product is the first-order change of the loss when that output is set
to 0: the Taylor criterion, by which Molchanov et al. 2017 (arXiv 1611.06440) prune units. Here it
isn't summed into one number per unit, but correlated over examples and positions, as activations
are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils import _pytree as pytree

from lotperm.errors import ParameterError, unknown_name
from lotperm.parallel import distributed
from lotperm.science.correlation import correlate
from lotperm.science.inputs import InputForm, batch_size, describe
from lotperm.science.matching.activations import Points, assign_all, choose_points
from lotperm.science.matching.result import Matching
from lotperm.science.mixing import mixes_examples
from lotperm.science.symmetry import PermutationSpec
from lotperm.science.symmetry.spec import runner, select_units

Signal = Literal["gradients", "attributions"]
"""The gradient of the loss with respect to a unit's output, or that gradient times the output."""

Loss = Callable[[Any, Tensor], Tensor]
"""Maps a network's output (a tuple if there are several) and labels to each example's loss."""


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy of each example, from logits (B, K) and classes int64 (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def match_gradients(
    a: Mapping[str, Any] | nn.Module,
    b: Mapping[str, Any] | nn.Module,
    batches: Iterable[Any],
    spec: PermutationSpec,
    *,
    signal: Signal = "gradients",
    loss: Loss = cross_entropies,
    points: Points | Mapping[str, str] = "last",
    keep_correlations: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Matching:
    r"""Match the units of A to those of B whose gradients of the loss correlate most.

    For each group the permutation maximizes the sum of the Pearson correlations of the matched
    pairs, over examples and positions, as in `match_activations`. If h is a unit's output for an
    example at a position, and :math:`\ell` the example's loss, the correlated quantity is

    .. math:: \frac{\partial \ell}{\partial h} \quad \text{or} \quad h \, \frac{\partial \ell}{\partial h},

    error signals or attributions. Each network runs forward and backward once for each batch.

    Parameters
    ----------
    a, b, spec, points, keep_correlations, device, dtype
        As in `match_activations`. Gradients are taken at the same points as activations, in
        evaluation mode.
    batches : Iterable[Any]
        Pairs of inputs and labels, as a `DataLoader` yields: inputs in the form that the network
        was traced with, a tuple if there are several, and labels as a tensor whose first dimension
        is that of the examples.
    signal : Signal, optional
        ``"gradients"`` or ``"attributions"``.
    loss : Loss, optional
        From the network's output and labels to a loss for each example, with the dimension of the
        examples first, such as `nn.CrossEntropyLoss(reduction="none")`. It mustn't average: the
        weight of an example would then depend on the size of its batch.

    Returns
    -------
    Matching
        Units whose signal is constant, such as those that the loss doesn't depend on, have
        correlation 0 with all others.

    Raises
    ------
    ParameterError
        As in `match_activations`; or the signal is unknown, batches aren't such pairs, or the loss
        doesn't give a number for each example or can't be differentiated at a point.
    """
    features, chosen = Gradients(loss, signal), choose_points(spec, points)
    moments = correlate(a, b, batches, spec, chosen, features=features, device=device, dtype=dtype)
    return distributed.once(lambda: assign_all(spec, moments, chosen, keep_correlations))


@dataclass(frozen=True)
class Gradients:
    """Error signals or attributions, as `lotperm.science.features.Features`.

    Attributes
    ----------
    loss : Loss
        As in `match_gradients`.
    signal : Signal
        As in `match_gradients`.
    labelled : bool
        True, since batches are pairs of inputs and labels.
    """

    loss: Loss = cross_entropies
    signal: Signal = "gradients"
    labelled: bool = True

    def __post_init__(self) -> None:
        if self.signal not in get_args(Signal):
            raise unknown_name("signal", self.signal, get_args(Signal))

    def leaves(self, form: InputForm, batch: Any) -> list[Any]:
        """Return the inputs of a pair, then its labels."""
        if not isinstance(batch, (list, tuple)) or len(batch) != 2:
            raise ParameterError(
                f"a batch is {describe(batch)}; gradients need pairs of inputs and labels, such as "
                "(x, y), or ((x1, x2), y) if the network takes two inputs."
            )
        inputs, labels = form.leaves(batch[0]), batch[1]
        size = batch_size(inputs)
        if not isinstance(labels, Tensor) or labels.dim() == 0 or len(labels) != size:
            raise ParameterError(
                f"the labels of a batch are {describe(labels)}, expected a tensor that begins with "
                f"the {size} examples of its inputs."
            )
        return [*inputs, labels]

    def mixes(
        self, spec: PermutationSpec, tensors: Mapping[str, Tensor], points: Mapping[str, str]
    ) -> bool:
        """Return whether any part of the network mixes examples: gradients pass through all."""
        return mixes_examples(spec, tensors, None)

    def observer(
        self, spec: PermutationSpec, tensors: Mapping[str, Tensor], points: Mapping[str, str]
    ) -> Callable[..., dict[str, Tensor]]:
        """Make a function from inputs and labels to each group's signals, batch norms folded."""
        with torch.enable_grad():
            # If the weights that hold units require gradients, so do all outputs of units. Other
            # tensors mustn't: a network may write into them, which autograd would then forbid.
            leaves = {
                name: tensor.detach().requires_grad_()
                if name in spec.roles and tensor.is_floating_point()
                else tensor
                for name, tensor in tensors.items()
            }
            run = runner(spec, leaves, points, tap_graph, fold=True)

        def observe(*given: Any) -> dict[str, Tensor]:
            with torch.enable_grad():
                taps, outputs = run(*given[:-1])
                found = _gradients(self._total(outputs, given[-1]), taps)
            if self.signal == "attributions":
                found = [value * g for (value, _), g in zip(taps, found, strict=True)]
            return select_units(spec, found, points)

        return observe

    def _total(self, outputs: Any, labels: Tensor) -> Tensor:
        """Sum the losses of the examples, so that each has the gradient of its own loss."""
        leaves = pytree.tree_leaves(outputs)
        losses = self.loss(leaves[0] if len(leaves) == 1 else tuple(leaves), labels)
        if not isinstance(losses, Tensor) or losses.dim() == 0 or not losses.requires_grad:
            raise ParameterError(
                "the loss must give a differentiable number for each example, got "
                f"{describe(losses)}; leave out its mean, as with reduction='none'."
            )
        return losses.sum()


Tap = tuple[Tensor, GradientEdge | None]
"""A node's output, and the place at which the gradient with respect to it arrives."""


def _tap(value: Tensor) -> Tap:
    """Copy a value and record the place of its gradient, before anything is written into it."""
    edge = get_gradient_edge(value) if value.requires_grad else None
    return value.detach().clone(), edge


def tap_graph(graph: fx.Graph, nodes: tuple[str, ...]) -> fx.Graph:
    """Return a graph that also yields the outputs of some nodes, and where gradients arrive.

    Returns
    -------
    fx.Graph
        Its output is ``(taps, outputs)``: a `Tap` for each of the nodes, and the graph's outputs.
    """
    tapped = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    taps: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "output":
            outputs = fx.node.map_arg(node.args[0], copies.__getitem__)
            tapped.output((tuple(taps[name] for name in nodes), outputs))
            break
        copies[node] = tapped.node_copy(node, copies.__getitem__)
        if node.name in nodes:
            taps[node.name] = tapped.call_function(_tap, (copies[node],))
    return tapped


def _gradients(total: Tensor, taps: Sequence[Tap]) -> list[Tensor]:
    """Differentiate a loss with respect to tapped values in one backward pass.

    The gradient is 0 where the loss doesn't depend on a value.
    """
    edges = [edge for _, edge in taps if edge is not None]
    if len(edges) < len(taps):
        raise ParameterError(
            "the loss can't be differentiated with respect to some units, as the network cuts "
            "their outputs off from its weights (detach, or whole numbers)."
        )
    found = torch.autograd.grad(total, edges, allow_unused=True)
    return [
        torch.zeros_like(value) if gradient is None else gradient
        for (value, _), gradient in zip(taps, found, strict=True)
    ]
