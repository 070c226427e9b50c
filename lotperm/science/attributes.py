"""Stand-ins for names of tensors that can't be attributes in generated code."""

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
    """Return the attributes that every module made from a graph has, such as ``code``."""
    return frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


def stand_ins(names: Iterable[str]) -> dict[str, str]:
    """Return stand-ins for those names of tensors that can't be used in generated code.

    A submodule may be called ``code`` or ``graph``, or, since `nn.ModuleDict` allows it, by a
    Python keyword.
    """
    names = list(names)
    odd = [
        name
        for name in names
        if name.split(".")[0] in _taken() or any(map(keyword.iskeyword, name.split(".")))
    ]
    return {name: f"stand_in_{number}" for number, name in enumerate(odd)}


def rename_tensors(program: ExportedProgram) -> dict[str, str]:
    """Rename those tensors of an exported program whose names need a stand-in.

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
    """Make a graph read tensors by other names, which a module needn't have as attributes."""
    for node in graph.nodes:
        if node.op == "get_attr":
            node.target = names.get(node.target, node.target)
