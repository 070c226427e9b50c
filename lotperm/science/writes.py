"""Rewrite operations that write into tensors as operations that make new ones.

``out[:, :8] = x`` writes into a view of `out`. Rules don't know views: for them, later operations
use another `out`, of which a part was replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from lotperm.science.graphs import operation_name

aten = torch.ops.aten

_RESHAPES = ("flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view", "view_as")
# Views that are undone by taking them once more.
_SWAPS = ("adjoint", "mT", "swapaxes", "swapdims", "t", "transpose")


def name_what_is_written(graph: fx.Graph) -> None:
    """Make later uses of a tensor that an operation writes into refer to what it has become.

    If it is a view, the viewed tensor changes too, and so do its other views.
    """
    writes = _Writes(graph)
    for node in list(graph.nodes):
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node):
            continue
        if _shows(node, first):
            writes.views[node] = (node, first)
        elif _writes_first(node.target):
            writes.write(node, first)


class _Writes:
    """What is known about a graph's tensors up to a node.

    Attributes
    ----------
    order : dict
        Node -> its number in the graph, before anything was inserted.
    views : dict
        Node -> the operation that takes the view, and the tensor that it views.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.order = {node: number for number, node in enumerate(graph.nodes)}
        self.views: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}

    def write(self, node: fx.Node, written: fx.Node) -> None:
        """Make what `node` writes into `written` visible in all tensors that share its memory."""
        became = {written: node}
        last = node
        while written in self.views:
            view, whole = self.views[written]
            with self.graph.inserting_after(last):
                put_back = _put_back(self.graph, view, whole, became[written])
            if put_back is None:
                break
            last = became[whole] = put_back
            written = whole
        # Other views that are used later are taken once more, in their original order.
        used: set[fx.Node] = set()
        for shown, (_, whole) in reversed(self.views.items()):
            if shown in used or any(self.later(shown, node)):
                used |= {shown, whole}
        for shown, (view, whole) in list(self.views.items()):
            if shown in used and shown not in became and whole in became:
                with self.graph.inserting_after(last):
                    last = became[shown] = self.graph.node_copy(view)
                last.args = (became[whole], *view.args[1:])
        for before, after in became.items():
            for user in list(self.later(before, node)):
                user.replace_input_with(before, after)
        for before in became.keys() & self.views.keys():
            view, whole = self.views[before]
            self.views[became[before]] = (view, became.get(whole, whole))

    def later(self, of: fx.Node, node: fx.Node) -> Iterator[fx.Node]:
        """Yield the users of a tensor that come after a node of the graph."""
        # Inserted nodes have no number; their inputs were right for their place already.
        return (user for user in of.users if self.order.get(user, -1) > self.order[node])


def _put_back(graph: fx.Graph, view: fx.Node, whole: fx.Node, part: fx.Node) -> fx.Node | None:
    """Insert `whole` with `part` in place of the view; None if no operation can do that."""
    name, given = operation_name(view), cast("tuple[Any, ...]", view.args[1:])
    target: Any
    args: tuple[Any, ...]
    if name in ("slice", "select", "diagonal"):
        target, args = getattr(aten, f"{name}_scatter").default, (whole, part, *given)
    elif name == "narrow":
        dim, start, length = given
        if not (isinstance(start, int) and isinstance(length, int)):
            return None
        target, args = aten.slice_scatter.default, (whole, part, dim, start, start + length)
    elif name in _RESHAPES:
        target, args = aten.reshape_as.default, (part, whole)
    elif name in _SWAPS:
        target, args = view.target, (part, *given)
    elif name == "permute":
        axes = list(given[0])
        undone = sorted(range(len(axes)), key=[axis % len(axes) for axis in axes].__getitem__)
        target, args = aten.permute.default, (part, undone)
    elif name == "movedim":
        target, args = view.target, (part, *reversed(given))
    elif name in ("alias", "detach"):
        target, args = aten.alias.default, (part,)
    else:
        return None
    node = graph.call_function(target, args)
    node.meta = {**part.meta, "val": whole.meta["val"]}
    return node


def _writes_first(target: Any) -> bool:
    """Return whether an operation writes into its first argument, and returns it."""
    if not isinstance(target, OpOverload) or not target._schema.arguments:
        return False
    schema = target._schema
    alias = schema.arguments[0].alias_info
    returned = [r.alias_info for r in schema.returns]
    return alias is not None and alias.is_write and len(returned) == 1 and returned[0] is not None


def _shows(node: fx.Node, first: fx.Node) -> bool:
    """Return whether a node is a view of its first argument."""
    if not isinstance(node.target, OpOverload) or _writes_first(node.target):
        return False
    one, other = (n.meta.get("val") for n in (node, first))
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return False
    try:
        # `reshape` copies if it must, so its schema doesn't say.
        return one.untyped_storage()._cdata == other.untyped_storage()._cdata
    except NotImplementedError:  # inside `torch.vmap`, tensors show no storage
        return False
