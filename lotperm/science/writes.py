"""Tensors that operations write into, by the name of what they become."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch._ops import OpOverload


def name_what_is_written(graph: fx.Graph) -> None:
    """Let later uses of a tensor that an operation writes into take the operation's result.

    That is the same tensor, but shows what was written.
    """
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        target, written = node.target, node.args[0] if node.args else None
        if isinstance(written, fx.Node) and written.op != "placeholder" and _writes_first(target):
            # Those before it took what was there before.
            for user in [user for user in written.users if order[user] > order[node]]:
                user.replace_input_with(written, node)


def _writes_first(target: Any) -> bool:
    """Return whether an operation writes into its first argument, and returns it."""
    if not isinstance(target, OpOverload) or not target._schema.arguments:
        return False
    schema = target._schema
    alias = schema.arguments[0].alias_info
    returned = [r.alias_info for r in schema.returns]
    return alias is not None and alias.is_write and len(returned) == 1 and returned[0] is not None
