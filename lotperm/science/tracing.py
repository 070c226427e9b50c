"""From a network to its `PermutationSpec`: run the labels, gather the groups, check the result."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx, nn

from lotperm.errors import ParameterError, UnsupportedModelError
from lotperm.science.graphs import export_graph, named_tensors, operation_name, run_graph
from lotperm.science.labels import FIXED, NONLINEARITIES, Labeller, thin_ids
from lotperm.science.symmetry import PermutationSpec, Role, permute


def trace(model: nn.Module, example_input: Tensor) -> PermutationSpec:
    """As `PermutationSpec.trace`."""
    if example_input.dim() == 0 or len(example_input) == 0:
        raise ParameterError(
            f"example_input must be a batch of at least one example, got {tuple(example_input.shape)}."
        )
    batch = example_input if len(example_input) > 1 else torch.cat([example_input, example_input])
    state, names = named_tensors(model)
    for name, tensor in state.items():
        if tensor.numel() == 0:
            raise UnsupportedModelError(
                f"{name} has shape {tuple(tensor.shape)}, so no values: a layer has no units."
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ParameterError(
                f"weights of {name} are not finite; trace the network with others."
            )
    program = export_graph(model, batch)
    graph = fx.Graph()  # without the module, which holds a copy of the weights
    graph.output(graph.graph_copy(program.graph, {}))
    constants = {
        str(n.target): operator.attrgetter(str(n.target))(program)
        for n in graph.nodes
        if n.op == "get_attr" and n.target not in state
    }
    labels = Labeller(program, {name: tensor.shape for name, tensor in state.items()}, names)
    labels.run(batch)
    spec = assemble_spec(labels, graph, labels.shapes, constants)
    check_spec(spec, state, names, batch)
    return spec


def assemble_spec(
    labels: Labeller, graph: fx.Graph, shapes: dict[str, torch.Size], constants: dict[str, Tensor]
) -> PermutationSpec:
    """Groups of units that occur in the same way everywhere, and where they lie in each tensor."""
    total = len(labels.parent)
    roles = {**labels.matrix_roles, **labels.element_roles}
    # A 64-bit fingerprint of each class's occurrences: a random number for each place, summed.
    kind = torch.zeros(total, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for ids in [*roles.values(), *labels.carried.values(), *labels.together]:
        roots = labels.find(thin_ids(ids)).flatten()
        kind.index_add_(
            0,
            roots,
            torch.randint(-(2**63), 2**63 - 1, (1,), generator=generator).expand(len(roots)),
        )

    # Groups in order of execution, their units in the order of the first axis that holds them.
    members: dict[int, list[int]] = {}
    base: dict[int, str] = {}
    seen, kinds = {FIXED}, kind.tolist()
    for (name, *_), ids in roles.items():
        new = [
            root for root in dict.fromkeys(labels.find(ids).flatten().tolist()) if root not in seen
        ]
        seen.update(new)
        for root in new:
            key = kinds[root]
            base.setdefault(key, name.removesuffix(".weight"))
            members.setdefault(key, []).append(root)
    members = {key: units for key, units in members.items() if len(units) > 1}
    group_of = torch.full((total,), -1)
    unit_of = torch.zeros(total, dtype=torch.int64)
    groups: list[str] = []
    for key, units in members.items():
        alike = [other for other in members if base[other] == base[key]]
        group_of[units] = len(groups)
        unit_of[units] = torch.arange(len(units))
        groups.append(base[key] if len(alike) == 1 else f"{base[key]}/{alike.index(key)}")
    sizes = {group: len(units) for group, units in zip(groups, members.values(), strict=True)}

    def places(ids: Tensor) -> dict[str, Tensor]:
        """Group -> (n, k): the positions in `ids` of each of its units."""
        roots = labels.find(ids).flatten()
        result = {}
        for g in group_of[roots].unique().tolist():
            if g >= 0:
                here = (group_of[roots] == g).nonzero().flatten()
                order = unit_of[roots[here]].argsort(stable=True)
                result[groups[g]] = here[order].view(sizes[groups[g]], -1)
        return result

    found: dict[str, list[Role]] = {}
    axes: dict[str, list[list[str]]] = {name: [[] for _ in shape] for name, shape in shapes.items()}
    for (name, first, last, *rows), ids in roles.items():
        here = places(ids)
        if here:
            whole = rows == [0, shapes[name][0]]
            role = Role(first, last, slice(None) if whole else slice(*rows), here)
            found.setdefault(name, []).append(role)
            for axis in labels.varying(ids.view(shapes[name])) if last > first else [first]:
                axes[name][axis] += [group for group in here if group not in axes[name][axis]]
    names = labels.names
    points, channels = _points(labels, graph, sizes, places)
    return PermutationSpec(
        sizes=sizes,
        points=points,
        axes={
            name: tuple(", ".join(groups) or None for groups in axes[names[name]]) for name in names
        },
        _shapes={name: shapes[names[name]] for name in names},
        _roles={name: tuple(found[names[name]]) for name in names if names[name] in found},
        _channels=channels,
        _graph=graph,
        _constants=constants,
    )


def _points(
    labels: Labeller,
    graph: fx.Graph,
    sizes: dict[str, int],
    places: Callable[[Tensor], dict[str, Tensor]],
) -> tuple[dict[str, tuple[str, ...]], dict[tuple[str, str], tuple[int, Tensor]]]:
    """Candidates for activation matching, and in which dimension and where there the units lie."""
    channels: dict[tuple[str, str], tuple[int, Tensor]] = {}
    carriers: dict[str, list[tuple[str, bool, bool]]] = {group: [] for group in sizes}
    activations: set[fx.Node] = (
        set()
    )  # what depends on the input: a function of weights alone says nothing of a unit
    for node in graph.nodes:
        if node.op == "placeholder" or not activations.isdisjoint(node.all_input_nodes):
            activations.add(node)
        varying = labels.varying(labels.carried[node.name]) if node.name in labels.carried else []
        if node in activations and len(varying) == 1 and varying[0] > 0:  # samples come first
            ids, dim = labels.carried[node.name], varying[0]
            spatial = ids.numel() > ids.shape[0] * ids.shape[dim]
            for group, where in places(thin_ids(ids).movedim(dim, 0).flatten(1)[:, 0]).items():
                if where.shape[1] == 1:
                    channels[group, node.name] = dim, where.flatten()
                    carriers[group].append(
                        (node.name, spatial, operation_name(node) in NONLINEARITIES)
                    )
    points = {}
    for group, nodes in carriers.items():
        nonlinear = [node for node in nodes if node[2]]
        best = [node for node in nonlinear or nodes if node[1]] or nonlinear or nodes
        points[group] = tuple(name for name, *_ in (best if nonlinear else best[-1:]))
    return points, {key: value for key, value in channels.items() if key[1] in points[key[0]]}


def check_spec(
    spec: PermutationSpec, state: Mapping[str, Tensor], names: Mapping[str, str], batch: Tensor
) -> None:
    """Refuse a spec with which a random permutation changes what the network computes."""
    generator = torch.Generator().manual_seed(0)

    def noisy(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
        tensor = tensor.clone()  # a network may write into its buffers
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.to(dtype or tensor.dtype)
        if tensor.dim() > 1 and tensor.min() < tensor.max():
            return tensor
        # Norms and scales of a fresh network are all 0 or all 1, which would hide a wrong order.
        return tensor + 0.5 * torch.rand(tensor.shape, generator=generator).to(tensor)

    def deviation(dtype: torch.dtype | None) -> float:
        inputs = noisy(torch.ones_like(batch), dtype) if batch.is_floating_point() else batch
        first = {name: noisy(state[name], dtype) for name in state if names[name] == name}
        before = {name: first[names[name]] for name in state}
        after = permute(before, spec, spec.random(generator))
        a, b = (
            torch.cat([value.double().flatten() for value in outputs if isinstance(value, Tensor)])
            for outputs in (
                run_graph(spec._graph, {**spec._constants, **w}, inputs.clone())
                for w in (before, after)
            )
        )
        return float((a - b).norm() / a.norm().clamp_min(1e-30))

    with torch.no_grad():
        try:
            worst, allowed = deviation(torch.float64), 1e-6
        except RuntimeError:  # a network that casts to a type of its own
            worst, allowed = deviation(None), 1e-2
    if not worst <= allowed:
        raise UnsupportedModelError(
            f"a random permutation of the hidden units changes the output of this network by {worst:.1e} of its "
            "norm (expected: rounding), so it uses units in a way that the rules don't see; rewrite the layers that "
            "treat units by their position."
        )
