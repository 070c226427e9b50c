"""Accuracy and loss, the loss barrier and its repairs, statistics over seeds, diversity of predictions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain, combinations, permutations
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lotperm.errors import ParameterError, unknown_name
from lotperm.shapes import Float, Float64

Batches = Iterable[tuple[Tensor, Tensor]]
Statistics = dict[str, tuple[Float64[Tensor, " _"], Float64[Tensor, " _"]]]
Repair = Literal["none", "bn", "repair"]
REPAIRS: tuple[Repair, ...] = ("none", "bn", "repair")

# Probabilities are floored here inside logarithms: float32 softmax underflows to exactly 0.
_FLOOR = 1e-12


class Evaluation(NamedTuple):
    """Means over all samples: accuracy (fraction) and loss (cross-entropy, nats); the number of samples."""

    accuracy: float
    loss: float
    samples: int


def evaluate(model: nn.Module, batches: Batches) -> Evaluation:
    """Accuracy and cross-entropy of a network in eval mode, each sample with the same weight.

    Parameters
    ----------
    model : network with outputs `(B, K)` (logits); its training mode is restored afterwards
    batches : pairs of normalized inputs `(B, ...)` and int64 targets `(B,)`, of any and differing sizes

    Returns
    -------
    Evaluation
        The last, smaller batch counts by its samples, not as a whole batch.

    Raises
    ------
    ParameterError
        There are no samples.
    """
    correct, loss, count = 0, 0.0, 0
    with _evaluating(model) as device:
        for inputs, targets in batches:
            logits, targets = model(inputs.to(device)), targets.to(device)
            correct += int((logits.argmax(1) == targets).sum())
            loss += F.cross_entropy(logits.double(), targets, reduction="sum").item()
            count += len(targets)
    if count == 0:
        raise ParameterError("evaluate: got no samples, expected at least one batch; check the data's split.")
    return Evaluation(correct / count, loss / count, count)


def probabilities(model: nn.Module, inputs: Iterable[Tensor]) -> Float64[np.ndarray, "n classes"]:
    """Softmax outputs of a network in eval mode, float64 `(N, K)`, in the order of the input batches."""
    with _evaluating(model) as device:
        return np.concatenate([model(x.to(device)).double().softmax(1).cpu().numpy() for x in inputs])


# ------------------------------------------------------------------------------------------- loss barrier


def interpolate(
    weights_a: Mapping[str, Tensor], weights_b: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """The state dict `(1 - alpha) a + alpha b`; integer buffers (`num_batches_tracked`) are those of `a`."""
    return {
        name: torch.lerp(a, weights_b[name].to(a), alpha) if a.is_floating_point() else a.clone()
        for name, a in weights_a.items()
    }


def loss_barrier(
    model: nn.Module,
    weights_a: Mapping[str, Tensor],
    weights_b: Mapping[str, Tensor],
    data: Mapping[str, Batches],
    alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    *,
    repair: Repair = "none",
    statistics: Iterable[Tensor] | None = None,
) -> pd.DataFrame:
    """Loss and accuracy along the straight line between two networks.

    Permute A onto B first (`permute`) to see the barrier that is left after alignment.

    Parameters
    ----------
    model : the architecture; a copy is used, its own weights don't matter
    weights_a, weights_b : state dicts of the two ends, alpha = 0 and alpha = 1
    data : split name -> batches of (inputs, targets). They are iterated once per alpha: a list or a
        `DataLoader`, not a generator
    alphas : positions on the line, within [0, 1]
    repair : what is done to the interpolated network before it is evaluated, at the ends too.
        ``"none"``: nothing. ``"bn"``: `reset_batch_norm`. ``"repair"``: `repaired` (Jordan et al. 2022)
    statistics : batches of training inputs for the repairs; without it, the inputs of ``data["train"]``

    Returns
    -------
    pandas.DataFrame
        One row per alpha and split: `alpha`, `repair`, `split`, `loss` (nats), `accuracy` (fraction).

    Raises
    ------
    ParameterError
        Unknown repair, an alpha outside [0, 1], or no data to take the statistics from.
    """
    if repair not in REPAIRS:
        raise unknown_name("repair", repair, REPAIRS)
    if not all(0 <= alpha <= 1 for alpha in alphas):
        raise ParameterError(f"loss_barrier: alphas must lie in [0, 1], got {list(alphas)}.")
    batches: list[Tensor] = []
    if repair != "none":
        if statistics is None and "train" not in data:
            raise ParameterError(
                f"loss_barrier: repair={repair!r} needs training inputs, got data only for "
                f"{sorted(data)}; pass statistics=... or a 'train' split."
            )
        batches = list(statistics) if statistics is not None else [inputs for inputs, _ in data["train"]]

    network = copy.deepcopy(model).eval()
    ends = []
    if repair == "repair":
        for weights in (weights_a, weights_b):
            network.load_state_dict(weights)
            ends.append(preactivation_statistics(network, batches))

    rows = []
    for alpha in alphas:
        network.load_state_dict(interpolate(weights_a, weights_b, alpha))
        if repair == "bn":
            reset_batch_norm(network, batches)
        with repaired(network, _between(ends, alpha), batches) if ends else nullcontext():
            for split, pairs in data.items():
                result = evaluate(network, pairs)
                rows.append((alpha, repair, split, result.loss, result.accuracy))
    return pd.DataFrame(rows, columns=["alpha", "repair", "split", "loss", "accuracy"])


def barrier_height(curve: pd.DataFrame) -> pd.DataFrame:
    """How high the barrier of each (repair, split) in a table of `loss_barrier` is.

    Returns
    -------
    pandas.DataFrame
        One row per (repair, split): `loss_barrier`, by how much the loss exceeds the straight line between
        the losses of the ends, at its worst alpha (Frankle et al. 2020; Ainsworth et al. 2023), and
        `accuracy_barrier`, the mean accuracy of the ends less that of the midpoint, a fraction (NaN if
        alpha = 0.5 is not in the table).

    Raises
    ------
    ParameterError
        The ends (alpha = 0 and alpha = 1) are missing.
    """
    rows = []
    for (repair, split), part in curve.groupby(["repair", "split"], sort=False):
        alpha, loss = part["alpha"].to_numpy(float), part["loss"].to_numpy(float)
        accuracy = dict(zip(alpha, part["accuracy"].to_numpy(float), strict=True))
        if not {0.0, 1.0} <= accuracy.keys():
            raise ParameterError(
                f"barrier_height: the curve needs alpha 0 and 1, got {sorted(accuracy)}; add the ends."
            )
        straight = (1 - alpha) * loss[alpha == 0][0] + alpha * loss[alpha == 1][0]
        middle = (accuracy[0.0] + accuracy[1.0]) / 2 - accuracy.get(0.5, np.nan)
        rows.append((repair, split, float(np.max(loss - straight)), float(middle)))
    return pd.DataFrame(rows, columns=["repair", "split", "loss_barrier", "accuracy_barrier"])


def accuracy_barriers(lines: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """The accuracy barrier of every seed's lines: mean accuracy of the ends less that of the midpoint.

    Parameters
    ----------
    lines : columns seed, ends, repair, alpha (0, 0.5 and 1 among them) and accuracy, as
        `lotperm.experiments.Pipeline.connectivity` gives them
    by : more columns that tell lines apart

    Returns
    -------
    pandas.DataFrame
        One row per line: the columns `by`, seed, ends, repair, and `barrier`, a fraction.
    """
    wide = lines[lines["alpha"].isin([0.0, 0.5, 1.0])].pivot_table(
        index=[*by, "seed", "ends", "repair"], columns="alpha", values="accuracy", sort=False
    )
    return ((wide[0.0] + wide[1.0]) / 2 - wide[0.5]).rename("barrier").reset_index()


def reset_batch_norm(model: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Recompute the running statistics of every batch norm, in place, as the plain average over `inputs`.

    Only the batch norms run in train mode, so dropout stays off. Every batch counts the same: use
    batches of one size. Momentum and training mode are restored.

    Raises
    ------
    ParameterError
        If there are no batches; the statistics are as they were.
    """
    batches = _some(inputs)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [norm.momentum for norm in norms]
    try:
        with _evaluating(model) as device:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's cumulative average
                norm.train()
            for x in batches:
                model(x.to(device))
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def _some(inputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same batches, at least one."""
    batches = iter(inputs)
    first = next(batches, None)
    if first is None:
        raise ParameterError(
            "got no batches of inputs, expected at least one; a generator can be used once only."
        )
    return chain([first], batches)


def preactivation_statistics(model: nn.Module, inputs: Iterable[Tensor]) -> Statistics:
    """Mean and standard deviation of every preactivation of a network in eval mode.

    Parameters
    ----------
    model : network of convolutions, linear layers and batch norms (modules)
    inputs : batches of inputs

    Returns
    -------
    dict
        Module name -> (mean, standard deviation), float64 `(n,)`, pooled over samples and positions, for the
        output of each convolution, linear layer and batch norm but the one that is the network's output.

    Raises
    ------
    ParameterError
        If there are no batches.
    """
    batches = _some(inputs)
    first = next(batches)
    pooled = {name: _Pooled() for name in _hidden_points(model, first[:2])}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            pooled[name].add(_units_first(module, output))

        return hook

    with _evaluating(model) as device, _hooks(model, {name: watch(name) for name in pooled}):
        for x in chain([first], batches):
            model(x.to(device))
    return {name: moments.result() for name, moments in pooled.items()}


def _between(ends: Sequence[Statistics], alpha: float) -> Statistics:
    a, b = ends

    def mix(x: Tensor, y: Tensor) -> Tensor:
        return torch.lerp(x, y, alpha)

    return {name: (mix(mean, b[name][0]), mix(std, b[name][1])) for name, (mean, std) in a.items()}


@contextmanager
def repaired(model: nn.Module, target: Statistics, inputs: Iterable[Tensor]) -> Iterator[None]:
    """Within this context every preactivation has the mean and standard deviation of `target` (REPAIR).

    Jordan et al. 2022: per unit, `y = (x - mean) / std * target_std + target_mean`. The statistics of a layer
    depend on the layers before it, so while they are measured each batch is corrected with its own (like a
    batch norm in train mode), afterwards with those pooled over all; with a single batch this is exact.
    Where a batch norm follows a convolution both are corrected, and the later one decides.

    Parameters
    ----------
    model : the interpolated network; gets forward hooks inside the context, its weights stay as they are
    target : from `preactivation_statistics`, interpolated between the ends
    inputs : batches of training inputs
    """
    pooled = {name: _Pooled() for name in target}
    fixed: Statistics = {}

    def correct(name: str) -> Callable[..., Tensor]:
        target_mean, target_std = target[name]

        def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
            mean, std = fixed[name] if fixed else pooled[name].add(_units_first(module, output))
            # A unit that is constant here has no spread to rescale: it is only moved to its mean.
            scale = torch.where(std > 0, target_std / std, 0.0)
            shift = target_mean - mean * scale
            axis = _unit_axis(module, output)
            shape = [-1 if i == axis else 1 for i in range(output.ndim)]
            return output * scale.to(output.dtype).view(shape) + shift.to(output.dtype).view(shape)

        return hook

    with _hooks(model, {name: correct(name) for name in target}):
        with _evaluating(model) as device:
            for x in inputs:
                model(x.to(device))
        fixed.update({name: moments.result() for name, moments in pooled.items()})
        yield


class _Pooled:
    """Mean and standard deviation per unit, pooled over batches in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def add(
        self, values: Float[Tensor, "units _"]
    ) -> tuple[Float64[Tensor, " units"], Float64[Tensor, " units"]]:
        """Add a batch, samples and positions in a row for each unit; its own mean and standard deviation."""
        var, mean = torch.var_mean(values.double(), dim=1, correction=0)
        weight = values.shape[1] / (self.count + values.shape[1])
        self.mean = self.mean + weight * (mean - self.mean)
        self.square = self.square + weight * (var + mean**2 - self.square)
        self.count += values.shape[1]
        return mean, var.sqrt()

    def result(self) -> tuple[Float64[Tensor, " units"], Float64[Tensor, " units"]]:
        mean, square = torch.as_tensor(self.mean), torch.as_tensor(self.square)
        return mean, (square - mean**2).clamp(min=0).sqrt()


def _hidden_points(model: nn.Module, inputs: Tensor) -> list[str]:
    """Names of the convolutions, linear layers and batch norms that run, less the one that is the output."""
    seen: dict[str, Tensor] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            seen[name] = output

        return hook

    kinds = (_ConvNd, nn.Linear, _BatchNorm)
    hooks = {name: record(name) for name, module in model.named_modules() if isinstance(module, kinds)}
    with _evaluating(model) as device, _hooks(model, hooks):
        last = model(inputs.to(device))
    return [name for name, output in seen.items() if output is not last]


def _unit_axis(module: nn.Module, output: Tensor) -> int:
    """Where the units are: last for a linear layer, axis 1 for convolutions and batch norms."""
    return output.ndim - 1 if isinstance(module, nn.Linear) else 1


def _units_first(module: nn.Module, output: Float[Tensor, "b ..."]) -> Float[Tensor, "units _"]:
    """The output with units first, then samples times positions."""
    return output.movedim(_unit_axis(module, output), 0).flatten(1)


@contextmanager
def _hooks(model: nn.Module, hooks: Mapping[str, Callable[..., Tensor | None]]) -> Iterator[None]:
    """Forward hooks, by module name, that are there only within the context."""
    handles = [model.get_submodule(name).register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Eval mode without gradients; yields the model's device and gives every module its mode back."""
    modes = [(module, module.training) for module in model.modules()]
    tensor = next(chain(model.parameters(), model.buffers()), None)
    model.eval()
    try:
        with torch.no_grad():
            yield torch.device("cpu") if tensor is None else tensor.device
    finally:
        for module, mode in modes:
            module.training = mode


# ------------------------------------------------------------------------------------ statistics over seeds


class Paired(NamedTuple):
    """Mean of the differences, half width of its interval, two-sided p-value of the paired t-test."""

    mean: float
    half_width: float
    p_value: float


class GapClosed(NamedTuple):
    """Gap closed per seed (NaN where it is not defined), mean and half width over the seeds where it is."""

    per_seed: Float64[np.ndarray, " seeds"]
    mean: float
    half_width: float


def interval(values: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Mean over seeds and the half width of its confidence interval (Student t, n - 1 degrees of freedom).

    Parameters
    ----------
    values : one value a seed, `(S,)`
    confidence : coverage of the interval, within (0, 1)

    Returns
    -------
    (float, float)
        The half width is NaN for a single value: one seed says nothing about spread.

    Raises
    ------
    ParameterError
        No values, or a confidence outside (0, 1).
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or x.size == 0:
        raise ParameterError(f"interval: expected one value per seed, got an array of shape {x.shape}.")
    if not 0 < confidence < 1:
        raise ParameterError(f"interval: confidence must lie in (0, 1), got {confidence}.")
    if x.size == 1:
        return float(x[0]), float("nan")
    half = stats.t.ppf((1 + confidence) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
    return float(x.mean()), float(half)


def paired(a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = 0.95) -> Paired:
    """Mean of `a - b` over seeds, paired by position, with its half width and two-sided p (paired t-test).

    If every seed has exactly the same difference the test has no spread to work with: p is 1 for a difference
    of 0 and 0 otherwise. With one seed, half width and p are NaN.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if x.shape != y.shape:
        raise ParameterError(f"paired: both arms need the same seeds, got shapes {x.shape} and {y.shape}.")
    mean, half = interval(x - y, confidence)
    if x.size == 1:
        return Paired(mean, half, float("nan"))
    error = (x - y).std(ddof=1) / np.sqrt(x.size)
    t = abs(mean) / error if error > 0 else (np.inf if mean != 0 else 0.0)
    return Paired(mean, half, float(2 * stats.t.sf(t, x.size - 1)))


def gap_closed(
    lth: npt.ArrayLike, naive: npt.ArrayLike, permuted: npt.ArrayLike, confidence: float = 0.95
) -> GapClosed:
    """How much of the gap from naive to LTH the permuted arm closes: `(permuted - naive) / (lth - naive)`.

    Parameters
    ----------
    lth, naive, permuted : accuracy (fraction) per seed, `(S,)`, in the same order of seeds

    Returns
    -------
    GapClosed
        A seed on which LTH is not above naive has no gap to close: its value is NaN and it is left out of the
        mean and the interval (both NaN if no seed is left). A small gap makes the ratio unsteady; report it
        beside the paired difference, not instead of it.
    """
    top, low, mid = (np.asarray(v, dtype=float) for v in (lth, naive, permuted))
    if not top.shape == low.shape == mid.shape:
        raise ParameterError(
            f"gap_closed: all arms need the same seeds, got shapes {top.shape}, {low.shape}, {mid.shape}."
        )
    gap = top - low
    per_seed = np.full(gap.shape, np.nan)
    np.divide(mid - low, gap, out=per_seed, where=gap > 0)
    defined = per_seed[~np.isnan(per_seed)]
    return GapClosed(per_seed, *(interval(defined, confidence) if defined.size else (float("nan"),) * 2))


# ---------------------------------------------------------------------------------------------- diversity


def disagreement(probs: Float[np.ndarray, " ..."]) -> float:
    """Fraction of samples on which two members predict different classes, mean over the pairs of members.

    Parameters
    ----------
    probs : predicted probabilities `(S, N, K)`: members, samples, classes
    """
    votes = _members(probs).argmax(2)
    return float(np.mean([np.mean(votes[i] != votes[j]) for i, j in combinations(range(len(votes)), 2)]))


def kl_divergence(probs: Float[np.ndarray, " ..."]) -> float:
    """KL(p_i || p_j) in nats, mean over samples and ordered pairs of members; `probs` is `(S, N, K)`."""
    p = _members(probs)
    return float(np.mean([_kl(p[i], p[j]) for i, j in permutations(range(len(p)), 2)]))


def js_divergence(probs: Float[np.ndarray, " ..."]) -> float:
    """Jensen-Shannon divergence in nats, mean over samples and pairs of members; `probs` is `(S, N, K)`."""
    p = _members(probs)
    pairs = ((p[i], p[j], (p[i] + p[j]) / 2) for i, j in combinations(range(len(p)), 2))
    return float(np.mean([(_kl(a, middle) + _kl(b, middle)) / 2 for a, b, middle in pairs]))


def ensemble_accuracy(probs: Float[np.ndarray, "members n classes"], targets: npt.ArrayLike) -> float:
    """Accuracy (fraction) of the members' mean probabilities `(S, N, K)` against the targets `(N,)`."""
    return float(np.mean(np.asarray(probs).mean(0).argmax(1) == np.asarray(targets)))


def _members(probs: Float[np.ndarray, " ..."]) -> Float64[np.ndarray, "members n classes"]:
    p = np.asarray(probs, dtype=float)
    if p.ndim != 3 or len(p) < 2:
        raise ParameterError(
            f"diversity needs (members >= 2, samples, classes), got an array of shape {p.shape}."
        )
    return p


def _kl(p: Float64[np.ndarray, "n classes"], q: Float64[np.ndarray, "n classes"]) -> float:
    """Mean over samples of KL(p || q), both `(N, K)`; 0 log 0 is 0."""
    ratio = np.maximum(p, _FLOOR) / np.maximum(q, _FLOOR)
    return float(np.mean(np.sum(p * np.log(ratio), axis=1)))
