"""Scores for weights before training: SNIP, GraSP and SynFlow.

Each returns one number for each prunable weight; `lotperm.science.ranking.keep_highest` turns them
into a mask. The network, including its batch statistics, isn't changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lotperm.errors import ParameterError, UnsupportedModelError
from lotperm.science.leaves import Leaves
from lotperm.science.ranking import keep_highest
from lotperm.types import Float

Scores = dict[str, Float[Tensor, " ..."]]
LabelledBatch = tuple[Tensor, Tensor]

GRASP_TEMPERATURE = 200.0
"""The number by which the authors of GraSP divide logits."""

SYNFLOW_ROUNDS = 100
"""The number of rounds in the SynFlow paper."""


def snip_scores(model: nn.Module, batches: Iterable[LabelledBatch], names: Sequence[str]) -> Scores:
    r"""Score weights by how much the loss depends on them: SNIP (Lee et al. 2019).

    .. math:: s_j = \frac{|g_j w_j|}{\sum_k |g_k w_k|}, \qquad g = \frac{\partial L}{\partial w},

    where :math:`g_j w_j` is the derivative of the loss with respect to a factor on weight j, at 1.

    Parameters
    ----------
    model : nn.Module
        The network with the weights to score. It runs as in training: batch norm takes the
        statistics of each batch.
    batches : Iterable[LabelledBatch]
        Inputs ``(B, *shape)`` and classes int64 (B,); L is the mean cross-entropy over all
        examples. GraSP goes through the batches twice.
    names : Sequence[str]
        Parameters to score (`lotperm.science.sparsity.prunable_parameters`).

    Returns
    -------
    dict[str, Tensor]
        Name -> scores of the weight's shape, ≥ 0; they sum to 1.

    Raises
    ------
    ParameterError
        If a name isn't a parameter, there is no example, or every score is zero.
    """
    network = _Scored(model, names, training=True)
    gradients = network.gradient(batches)
    # These are gradients of the mean loss: examples that pull in opposite directions cancel.
    scores = {n: (g * network.leaves[n]).detach().abs() for n, g in gradients.items()}
    total = sum(score.double().sum().item() for score in scores.values())
    if total == 0:
        raise ParameterError("the loss depends on no weight here, so SNIP can't rank them.")
    return {name: score / total for name, score in scores.items()}


def grasp_scores(
    model: nn.Module,
    batches: Iterable[LabelledBatch],
    names: Sequence[str],
    *,
    temperature: float = GRASP_TEMPERATURE,
) -> Scores:
    r"""Score weights by their effect on the norm of the gradient: GraSP (Wang et al. 2020).

    .. math:: s = w \odot H g, \qquad g = \nabla L, \quad H = \nabla^2 L .

    Without weight j, :math:`\|g\|^2` changes by :math:`-2 s_j` to first order, so the highest
    scores are kept: the paper removes the highest :math:`-w \odot H g`.

    Parameters
    ----------
    model, batches, names
        As in `snip_scores`.
    temperature : float, optional
        Logits are divided by it.

    Returns
    -------
    dict[str, Tensor]
        Name -> scores, of the weight's shape and of either sign.

    Raises
    ------
    ParameterError
        As `snip_scores`.
    """
    network = _Scored(model, names, training=True)
    first = network.gradient(batches, temperature)
    product: Scores = {name: torch.zeros_like(g) for name, g in first.items()}
    leaves, examples = list(network.leaves.values()), 0
    for loss, count in network.losses(batches, temperature):
        examples += count
        slope = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        # H g is the gradient of g·(g held fixed); H is a sum over batches.
        inner = sum(
            ((g * first[name]).sum() for g, name in zip(slope, first, strict=True)),
            torch.zeros((), dtype=loss.dtype, device=loss.device),
        )
        part = torch.autograd.grad(inner, leaves, materialize_grads=True)
        for name, more in zip(product, part, strict=True):
            product[name] += more
    return {name: network.leaves[name].detach() * hg / examples for name, hg in product.items()}


def synflow_scores(
    model: nn.Module,
    shape: Sequence[int],
    names: Sequence[str],
    mask: Mapping[str, Tensor] | None = None,
) -> Scores:
    r"""Score weights by the flow of synaptic strength through them: SynFlow (Tanaka et al. 2020).

    .. math::

        s = |w| \odot \frac{\partial R}{\partial |w|}, \qquad
        R = \mathbb{1}^\top f_{|\theta|}(\mathbb{1}),

    where f has the absolute values of all its parameters. For a hidden unit without a bias, the
    scores of the incoming and of the outgoing weights have the same sum. The paper uses batch norms
    only at initialization. After that, as always in evaluation, they multiply and add, and this is
    done with absolute values. Other norms (layer, group, instance, RMS) would subtract or divide
    away what flows into them, so only their parameters are applied.

    Parameters
    ----------
    model : nn.Module
        The network. It runs as in evaluation, in float64: R grows exponentially with depth.
    shape : Sequence[int]
        Shape of an example. No data are needed.
    names : Sequence[str]
        Parameters to score.
    mask : Mapping[str, Tensor] | None, optional
        Name -> which weights are kept so far; the others count as 0.

    Returns
    -------
    dict[str, Tensor]
        Name -> float64 scores of the weight's shape, ≥ 0.

    Raises
    ------
    ParameterError
        As `snip_scores`.
    UnsupportedModelError
        If the network fails on ones, as an embedding does.

    Warns
    -----
    UserWarning
        If a score is negative, as before a softmax or a custom norm; it names the weights.
    """
    network = Leaves(model, names, training=False, dtype=torch.float64, positive=True, mask=mask)
    ones = torch.ones((1, *shape), dtype=torch.float64, device=network.device)
    try:
        flow = network(ones).sum()
    except Exception as error:  # the network's own code
        raise UnsupportedModelError(
            f"SynFlow passes ones of shape {tuple(shape)} through the network, which fails on them "
            f"({str(error).splitlines()[0][:100] if str(error) else type(error).__name__}). SNIP and "
            "GraSP use examples instead, and ERK masks are random."
        ) from error
    gradients = torch.autograd.grad(flow, list(network.leaves.values()), materialize_grads=True)
    scores = {
        name: (leaf * g).detach()
        for (name, leaf), g in zip(network.leaves.items(), gradients, strict=True)
    }
    _name_negative(scores)
    return scores


def _name_negative(scores: Scores) -> None:
    # Negative beyond rounding, relative to the largest score.
    largest = max((float(score.abs().max()) for score in scores.values()), default=0.0)
    lowest = {name: float(score.min()) for name, score in scores.items()}
    if odd := [name for name, score in lowest.items() if score < -1e-9 * largest]:
        warnings.warn(
            f"SynFlow's scores of {', '.join(odd[:4])}{' …' if len(odd) > 4 else ''} are partly "
            "negative: something there weakens what flows into it, as softmax does, so these "
            "weights are pruned first.",
            stacklevel=3,
        )


def synflow_mask(
    model: nn.Module,
    shape: Sequence[int],
    names: Sequence[str],
    sparsity: float,
    *,
    rounds: int = SYNFLOW_ROUNDS,
) -> dict[str, Tensor]:
    """Prune by SynFlow in n rounds; ``(1 - sparsity) ** (r / n)`` of the weights survive round r.

    In a single round, SynFlow may remove whole layers, as other scores may. In many rounds it
    doesn't, because the fewer weights a layer has left, the higher they score (Tanaka et al. 2020,
    theorem 3).

    Parameters
    ----------
    model, shape, names
        As in `synflow_scores`.
    sparsity : float
        Fraction of the named weights removed in all.
    rounds : int, optional
        n.

    Returns
    -------
    Mask
    """
    if rounds < 1:
        raise ParameterError(f"rounds is {rounds}; expected 1 or more.")
    mask: dict[str, Tensor] | None = None
    for number in range(1, rounds + 1):
        # The last round ends exactly at the sparsity, without a rounding error.
        target = sparsity if number == rounds else 1 - (1 - sparsity) ** (number / rounds)
        mask = keep_highest(synflow_scores(model, shape, names, mask), target, among=mask)
    assert mask is not None
    return mask


class _Scored(Leaves):
    """`Leaves` with the loss of a classifier."""

    def losses(
        self, batches: Iterable[LabelledBatch], temperature: float
    ) -> Iterator[tuple[Tensor, int]]:
        """Yield the summed cross-entropy of each batch, and the number of its examples."""
        # Lazily, so that each batch's activations are freed before the next batch runs.
        for inputs, targets in batches:
            logits = self(inputs.to(self.device)) / temperature
            loss = F.cross_entropy(logits, targets.to(self.device), reduction="sum")
            yield loss, len(targets)

    def gradient(self, batches: Iterable[LabelledBatch], temperature: float = 1.0) -> Scores:
        """Return the gradient of the mean cross-entropy over all examples."""
        leaves, examples = list(self.leaves.values()), 0
        total = {name: torch.zeros_like(leaf) for name, leaf in self.leaves.items()}
        for loss, count in self.losses(batches, temperature):
            examples += count
            found = torch.autograd.grad(loss, leaves, materialize_grads=True)
            for name, part in zip(total, found, strict=True):
                total[name] += part
        if not examples:
            raise ParameterError("there are no examples to score weights on.")
        return {name: gradient / examples for name, gradient in total.items()}
