"""M networks of one architecture as one: a forward pass computes them all, each with weights of
its own.

`stack` rewrites any feed-forward network: linear layers become batched matrix products (M, B, ·),
convolutions become grouped ones over M·C channels, and batch norm over M·C channels is each
network's own. `StackedNetworks` holds such a stack with all parameters in one flat buffer, for
`lotperm.engine.training`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lotperm.engine.models import Weights
from lotperm.errors import ParameterError, UnsupportedModelError, unknown_name
from lotperm.parallel import distributed

_ALIGNMENT = 16
"""Matrix products are fastest where sizes are multiples of this: a cache line of float32, a
tensor core's tile.
"""


class _StackedLinear(nn.Module):
    """M linear layers: (M, B, n_in) -> (M, B, n_out)."""

    def __init__(self, layer: nn.Linear, members: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.new_zeros(members, *layer.weight.shape))
        self.bias = (
            None
            if layer.bias is None
            else nn.Parameter(layer.bias.new_zeros(members, *layer.bias.shape))
        )

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        units = weight.shape[1]
        # Matrix products with, say, 10 columns are slower than with 16: a classifier gets idle
        # units for a moment.
        idle = -units % _ALIGNMENT
        if idle:
            weight = F.pad(weight, (0, 0, 0, idle))
            bias = None if bias is None else F.pad(bias, (0, idle))
        weight = weight.transpose(1, 2)
        y = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)
        return y[..., :units] if idle else y


def _in_2d(size: Any, other: int = 1) -> tuple[Any, ...]:
    """A size along a signal as one of an image of height 1; a size of images as it is."""
    sizes = size if isinstance(size, tuple) else (size,)
    return sizes if len(sizes) == 2 else (other, *sizes)


class _StackedConv(nn.Module):
    """M convolutions as one grouped convolution: (B, M·C_in, H, W) -> (B, M·C_out, H, W);
    signals have H = 1.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, members: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.new_zeros(members, *layer.weight.shape))
        self.bias = (
            None
            if layer.bias is None
            else nn.Parameter(layer.bias.new_zeros(members, *layer.bias.shape))
        )
        padding = layer.padding if isinstance(layer.padding, str) else _in_2d(layer.padding, 0)
        self.geometry: dict[str, Any] = {
            "stride": _in_2d(layer.stride),
            "padding": padding,
            "dilation": _in_2d(layer.dilation),
            "groups": layer.groups * members,
        }

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(0, 1)
        if weight.dim() == 3:
            weight = weight.unsqueeze(2)
        bias = None if self.bias is None else self.bias.flatten()
        return F.conv2d(
            x, weight.contiguous(memory_format=torch.channels_last), bias, **self.geometry
        )


class _StackedBatchNorm(nn.Module):
    """M batch norms as one: over the M·C channels of (B, M·C, ...), or of (M, B, C) after a linear
    layer.

    With several ranks the statistics are those of all ranks' examples, as in SyncBatchNorm, on
    every device by the one rule of `_synchronized`.
    """

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d, members: int, folded: bool) -> None:
        super().__init__()
        assert layer.momentum is not None  # see _plain_norm
        self.members, self.folded, self.eps, self.momentum = (
            members,
            folded,
            layer.eps,
            layer.momentum,
        )
        self.weight = nn.Parameter(layer.weight.new_ones(members, layer.num_features))
        self.bias = nn.Parameter(layer.weight.new_zeros(members, layer.num_features))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        self.register_buffer("running_mean", layer.weight.new_zeros(members, layer.num_features))
        self.register_buffer("running_var", layer.weight.new_ones(members, layer.num_features))
        self.register_buffer("num_batches_tracked", torch.zeros(members, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if not self.folded:
            x = x.transpose(0, 1).flatten(1)
        if self.training:
            self.num_batches_tracked.add_(1)
        if self.training and distributed.world_size() > 1:
            x = self._synchronized(x)
        else:
            x = F.batch_norm(
                x,
                self.running_mean.flatten(),
                self.running_var.flatten(),
                self.weight.flatten(),
                self.bias.flatten(),
                self.training,
                self.momentum,
                self.eps,
            )
        return x if self.folded else x.unflatten(1, (self.members, -1)).transpose(0, 1)

    def _synchronized(self, x: Tensor) -> Tensor:
        """Batch norm of (B, M·C, ...) by the statistics of all ranks, whose shares of a batch
        are equally large.
        """
        ranks, shape = distributed.world_size(), (1, -1, *[1] * (x.dim() - 2))
        values = x.to(self.weight.dtype)  # autocast may give bfloat16
        variance, mean = torch.var_mean(values, [0, *range(2, x.dim())], correction=0)
        # E[x²] − E[x]² loses digits where the mean is large: in float64 there are enough.
        mean, variance = mean.double(), variance.double()
        mean, square = distributed.total(torch.stack([mean, variance + mean.square()])) / ranks
        variance = square - mean.square()
        with torch.no_grad():
            count = ranks * values.numel() / values.shape[1]
            unbiased = variance * (count / max(count - 1, 1))
            for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.mul_(1 - self.momentum).add_(
                    now.view_as(running).to(running), alpha=self.momentum
                )
        scale = self.weight.flatten() * (variance + self.eps).rsqrt().to(values.dtype)
        shift = self.bias.flatten() - mean.to(values.dtype) * scale
        return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(x.dtype)


# What treats every element or every channel alone, and so works on stacked activations as it
# stands.
_ALIKE = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.Tanh,
    nn.ELU,
    nn.Identity,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
)
_ALIKE_CALLS = {
    "add",
    "iadd",
    "mul",
    "relu",
    "relu_",
    "gelu",
    "silu",
    "tanh",
    "sigmoid",
    "hardswish",
    "max_pool2d",
}
_FLATTEN_CALLS = {"flatten"}


def _plain_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> bool:
    return layer.affine and layer.track_running_stats and layer.momentum is not None


def _fold(x: Tensor) -> Tensor:
    """(B, M, C, H, W) -> (B, M·C, H, W), channels_last; a signal (B, M, C, L) becomes an image of
    height 1.

    Grouped convolutions of images in this layout are a third faster than those of signals.
    """
    x = x.flatten(1, 2)
    return (x.unsqueeze(2) if x.dim() == 3 else x).contiguous(memory_format=torch.channels_last)


def _pool_in_2d(pool: nn.Module) -> nn.Module:
    """A pooling of signals as one of images of height 1."""
    match pool:
        case nn.AdaptiveAvgPool1d():
            return nn.AdaptiveAvgPool2d(_in_2d(pool.output_size))
        case nn.MaxPool1d():
            padding, dilation = _in_2d(pool.padding, 0), _in_2d(pool.dilation)
            return nn.MaxPool2d(
                _in_2d(pool.kernel_size),
                _in_2d(pool.stride),
                padding,
                dilation,
                ceil_mode=pool.ceil_mode,
            )
        case nn.AvgPool1d():
            sizes = (_in_2d(pool.kernel_size), _in_2d(pool.stride), _in_2d(pool.padding, 0))
            return nn.AvgPool2d(*sizes, pool.ceil_mode, pool.count_include_pad)
    return pool


def stack(model: nn.Module, members: int) -> nn.Module:
    """Rewrite a network so that one forward pass computes `members` of them.

    Parameters
    ----------
    model : nn.Module
        a feed-forward network of linear, conv 1d/2d, batch norm, pooling and elementwise layers
        whose first axis is the batch. It is read, not changed.
    members : int
        M ≥ 1.

    Returns
    -------
    nn.Module
        Maps (B, M, C, *spatial) to logits (M, B, classes). Its parameters and buffers have the
        names of the model's and a leading axis M; they start at zero.

    Raises
    ------
    UnsupportedModelError
        If the network can't be traced or holds a layer without a stacking rule, dropout for one:
        such random layers would mix the members' random streams.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:
        raise UnsupportedModelError(
            f"the network can't be traced for training many at once: {error}"
        ) from error
    modules = dict(model.named_modules())
    root = nn.Module()
    # "input": (B, M, C, ...); "folded": (B, M·C, H, W), signals with H = 1; "split": (M, B, F)
    layout: dict[fx.Node, str] = {}
    placed: set[str] = set()
    owned: set[int] = set()

    def put(name: str, module: nn.Module) -> None:
        *path, last = name.split(".")
        parent = root
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        parent.add_module(last, module)

    def refuse(node: fx.Node, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{what} (node {node.name!r}) has no rule for training many networks at once. Replace it, or add a rule "
            "to lotperm.engine.stacking.stack."
        )

    def converted(node: fx.Node, argument: fx.Node, wanted: str) -> fx.Node:
        """The argument in the layout wanted, with the conversion inserted before the node."""
        have = layout[argument]
        if have == wanted:
            return argument
        with graph.inserting_before(node):
            if (have, wanted) == ("input", "folded"):
                new = graph.call_function(_fold, (argument,))
            elif (have, wanted) == ("input", "split"):
                flat = graph.call_method("flatten", (argument, 2))
                new = graph.call_method("transpose", (flat, 0, 1))
            elif (have, wanted) == ("folded", "split"):
                rows = graph.call_method("flatten", (argument, 1))
                apart = graph.call_method("unflatten", (rows, 1, (members, -1)))
                new = graph.call_method("transpose", (apart, 0, 1))
            else:
                raise refuse(node, f"a step from {have} to {wanted} activations")
        layout[new] = wanted
        return new

    for node in list(graph.nodes):
        sources = [a for a in node.all_input_nodes if a in layout]
        if node.op == "placeholder":
            if node is not next(iter(graph.nodes)):
                raise refuse(node, "a second input")
            layout[node] = "input"
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise refuse(node, "more than one output")
            node.args = (converted(node, sources[0], "split"),)
        elif node.op == "call_module":
            layer, source = modules[str(node.target)], sources[0]
            if isinstance(layer, nn.Linear):
                new: nn.Module = _StackedLinear(layer, members)
                source = converted(node, source, "split")
            elif isinstance(layer, nn.Conv1d | nn.Conv2d):
                if layer.padding_mode != "zeros":
                    raise refuse(node, f"{layer.padding_mode} padding")
                new = _StackedConv(layer, members)
                source = converted(node, source, "folded")
            elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and _plain_norm(layer):
                if layout[source] == "input":
                    source = converted(node, source, "folded")
                new = _StackedBatchNorm(layer, members, folded=layout[source] == "folded")
            elif isinstance(layer, nn.Flatten) and layer.start_dim == 1 and layer.end_dim == -1:
                new, source = nn.Identity(), converted(node, source, "split")
            elif isinstance(layer, _ALIKE):
                new = layer
                if "Pool" in type(layer).__name__:
                    new, source = _pool_in_2d(layer), converted(node, source, "folded")
            else:
                raise refuse(node, f"layer {type(layer).__name__}")
            if str(node.target) in placed:
                raise refuse(node, f"layer {node.target}, used twice,")
            for parameter in layer.parameters():
                if id(parameter) in owned:
                    raise refuse(
                        node, f"layer {node.target}, which shares a parameter with another one,"
                    )
                if not parameter.requires_grad:
                    raise refuse(node, f"layer {node.target}, which is frozen,")
                owned.add(id(parameter))
            if next(new.parameters(), None) is not None:
                placed.add(str(node.target))
            put(str(node.target), new)
            node.args = (source, *node.args[1:])
            layout[node] = layout[source]
        elif node.op in ("call_function", "call_method"):
            name = (
                node.target
                if isinstance(node.target, str)
                else getattr(node.target, "__name__", "?")
            )
            if name in _FLATTEN_CALLS and node.args[1:] in ((1,), (1, -1)) and not node.kwargs:
                node.replace_all_uses_with(converted(node, sources[0], "split"))
                graph.erase_node(node)
            elif name in _ALIKE_CALLS and len({layout[s] for s in sources}) == 1:
                layout[node] = layout[sources[0]]
            else:
                raise refuse(node, f"operation {name}")
        else:
            raise refuse(node, f"a bare parameter {node.target}")
    graph.lint()
    return fx.GraphModule(root, graph, class_name=f"Stacked{type(model).__name__}")


class StackedNetworks:
    """M networks of one architecture with all their parameters in one flat buffer.

    Parameters
    ----------
    model : nn.Module
        The architecture (see `stack`).
    weights : Sequence[Weights]
        M complete state dicts.
    device : torch.device | str, optional
        Where they live.

    Attributes
    ----------
    module
        The stack; maps (B, M, C, *spatial) to (M, B, classes).
    flat
        float32 (P·M,), every parameter of every member; the module's parameters are views of it.
    """

    def __init__(
        self, model: nn.Module, weights: Sequence[Weights], device: torch.device | str = "cpu"
    ) -> None:
        self.members = len(weights)
        self.module = stack(model, self.members).to(device)
        self.flat = torch.cat([p.detach().flatten() for p in self.module.parameters()])
        for parameter, view in zip(self.module.parameters(), self.views(self.flat), strict=True):
            parameter.data = view
        expected = self.module.state_dict().keys()
        for member, state in enumerate(weights):
            if state.keys() != expected:
                odd = sorted(state.keys() ^ expected)
                raise ParameterError(
                    f"weights of member {member} don't fit the network: {odd[:4]} differ."
                )
        with torch.no_grad():
            for name, tensor in self.module.state_dict().items():
                for member, state in enumerate(weights):
                    self._fits(f"weight {name} of member {member}", state[name], tensor)
                tensor.copy_(torch.stack([state[name] for state in weights]))

    def views(self, flat: Tensor) -> list[Tensor]:
        """Parts of a buffer (P·M,) that is laid out like `flat`, in the parameters' shapes:
        views, not copies.
        """
        shapes = [parameter.shape for parameter in self.module.parameters()]
        parts = flat.split([shape.numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    @staticmethod
    def _fits(what: str, tensor: Tensor, stacked: Tensor) -> None:
        if tensor.shape != stacked.shape[1:]:
            raise ParameterError(
                f"{what} has shape {tuple(tensor.shape)}, expected {tuple(stacked.shape[1:])}."
            )

    def spread(self, tensors: Sequence[Mapping[str, Tensor] | None], default: float) -> Tensor:
        """Lay one dict of tensors a member out like `flat`; `default` stands where a dict has no
        tensor.

        Raises
        ------
        ParameterError
            For a name that is no parameter's, or another shape: a mask would be ignored, or prune
            other weights.
        """
        parameters = dict(self.module.named_parameters())
        for member, given_here in enumerate(tensors):
            for name, tensor in (given_here or {}).items():
                if name not in parameters:
                    raise unknown_name("parameter", name, parameters)
                self._fits(f"mask {name} of member {member}", tensor, parameters[name])
        parts = []
        for name, parameter in parameters.items():
            for tensor_dict in tensors:
                given = None if tensor_dict is None else tensor_dict.get(name)
                parts.append(
                    torch.full(parameter.shape[1:], default)
                    if given is None
                    else given.to(self.flat.dtype).cpu()
                )
        return torch.cat([part.flatten() for part in parts]).to(self.flat)

    def weights(self) -> list[Weights]:
        """A copy of every member's state dict, on the CPU."""
        state = {
            name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()
        }
        return [
            {name: tensor[m].clone() for name, tensor in state.items()} for m in range(self.members)
        ]
