"""Names of tensors as attributes of generated code: those that it can't have, and stand-ins."""

from __future__ import annotations

import functools
import keyword
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import fx, nn

if TYPE_CHECKING:  # it imports PyTorch's compiler
    from torch.export import ExportedProgram


@functools.cache
def _taken() -> frozenset[str]:
    """Return the attributes that a module made from a graph has itself, as ``code``."""
    return frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


def stand_ins(names: Iterable[str]) -> dict[str, str]:
    """Return other names for those tensors whose own can't be used in generated code.

    A child of a network may be called ``code`` or ``graph``, or have a keyword of Python's for a
    name, as `nn.ModuleDict` allows.
    """
    names = list(names)
    odd = [
        name
        for name in names
        if name.split(".")[0] in _taken() or any(map(keyword.iskeyword, name.split(".")))
    ]
    return {name: f"stand_in_{number}" for number, name in enumerate(odd)}


def rename_tensors(program: ExportedProgram) -> dict[str, str]:
    """Give stand-ins to the tensors of an exported program that need one.

    Returns
    -------
    dict
        Stand-in -> the tensor's own name.
    """
    signature = program.graph_signature
    specs = [*signature.input_specs, *signature.output_specs]
    found = stand_ins(dict.fromkeys(spec.target for spec in specs if spec.target is not None))
    for spec in specs:
        spec.target = found.get(spec.target or "", spec.target)
    for tensors in (program.state_dict, program.constants):
        for name in tensors.keys() & found.keys():
            tensors[found[name]] = tensors.pop(name)
    return {other: name for name, other in found.items()}


def restore_names(graph: fx.Graph, names: Mapping[str, str]) -> None:
    """Let a graph read tensors by other names, of which a module needn't have attributes."""
    for node in graph.nodes:
        if node.op == "get_attr":
            node.target = names.get(node.target, node.target)
