"""Several processes that share one computation, one per device, as torchrun starts them.

``torchrun --nproc-per-node 4 -m lotperm experiment …`` runs the same program four times. Inside
`processes` the four are connected, and each takes its share of every training batch, of the
evaluation and of the matching; everything else is computed by each of them. Only rank 0 writes. In
a single process nothing here has an effect.

Your own program does the same with ``with processes("cuda"): run(experiment)``, started by
torchrun, or by `launch` from a process that continues afterwards.

Functions that exchange data must be called by every rank, in the same order.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lotperm.errors import LotpermError, ParameterError, RankLostError, class_of

T = TypeVar("T")


@contextlib.contextmanager
def processes(device: str, patience: float = 30.0) -> Iterator[None]:
    """Connect the processes that torchrun started; without torchrun, or with one, do nothing.

    Tensors on the CPU and all decisions are exchanged by gloo, tensors on GPUs by NCCL.
    With "cuda", the local rank's GPU becomes the current one.

    Parameters
    ----------
    device : str
        "cpu" or "cuda".
    patience : float, optional
        Minutes to wait for a rank that hangs; the death of a rank is noticed at once.

    Raises
    ------
    ParameterError
        If this machine has fewer GPUs than processes.
    RankLostError
        If another rank ended, or didn't answer, in the middle of the work.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if ranks == 1:
        yield
        return
    if device == "cuda":
        gpus, local = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
        if local >= gpus:
            raise ParameterError(
                f"{ranks} processes need as many GPUs, but here there are {gpus}. "
                f"Use --nproc-per-node {gpus}, or of a sweep --ranks {gpus}."
            )
        # Before the group is made, so that NCCL and plain `cuda` mean this GPU.
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=patience))
    try:
        yield
    except RuntimeError as error:
        # gloo reports a lost connection as a bare RuntimeError, recognizable only by its text.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            # gloo's messages begin with the place in its source code, in brackets.
            reason = re.sub(r"^\[.*?\] ", "", str(error).splitlines()[0]).split(". ")[0].rstrip(".")
            raise RankLostError(
                f"rank {rank()} of {ranks} lost touch with another one: {reason}. "
                "What was saved is intact: run it again, with any number of processes."
            ) from error
        raise
    # Only after success, since this would wait for a lost rank.
    dist.destroy_process_group()


def launch(ranks: int, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in new processes on this machine, as ``torchrun --standalone`` starts them.

    If one of them fails, the others are ended. This process keeps its own signal handlers.

    Parameters
    ----------
    ranks : int
        Number of processes.
    function : Callable[..., T]
        A module-level function, since it is pickled, as are its arguments and its result. It must
        enter `processes`.
    *arguments : Any
        The function's arguments.

    Returns
    -------
    T
        The result on rank 0.

    Raises
    ------
    LotpermError
        The error of the rank that failed first.
    RankLostError
        If a rank was killed, or raised something else.
    """
    # Not available in every build of PyTorch, and only needed here.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # As in torchrun, since the ranks share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(folder),
            run_id=Path(folder).name,
            rdzv_backend="c10d",
            # Any free port.
            rdzv_endpoint="localhost:0",
            # One signal must be named; nobody sends this one.
            signals_to_handle="SIGQUIT",
        )
        try:
            found: dict[int, T] = elastic_launch(config, function)(*arguments)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            notes = [
                json.loads(path.read_bytes()) for path in sorted(Path(folder).rglob("error.json"))
            ]
            said = [note["message"]["message"] for note in notes]
            if isinstance(failure.message, str):
                said.append(failure.message)
            # If another rank reported what happened, a rank that lost touch with it isn't the
            # cause.
            cause = min(said, key=lambda text: text.startswith(RankLostError.__name__))
            name, _, message = cause.partition(": ")
            if kind := class_of(name, message):
                raise kind(message) from error
            raise RankLostError(f"rank {rank} of {ranks} ended: {cause}") from error
    return found[0]


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Return the number of ranks; 1 without torchrun."""
    return dist.get_world_size() if _joined() else 1


def rank() -> int:
    """Return the number of this process among the ranks, from 0."""
    return dist.get_rank() if _joined() else 0


def share(count: int) -> slice:
    """Return this rank's part of a sequence of `count` things.

    The parts are in the order of the ranks and as equal as possible.
    """
    return slice(count * rank() // world_size(), count * (rank() + 1) // world_size())


def once(function: Callable[[], T]) -> T:
    """Call a function only on rank 0; all ranks return its result, or raise its `LotpermError`.

    The result is pickled, so tensors must be on the CPU. The function itself must not call anything
    that all ranks must call.
    """
    if world_size() == 1:
        return function()
    # An error on rank 0 is sent like a result; otherwise the others would wait forever.
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = function()
        except LotpermError as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    value, failed = outcome
    if failed is not None:
        raise failed
    return value


def in_turn(function: Callable[[], T]) -> T:
    """Call a function first on rank 0, then on the others, and return each rank's own result.

    This way, the others find on disk what rank 0 wrote.
    """
    if world_size() == 1:
        return function()
    # The list keeps rank 0's result, which needn't be picklable, from being sent to the others.
    own: list[T] = []
    once(lambda: own.append(function()))
    return own[0] if own else function()


def gather(value: Any) -> list[Any]:
    """Return the values of all ranks, in order, on rank 0, and an empty list elsewhere.

    Tensors must be on the CPU.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values, dst=0)
    return values or []


def any_rank(wish: bool) -> bool:
    """Return whether any rank's `wish` is true; this waits for all ranks, but not for a GPU."""
    if world_size() == 1:
        return wish
    # On the CPU, so that it is sent by gloo and doesn't queue behind the GPU's work.
    flag = torch.tensor(int(wish))
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def total(tensor: Tensor) -> Tensor:
    """Sum a tensor over the ranks, bit by bit equal on all of them; gradients flow through."""
    return _Total.apply(tensor) if world_size() > 1 else tensor


class _Total(torch.autograd.Function):
    """The sum over the ranks; its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        # A copy, since the sum is written in place, and contiguous, since it is sent.
        result = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])
