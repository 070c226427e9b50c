"""Parts of a network that run in a context of their own, such as ``with torch.no_grad()``."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx
from torch._ops import HigherOrderOperator

from lotperm.errors import UnsupportedModelError
from lotperm.science.graphs import describe_node
from lotperm.science.transforms import MAPPED, is_transform

# Contexts that change at most the precision of values, and the position of the body's argument.
_CONTEXTS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


def inline_contexts(program: fx.GraphModule) -> None:
    """Put the bodies of contexts, such as ``with torch.no_grad()``, into the graph itself.

    This shows the units in each of their operations. The lower precision of `torch.autocast` is
    lost.
    """
    for node in list(program.graph.nodes):
        place = _CONTEXTS.get(str(node.target))
        if place is None or node.op != "call_function":
            continue
        body: fx.GraphModule = operator.attrgetter(node.args[place].target)(program)
        inline_contexts(body)
        results = _copied(program, body, node, node.args[place + 1 :])
        for user in list(node.users):  # each takes one of the outputs
            user.replace_all_uses_with(results[user.args[1]])
            program.graph.erase_node(user)
        held = node.args[place]
        program.graph.erase_node(node)
        if not held.users:
            program.graph.erase_node(held)


def _copied(
    program: fx.GraphModule, body: fx.GraphModule, before: fx.Node, operands: Any
) -> list[Any]:
    """Copy the operations of a body to the place of its call, and return its outputs there."""
    given = iter(operands)
    copies: dict[fx.Node, Any] = {}
    with program.graph.inserting_before(before):
        for node in body.graph.nodes:
            if node.op == "placeholder":
                copies[node] = next(given)
            elif node.op == "output":
                return [copies.get(result, result) for result in node.args[0]]
            else:
                copies[node] = program.graph.node_copy(node, copies.__getitem__)
                if node.op == "get_attr":  # a constant that belongs to the body
                    copies[node].target = f"of_{before.name}_{node.target}"
                    value = operator.attrgetter(node.target)(body)
                    program.register_buffer(copies[node].target, value)
    raise AssertionError("a graph has an output")


def refuse_regions(graph: fx.Graph) -> None:
    """Raise an error if a graph has parts in which units can't be followed.

    Raises
    ------
    UnsupportedModelError
        It has branches that depend on values (`torch.cond`), or derivatives.
    """
    for node in graph.nodes:
        if isinstance(node.target, HigherOrderOperator) or (
            is_transform(node) and node.target.__name__ not in MAPPED
        ):
            raise UnsupportedModelError(
                f"{describe_node(node)} has a network inside, whose units can't be followed; "
                "compute the same with plain operations."
            )
