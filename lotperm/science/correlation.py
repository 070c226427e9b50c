"""Correlations between the units of two networks, in one pass over the data.

Threads and ranks share the work, and to the last bit the result doesn't depend on how many there
are. Both come from `lotperm.parallel`, which does nothing in a single process.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, count
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lotperm.errors import ParameterError
from lotperm.parallel import distributed
from lotperm.parallel.threads import keep_freed_memory, workers
from lotperm.science.features import Activations, Features
from lotperm.science.graphs import is_batched
from lotperm.science.inputs import Batch, batch_size
from lotperm.science.precision import full_precision
from lotperm.science.symmetry import PermutationSpec
from lotperm.types import Float, Float64

# How many separate sums of moments a pass over the data keeps. Chunk i of the data is added to sum
# i mod 8, and at the end the sums are merged in order. Threads and ranks share out the sums, so to
# the last bit the result doesn't depend on how many there are.
LANES = 8

# How many samples go through the networks at a time on a CPU: few, so that activations stay in the
# cache.
CHUNK = 32

# How many rows have their products summed in the activations' own precision before the sums are
# added up in float64.
ROWS = 2**15


class CorrelationAccumulator:
    """Pearson correlations between the units of two networks, from a stream of paired activations.

    Holds the sums of x, x², y, y² and y·x over samples and positions, in float64, where x and y are
    the activations of A and B minus the mean of the first block. Without that shift, a mean that is
    large compared with the spread would cost most digits (Chan, Golub & LeVeque 1983). Memory
    doesn't depend on the number of samples.

    Attributes
    ----------
    count : int
        The number of samples seen so far, times positions.
    """

    def __init__(self) -> None:
        self.count = 0
        self._eps = 0.0
        # (2, n): A and B; (n, n): unit of B by unit of A. Created by the first update.
        self._shift = self._sum = self._square = self._cross = torch.empty(0)

    def update(self, a: Float[Tensor, "_ _ ..."], b: Float[Tensor, "_ _ ..."]) -> None:
        """Add activations of A and B for the same inputs.

        Parameters
        ----------
        a, b : Tensor, shape (B, n, *spatial)
            Positions count as samples. Products are formed in the precision of the activations,
            at least float32, over `2**15` rows at most.

        Raises
        ------
        ParameterError
            The shapes differ.
        """
        if a.shape != b.shape:
            raise ParameterError(
                f"activations of A and B must have the same shape, got {tuple(a.shape)} and "
                f"{tuple(b.shape)}; match networks of one architecture on the same inputs."
            )
        for rows in zip(_rows(a), _rows(b), strict=True):
            if self.count == 0:
                shift = torch.stack([v.mean(0) for v in rows])
                self._eps = torch.finfo(shift.dtype).eps
                self._shift, n = shift.double(), shift.shape[1]
                self._sum = torch.zeros_like(self._shift)
                self._square = torch.zeros_like(self._shift)
                self._cross = self._shift.new_zeros(n, n)
            x, y = (
                v - center for v, center in zip(rows, self._shift.to(rows[0].dtype), strict=True)
            )
            self._sum += torch.stack([x.sum(0), y.sum(0)])
            self._square += torch.stack([x.square().sum(0), y.square().sum(0)])
            self._cross += y.T @ x
            self.count += len(x)

    def merge(self, other: CorrelationAccumulator) -> None:
        """Add the moments that another accumulator has gathered from the same networks.

        Its sums are about its own shift; they are first moved to the shift of this one.
        """
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
        """Return a copy on the CPU."""
        moved = CorrelationAccumulator()
        vars(moved).update(
            {k: v.cpu() if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        )
        return moved

    def correlation(self) -> Float64[Tensor, "n n"]:
        """Compute the Pearson correlation of each unit of B with each of A.

        Dead units, whose activation is constant to within its rounding error, have correlation 0
        with all units of the other network.

        Returns
        -------
        Tensor, float64, shape (n, n)
            Unit of B (row) by unit of A (column), on the CPU.

        Raises
        ------
        ParameterError
            Nothing was seen, or an activation was NaN or infinite.
        """
        if self.count == 0:
            raise ParameterError("matching got no samples, expected at least one batch of inputs.")
        if not (self._cross.isfinite().all() and self._square.isfinite().all()):
            raise ParameterError(
                "an activation is NaN or infinite (or so large that its square is); check that "
                "both networks were trained to the end and that the inputs are normalized."
            )
        mean = self._sum / self.count
        variance = self._square / self.count - mean.square()
        rounding = 4 * self._eps * (self._shift + mean).abs()
        dead = variance <= rounding.square()
        inverse = torch.where(
            dead, 0.0, variance.clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
        )
        covariance = self._cross / self.count - mean[1].outer(mean[0])
        return (inverse[1][:, None] * covariance * inverse[0]).clamp(-1, 1).cpu()


def _rows(activations: Float[Tensor, "b n *spatial"]) -> tuple[Float[Tensor, "_ n"], ...]:
    """Return activations `(B, n, *spatial)` as blocks of rows `(N, n)`, at least float32."""
    rows = activations.movedim(1, -1).reshape(-1, activations.shape[1])
    return torch.split(rows if rows.dtype == torch.float64 else rows.float(), ROWS)


@runtime_checkable
class Divisible(Protocol):
    """Batches of inputs from which some rows can be read without the others.

    A data set that decodes images offers this, so that each rank decodes only its own.
    """

    def parts(self, cut: Callable[[int], Sequence[slice]]) -> Iterator[list[Tensor]]:
        """Yield, for every batch, the rows that `cut` selects, given the batch's length."""
        ...


def _parts(
    batches: Iterable[Batch] | Divisible,
    leaves_of: Callable[[Any], list[Any]],
    cut: Callable[[int], Sequence[slice]],
    labelled: bool,
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield, for every batch, whatever its form, its leaves in the rows that `cut` selects."""
    if isinstance(batches, Divisible):
        if labelled:
            raise ParameterError(
                "these batches are inputs alone; gradients need pairs of inputs and labels."
            )
        yield from ([(part,) for part in parts] for parts in batches.parts(cut))
        return
    if isinstance(batches, (Tensor, Mapping)):
        batches = [batches]  # one batch, not an iterable of examples or names
    for batch in batches:
        leaves = leaves_of(batch)
        size = batch_size(leaves)
        yield [
            tuple(leaf[rows] if is_batched(leaf, size) else leaf for leaf in leaves)
            for rows in cut(size)
        ]


def correlate(
    a: Mapping[str, Any] | nn.Module,
    b: Mapping[str, Any] | nn.Module,
    batches: Iterable[Batch],
    spec: PermutationSpec,
    points: Mapping[str, str],
    *,
    features: Features | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, CorrelationAccumulator]:
    """Sum the moments of the activations of two networks at all points, in one pass.

    Batches are cut into small chunks, unless the network mixes the examples of a batch, as a batch
    norm without running statistics does; then each batch runs whole.

    Several ranks (`lotperm.parallel.distributed`), up to 8, share the chunks that batches are cut
    into; all must call this with the same batches. From `Divisible` batches each rank reads only
    its own chunks. If the data is divided in another way, correlate the parts, then `merge` them
    group by group.

    Parameters
    ----------
    a, b, batches, spec, device, dtype
        As in `match_activations`.
    points : Mapping[str, str]
        Group -> the graph node at which it is observed.
    features : Features, optional
        What is observed there in place of activations, such as
        `lotperm.science.matching.gradients.Gradients`; it also decides what a batch must hold.

    Returns
    -------
    dict
        Group -> its moments, on the CPU; the same on all ranks, to the last bit.
    """
    if not points:
        return {}
    features = features or Activations()
    states = [spec.tensors(weights) for weights in (a, b)]
    read = next((states[0][name] for name in spec.shapes if name in states[0]), None)
    place = torch.device(device or (read.device if read is not None else "cpu"))
    channels_last = spec.network.any_layout

    def placed(value: Any) -> Any:
        return _place(value, place, dtype, channels_last) if isinstance(value, Tensor) else value

    nets = [
        features.observer(spec, {name: placed(t) for name, t in state.items()}, points)
        for state in states
    ]
    whole = place.type != "cpu" or features.mixes(spec, states[0], points)
    ranks = distributed.world_size()
    own = range(distributed.rank(), LANES, ranks)
    lanes = [{group: CorrelationAccumulator() for group in points} for _ in own]
    threads = min(torch.get_num_threads(), max(len(own), 1)) if place.type == "cpu" else 1

    @torch.no_grad()
    def see(
        accumulators: Mapping[str, CorrelationAccumulator], chunks: Sequence[tuple[Any, ...]]
    ) -> None:
        for chunk in chunks:
            # A copy for each: a network may write into its input.
            acts_a, acts_b = (net(*map(placed, chunk)) for net in nets)
            for group, accumulator in accumulators.items():
                accumulator.update(acts_a.pop(group), acts_b.pop(group))

    numbers = count()

    def cut(size: int) -> list[slice]:
        """Return this rank's chunks of the next batch."""
        if size == 0:
            return []
        # At least four, so that small batches keep a few threads busy.
        parts = 1 if whole else max(4, math.ceil(size / CHUNK))
        sizes = [len(part) for part in torch.arange(size).tensor_split(min(parts, size))]
        found = zip(sizes, accumulate(sizes), numbers, strict=False)
        return [slice(end - length, end) for length, end, number in found if number % LANES in own]

    def leaves_of(batch: Any) -> list[Any]:
        return features.leaves(spec.network.form, batch)

    keep_freed_memory()
    seen = 0
    with workers(threads) as each, full_precision():
        for chunks in _parts(batches, leaves_of, cut, features.labelled):
            # This rank's chunks go to its lanes in turn.
            each(
                see,
                lanes,
                [chunks[(lane - seen) % len(own) :: len(own)] for lane in range(len(own))],
            )
            seen += len(chunks)
    # Merged on the CPU, since a GPU's sums may differ from a CPU's.
    gathered = distributed.gather(
        [{group: sums.cpu() for group, sums in lane.items()} for lane in lanes]
    )

    def merged() -> dict[str, CorrelationAccumulator]:
        found = {group: CorrelationAccumulator() for group in points}
        for lane in range(LANES):
            for group, sums in gathered[lane % ranks][lane // ranks].items():
                found[group].merge(sums)
        return found

    return distributed.once(merged)


def _place(tensor: Tensor, device: torch.device, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Copy a tensor to a device and dtype.

    Where the network allows it, images and their kernels become channels-last, so that units are
    contiguous.
    """
    layout = torch.preserve_format if channels_last else torch.contiguous_format
    # In that layout, oneDNN's convolutions of a single channel may read uninitialized memory.
    if channels_last and tensor.ndim == 4 and tensor.shape[1] > 1:
        layout = torch.channels_last
    kind = dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(device, kind, memory_format=layout, copy=True)
