"""Train M masked networks at once, in one program.

`stack` rewrites any feed-forward network so that one forward pass computes M of them, each with weights of its
own: linear layers become batched matrix products (M, B, ·), convolutions become grouped ones over M·C channels,
and batch norm over M·C channels is each network's own. `train` runs masked SGD on such a stack: all parameters
live in one flat buffer, so a step is one backward pass and a handful of operations on that buffer:

    v ← μ·v + (g + λ·w) ⊙ m        w ← w − η·v

With w ⊙ m = w at the start, a pruned weight is exactly zero at all times, momentum and weight decay included
(Sutskever et al. 2013's momentum as PyTorch has it, the mask m folded in). Every random number belongs to one
member and is drawn on the CPU from its own seeds, so a member's result depends neither on the device nor on the
networks that are trained beside it, up to rounding.

With several ranks (`lotperm.distributed`) each takes an equal share of the rows of every batch. Gradients are averaged
by DistributedDataParallel, the statistics of batch norm are those of the whole batch, and the same examples meet in a
batch as in one process: so weights are equal in every bit on all ranks, and differ from those of one process by
rounding alone.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.parallel import DistributedDataParallel

from lotperm import distributed
from lotperm.config import Recipe, Seeds
from lotperm.data import Dataset, Split, augment, draw_augmentation, normalize, raw_batches
from lotperm.errors import DivergedError, ParameterError, PreemptedError, UnsupportedModelError
from lotperm.imagefolder import ImageFiles, stream
from lotperm.models import Weights
from lotperm.threads import keep_freed_memory, workers

# ---------------------------------------------------------------------------------------------------------
# The stack: M networks as one
# ---------------------------------------------------------------------------------------------------------


_ALIGNMENT = 16
"""Matrix products are fastest where sizes are multiples of this: a cache line of float32, a tensor core's tile."""


class _StackedLinear(nn.Module):
    """M linear layers: (M, B, n_in) -> (M, B, n_out)."""

    def __init__(self, layer: nn.Linear, members: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.new_zeros(members, *layer.weight.shape))
        self.bias = (
            None if layer.bias is None else nn.Parameter(layer.bias.new_zeros(members, *layer.bias.shape))
        )

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        units = weight.shape[1]
        # Matrix products with, say, 10 columns are slower than with 16: a classifier gets idle units for a moment.
        idle = -units % _ALIGNMENT
        if idle:
            weight = F.pad(weight, (0, 0, 0, idle))
            bias = None if bias is None else F.pad(bias, (0, idle))
        weight = weight.transpose(1, 2)
        y = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)
        return y[..., :units] if idle else y


def _in_2d(size: Any, other: int = 1) -> tuple[Any, ...]:
    """A size along a signal as one of an image of height 1; a size of images as it is."""
    sizes = size if isinstance(size, tuple) else (size,)
    return sizes if len(sizes) == 2 else (other, *sizes)


class _StackedConv(nn.Module):
    """M convolutions as one grouped convolution: (B, M·C_in, H, W) -> (B, M·C_out, H, W); signals have H = 1."""

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, members: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.new_zeros(members, *layer.weight.shape))
        self.bias = (
            None if layer.bias is None else nn.Parameter(layer.bias.new_zeros(members, *layer.bias.shape))
        )
        padding = layer.padding if isinstance(layer.padding, str) else _in_2d(layer.padding, 0)
        self.geometry: dict[str, Any] = {
            "stride": _in_2d(layer.stride), "padding": padding, "dilation": _in_2d(layer.dilation),
            "groups": layer.groups * members,
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(0, 1)
        if weight.dim() == 3:
            weight = weight.unsqueeze(2)
        bias = None if self.bias is None else self.bias.flatten()
        return F.conv2d(x, weight.contiguous(memory_format=torch.channels_last), bias, **self.geometry)


class _StackedBatchNorm(nn.Module):
    """M batch norms as one: over the M·C channels of (B, M·C, ...), or of (M, B, C) after a linear layer.

    With several ranks the statistics are those of all ranks' examples, as in SyncBatchNorm, on every device by the one
    rule of `_synchronized`.
    """

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d, members: int, folded: bool) -> None:
        super().__init__()
        assert layer.momentum is not None  # see _plain_norm
        self.members, self.folded, self.eps, self.momentum = members, folded, layer.eps, layer.momentum
        self.weight = nn.Parameter(layer.weight.new_ones(members, layer.num_features))
        self.bias = nn.Parameter(layer.weight.new_zeros(members, layer.num_features))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        self.register_buffer("running_mean", layer.weight.new_zeros(members, layer.num_features))
        self.register_buffer("running_var", layer.weight.new_ones(members, layer.num_features))
        self.register_buffer("num_batches_tracked", torch.zeros(members, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if not self.folded:
            x = x.transpose(0, 1).flatten(1)
        if self.training:
            self.num_batches_tracked.add_(1)
        if self.training and distributed.world_size() > 1:
            x = self._synchronized(x)
        else:
            x = F.batch_norm(
                x, self.running_mean.flatten(), self.running_var.flatten(), self.weight.flatten(), self.bias.flatten(),
                self.training, self.momentum, self.eps,
            )  # fmt: skip
        return x if self.folded else x.unflatten(1, (self.members, -1)).transpose(0, 1)

    def _synchronized(self, x: Tensor) -> Tensor:
        """Batch norm of (B, M·C, ...) by the statistics of all ranks, whose shares of a batch are equally large."""
        ranks, shape = distributed.world_size(), (1, -1, *[1] * (x.dim() - 2))
        values = x.to(self.weight.dtype)  # autocast may give bfloat16
        variance, mean = torch.var_mean(values, [0, *range(2, x.dim())], correction=0)
        # E[x²] − E[x]² loses digits where the mean is large: in float64 there are enough.
        mean, variance = mean.double(), variance.double()
        mean, square = distributed.total(torch.stack([mean, variance + mean.square()])) / ranks
        variance = square - mean.square()
        with torch.no_grad():
            count = ranks * values.numel() / values.shape[1]
            unbiased = variance * (count / max(count - 1, 1))
            for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.mul_(1 - self.momentum).add_(now.view_as(running).to(running), alpha=self.momentum)
        scale = self.weight.flatten() * (variance + self.eps).rsqrt().to(values.dtype)
        shift = self.bias.flatten() - mean.to(values.dtype) * scale
        return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(x.dtype)


# What treats every element or every channel alone, and so works on stacked activations as it stands.
_ALIKE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.ELU,
    nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
)  # fmt: skip
_ALIKE_CALLS = {
    "add",
    "iadd",
    "mul",
    "relu",
    "relu_",
    "gelu",
    "silu",
    "tanh",
    "sigmoid",
    "hardswish",
    "max_pool2d",
}
_FLATTEN_CALLS = {"flatten"}


def _plain_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> bool:
    return layer.affine and layer.track_running_stats and layer.momentum is not None


def _fold(x: Tensor) -> Tensor:
    """(B, M, C, H, W) -> (B, M·C, H, W), channels_last; a signal (B, M, C, L) becomes an image of height 1.

    Grouped convolutions of images in this layout are a third faster than those of signals.
    """
    x = x.flatten(1, 2)
    return (x.unsqueeze(2) if x.dim() == 3 else x).contiguous(memory_format=torch.channels_last)


def _pool_in_2d(pool: nn.Module) -> nn.Module:
    """A pooling of signals as one of images of height 1."""
    match pool:
        case nn.AdaptiveAvgPool1d():
            return nn.AdaptiveAvgPool2d(_in_2d(pool.output_size))
        case nn.MaxPool1d():
            padding, dilation = _in_2d(pool.padding, 0), _in_2d(pool.dilation)
            return nn.MaxPool2d(
                _in_2d(pool.kernel_size), _in_2d(pool.stride), padding, dilation, ceil_mode=pool.ceil_mode
            )
        case nn.AvgPool1d():
            sizes = (_in_2d(pool.kernel_size), _in_2d(pool.stride), _in_2d(pool.padding, 0))
            return nn.AvgPool2d(*sizes, pool.ceil_mode, pool.count_include_pad)
    return pool


def stack(model: nn.Module, members: int) -> nn.Module:
    """Rewrite a network so that one forward pass computes `members` of them.

    Parameters
    ----------
    model : a feed-forward network of linear, conv 1d/2d, batch norm, pooling and elementwise layers whose first
        axis is the batch. It is read, not changed
    members : M ≥ 1

    Returns
    -------
    nn.Module
        Maps (B, M, C, *spatial) to logits (M, B, classes). Its parameters and buffers have the names of the
        model's and a leading axis M; they start at zero (see `StackedNetwork.load`).

    Raises
    ------
    UnsupportedModelError
        If the network can't be traced or holds a layer without a stacking rule, dropout for one: such random
        layers would mix the members' random streams.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:
        raise UnsupportedModelError(
            f"the network can't be traced for training many at once: {error}"
        ) from error
    modules = dict(model.named_modules())
    root = nn.Module()
    # "input": (B, M, C, ...); "folded": (B, M·C, H, W), signals with H = 1; "split": (M, B, F)
    layout: dict[fx.Node, str] = {}
    placed: set[str] = set()

    def put(name: str, module: nn.Module) -> None:
        *path, last = name.split(".")
        parent = root
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        parent.add_module(last, module)

    def refuse(node: fx.Node, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{what} (node {node.name!r}) has no rule for training many networks at once. Replace it, or add a rule "
            "to lotperm.training.stack."
        )

    def converted(node: fx.Node, argument: fx.Node, wanted: str) -> fx.Node:
        """The argument in the layout wanted, with the conversion inserted before the node."""
        have = layout[argument]
        if have == wanted:
            return argument
        with graph.inserting_before(node):
            if (have, wanted) == ("input", "folded"):
                new = graph.call_function(_fold, (argument,))
            elif (have, wanted) == ("input", "split"):
                flat = graph.call_method("flatten", (argument, 2))
                new = graph.call_method("transpose", (flat, 0, 1))
            elif (have, wanted) == ("folded", "split"):
                rows = graph.call_method("flatten", (argument, 1))
                apart = graph.call_method("unflatten", (rows, 1, (members, -1)))
                new = graph.call_method("transpose", (apart, 0, 1))
            else:
                raise refuse(node, f"a step from {have} to {wanted} activations")
        layout[new] = wanted
        return new

    for node in list(graph.nodes):
        sources = [a for a in node.all_input_nodes if a in layout]
        if node.op == "placeholder":
            if node is not next(iter(graph.nodes)):
                raise refuse(node, "a second input")
            layout[node] = "input"
        elif node.op == "output":
            node.args = (converted(node, sources[0], "split"),)
        elif node.op == "call_module":
            layer, source = modules[str(node.target)], sources[0]
            if isinstance(layer, nn.Linear):
                new: nn.Module = _StackedLinear(layer, members)
                source = converted(node, source, "split")
            elif isinstance(layer, nn.Conv1d | nn.Conv2d):
                if layer.padding_mode != "zeros":
                    raise refuse(node, f"{layer.padding_mode} padding")
                new = _StackedConv(layer, members)
                source = converted(node, source, "folded")
            elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and _plain_norm(layer):
                if layout[source] == "input":
                    source = converted(node, source, "folded")
                new = _StackedBatchNorm(layer, members, folded=layout[source] == "folded")
            elif isinstance(layer, nn.Flatten) and layer.start_dim == 1 and layer.end_dim == -1:
                new, source = nn.Identity(), converted(node, source, "split")
            elif isinstance(layer, _ALIKE):
                new = layer
                if "Pool" in type(layer).__name__:
                    new, source = _pool_in_2d(layer), converted(node, source, "folded")
            else:
                raise refuse(node, f"layer {type(layer).__name__}")
            if str(node.target) in placed:
                raise refuse(node, f"layer {node.target}, used twice,")
            if next(new.parameters(), None) is not None:
                placed.add(str(node.target))
            put(str(node.target), new)
            node.args = (source, *node.args[1:])
            layout[node] = layout[source]
        elif node.op in ("call_function", "call_method"):
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
            if name in _FLATTEN_CALLS and node.args[1:] in ((1,), (1, -1)) and not node.kwargs:
                node.replace_all_uses_with(converted(node, sources[0], "split"))
                graph.erase_node(node)
            elif name in _ALIKE_CALLS and len({layout[s] for s in sources}) == 1:
                layout[node] = layout[sources[0]]
            else:
                raise refuse(node, f"operation {name}")
        else:
            raise refuse(node, f"a bare parameter {node.target}")
    graph.lint()
    return fx.GraphModule(root, graph, class_name=f"Stacked{type(model).__name__}")


class StackedNetworks:
    """M networks of one architecture with all their parameters in one flat buffer.

    Parameters
    ----------
    model : the architecture (see `stack`)
    weights : M complete state dicts
    device : where they live

    Attributes
    ----------
    module : the stack; maps (B, M, C, *spatial) to (M, B, classes)
    flat : float32 (P·M,), every parameter of every member; the module's parameters are views of it
    """

    def __init__(
        self, model: nn.Module, weights: Sequence[Weights], device: torch.device | str = "cpu"
    ) -> None:
        self.members = len(weights)
        self.module = stack(model, self.members).to(device)
        self.flat = torch.cat([p.detach().flatten() for p in self.module.parameters()])
        for parameter, view in zip(self.module.parameters(), self.views(self.flat), strict=True):
            parameter.data = view
        expected = self.module.state_dict().keys()
        for member, state in enumerate(weights):
            if state.keys() != expected:
                odd = sorted(state.keys() ^ expected)
                raise ParameterError(f"weights of member {member} don't fit the network: {odd[:4]} differ.")
        with torch.no_grad():
            for name, tensor in self.module.state_dict().items():
                tensor.copy_(torch.stack([state[name] for state in weights]))

    def views(self, flat: Tensor) -> list[Tensor]:
        """Parts of a buffer (P·M,) that is laid out like `flat`, in the parameters' shapes: views, not copies."""
        shapes = [parameter.shape for parameter in self.module.parameters()]
        parts = flat.split([shape.numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def spread(self, tensors: Sequence[Mapping[str, Tensor] | None], default: float) -> Tensor:
        """Lay one dict of tensors a member out like `flat`; `default` stands where a dict has no tensor."""
        parts = []
        for name, parameter in self.module.named_parameters():
            for tensor_dict in tensors:
                given = None if tensor_dict is None else tensor_dict.get(name)
                parts.append(
                    torch.full(parameter.shape[1:], default)
                    if given is None
                    else given.to(self.flat.dtype).cpu()
                )
        return torch.cat([part.flatten() for part in parts]).to(self.flat)

    def weights(self) -> list[Weights]:
        """A copy of every member's state dict, on the CPU."""
        state = {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}
        return [{name: tensor[m].clone() for name, tensor in state.items()} for m in range(self.members)]


# ---------------------------------------------------------------------------------------------------------
# The loop
# ---------------------------------------------------------------------------------------------------------


class ProgressBar(Protocol):
    """What `train` asks of a progress bar; a `tqdm` is one."""

    def update(self, n: float) -> Any:
        """Advance by n training images."""

    def set_postfix_str(self, s: str) -> Any:
        """Show a few words behind the bar."""

    def close(self) -> Any:
        """Finish."""


Progress = Callable[[str, int], ProgressBar]
"""Makes a progress bar from a label and the number of images to train on (all members counted)."""


def tqdm_bar(label: str, images: int) -> ProgressBar:
    """A progress bar on stderr with rate and remaining time."""
    from tqdm import tqdm

    return tqdm(total=images, desc=label, unit="img", unit_scale=True, mininterval=0.5, dynamic_ncols=True)


@dataclass(frozen=True)
class Runtime:
    """How to compute, as opposed to what: no part of a result's key.

    Attributes
    ----------
    device : "cpu" or "cuda"
    compile : compile the training step; pays off from a minute of training on. On CUDA it becomes a CUDA graph, without
        which one small network is bound by the launches of its kernels
    members : how many networks go through one forward pass at the most, to bound memory; None: all, but on CUDA one,
        if there are convolutions: those of several networks would be grouped ones, which are slow there
    microbatch : examples of a batch that each network takes at a time, to bound memory; None: all. Gradients are
        summed, so a step is the same up to rounding, with one exception: batch norm takes the statistics of each part,
        as if the batch were that small, and its running averages move once for each part
    workers : processes that read an image folder, for each part of the members; None: none on the CPU, where they
        would take the cores from training, else as many as there are cores, 16 at the most. No result depends on it
    progress : makes progress bars; None: silent
    stop : asked after every step of training; True ends the run there with `PreemptedError`, its state saved
    """

    device: str = "cpu"
    compile: bool = False
    members: int | None = None
    microbatch: int | None = None
    workers: int | None = None
    progress: Progress | None = None
    stop: Callable[[], bool] | None = None

    @property
    def readers(self) -> int:
        """`workers`, or what it stands for."""
        if self.workers is not None:
            return self.workers
        return 0 if torch.device(self.device).type == "cpu" else min(os.cpu_count() or 1, 16)


@dataclass
class Trained:
    """What `train` returns, one entry per member.

    Attributes
    ----------
    weights : final state dicts, on the CPU
    checkpoints : epoch -> state dicts after exactly so many epochs
    train_loss : mean training loss of each epoch, as seen in passing: [epoch][member]
    evaluations : epoch -> {"accuracy", "loss"} on the test split -> value of each member; of image folders with more
        than five classes also "top5"
    """

    weights: list[Weights]
    checkpoints: dict[int, list[Weights]]
    train_loss: list[list[float]]
    evaluations: dict[int, dict[str, list[float]]]


class Checkpoints(Protocol):
    """Where a run in progress is kept; the store's workspace is one."""

    def checkpoint(self, tensors: Mapping[str, Tensor], info: Any) -> None:
        """Keep this state instead of the one before."""

    def latest(self) -> tuple[dict[str, Tensor], Any] | None:
        """The newest state that is whole."""


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Learning rate of an epoch, counted from 0; constant within the epoch, as in the authors' code.

    ``cosine``: lr·(1 + cos(π·epoch/epochs))/2. ``step``: lr·gamma^(milestones passed). With `warmup_epochs` W the
    first W epochs are scaled by (epoch + 1)/W.
    """
    if recipe.schedule == "cosine":
        factor = (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
    elif recipe.schedule == "step":
        factor = recipe.gamma ** sum(epoch >= milestone for milestone in recipe.milestones)
    else:
        factor = 1.0
    if epoch < recipe.warmup_epochs:
        factor *= (epoch + 1) / recipe.warmup_epochs
    return recipe.lr * factor


def draw_order(size: int, seed: int, epoch: int) -> Tensor:
    """The order in which one member sees the training set in an epoch: int64 (size,), a permutation."""
    generator = torch.Generator().manual_seed((seed + epoch * 0x9E3779B97F4A7C15) % 2**63)
    return torch.randperm(size, generator=generator)


def train(
    model: nn.Module,
    weights: Sequence[Weights],
    data: Dataset,
    recipe: Recipe,
    seeds: Sequence[Seeds],
    *,
    masks: Sequence[Mapping[str, Tensor] | None] | None = None,
    until: int | None = None,
    save_at: Collection[int] = (),
    evaluate_at: Collection[int] | None = None,
    runtime: Runtime | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = 60.0,
    label: str = "training",
) -> Trained:
    """Train M networks of one architecture at once, each from its own weights, under its own mask.

    Parameters
    ----------
    model : the architecture
    weights : M state dicts to start from
    data : inputs and targets; moved to the device once
    recipe : optimizer, schedule, batch size, augmentation and number of epochs, the same for all
    seeds : M; order and augmentation of each member
    masks : M, or None where a member is dense; parameters that a mask doesn't name are dense
    until : stop after so many epochs of the recipe; None: all
    save_at : epochs whose weights are kept: 0 is the start (masked), k is after exactly k epochs
    evaluate_at : epochs after which the test split is evaluated; None: only the last
    runtime : device, compilation, how many at once, progress bars
    checkpoints : where to keep the state of the run about every `checkpoint_seconds`; a run that finds a state there
        goes on from it, with the same result as an unbroken run
    label : words for the progress bar

    Returns
    -------
    Trained
        The same on every rank, if there are several. They all must call this; rank 0 keeps the checkpoints, and the run
        can go on with another number of ranks.

    Raises
    ------
    ParameterError
        If the numbers of weights, seeds and masks differ, the batch is larger than the training set, several ranks
        can't share it equally, or the augmentation isn't one for such inputs.
    DivergedError
        If a loss is NaN or infinite, naming the step, or weights are. Found before they are saved or evaluated.
    PreemptedError
        If `Runtime.stop` said so; the same call goes on from there.
    """
    runtime = runtime or Runtime()
    masks = masks if masks is not None else [None] * len(weights)
    if not len(weights) == len(seeds) == len(masks):
        raise ParameterError(
            f"got {len(weights)} weights, {len(seeds)} seeds and {len(masks)} masks; expected the same number."
        )
    epochs = recipe.epochs if until is None else until
    evaluate_at = {epochs} if evaluate_at is None else evaluate_at
    data = data.to(runtime.device)
    keep_freed_memory()
    found = distributed.once(checkpoints.latest) if checkpoints is not None else None
    if found is not None and len(found[1].get("steps", ())) != len(weights):
        found = None  # of an older version
    parts, threads = _split(model, len(weights), runtime, found[1]["steps"] if found else None)
    runs = [_Run(model, weights[p], data, recipe, seeds[p], masks[p], runtime) for p in parts]
    done = Trained(weights=[], checkpoints={}, train_loss=[], evaluations={})
    epoch = 0
    if found is not None:
        done, epoch = _restore(runs, parts, *found)
    if epoch == 0 and not any(run.step for run in runs):
        _note(done, runs, 0, save_at, evaluate_at)
    stop, saved = runtime.stop or (lambda: False), time.monotonic()

    def due() -> bool:
        return checkpoints is not None and time.monotonic() - saved > checkpoint_seconds

    def pause() -> bool:
        return distributed.any_rank(stop() or due())

    images = sum(run.images_per_epoch for run in runs)
    seen = epoch * images + sum(run.step * run.images_per_epoch // run.steps for run in runs)
    bar = runtime.progress(label, epochs * images - seen) if runtime.progress else None
    with contextlib.ExitStack() as resources:
        if bar is not None:
            resources.enter_context(contextlib.closing(bar))
        # CUDA's fastest convolutions, until the end of this call.
        resources.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
        torch.backends.cudnn.benchmark = True
        each = resources.enter_context(workers(threads))
        if epoch < epochs:
            for run in runs:
                run.prepare()
        while epoch < epochs:
            each(partial(_Run.advance, epoch=epoch, pause=pause, bar=bar), runs)
            for run in runs:
                run.join()
                run.check_finite(epoch)
            if all(run.step == run.steps for run in runs):
                done.train_loss.append([loss for run in runs for loss in run.finish_epoch()])
                epoch += 1
                _note(done, runs, epoch, save_at, evaluate_at)
                if bar is not None:
                    mean = sum(done.train_loss[-1]) / len(weights)
                    bar.set_postfix_str(f"epoch {epoch}/{epochs}, loss {mean:.3f}")
            if epoch == epochs:
                break
            stopping, saving = distributed.any_rank(stop()), distributed.any_rank(due())
            if checkpoints is not None and (stopping or saving):
                distributed.once(partial(_save, checkpoints, runs, done, epoch))
                saved = time.monotonic()
            if stopping:
                kept = "Its state is saved" if checkpoints is not None else "Its state isn't kept"
                raise PreemptedError(
                    f"{label} was stopped in epoch {epoch + 1} of {epochs}. {kept}: run it again."
                )
    done.weights = _weights(runs)
    return done


def check_shared(recipe: Recipe, compile: bool, ranks: int) -> None:
    """Refuse a training that so many ranks can't share.

    Parameters
    ----------
    recipe : of the training
    compile : as of `Runtime`
    ranks : processes, 1 or more (`lotperm.distributed`)

    Raises
    ------
    ParameterError
        If the batch can't be divided equally, or the step is to be compiled.
    """
    if recipe.batch_size % ranks:
        raise ParameterError(
            f"batch_size is {recipe.batch_size}, which {ranks} processes can't share equally. "
            f"Choose a multiple of {ranks}, or another number of processes."
        )
    if ranks > 1 and compile:
        raise ParameterError("a compiled step can't be shared by several processes. Leave compile out.")


def _note(
    done: Trained, runs: Sequence[_Run], epoch: int, save_at: Collection[int], evaluate_at: Collection[int]
) -> None:
    """Keep and evaluate the weights after an epoch, where that was asked for."""
    if epoch in save_at:
        done.checkpoints[epoch] = _weights(runs)
    if epoch in evaluate_at:
        done.evaluations[epoch] = _beside([run.evaluate() for run in runs])


_STREAMS = 16
"""How many parts a CUDA device trains at the same time, each in a stream of its own."""


def _split(
    model: nn.Module, count: int, runtime: Runtime, steps: Sequence[int] | None = None
) -> tuple[list[slice], int]:
    """Which members run together, and how many such parts at a time.

    On the CPU two Python threads train half of the members each (see `threads`); more would wait for Python's lock.
    A compiled step is few operations: all threads share it. On CUDA every part has a stream of its own. With several
    ranks there is one part at a time, since all must exchange gradients in one order. Members that a checkpoint left
    at different `steps` of an epoch stay apart.
    """
    cuda = torch.device(runtime.device).type == "cuda"
    convolutions = any(isinstance(layer, nn.Conv1d | nn.Conv2d) for layer in model.modules())
    parts = math.ceil(count / (runtime.members or (1 if cuda and convolutions else count)))
    if distributed.world_size() > 1:
        threads = 1
    elif cuda:
        threads = min(parts, _STREAMS)
    else:
        threads = 1 if runtime.compile else min(count, torch.get_num_threads(), 2)
        parts = max(threads, parts)
    bounds = {count * i // parts for i in range(parts + 1)}
    if steps is not None:
        bounds |= {m for m in range(1, count) if steps[m] != steps[m - 1]}
    return [slice(a, b) for a, b in itertools.pairwise(sorted(bounds))], threads


def _weights(runs: Sequence[_Run]) -> list[Weights]:
    return [state for run in runs for state in run.networks.weights()]


def _beside(parts: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """The metrics of several parts as those of one list of members."""
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def _state(runs: Sequence[_Run], done: Trained, epoch: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that `_restore` needs to go on with an epoch, counted from 0, that may have begun.

    By members, however many of them run together and on however many ranks.
    """
    parts = [{name: t.cpu() for name, t in run.tensors().items()} for run in runs]
    tensors = {f"now/{name}": torch.cat([part[name] for part in parts]) for name in parts[0]}
    for saved, states in done.checkpoints.items():
        for name in states[0]:
            tensors[f"epoch-{saved}/{name}"] = torch.stack([state[name] for state in states])
    info = {
        "epoch": epoch,
        "steps": [run.step for run in runs for _ in range(run.networks.members)],
        "saved": sorted(done.checkpoints),
        "train_loss": done.train_loss,
        "evaluations": {str(e): metrics for e, metrics in done.evaluations.items()},
    }
    return tensors, info


def _save(checkpoints: Checkpoints, runs: Sequence[_Run], done: Trained, epoch: int) -> None:
    checkpoints.checkpoint(*_state(runs, done, epoch))


def _restore(
    runs: Sequence[_Run], parts: Sequence[slice], tensors: Mapping[str, Tensor], info: Mapping[str, Any]
) -> tuple[Trained, int]:
    """Take up the state that `_state` gave; returns what was done and the epoch to go on with."""
    for run, part in zip(runs, parts, strict=True):
        run.step = info["steps"][part.start]
        for name, tensor in run.tensors().items():
            tensor.copy_(tensors[f"now/{name}"][part])
    checkpoints = {}
    for epoch in info["saved"]:
        prefix = f"epoch-{epoch}/"
        packed = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        checkpoints[int(epoch)] = [
            {name: t[m].clone() for name, t in packed.items()} for m in range(len(info["steps"]))
        ]
    evaluations = {int(e): metrics for e, metrics in info["evaluations"].items()}
    return Trained([], checkpoints, list(info["train_loss"]), evaluations), int(info["epoch"])


_BLOCK_VALUES = 2**23
"""How many input values are made ready at a time: 32 MiB in float32."""

_ASK_EVERY = 8
"""Steps between two questions to all ranks whether one wants to stop: so the processes seldom wait for each other."""


class _Run:
    """The state of one call of `train`: networks, optimizer and data on the device."""

    def __init__(
        self,
        model: nn.Module,
        weights: Sequence[Weights],
        data: Dataset,
        recipe: Recipe,
        seeds: Sequence[Seeds],
        masks: Sequence[Mapping[str, Tensor] | None],
        runtime: Runtime,
    ) -> None:
        self.data, self.recipe, self.seeds, self.runtime = data, recipe, seeds, runtime
        self.networks = StackedNetworks(model, weights, runtime.device)
        self.parameters = dict(self.networks.module.named_parameters())
        self.buffers = dict(self.networks.module.named_buffers())
        self.mask = self.networks.spread(masks, 1.0)
        self.networks.flat.mul_(self.mask)
        self.velocity = torch.zeros_like(self.networks.flat)
        self.lr = self.networks.flat.new_zeros(())
        # For the compiled step, which updates parameter by parameter: fewer passes over memory than on flat buffers.
        self.state = [
            *(p.detach() for p in self.parameters.values()), *self.networks.views(self.velocity),
            *self.networks.views(self.mask), *self.buffers.values(),
        ]  # fmt: skip
        size = len(data.train.targets)
        if recipe.batch_size > size:
            raise ParameterError(
                f"batch_size is {recipe.batch_size}, but the training set has {size} examples."
            )
        kinds = ("none", "flip_resized_crop") if data.streamed else ("none", "crop", "flip_crop")
        if recipe.augment not in kinds:
            raise ParameterError(
                f"augment is {recipe.augment!r}; expected {' or '.join(kinds)} on {data.name}."
            )
        if runtime.microbatch is not None and runtime.microbatch < 1:
            raise ParameterError(f"microbatch is {runtime.microbatch}; expected 1 or more.")
        self.ranks = distributed.world_size()
        check_shared(recipe, runtime.compile, self.ranks)
        self.share = distributed.share(recipe.batch_size)
        self.parallel = self._parallel() if self.ranks > 1 else None
        self.steps = size // recipe.batch_size
        self.images_per_epoch = self.steps * recipe.batch_size * len(weights)
        self.step = 0
        self.losses = torch.zeros(self.steps, len(weights), device=self.networks.flat.device)
        self.program: Callable[[Tensor, Tensor], Tensor] | None = None
        # With several ranks there is one part at a time, and DDP keeps to the stream in which it was made.
        own_stream = self.networks.flat.is_cuda and self.ranks == 1
        self.stream = torch.cuda.Stream(self.networks.flat.device) if own_stream else None

    def _parallel(self) -> DistributedDataParallel:
        """The stack with its gradients averaged over the ranks."""
        for parameter in self.networks.module.parameters():
            parameter.grad = torch.zeros_like(
                parameter
            )  # laid out as DDP wants it, and added to from here on
        parallel = DistributedDataParallel(self.networks.module, gradient_as_bucket_view=True)
        parallel.broadcast_buffers = False  # statistics are equal on all ranks anyway
        # DDP rearranges the gradients after its first step, and with them the order of sums over three ranks or more.
        # That first step is an empty one, so that a run that was broken off goes on with the same sums.
        self.networks.module.eval()
        example = self.networks.flat.new_zeros(1, self.networks.members, *self.data.input_shape)
        with torch.enable_grad():
            parallel(example).sum().backward()
        return parallel

    # --- one step -----------------------------------------------------------------------------------

    def update(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step of every member, from (B, M, C, ...) and (M, B); returns the losses (M,) before it."""
        if self.program is not None:
            with torch.no_grad():
                return self.program(inputs, targets)
        networks = self.networks
        parameters = list(networks.module.parameters())
        forward = networks.module if self.parallel is None else self.parallel
        losses, gradients = self._differentiate(forward, parameters, inputs, targets)
        gradient = torch.cat([g.flatten() for g in gradients])
        self._descend(self.lr, [gradient], [networks.flat], [self.velocity], [self.mask])
        return losses

    def prepare(self) -> None:
        """Compile the step, if that is wanted, before the first one; changes no weights."""
        if not self.runtime.compile or self.program is not None:
            return
        self.networks.module.train()
        batch, count = self.recipe.batch_size, len(self.seeds)
        shape = (batch, count, *self.data.train.inputs.shape[1:])
        inputs = self.networks.flat.new_zeros(shape)
        targets = self.data.train.targets.new_zeros(count, batch)
        step = self._compile((inputs, targets, self.lr, *self.state))
        if self.stream is None:
            self.program = lambda x, y: step(x, y, self.lr, *self.state)
        else:
            self.program = self._capture(
                partial(step, inputs, targets, self.lr, *self.state), inputs, targets
            )

    def _capture(
        self, step: Callable[[], Tensor], inputs: Tensor, targets: Tensor
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """A step as a CUDA graph: all its kernels start with one call. It reads what is in `inputs` and `targets`."""
        before = [tensor.clone() for tensor in self.state]
        with self._own_stream(), torch.no_grad():
            for _ in range(3):  # kernels are chosen and memory is taken before the capture
                step()
            for tensor, value in zip(self.state, before, strict=True):
                tensor.copy_(value)
        self.join()
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph, stream=self.stream):
            losses = step()

        def replay(x: Tensor, y: Tensor) -> Tensor:
            inputs.copy_(x)
            targets.copy_(y)
            graph.replay()
            return losses

        return replay

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """On CUDA, queue work behind what was queued so far, in this run's own stream; see `join`."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.default_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            yield

    def join(self) -> None:
        """What is queued from here on waits for this run's own stream."""
        if self.stream is not None:
            torch.cuda.default_stream(self.stream.device).wait_stream(self.stream)

    def _compile(self, arguments: Sequence[Tensor]) -> Callable[..., Tensor]:
        """The step as one compiled program, for this run's shapes and with all of its tensors as arguments.

        torch.compile's own compiler, without its front end: that checks at every step whether the program still fits
        (a fifth of the step of 8 MLPs), and shares programs between runs. Here nothing can change: shapes, types and
        the recipe are those of the run.
        """
        names = [*self.parameters, *self.buffers]
        count = len(self.parameters)

        def step(inputs: Tensor, targets: Tensor, lr: Tensor, *state: Tensor) -> Tensor:
            weights, velocities, masks = state[:count], state[count : 2 * count], state[2 * count : 3 * count]
            leaves = [w.detach().requires_grad_() for w in weights]
            tensors = dict(zip(names, [*leaves, *state[3 * count :]], strict=True))
            forward = partial(torch.func.functional_call, self.networks.module, tensors)
            losses, gradients = self._differentiate(forward, leaves, inputs, targets)
            self._descend(lr, gradients, weights, velocities, masks)
            return losses

        graph = make_fx(step, tracing_mode="fake")(*arguments)
        program: Callable[..., Tensor] = torch._inductor.compile(graph, list(arguments))
        return program

    @torch.enable_grad()
    def _differentiate(
        self,
        forward: Callable[[Tensor], Tensor],
        parameters: Sequence[Tensor],
        inputs: Tensor,
        targets: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Each member's mean cross-entropy (M,) on this rank's share, and the whole batch's gradient.

        Microbatches add up. With several ranks the gradients are averaged by the hooks that `backward` runs, after the
        last one.
        """
        size = len(inputs)
        parts = [
            slice(i, i + (self.runtime.microbatch or size))
            for i in range(0, size, self.runtime.microbatch or size)
        ]
        total: Tensor | None = None
        gradients: tuple[Tensor, ...] = ()
        if self.parallel is not None:
            self.parallel.zero_grad(set_to_none=False)
        for part in parts:
            last = part is parts[-1]
            waiting = contextlib.nullcontext() if self.parallel is None or last else self.parallel.no_sync()
            with waiting:
                with self._autocast():
                    logits = forward(inputs[part])
                y = targets[:, part]
                each = F.cross_entropy(
                    logits.to(self.networks.flat.dtype).flatten(0, 1), y.flatten(), reduction="none"
                )
                losses = each.view(y.shape).mean(1)
                if len(parts) > 1:
                    losses = losses * (y.shape[1] / size)
                if self.parallel is not None:
                    losses.sum().backward()
                else:
                    new = torch.autograd.grad(losses.sum(), parameters)
                    gradients = tuple(map(torch.add, gradients, new)) if gradients else new
            total = losses.detach() if total is None else total + losses.detach()
        assert total is not None
        if self.parallel is not None:
            gradients = tuple(cast(Tensor, parameter.grad) for parameter in parameters)
        return total, gradients

    @torch.no_grad()
    def _descend(
        self,
        lr: Tensor,
        gradients: Sequence[Tensor],
        weights: Sequence[Tensor],
        velocities: Sequence[Tensor],
        masks: Sequence[Tensor],
    ) -> None:
        """v ← μ·v + (g + λ·w) ⊙ m;  w ← w − η·v."""
        for g, w, v, m in zip(gradients, weights, velocities, masks, strict=True):
            v.mul_(self.recipe.momentum).add_(g.add(w, alpha=self.recipe.weight_decay).mul_(m))
            w.sub_(v * lr)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.recipe.precision == "bfloat16":
            # Every weight is used once a step: a cache of casts would only be in the way of a CUDA graph.
            device = torch.device(self.runtime.device).type
            return torch.autocast(device, torch.bfloat16, cache_enabled=False)
        return contextlib.nullcontext()

    # --- one epoch ----------------------------------------------------------------------------------

    def advance(self, epoch: int, pause: Callable[[], bool], bar: ProgressBar | None) -> None:
        """Train on the full batches of an epoch that are left, until `pause`; at least on one.

        Several ranks pause at the same step, because they ask each other at the same steps.
        """
        ask_every = _ASK_EVERY if self.ranks > 1 else 1
        self.networks.module.train()
        with self._own_stream():
            self.lr.fill_(learning_rate(self.recipe, epoch))
            for inputs, targets in self._batches(epoch, self.step):
                self.losses[self.step] = self.update(inputs, targets)
                self.step += 1
                if bar is not None:
                    bar.update(targets.numel() * self.ranks)
                if self.step % ask_every == 0 and pause():
                    return

    def _batches(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (B, M, C, ...) and targets (M, B) of every step of an epoch, from a first one on.

        B counts this rank's share of a batch. What is drawn belongs to the example, so it is the same on any number of
        ranks.
        """
        rows = self._rows(epoch)[first : self.steps, self.share]
        if isinstance(self.data.train.inputs, ImageFiles):
            return self._stream(self.data.train.inputs, rows, epoch)
        return self._gather(self.data.train.inputs, rows, epoch)

    def _rows(self, epoch: int) -> Tensor:
        """Which examples every step of an epoch takes: int64 (steps, B, M), on the CPU."""
        # (N, M): a batch's rows are contiguous, and (B, M, C, ...) is the layout that convolutions want.
        size, batch = len(self.data.train), self.recipe.batch_size
        order = torch.stack([draw_order(size, s.order, epoch) for s in self.seeds], 1)
        return order[: self.steps * batch].unflatten(0, (self.steps, batch))

    def _gather(self, examples: Tensor, rows: Tensor, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of what is in memory, from rows (S, B, M)."""
        train, batch, rows = self.data.train, rows.shape[1], rows.to(self.runtime.device)
        draws: list[Tensor] = []
        if self.recipe.augment != "none":
            each = [draw_augmentation(len(train), s.augment, epoch, self.recipe.augment) for s in self.seeds]
            draws = [torch.stack(kind, 1).to(self.runtime.device) for kind in zip(*each, strict=True)]
        # Examples are gathered for several steps at once: fewer, larger operations.
        block = max(1, _BLOCK_VALUES // (batch * len(self.seeds) * examples[0].numel()))
        for start in range(0, len(rows), block):
            some = rows[start : start + block]
            flat = some.flatten(0, 1)
            inputs = examples[flat]
            if draws:
                inputs = augment(inputs, *(kind.gather(0, flat) for kind in draws))
            inputs = normalize(inputs, self.data, self.networks.flat.dtype)
            targets = train.targets[some].transpose(1, 2).contiguous()
            yield from zip(inputs.split(batch), targets, strict=True)

    def _stream(self, files: ImageFiles, rows: Tensor, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an image folder, from rows (S, B, M); each member has its own picture of every example."""
        device = self.networks.flat.device
        seeds = [s.augment for s in self.seeds] if self.recipe.augment != "none" else None
        pin = device.type == "cuda"
        steps = list(rows)
        images = stream(files, steps, seeds=seeds, epoch=epoch, workers=self.runtime.readers, pin=pin)
        for some, pixels in zip(steps, images, strict=True):
            targets = self.data.train.targets[some.to(device)].T.contiguous()
            # As bytes, a quarter of what floats would be, and without waiting for the copy: the next batch is read.
            inputs = pixels.to(device, non_blocking=pin)
            yield normalize(inputs, self.data, self.networks.flat.dtype), targets

    def check_finite(self, epoch: int) -> None:
        """Raise `DivergedError` if a loss of this epoch, or a weight, is NaN or infinite.

        From here on the losses are the means over all ranks, equal on all of them.
        """
        if self.ranks > 1:
            # In float64 the mean of numbers that are equal already is that number, so this may be done again.
            self.losses.copy_(distributed.total(self.losses.double()) / self.ranks)
        finite = torch.isfinite(self.losses).all(1)
        if not bool(finite.all()):
            what, step = "loss is", int((~finite).nonzero()[0])
        elif not bool(torch.isfinite(self.networks.flat).all()):
            what, step = "weights are", self.step - 1
        else:
            return
        raise DivergedError(
            f"{what} not finite at step {epoch * self.steps + step} (epoch {epoch + 1}, lr={float(self.lr):g}). "
            "What was saved before is intact. Lower lr."
        )

    def finish_epoch(self) -> list[float]:
        """Each member's mean loss of the epoch that was trained; the next one starts at its first step."""
        means = [float(x) for x in self.losses.double().mean(0)]
        self.step = 0
        self.losses.zero_()
        return means

    @torch.no_grad()
    def evaluate(self) -> dict[str, list[float]]:
        """Accuracy and mean loss of every member on the test split; see `evaluate_stack`."""
        with self._autocast():
            return evaluate_stack(self.networks, self.data.test, self.data, workers=self.runtime.readers)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that training changes, (M, ...), not copied: networks, optimizer and this epoch's losses."""
        with torch.no_grad():
            velocities = zip(self.parameters, self.networks.views(self.velocity), strict=True)
            return {
                **{f"network/{name}": tensor for name, tensor in self.networks.module.state_dict().items()},
                **{f"velocity/{name}": tensor for name, tensor in velocities}, "losses": self.losses.T,
            }  # fmt: skip


@torch.no_grad()
def evaluate_stack(
    networks: StackedNetworks, split: Split, data: Dataset, batch: int = 1000, workers: int = 0
) -> dict[str, list[float]]:
    """Accuracy and mean cross-entropy of M networks on a split; every example weighs the same.

    Several ranks, which must all call this, take a part of the split each; their counts are added up.

    Parameters
    ----------
    networks : the stack
    split : inputs (N, C, *spatial) and targets (N,), on the stack's device; or the files of an image folder
    data : the data set that the split belongs to, for its mean and standard deviation
    batch : examples per forward pass, fewer of large images
    workers : processes that read files

    Returns
    -------
    dict
        ``{"accuracy": [M fractions], "loss": [M nats]}``; of image folders with more than five classes also ``"top5"``:
        how often the target is among the five largest logits, as is usual for ImageNet.
    """
    networks.module.eval()
    device = networks.flat.device
    hits, hits5 = torch.zeros(2, networks.members, dtype=torch.long, device=device)
    loss = torch.zeros(networks.members, dtype=torch.double, device=device)
    top5 = data.streamed and data.classes > 5
    own = distributed.share(len(split.targets))
    mine = Split(split.inputs[own], split.targets[own])
    for inputs, targets in raw_batches(mine, batch, workers, pin=device.type == "cuda"):
        x = normalize(inputs.to(device, non_blocking=True), data, networks.flat.dtype)
        logits = networks.module(x.unsqueeze(1).expand(-1, networks.members, *x.shape[1:])).float()
        hits += (logits.argmax(2) == targets).sum(1)
        if top5:
            hits5 += (logits.topk(5).indices == targets[:, None]).sum((1, 2))
        each = F.cross_entropy(logits.flatten(0, 1), targets.repeat(networks.members), reduction="none")
        loss += each.view(networks.members, -1).double().sum(1)
    size, hits, hits5, loss = len(split), *map(distributed.total, (hits, hits5, loss))
    found = {"accuracy": (hits / size).tolist(), "loss": (loss / size).tolist()}
    return {**found, "top5": (hits5 / size).tolist()} if top5 else found
