"""Operations that PyTorch has under two names, in a graph under one, so that one rule serves both."""

from __future__ import annotations

import torch
from torch import fx
from torch._ops import OpOverload

aten = torch.ops.aten

_NAMES = {
    "__and__": "bitwise_and",
    "__iand__": "bitwise_and_",
    "__ior__": "bitwise_or_",
    "__or__": "bitwise_or",
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "fix": "trunc",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "linalg_matmul": "matmul",
    "moveaxis": "movedim",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "row_stack": "vstack",
    "special_digamma": "digamma",
    "special_erf": "erf",
    "special_erfc": "erfc",
    "special_erfinv": "erfinv",
    "special_exp2": "exp2",
    "special_expit": "sigmoid",
    "special_expm1": "expm1",
    "special_gammaln": "lgamma",
    "special_i0": "i0",
    "special_log1p": "log1p",
    "special_log_softmax": "log_softmax",
    "special_logit": "logit",
    "special_logsumexp": "logsumexp",
    "special_psi": "digamma",
    "special_round": "round",
    "special_sinc": "sinc",
    "special_softmax": "softmax",
    "special_xlogy": "xlogy",
    "subtract": "sub",
    "true_divide": "div",
    "unsafe_chunk": "chunk",
    "unsafe_split": "split",
    "unsafe_split_with_sizes": "split_with_sizes",
}


def use_one_name(graph: fx.Graph) -> None:
    """Replace synonyms, also those that write into their first argument, and norms of values."""
    for node in graph.nodes:
        if not isinstance(node.target, OpOverload) or node.target.namespace != "aten":
            continue
        name = node.target._schema.name.removeprefix("aten::")
        known = _NAMES.get(name)
        if known is None and name.endswith("_") and name[:-1] in _NAMES:
            known = f"{_NAMES[name[:-1]]}_"
        if known is not None:
            node.target = _overload(known, node.target)
        elif name in ("frobenius_norm", "linalg_matrix_norm", "linalg_norm"):
            _norm(node, name)


def _norm(node: fx.Node, name: str) -> None:
    """Replace a norm by that of a vector, unless it is one of a matrix by its singular values."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = {a.name: a.default_value for a in schema if a.has_default_value()}
    given |= dict(zip((a.name for a in schema), node.args, strict=False)) | node.kwargs
    order, dims = given.get("ord"), given.get("dim")
    source = node.args[0]
    count = source.meta["val"].dim() if isinstance(source, fx.Node) else 0
    along = (
        dims if isinstance(dims, list | tuple) else list(range(count)) if dims is None else [dims]
    )
    if name == "linalg_norm" and len(along) == 1:
        order = 2 if order is None else order
    elif order in (None, "fro"):
        order = 2
    else:
        return
    node.target = aten.linalg_vector_norm.default
    node.args = (source, order, dims, given.get("keepdim", False))
    node.kwargs = {"dtype": given["dtype"]} if given.get("dtype") is not None else {}


def _overload(name: str, like: OpOverload) -> OpOverload:
    """Return the variant of an operation that takes the arguments of another operation's."""
    packet = getattr(aten, name)
    wanted = [(a.name, str(a.type)) for a in like._schema.arguments]
    for overload in packet.overloads():
        found: OpOverload = getattr(packet, overload)
        if [(a.name, str(a.type)) for a in found._schema.arguments] == wanted:
            return found
    return like
