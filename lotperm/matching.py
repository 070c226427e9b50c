"""Which unit of network A plays the part of which unit of network B, by activations or by weights.

Both ways end in one linear assignment per permutation group and return a `Matching`, a permutation together
with the evidence for it. A permutation moves A onto B: ``permute(weights_a, spec, matching)`` is close to B.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, count
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx, nn

from lotperm import distributed
from lotperm.errors import ParameterError, unknown_name
from lotperm.permutation import PermutationSpec, _cut, _lacking, permute
from lotperm.shapes import Float, Float64, Int64
from lotperm.threads import keep_freed_memory, workers

# Sums of moments that a pass over the data keeps. Chunk i of the data is added to sum i mod 8, and in the end the
# sums are merged in order. Threads and ranks share out the sums, so the result doesn't depend on their number, to
# the last bit.
_LANES = 8
# Samples that go through the networks at a time on a CPU: few, so that activations stay in the cache.
_CHUNK = 32
# Rows whose products are summed in the activations' own precision before they are added up in float64.
_ROWS = 2**15


class Matching(dict[str, Tensor]):
    """A `Permutation` (group -> int64 `(n,)`) with the evidence for it.

    Attributes
    ----------
    scores : dict
        Group -> how alike the matched units are, in [-1, 1]: mean Pearson correlation of the pairs, or, when
        matched by weights, mean cosine of their weights. Dead units count as 0.
    identity_scores : dict
        The same for the pairs as they are without permuting.
    correlations : dict or None
        Group -> float64 `(n_b, n_a)`, unit of B by unit of A, where they were asked for.
    """

    def __init__(
        self,
        permutation: Mapping[str, Tensor],
        scores: dict[str, float],
        identity_scores: dict[str, float],
        correlations: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__(permutation)
        self.scores = scores
        self.identity_scores = identity_scores
        self.correlations = correlations


# ------------------------------------------------------------------------------------------- activations


class CorrelationAccumulator:
    """Pearson correlations between the units of two networks, from a stream of paired activations.

    Holds the sums of x, x² and y·x over samples and positions, in float64, where x and y are the activations
    of A and B less the mean of the first block. Without that shift, a mean that is large against the spread
    would cost most digits. Memory doesn't depend on the number of samples.

    Attributes
    ----------
    count : int
        Samples times positions seen so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._eps = 0.0
        # (2, n): A and B; (n, n): unit of B by unit of A. Made by the first update.
        self._shift = self._sum = self._square = self._cross = torch.empty(0)

    def update(self, a: Float[Tensor, "_ _ ..."], b: Float[Tensor, "_ _ ..."]) -> None:
        """Add activations of A and B for the same inputs, `(B, n, *spatial)` each.

        Positions count as samples. Products are formed in the precision of the activations, at least float32,
        over `2**15` rows at most.
        """
        if a.shape != b.shape:
            raise ParameterError(
                f"activations of A and B must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}; "
                "match networks of one architecture on the same inputs."
            )
        for rows in zip(_rows(a), _rows(b), strict=True):
            if self.count == 0:
                shift = torch.stack([v.mean(0) for v in rows])
                self._eps = torch.finfo(shift.dtype).eps
                self._shift, n = shift.double(), shift.shape[1]
                self._sum, self._square = torch.zeros_like(self._shift), torch.zeros_like(self._shift)
                self._cross = self._shift.new_zeros(n, n)
            x, y = (v - center for v, center in zip(rows, self._shift.to(rows[0].dtype), strict=True))
            self._sum += torch.stack([x.sum(0), y.sum(0)])
            self._square += torch.stack([x.square().sum(0), y.square().sum(0)])
            self._cross += y.T @ x
            self.count += len(x)

    def merge(self, other: CorrelationAccumulator) -> None:
        """Add what another accumulator has seen of the same networks, as if this one had seen it too."""
        if other.count == 0:
            return
        if self.count == 0:
            vars(self).update(copy.deepcopy(vars(other)))
            return
        by = other._shift - self._shift
        self._sum += other._sum + other.count * by
        self._square += other._square + by * (2 * other._sum + other.count * by)
        self._cross += other._cross + other._sum[1].outer(by[0])
        self._cross += by[1].outer(other._sum[0] + other.count * by[0])
        self.count += other.count
        self._eps = max(self._eps, other._eps)

    def cpu(self) -> CorrelationAccumulator:
        """The same on the CPU."""
        moved = CorrelationAccumulator()
        vars(moved).update({k: v.cpu() if isinstance(v, Tensor) else v for k, v in vars(self).items()})
        return moved

    def correlation(self) -> Float64[Tensor, "n n"]:
        """Pearson correlation of each unit of B (row) with each of A (column), float64 `(n, n)`, on the CPU.

        Dead units, whose activation is constant in one of the networks to within its rounding error, have
        correlation 0 with all others.

        Raises
        ------
        ParameterError
            Nothing was seen, or an activation was NaN or infinite.
        """
        if self.count == 0:
            raise ParameterError("matching got no samples, expected at least one batch of inputs.")
        if not (self._cross.isfinite().all() and self._square.isfinite().all()):
            raise ParameterError(
                "an activation is NaN or infinite (or so large that its square is); check that both networks "
                "were trained to the end and that the inputs are normalized."
            )
        mean = self._sum / self.count
        variance = self._square / self.count - mean.square()
        rounding = 4 * self._eps * (self._shift + mean).abs()
        dead = variance <= rounding.square()
        inverse = torch.where(dead, 0.0, variance.clamp(min=torch.finfo(torch.float64).tiny).rsqrt())
        covariance = self._cross / self.count - mean[1].outer(mean[0])
        return (inverse[1][:, None] * covariance * inverse[0]).clamp(-1, 1).cpu()


def _rows(activations: Float[Tensor, "b n *spatial"]) -> tuple[Float[Tensor, "_ n"], ...]:
    """Activations `(B, n, *spatial)` as blocks of rows `(N, n)`, at least float32."""
    rows = activations.movedim(1, -1).reshape(-1, activations.shape[1])
    return torch.split(rows if rows.dtype == torch.float64 else rows.float(), _ROWS)


@runtime_checkable
class Divisible(Protocol):
    """Batches of inputs of which some rows can be had without reading the others, as `lotperm.data.Inputs`."""

    def parts(self, cut: Callable[[int], Sequence[slice]]) -> Iterator[list[Tensor]]:
        """Of every batch those rows that `cut` names when it is given the batch's length."""
        ...


def _parts(
    batches: Iterable[Tensor | Sequence[Tensor]] | Divisible, cut: Callable[[int], Sequence[slice]]
) -> Iterator[list[Tensor]]:
    if isinstance(batches, Divisible):
        yield from batches.parts(cut)
        return
    for batch in batches:
        inputs = batch if isinstance(batch, Tensor) else batch[0]
        yield [inputs[rows] for rows in cut(len(inputs))]


def correlate(
    a: Mapping[str, Tensor] | nn.Module,
    b: Mapping[str, Tensor] | nn.Module,
    batches: Iterable[Tensor | Sequence[Tensor]],
    spec: PermutationSpec,
    points: Mapping[str, str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, CorrelationAccumulator]:
    """Moments of the activations of two networks at all points, in one pass over the data.

    Parameters are those of `match_activations`; `points` maps each group to a graph node. Several ranks
    (`lotperm.distributed`), up to 8, share the chunks that batches are cut into; all must call this with the same
    batches, and all get the moments of one process, to the last bit. Of `Divisible` batches each rank reads its own
    chunks only. For data that is spread otherwise: correlate the parts, then `merge` them group by group.
    """
    if not points:
        return {}
    states = [w.state_dict() if isinstance(w, nn.Module) else w for w in (a, b)]
    place = torch.device(device) if device is not None else next(iter(states[0].values())).device
    nets = [_extractor(spec, weights, points, place, dtype) for weights in states]
    ranks = distributed.world_size()
    own = range(distributed.rank(), _LANES, ranks)
    lanes = [{group: CorrelationAccumulator() for group in points} for _ in own]
    threads = min(torch.get_num_threads(), max(len(own), 1)) if place.type == "cpu" else 1

    @torch.no_grad()
    def see(accumulators: Mapping[str, CorrelationAccumulator], chunks: Sequence[Tensor]) -> None:
        for chunk in chunks:
            # A copy for each: a network may write into its input.
            acts_a, acts_b = (net(_place(chunk, place, dtype)) for net in nets)
            for group, accumulator in accumulators.items():
                accumulator.update(acts_a.pop(group), acts_b.pop(group))

    numbers = count()

    def cut(size: int) -> list[slice]:
        """Those chunks of the next batch that are this rank's."""
        if size == 0:
            return []
        # At least four, so that small batches keep a few threads busy.
        parts = max(4, math.ceil(size / _CHUNK)) if place.type == "cpu" else 1
        sizes = [len(part) for part in torch.arange(size).tensor_split(min(parts, size))]
        found = zip(sizes, accumulate(sizes), numbers, strict=False)
        return [slice(end - length, end) for length, end, number in found if number % _LANES in own]

    keep_freed_memory()
    seen = 0
    with workers(threads) as each, _full_precision():
        for chunks in _parts(batches, cut):
            # This rank's chunks come to its lanes in turn.
            each(see, lanes, [chunks[(lane - seen) % len(own) :: len(own)] for lane in range(len(own))])
            seen += len(chunks)
    # Merged on the CPU, whose sums a GPU's may differ from.
    gathered = distributed.gather([{group: sums.cpu() for group, sums in lane.items()} for lane in lanes])

    def merged() -> dict[str, CorrelationAccumulator]:
        found = {group: CorrelationAccumulator() for group in points}
        for lane in range(_LANES):
            for group, sums in gathered[lane % ranks][lane // ranks].items():
                found[group].merge(sums)
        return found

    return distributed.once(merged)


def match_activations(
    a: Mapping[str, Tensor] | nn.Module,
    b: Mapping[str, Tensor] | nn.Module,
    batches: Iterable[Tensor | Sequence[Tensor]],
    spec: PermutationSpec,
    *,
    points: Literal["last", "penultimate"] | Mapping[str, str] = "last",
    keep_correlations: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Matching:
    """Match the units of A to those of B whose activations correlate most, all groups in one pass.

    Li et al. 2016; Ainsworth et al. 2023, section 3.1. For each group the permutation maximizes the sum of
    the Pearson correlations of the matched pairs. One pass over the unpermuted networks is enough, since
    permuting a layer's units together with the next layer's inputs leaves all later activations as they were.

    Parameters
    ----------
    a, b : the networks, as state dicts or modules of the architecture that `spec` was traced from. They run
        in eval mode; a batch norm right behind a convolution is folded into it
    batches : normalized inputs `(B, ...)`, or tuples that begin with them, as a `DataLoader` gives. Order and
        batch size don't matter (beyond round-off)
    spec : the permutation symmetries of the architecture
    points : where each group is observed. ``"last"``: at its last candidate, `spec.points[group][-1]`.
        ``"penultimate"``: one before, where there are two. Or group -> graph node for some groups, the
        others at their last
    keep_correlations : also return the correlation matrices
    device : where the networks run; without it, where the weights of A and B are
    dtype : of weights and activations. bfloat16 is faster on some machines but moves a few near ties

    Returns
    -------
    Matching
        Of every group that an activation shows: not of one that only computes on parameters.

    Raises
    ------
    ParameterError
        Unknown group or point, no data, or activations that are not finite.
    """
    chosen = _points(spec, points)
    moments = correlate(a, b, batches, spec, chosen, device=device, dtype=dtype)
    return distributed.once(lambda: _assign_all(moments, chosen, keep_correlations))


def _assign_all(
    moments: Mapping[str, CorrelationAccumulator], chosen: Mapping[str, str], keep_correlations: bool
) -> Matching:
    """The best assignment of every group."""
    matrices = {}
    for group, accumulator in moments.items():
        try:
            matrices[group] = accumulator.correlation()
        except ParameterError as error:
            raise ParameterError(f"permutation group {group!r} at {chosen[group]!r}: {error}") from None
    permutation = {group: assign(matrix) for group, matrix in matrices.items()}
    return Matching(
        permutation,
        {group: _matched(matrix, permutation[group]) for group, matrix in matrices.items()},
        {group: matrix.diagonal().mean().item() for group, matrix in matrices.items()},
        matrices if keep_correlations else None,
    )


def _points(spec: PermutationSpec, points: str | Mapping[str, str]) -> dict[str, str]:
    # Of a group that no activation shows nothing is known, so it stays as it is.
    last = {group: nodes[-1] for group, nodes in spec.points.items() if nodes}
    if not isinstance(points, str):
        for group, node in points.items():
            if group not in last:
                raise unknown_name("permutation group", group, last)
            if node not in spec.points[group]:
                raise unknown_name(f"activation point of group {group!r}", node, spec.points[group])
        return {**last, **points}
    if points == "last":
        return last
    if points == "penultimate":
        return {group: nodes[-2:][0] for group, nodes in spec.points.items() if nodes}
    raise unknown_name("choice of points", points, ("last", "penultimate"))


def _place(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy on device, of dtype; images and their kernels channels-last, so that units are contiguous."""
    layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
    kind = dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(device, kind, memory_format=layout, copy=True)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Without TF32 and the like, whose errors would be those of bfloat16 in a sum of products."""
    kinds: list[Any] = [
        part for backend in (torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn)
        for part in (getattr(backend, "matmul", None), getattr(backend, "conv", None)) if part is not None
    ]  # fmt: skip
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def _extractor(
    spec: PermutationSpec, weights: Mapping[str, Tensor], points: Mapping[str, str], device: torch.device,
    dtype: torch.dtype,
) -> Callable[[Tensor], dict[str, Tensor]]:  # fmt: skip
    """What `spec.activations` does, for weights that stay: compiled to Python, with batch norms folded."""
    state = {n: _place(t, device, dtype) for n, t in {**spec._constants, **weights}.items()}
    for node in spec._graph.nodes:
        if node.op == "get_attr" and node.target not in state:
            raise _lacking(node.target)
    graph, tensors = _fold_batch_norm(spec, state)
    nodes = tuple(dict.fromkeys(points.values()))
    module = fx.GraphModule(tensors, _cut(graph, nodes))

    def activations(inputs: Tensor) -> dict[str, Tensor]:
        outputs = dict(zip(nodes, module(inputs), strict=True))
        found = {}
        for group, node in points.items():
            axis, units = spec._channels[group, node]
            values = outputs[node].movedim(axis, 1)
            whole = torch.equal(units, torch.arange(values.shape[1]))
            found[group] = values if whole else values.index_select(1, units.to(values.device))
        return found

    return activations


_CONVOLUTIONS = tuple(getattr(torch.ops.aten, f"conv{d}d").default for d in (1, 2, 3))


def _fold_batch_norm(
    spec: PermutationSpec, weights: Mapping[str, Tensor]
) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Fold each batch norm into the convolution right before it: the same function in eval mode, a pass less.

    A convolution stays as it is if its output is read by anything else, or is itself a candidate point.
    """
    graph = fx.Graph()
    graph.graph_copy(spec._graph, {})
    tensors = dict(weights)
    points = {node for nodes in spec.points.values() for node in nodes}
    for norm in list(graph.nodes):
        conv = norm.args[0] if norm.target is torch.ops.aten.batch_norm.default else None
        if not isinstance(conv, fx.Node) or conv.target not in _CONVOLUTIONS:
            continue
        x, kernel, bias, *rest = (*conv.args, None) if len(conv.args) == 2 else conv.args
        sources: list[Any] = [kernel, bias, *norm.args[1:5]]
        if len(conv.users) > 1 or conv.name in points or any(n and n.op != "get_attr" for n in sources):
            continue
        if norm.args[5] or None in norm.args[3:5]:  # it takes the statistics of the batch
            continue
        zero, epsilon = torch.zeros(()), cast(float, norm.args[7])
        w, b, gamma, beta, mean, var = (tensors[n.target].double() if n else zero for n in sources)
        scale = (var + epsilon).rsqrt() * (gamma if sources[2] else 1)
        shift = beta + scale * (b - mean)
        folded = {
            f"_folded_{norm.name}_weight": w * scale.view(-1, *[1] * (w.ndim - 1)),
            f"_folded_{norm.name}_bias": shift,
        }
        tensors |= {name: _place(t, t.device, tensors[sources[0].target].dtype) for name, t in folded.items()}
        with graph.inserting_before(norm):
            norm.args = (x, *(graph.get_attr(name) for name in folded), *rest)
        # The node of the norm, and so its name, lives on as the convolution.
        norm.target = conv.target
        graph.erase_node(conv)
    return graph, tensors


# ----------------------------------------------------------------------------------------------- weights


def match_weights(
    weights_a: Mapping[str, Tensor],
    weights_b: Mapping[str, Tensor],
    spec: PermutationSpec,
    *,
    seed: int = 0,
    max_sweeps: int = 100,
) -> Matching:
    """Match the units of A to those of B by their weights: Git Re-Basin's coordinate descent.

    Ainsworth et al. 2023, algorithm 1. Maximizes the inner product of B's parameters with A's permuted ones,
    one group at a time with all others held, in a random order of groups each sweep, until a sweep improves
    nothing. The result is a local optimum and depends on the seed. Needs no data. Batch norms' running
    statistics take no part: they are no parameters.

    Parameters
    ----------
    weights_a, weights_b : state dicts of the architecture that `spec` was traced from
    spec : the permutation symmetries of the architecture
    seed : of the order of groups
    max_sweeps : after so many sweeps the descent ends in any case

    Returns
    -------
    Matching
        Its scores are the mean cosine between the weights of matched units, incoming and outgoing together,
        with all other groups matched too.

    Raises
    ------
    ParameterError
        If A and B don't have the same parameters.
    """
    a, b = _parameters(weights_a), _parameters(weights_b)
    if odd := sorted(a.keys() ^ b.keys()):
        raise ParameterError(
            f"A and B aren't of one architecture: {', '.join(odd[:4])} is in one of them alone."
        )
    a = {name: a[name] for name in b}  # in one order: tensors are compared one by one
    names = {group: [name for name, _ in spec.unit_weights(b, group)] for group in spec.sizes}
    moved, permutation = dict(a), spec.identity()
    groups, generator = list(spec.sizes), np.random.default_rng(seed)
    for _ in range(max_sweeps):
        improved = False
        for index in generator.permutation(len(groups)):
            group = groups[index]
            step = assign(_similarity(spec, moved, b, group))
            trial = permute({name: moved[name] for name in names[group]}, spec, {group: step})
            # Measured, not read off the assignment: where a group sits on two axes of one tensor, the
            # assignment is only the linear part of the gain.
            gain = sum(((new - moved[name]) * b[name]).sum().item() for name, new in trial.items())
            size = sum((new.norm() * b[name].norm()).item() for name, new in trial.items())
            if gain > 1e-12 * size:
                moved |= trial
                permutation[group] = permutation[group][step]
                improved = True
        if not improved:
            break
    return Matching(permutation, _cosines(spec, moved, b), _cosines(spec, a, b))


def _parameters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of a state dict, float64 on the CPU, without the running statistics of norms."""
    return {
        name: tensor.detach().cpu().double()
        for name, tensor in weights.items()
        if tensor.is_floating_point() and name.rpartition(".")[2] not in ("running_mean", "running_var")
    }


def _similarity(
    spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], group: str
) -> Float64[Tensor, "n n"]:
    """Inner products of the weights of each unit of B (row) and each of A (column), float64 `(n, n)`."""
    pairs = zip(spec.unit_weights(a, group), spec.unit_weights(b, group), strict=True)
    n = spec.sizes[group]
    return sum((y @ x.T for (_, x), (_, y) in pairs), torch.zeros(n, n, dtype=torch.float64))


def _cosines(spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean cosine between the weights of equal positions in A and B; all-zero weights give 0."""
    scores = {}
    for group in spec.sizes:
        x, y = (
            torch.cat([values for _, values in spec.unit_weights(weights, group)], 1) for weights in (a, b)
        )
        scores[group] = torch.nn.functional.cosine_similarity(x, y, dim=1).mean().item()
    return scores


# -------------------------------------------------------------------------------------------- assignment


def assign(similarity: Float[Tensor, " ..."]) -> Int64[Tensor, " n"]:
    """The permutation p that maximizes the sum of `similarity[i, p[i]]`.

    Solved exactly (`scipy.optimize.linear_sum_assignment`). Where several permutations reach the maximum
    because rows, or columns, are equal number by number, as those of dead units are, units keep their order:
    of equal rows the upper one gets the lower column, and of equal columns the left one the upper row. That
    exchanges equal numbers, so it never changes the maximum. Ties of other kinds, which are accidents of the
    values, fall as scipy's deterministic algorithm finds them.

    Parameters
    ----------
    similarity : Tensor, shape (n, n)
        Unit of B (row) by unit of A (column), finite.

    Returns
    -------
    Tensor, int64, shape (n,)
        `p[i]` is the unit of A that moves to position i.

    Raises
    ------
    ParameterError
        Not a square matrix of finite numbers.
    """
    matrix = similarity.detach().cpu().double().numpy() + 0.0  # no -0.0: equal values have equal bytes
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ParameterError(
            f"assign needs a square matrix of finite numbers, got shape {matrix.shape} with "
            f"{np.count_nonzero(~np.isfinite(matrix))} not finite; check the weights and activations."
        )
    p = linear_sum_assignment(matrix, maximize=True)[1]
    rows, columns = _equal_rows(matrix), _equal_rows(matrix.T)
    while True:  # each exchange makes p smaller in dictionary order, so this ends
        before = p.copy()
        for same in rows:
            p[same] = np.sort(p[same])
        where = np.argsort(p)
        for same in columns:
            p[np.sort(where[same])] = same
        if np.array_equal(p, before):
            return torch.from_numpy(p.astype(np.int64))


def _equal_rows(matrix: np.ndarray) -> list[np.ndarray]:
    """Sets of at least two rows that are equal, as ascending indices."""
    same: dict[bytes, list[int]] = {}
    for i, row in enumerate(matrix):
        same.setdefault(row.tobytes(), []).append(i)
    return [np.array(indices) for indices in same.values() if len(indices) > 1]


def _matched(matrix: Float64[Tensor, "n n"], p: Int64[Tensor, " n"]) -> float:
    """The mean of the matched entries."""
    return matrix[torch.arange(len(p)), p].mean().item()
