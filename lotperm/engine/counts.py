"""What a network costs per image, computed from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lotperm.config.experiment import DataConfig, ModelConfig
from lotperm.data.datasets import info
from lotperm.engine.models import build
from lotperm.science.sparsity import prunable_parameters

TRAIN_FACTOR = 3
"""How many forward passes a training image costs in FLOPs: one, plus in the backward pass two
products of the same size, for the gradients of a layer's inputs and of its weights.
"""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Cost of one image in a network, and the size of its weights.

    Attributes
    ----------
    parameters, prunable : int
        Number of all weights, and of those that may be pruned.
    state_bytes : int
        Bytes of its weights and buffers in a file.
    layers : int
        Number of convolutions and linear layers.
    forward_flops : int
        FLOPs of the forward pass of one image; a multiplication and an addition count as two.
    outputs : int
        Number of values in these layers' outputs for one image.
    saved : int
        Number of values that the forward pass of one image keeps for the backward pass.
    largest : int
        Number of values in the largest output of any module for one image.
    """

    parameters: int
    prunable: int
    state_bytes: int
    layers: int
    forward_flops: int
    outputs: int
    saved: int
    largest: int

    def flops(self, train_images: float, forward_images: float) -> float:
        """Return the FLOPs of some training images and of others that only go forward."""
        return (TRAIN_FACTOR * train_images + forward_images) * self.forward_flops


@cache
def network(model: ModelConfig, data: DataConfig, prunable: str = "paper") -> Network:
    """Count what a network costs, on the meta device, which tracks shapes without computing.

    Parameters
    ----------
    model : ModelConfig
        The network.
    data : DataConfig
        The data set whose images the network takes; it needn't be present.
    prunable : str, optional
        Which weights may be pruned: "paper" or "all", as in `prunable_parameters`.

    Raises
    ------
    ParameterError
        If the network has no form for the data.
    """
    of = info(data)
    with torch.device("meta"):
        net = build(
            model.name,
            input_shape=of.shape,
            classes=of.classes,
            width=model.width,
            # Networks other than the MLP ignore hidden widths.
            hidden=model.hidden or (1,),
        )
    state = net.state_dict()
    names = prunable_parameters(net, "all" if prunable == "all" else "paper")
    flops, layers, outputs, largest = _count_forward(net, of.shape)
    return Network(
        parameters=sum(p.numel() for p in net.parameters()),
        prunable=sum(state[name].numel() for name in names),
        state_bytes=sum(t.numel() * t.itemsize for t in state.values()),
        layers=layers,
        forward_flops=flops,
        outputs=outputs,
        saved=_count_saved(net, of.shape),
        largest=largest,
    )


def _count_forward(net: nn.Module, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Count FLOPs, layers, their outputs and the largest output in a forward pass of one image."""
    # Imported here because it loads Triton, which takes a sixth of the time of `lotperm --help`.
    from torch.utils.flop_counter import FlopCounterMode

    layers, outputs, largest = 0, 0, 0

    def seen(module: nn.Module, _: Any, result: Tensor) -> None:
        nonlocal layers, outputs, largest
        # Outputs of all leaves count here, including batch norms and activations.
        largest = max(largest, result.numel())
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            layers, outputs = layers + 1, outputs + result.numel()

    # Only leaves, since a container's output is that of its last child.
    hooks = [m.register_forward_hook(seen) for m in net.modules() if not list(m.children())]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        # In eval mode batch norm takes no statistics, so one image is enough.
        net.eval()(torch.empty(1, *shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return int(counter.get_total_flops()), layers, outputs, largest


def _count_saved(net: nn.Module, shape: tuple[int, ...]) -> int:
    """Count the values that autograd keeps for one image, each storage once, without weights."""
    # Views share a storage, which is in memory only once.
    weights = {p.untyped_storage()._cdata for p in net.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # Two images, since batch norm rejects a single one if there are no positions to average.
        net.train()(torch.empty(2, *shape, device="meta"))
    return sum(t.numel() for t in kept.values()) // 2
