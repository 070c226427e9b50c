"""M networks of one architecture, run as one: a forward pass computes all with their own weights.

`stack` rewrites any feed-forward network: linear layers become batched matrix products (M, B, ·),
convolutions become grouped ones over M·C channels, and one batch norm over M·C channels normalizes
each network separately (`lotperm.engine.layers`). `StackedNetworks` holds such a stack, or one of
networks without such rules (`lotperm.engine.mapped`), with all parameters in one flat buffer, for
`lotperm.engine.training`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from lotperm.engine.layers import (
    StackedBatchNorm,
    StackedConv,
    StackedLinear,
    fold,
    nested,
    plain_norm,
    pool_in_2d,
)
from lotperm.engine.mapped import MappedStack
from lotperm.engine.models import Weights
from lotperm.errors import ParameterError, UnsupportedModelError, unknown_name

# These treat every element or every channel separately, so they work on stacked activations
# unchanged.
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


def stack(model: nn.Module, members: int) -> fx.GraphModule:
    """Rewrite a network so that one forward pass computes `members` copies of it.

    Parameters
    ----------
    model : nn.Module
        A feed-forward network of linear, conv 1d/2d, batch norm, pooling and elementwise layers
        whose first axis is the batch. It is read, not changed.
    members : int
        M ≥ 1.

    Returns
    -------
    fx.GraphModule
        Maps ``(B, M, C, *spatial)`` to logits (M, B, classes). Its parameters and buffers have the
        model's names and a leading axis M; `StackedNetworks` fills in the values.

    Raises
    ------
    UnsupportedModelError
        If the network can't be traced or holds a layer without a stacking rule, such as dropout,
        which would mix the members' random streams.
    """
    return _Rewriting(model, members).result()


class _Rewriting:
    """The rewriting of one network: its traced graph, and the stacked layers made so far.

    Activations are in one of three layouts: "input" (B, M, C, ...), "folded" (B, M·C, H, W) with
    H = 1 for signals, "split" (M, B, ...).
    """

    def __init__(self, model: nn.Module, members: int) -> None:
        try:
            self.graph = fx.symbolic_trace(model).graph
        # Tracing runs the network's own code, which may raise anything.
        except Exception as error:
            raise UnsupportedModelError(
                f"the network can't be traced for training many at once: {error}"
            ) from error
        self.members, self.name = members, f"Stacked{type(model).__name__}"
        self.modules = dict(model.named_modules())
        self.root = nn.Module()
        self.layout: dict[fx.Node, str] = {}
        # Names of layers with parameters, and ids of parameters, that have occurred so far.
        self.placed: set[str] = set()
        self.owned: set[int] = set()

    def result(self) -> fx.GraphModule:
        """Rewrite the graph node by node."""
        for node in list(self.graph.nodes):
            sources = [a for a in node.all_input_nodes if a in self.layout]
            match node.op:
                case "placeholder":
                    if node is not next(iter(self.graph.nodes)):
                        raise self._refusal(node, "a second input")
                    self.layout[node] = "input"
                case "output":
                    if not isinstance(node.args[0], fx.Node):
                        raise self._refusal(node, "more than one output")
                    # Logits are returned by member, even if the network ends in a convolution.
                    node.args = (self._converted(node, sources[0], "split"),)
                case "call_module":
                    self._replace_layer(node, sources[0])
                case "call_function" | "call_method":
                    self._check_call(node, sources)
                case _:
                    raise self._refusal(node, f"a bare parameter {node.target}")
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph, class_name=self.name)

    def _replace_layer(self, node: fx.Node, source: fx.Node) -> None:
        """Replace a layer by its stacked form, with its input in the layout that this takes."""
        layer = self.modules[str(node.target)]
        new, wanted = self._stacked(node, layer, self.layout[source])
        source = self._converted(node, source, wanted)
        self._check_parameters(node, layer)
        # Only layers with parameters count as used: one ReLU may serve the whole network.
        if next(new.parameters(), None) is not None:
            self.placed.add(str(node.target))
        self._put(str(node.target), new)
        node.args = (source, *node.args[1:])
        self.layout[node] = wanted

    def _stacked(self, node: fx.Node, layer: nn.Module, layout: str) -> tuple[nn.Module, str]:
        """Make the stacked form of a layer, and return it with its layout of input and output."""
        # Parametrizations, pruning and spectral norm compute a weight when the layer is called.
        if is_parametrized(layer) or layer._forward_pre_hooks or layer._forward_hooks:
            raise self._refusal(
                node, f"layer {type(layer).__name__} with a hook or parametrization"
            )
        if isinstance(layer, nn.Linear):
            if layout == "folded":
                raise self._refusal(node, "a linear layer along the last axis of an image")
            return StackedLinear(layer, self.members), "split"
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            if layer.padding_mode != "zeros":
                raise self._refusal(node, f"{layer.padding_mode} padding")
            return StackedConv(layer, self.members), "folded"
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and plain_norm(layer):
            layout = "split" if layout == "input" else layout
            return StackedBatchNorm(layer, self.members, folded=layout == "folded"), layout
        if isinstance(layer, nn.Flatten) and layer.start_dim == 1 and layer.end_dim == -1:
            # For images, the change of layout flattens in part; `flatten` does the rest.
            return nn.Flatten(2), "split"
        if isinstance(layer, _ALIKE):
            # Pooling must see height and width; elementwise layers take any layout.
            if "Pool" in type(layer).__name__:
                return pool_in_2d(layer), "folded"
            return layer, layout
        raise self._refusal(node, f"layer {type(layer).__name__}")

    def _check_parameters(self, node: fx.Node, layer: nn.Module) -> None:
        """Raise an error if a layer's parameters would be trained differently in a stack."""
        if str(node.target) in self.placed:
            raise self._refusal(node, f"layer {node.target}, used twice,")
        for parameter in layer.parameters():
            # By identity, since tied weights have two names and would become two weights here.
            if id(parameter) in self.owned:
                shared = f"layer {node.target}, which shares a parameter with another one,"
                raise self._refusal(node, shared)
            self.owned.add(id(parameter))

    def _put(self, name: str, module: nn.Module) -> None:
        """Add a module to the result under the name that it has in the network."""
        path, _, last = name.rpartition(".")
        nested(self.root, path).add_module(last, module)

    def _check_call(self, node: fx.Node, sources: Sequence[fx.Node]) -> None:
        """Keep a call that works on stacked activations, adapt `flatten`, and reject others."""
        by_name = isinstance(node.target, str)
        name = node.target if by_name else getattr(node.target, "__name__", "?")
        # Only a flattening of all axes but the batch's; others would mix members or examples.
        if name in _FLATTEN_CALLS and node.args[1:] in ((1,), (1, -1)) and not node.kwargs:
            # In stacked activations axis 1 holds members, so the call itself can't stay.
            rows = self._converted(node, sources[0], "split")
            with self.graph.inserting_before(node):
                flat = self.graph.call_method("flatten", (rows, 2))
            self.layout[flat] = "split"
            node.replace_all_uses_with(flat)
            self.graph.erase_node(node)
        # Two operands in different layouts might be broadcast against each other without an error.
        elif name in _ALIKE_CALLS and len({self.layout[s] for s in sources}) == 1:
            self.layout[node] = self.layout[sources[0]]
        else:
            raise self._refusal(node, f"operation {name}")

    def _converted(self, node: fx.Node, argument: fx.Node, wanted: str) -> fx.Node:
        """Return the argument in the wanted layout, converted before the node if necessary."""
        have = self.layout[argument]
        if have == wanted:
            return argument
        with self.graph.inserting_before(node):
            if have == "folded":
                rows = self.graph.call_method("flatten", (argument, 1))
                argument = self.graph.call_method("unflatten", (rows, 1, (self.members, -1)))
            # (M, B, ...), members first, and (B, M, ...), examples first, differ by a transpose.
            if "split" in (have, wanted):
                argument = self.graph.call_method("transpose", (argument, 0, 1))
            new = self.graph.call_function(fold, (argument,)) if wanted == "folded" else argument
        self.layout[new] = wanted
        return new

    def _refusal(self, node: fx.Node, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{what} (node {node.name!r}) has no rule for training many networks at once. "
            "Replace it, or add a rule to lotperm.engine.stacking.stack."
        )


class StackedNetworks:
    """M networks of one architecture with all their parameters in one flat buffer.

    Parameters
    ----------
    model : nn.Module
        The architecture (see `stack`).
    weights : Sequence[Weights]
        M complete state dicts.
    device : torch.device | str, optional
        Where the tensors are kept.
    stacked : bool | None, optional
        True: by `stack`'s rules; False: a `lotperm.engine.mapped.MappedStack`; None: by the rules
        if they suffice. `lotperm.engine.ways.choose` also looks at the data.

    Attributes
    ----------
    members : int
        M.
    module : nn.Module
        The stack; maps ``(B, M, C, *spatial)`` to (M, B, classes).
    flat : Tensor
        float32 (P·M,), every parameter of every member; the module's parameters are views of it.
    frozen : frozenset[str]
        Names of parameters that aren't trained, as they don't require gradients in the model.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Sequence[Weights],
        device: torch.device | str = "cpu",
        *,
        stacked: bool | None = None,
    ) -> None:
        self.members = len(weights)
        self.module = self._made(model, stacked).to(device)
        self.frozen = frozenset(n for n, p in model.named_parameters() if not p.requires_grad)
        # Parameter by parameter, and within each of them member by member, so that each stacked
        # parameter is contiguous in the buffer and can be a view of it.
        self.flat = torch.cat([p.detach().flatten() for p in self.module.parameters()])
        for parameter, view in zip(self.module.parameters(), self.views(self.flat), strict=True):
            # The parameter stays the same object for the module; only its memory is replaced.
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

    def _made(self, model: nn.Module, stacked: bool | None) -> nn.Module:
        if stacked is not False:
            try:
                return stack(model, self.members)
            except UnsupportedModelError:
                if stacked:
                    raise
        return MappedStack(model, self.members)

    @torch.no_grad()
    def count_batches(self, count: int) -> None:
        """Add to the batches that batch norms have counted, which a forward pass doesn't do."""
        for module in self.module.modules():
            if isinstance(module, StackedBatchNorm):
                module.num_batches_tracked.add_(count)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Cut a buffer (P·M,) that is laid out like `flat` into views of the parameters' shapes."""
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
        """Return one dict of tensors per member as a single buffer, laid out like `flat`.

        Parameters
        ----------
        tensors : Sequence[Mapping[str, Tensor] | None]
            M dicts, by the names of parameters.
        default : float
            The value for parameters that a dict doesn't name.

        Raises
        ------
        ParameterError
            If a name isn't a parameter's or a shape doesn't fit: otherwise a mask would be ignored,
            or would prune the wrong weights.
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
                # Put together on the CPU, so that there is a single transfer to the device.
                parts.append(
                    torch.full(parameter.shape[1:], default)
                    if given is None
                    else given.to(self.flat.dtype).cpu()
                )
        return torch.cat([part.flatten() for part in parts]).to(self.flat)

    def form(self) -> Hashable | None:
        """Return everything that a forward pass depends on, except for its tensors.

        Stacks of the same form compute the same from the same tensors. None if the form can't be
        determined: for mapped networks, and if a layer has hooks. (All layers are PyTorch's or from
        `lotperm.engine.layers`; a network's own modules were traced through.)
        """
        if not isinstance(self.module, fx.GraphModule):
            return None
        layers = []
        for name, layer in self.module.named_modules():
            # The graph itself is described by its nodes below.
            if layer is self.module:
                continue
            if any(v for k, v in vars(layer).items() if k.endswith("_hooks")):
                return None
            settings = {k: v for k, v in vars(layer).items() if not k.startswith("_")}
            layers.append((name, type(layer), repr(sorted(settings.items()))))
        nodes = [(n.op, n.target, repr(n.args), repr(n.kwargs)) for n in self.module.graph.nodes]
        return tuple(layers), tuple(nodes)

    def weights(self) -> list[Weights]:
        """Copy every member's state dict to the CPU."""
        state = {
            name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()
        }
        # Clones, since a view would keep the memory of all members alive as long as one is needed.
        return [
            {name: tensor[m].clone() for name, tensor in state.items()} for m in range(self.members)
        ]
