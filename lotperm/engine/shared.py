"""Gradients averaged over several ranks, each of which has an equal share of every batch."""

from __future__ import annotations

import contextlib
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lotperm.config.experiment import Recipe
from lotperm.engine.state import TrainingState
from lotperm.engine.step import Gradients, Rule, partial_losses
from lotperm.errors import ParameterError, UnsupportedModelError


def check_shared(recipe: Recipe, compile: bool, ranks: int) -> None:
    """Raise an error if this number of ranks can't share a training run.

    Parameters
    ----------
    recipe : Recipe
        The training recipe.
    compile : bool
        As in `lotperm.engine.runtime.Runtime`.
    ranks : int
        Number of processes, 1 or more (`lotperm.parallel.distributed`).

    Raises
    ------
    ParameterError
        If the batch can't be divided equally, or the step is to be compiled.
    """
    # The mean over ranks is the mean over the batch only if all shares have the same size.
    if recipe.batch_size % ranks:
        raise ParameterError(
            f"batch_size is {recipe.batch_size}, which {ranks} processes can't share equally. "
            f"Choose a multiple of {ranks}, or another number of processes."
        )
    if ranks > 1 and compile:
        raise ParameterError(
            "a compiled step can't be shared by several processes. Leave compile out."
        )


def shared_gradients(rule: Rule, state: TrainingState, input_shape: tuple[int, ...]) -> Gradients:
    """Make a function that averages gradients over the ranks; every rank must call it.

    Parameters
    ----------
    rule : Rule
        The constants of the step.
    state : TrainingState
        The networks, equal on all ranks before and after every step.
    input_shape : tuple[int, ...]
        ``(C, *spatial)`` of one example.

    Returns
    -------
    Gradients
        Takes this rank's share of a batch, and returns the losses on that share and gradients that
        are equal on all ranks.

    Raises
    ------
    UnsupportedModelError
        If the network has a parameter that it doesn't use.
    """
    parallel = _averaging(state, input_shape)
    parameters = list(state.networks.module.parameters())

    @torch.enable_grad()
    def gradients(inputs: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        # The gradients are views of DistributedDataParallel's buckets, so they are set to zero
        # instead of dropped.
        parallel.zero_grad(set_to_none=False)
        total: Tensor | None = None
        parts = rule.parts(len(inputs))
        for part in parts:
            # The ranks exchange gradients once, in the backward pass of the last part.
            waiting = contextlib.nullcontext() if part is parts[-1] else parallel.no_sync()
            with waiting:
                losses = partial_losses(rule, parallel, inputs, targets, part)
                # Each rank's loss is a mean over its share; the backward pass averages over ranks.
                losses.sum().backward()
            total = losses.detach() if total is None else total + losses.detach()
        return cast(Tensor, total), tuple(cast(Tensor, p.grad) for p in parameters)

    return gradients


def _averaging(state: TrainingState, input_shape: tuple[int, ...]) -> DistributedDataParallel:
    """Wrap the networks so that a backward pass averages their gradients over the ranks."""
    module = state.networks.module
    for parameter in module.parameters():
        # Laid out as DistributedDataParallel needs it; gradients are added to it from now on.
        parameter.grad = torch.zeros_like(parameter)
    parallel = DistributedDataParallel(module, gradient_as_bucket_view=True)
    # The only buffers are batch statistics, which are computed identically on all ranks.
    parallel.broadcast_buffers = False
    # DistributedDataParallel rearranges the gradients after its first step, and with them the order
    # of sums over three ranks or more. So its first step is an empty one here, for an interrupted
    # run to resume with the same sums.
    module.eval()
    example = state.networks.flat.new_zeros(1, state.networks.members, *input_shape)
    with torch.enable_grad():
        _check_used(module, module(example))
        parallel(example).sum().backward()
    return parallel


def _check_used(module: nn.Module, logits: Tensor) -> None:
    """Raise an error for unused parameters, whose gradients the ranks would wait for."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(logits.sum(), list(named.values()), allow_unused=True)
    unused = [name for name, g in zip(named, gradients, strict=True) if g is None]
    if unused:
        raise UnsupportedModelError(
            f"{unused[0]} isn't used by the network, so several processes can't share its training. "
            "Remove it, or train in one process."
        )
