"""How unit labels travel through a graph: one rule for every kind of operation."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from lotperm.errors import UnsupportedModelError
from lotperm.science.graphs import concrete_sizes, node_shape, operation_name

FIXED = 0  # the id of what must not move: the network's inputs and outputs, constants, statistics over units


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Run on the ids as they are: they move, copy or drop values and change none.
_MOVES = _names(
    """cat chunk concat expand expand_as flatten flip hstack movedim mT narrow permute pixel_shuffle
    pixel_unshuffle repeat reshape reshape_as roll select slice split split_with_sizes squeeze stack swapaxes
    t tensor_split tile transpose unbind unflatten unsqueeze view view_as vstack"""
)


# Value by value, though not all of their overloads have ATen's tag `pointwise`.
_POINTWISE = _names(
    """_to_copy alias alpha_dropout clone contiguous copy detach dropout feature_alpha_dropout feature_dropout
    fill floor_divide hardswish log_sigmoid mish relu6 rsub to true_divide type_as where zero"""
)


NONLINEARITIES = _names(
    """celu elu gelu hardsigmoid hardswish hardtanh leaky_relu log_sigmoid mish prelu relu relu6 rrelu selu
    sigmoid silu softplus tanh threshold"""
)


_REDUCTIONS = _names(
    "_softmax amax amin log_softmax logsumexp linalg_vector_norm mean norm prod softmax std sum var"
)


_CONSTANTS = _names("full full_like new_full new_ones new_zeros ones ones_like zeros zeros_like")


# Products with a parameter: the parameter's output and input axis, the dimension of the
# activation's units.
_CONTRACTIONS = {
    "conv1d": (0, 1, 1),
    "conv2d": (0, 1, 1),
    "conv3d": (0, 1, 1),
    "conv_transpose1d": (1, 0, 1),
    "conv_transpose2d": (1, 0, 1),
    "conv_transpose3d": (1, 0, 1),
    "linear": (0, 1, -1),
    "matmul": (1, 0, -1),
}


_POOLS = ("max_pool", "avg_pool", "adaptive_", "upsample_")


class Labeller(fx.Interpreter):
    """Runs a graph on unit ids in place of values.

    An activation is an int64 tensor of the activation's own shape. Ids are made equal by a
    union-find over `parent`, in which the smallest id of a class is its root, so that _FIXED wins.
    Dimensions along which an id is constant mostly have stride 0, which `_thin` uses to do the
    work once.
    """

    def __init__(
        self, program: fx.GraphModule, shapes: dict[str, torch.Size], names: dict[str, str]
    ) -> None:
        super().__init__(program)
        self.extra_traceback = False
        self.shapes, self.names = shapes, names
        self.parent = torch.zeros(1, dtype=torch.int64)
        self.matrix_roles: dict[
            tuple[str, int, int, int, int], Tensor
        ] = {}  # name, first, last, start, stop
        self.element_roles: dict[tuple[str, int, int, int, int], Tensor] = {}
        self.carried: dict[str, Tensor] = {}  # node name -> ids of its output
        self.together: list[Tensor] = []  # ids that enter one statistic and must stay in it
        self.matrices = {
            node
            for node in program.graph.nodes
            if node.op == "get_attr"
            and node.target in names
            and all(
                operation_name(user) in _CONTRACTIONS and user.args[1] is node
                for user in node.users
            )
        }

    # ------------------------------------------------------------------ union-find
    def fresh(self, n: int) -> Tensor:
        """New ids for n units; a single one has nothing to change places with."""
        if n == 1:
            return torch.zeros(1, dtype=torch.int64)
        ids = torch.arange(len(self.parent), len(self.parent) + n)
        self.parent = torch.cat([self.parent, ids])
        return ids

    def find(self, ids: Tensor) -> Tensor:
        """The root of each id."""
        roots = thin_ids(ids)
        while not torch.equal(above := self.parent[roots], roots):
            roots = above
        return roots.expand(ids.shape)

    def unify(self, a: Tensor, b: Tensor) -> None:
        """Make ids equal, position by position, with broadcasting."""
        a, b = torch.broadcast_tensors(a, b)
        strides = zip(a.stride(), b.stride(), strict=True)
        once = tuple(slice(1) if s == t == 0 else slice(None) for s, t in strides)
        a, b = a[once].flatten(), b[once].flatten()
        while True:
            a, b = self.find(a), self.find(b)
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            self.parent.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")

    def varying(self, ids: Tensor) -> list[int]:
        """The dimensions along which the ids differ."""
        roots = thin_ids(self.find(ids))
        return [d for d in range(ids.dim()) if bool((roots != roots.narrow(d, 0, 1)).any())]

    def along(self, ids: Tensor, dim: int) -> Tensor:
        """One id per index of `dim`, made equal over all other dimensions."""
        rows = thin_ids(ids).movedim(dim, 0).flatten(1)
        self.unify(rows, rows[:, :1])
        return self.find(rows[:, 0].expand(ids.shape[dim]))

    def role(
        self, name: str, axis: int, ids: Tensor, rows: tuple[int, int] | None = None
    ) -> Tensor:
        """Note that the ids lie along an axis of a matrix; a matrix that is used twice makes
        them equal.
        """
        name = self.names[name]
        key = (name, axis, axis, *(rows or (0, self.shapes[name][0])))
        self.unify(self.matrix_roles.setdefault(key, ids), ids)
        return self.find(ids)

    # ------------------------------------------------------------------ rules
    def run_node(self, n: fx.Node) -> Any:
        if n.op == "placeholder":
            return torch.zeros(node_shape(n), dtype=torch.int64)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "get_attr":
            return self.parameter(n)
        if n.op == "output":
            for ids in pytree.tree_leaves(args):
                if isinstance(ids, Tensor):
                    self.unify(ids, torch.tensor(FIXED))
            return None
        result = self.operation(n, args, kwargs)
        if isinstance(result, Tensor):
            self.carried[n.name] = result = self.find(result)
        return result

    def parameter(self, n: fx.Node) -> Tensor | None:
        """Ids of a parameter or buffer by value; None for a matrix, which `contraction` labels
        by axes.
        """
        if n in self.matrices:
            return None
        if n.target not in self.names or not n.meta["val"].is_floating_point():
            return _fixed(n)
        name = self.names[str(n.target)]
        shape = self.shapes[name]
        key = (name, 0, max(len(shape) - 1, 0), 0, shape[0] if shape else 0)
        if key not in self.element_roles:
            self.element_roles[key] = self.fresh(shape.numel())
        return self.element_roles[key].view(shape)

    def operation(self, n: fx.Node, args: Any, kwargs: Any) -> Any:
        base, target = operation_name(n), n.target
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if base == "sym_size":
            return args[0].shape[args[1]]
        if not isinstance(target, OpOverload):
            if callable(target) and (target is operator.getitem or not tensors):
                return target(*args, **kwargs)  # arithmetic on sizes, one of several outputs
            raise _no_rule(n)
        named: dict[str, Any] = {
            a.name: a.default_value for a in target._schema.arguments if a.has_default_value()
        }
        named |= dict(zip((a.name for a in target._schema.arguments), args, strict=False)) | kwargs
        if base in _CONTRACTIONS and n.args[1] in self.matrices:
            return self.contraction(n, named, args[0])
        if base in _MOVES:
            return getattr(torch.ops.aten, "reshape" if base == "view" else base)(*args, **kwargs)
        if base in _POINTWISE or torch.Tag.pointwise in target.tags:
            return self.pointwise(tensors)
        if base in ("batch_norm", "instance_norm", "group_norm", "prelu"):
            return self.per_channel(tensors[0], tensors[1:], named.get("num_groups"))
        if base == "layer_norm":
            self.reduce(tensors[0], list(range(-len(named["normalized_shape"]), 0)))
            return self.pointwise(tensors)
        if base in _REDUCTIONS:
            dims = named.get("dim")
            dims = [dims] if isinstance(dims, int) else dims or list(range(tensors[0].dim()))
            reduced = self.reduce(tensors[0], dims)
            return tensors[0] if "softmax" in base else reduced.reshape(node_shape(n))
        if base.startswith(_POOLS):
            units = self.along(tensors[0], 1)  # some give the places of the maxima too
            return pytree.tree_map_only(
                Tensor, lambda v: _spread(units, concrete_sizes(v), 1), n.meta["val"]
            )
        if base in ("pad", "constant_pad_nd"):
            return self.pad(n, tensors[0], named)
        if base in _CONSTANTS:
            shape = node_shape(n)
            return _spread(self.fresh(shape[1]), shape, 1) if len(shape) > 1 else _fixed(n)
        if n.meta.get("val") is not None and any(self.find(ids).any() for ids in tensors):
            raise _no_rule(n)
        return _fixed(n)

    def pointwise(self, tensors: list[Tensor]) -> Tensor:
        """Operands of one position hold the same unit."""
        shape = torch.broadcast_shapes(*(t.shape for t in tensors))
        moving = [t for t in tensors if self.find(t).any()]
        if not moving:
            return torch.zeros(shape, dtype=torch.int64)
        result = moving[0].expand(shape)
        for ids in moving[1:]:
            self.unify(result, ids)
        varying = {d - len(shape) for d in self.varying(result)}
        for ids in tensors:
            # A value that is the same for all units (a mean, a gate, a scalar) lets them move.
            if (
                any(ids.shape[d] > 1 for d in varying if -d <= ids.dim())
                and not self.find(ids).any()
            ):
                self.unify(result, torch.tensor(FIXED))
        return result

    def reduce(self, ids: Tensor, dims: list[int]) -> Tensor:
        """Ids of a statistic over `dims` (kept, with size 1): the unit's, or fixed if over
        several units.
        """
        dims = [d % ids.dim() for d in dims]
        roots = thin_ids(self.find(ids))
        kept = [d for d in range(ids.dim()) if d not in dims]
        rows = roots.permute(kept + dims).reshape(*(roots.shape[d] for d in kept), -1)
        of_one = (rows == rows[..., :1]).all(-1)
        if not of_one.all():
            self.together += list(rows[~of_one].unique(dim=0))
        out = torch.where(of_one, rows[..., 0], FIXED)
        for d in sorted(dims):
            out = out.unsqueeze(d)
        return out.expand([1 if d in dims else ids.shape[d] for d in range(ids.dim())])

    def per_channel(self, x: Tensor, parameters: list[Tensor], blocks: int | None) -> Tensor:
        """An operation with parameters per channel, and statistics per block of channels or per
        channel.
        """
        channels = self.along(x, 1)
        for ids in parameters:
            if ids.numel() > 1:  # PReLU may have one slope for all
                self.unify(ids, channels)
        if blocks is not None:
            self.together += channels.chunk(blocks)
        return x

    def contraction(self, n: fx.Node, named: dict[str, Any], x: Tensor) -> Tensor:
        """Convolution or matrix product with a parameter: units in, new units out."""
        out_axis, in_axis, dim = _CONTRACTIONS[operation_name(n)]
        name = self.names[str(n.all_input_nodes[1].target)]
        shape, groups = self.shapes[name], named.get("groups", 1)
        if len(shape) != (x.dim() if dim == 1 else 2) or (groups > 1 and out_axis == 1):
            raise _no_rule(n)
        units = self.along(x, dim)
        if 1 < groups == len(units):  # depthwise: no new units
            out = self.role(name, out_axis, units.repeat_interleave(shape[0] // groups))
        else:
            height = shape[out_axis] // groups
            for i, block in enumerate(units.chunk(groups)):
                self.role(
                    name, in_axis, block, (i * height, (i + 1) * height) if groups > 1 else None
                )
            out = self.role(name, out_axis, self.fresh(shape[out_axis]))
            self.together += out.chunk(groups) if groups > 1 else ()
        if named.get("bias") is not None:
            self.unify(named["bias"], out)
        return _spread(out, node_shape(n), dim)

    def pad(self, n: fx.Node, ids: Tensor, named: dict[str, Any]) -> Tensor:
        """Padding of space, or of channels with a constant: these are new units without
        weights.
        """
        for i, (before, after) in enumerate(
            zip(named["pad"][::2], named["pad"][1::2], strict=True)
        ):
            dim = ids.dim() - 1 - i
            size = ids.shape[dim] + before + after
            if dim not in self.varying(ids):
                ids = ids.narrow(dim, 0, 1).expand(*ids.shape[:dim], size, *ids.shape[dim + 1 :])
                continue
            if named.get("mode", "constant") != "constant":
                raise _no_rule(n)
            start, stop = max(-before, 0), ids.shape[dim] - max(-after, 0)
            parts = [ids.narrow(dim, start, stop - start)]
            if before > 0:
                parts.insert(0, self.new_units(ids, dim, before))
            if after > 0:
                parts.append(self.new_units(ids, dim, after))
            ids = torch.cat(parts, dim)
        return ids

    def new_units(self, like: Tensor, dim: int, count: int) -> Tensor:
        shape = list(like.shape)
        shape[dim] = count
        return _spread(self.fresh(count), torch.Size(shape), dim)


def _fixed(node: fx.Node) -> Any:
    """Ids for outputs that don't move."""
    none = torch.tensor(FIXED)
    return pytree.tree_map_only(
        Tensor, lambda value: none.expand(concrete_sizes(value)), node.meta.get("val")
    )


def thin_ids(ids: Tensor) -> Tensor:
    """Ids without their repetitions: dimensions of stride 0 get size 1."""
    return ids[tuple(slice(1) if stride == 0 else slice(None) for stride in ids.stride())]


def _spread(ids: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """Ids of one dimension, constant along all others."""
    return ids.view([-1 if d == dim % len(shape) else 1 for d in range(len(shape))]).expand(shape)


def _no_rule(node: fx.Node) -> UnsupportedModelError:
    modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    lines = [
        line.strip()
        for line in (node.meta.get("stack_trace") or "").splitlines()
        if "File " in line
    ]
    where = (f", in module {modules[-1]!r}" if modules else "") + (
        f", {lines[-1]}" if lines else ""
    )
    return UnsupportedModelError(
        f"no permutation rule for the operation {node.target} on hidden units (graph node {node.name!r}{where}); "
        "write it with linear, convolution, normalization and pooling layers, value-by-value functions, sums, "
        "products, reductions, concatenation, slicing and reshaping."
    )
