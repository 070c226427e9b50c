"""How training is computed, as opposed to what is computed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch


class ProgressBar(Protocol):
    """The part of a progress bar that `train` uses; a `tqdm` is one."""

    def update(self, n: float) -> Any:
        """Advance by n training images."""

    def set_postfix_str(self, s: str) -> Any:
        """Show a few words after the bar."""

    def close(self) -> Any:
        """Finish the bar."""


Mode = Literal["compiled", "graph", "plain"]
"""A form of the training step: one compiled program (on CUDA, within a CUDA graph), a CUDA graph of
the plain step, or operation by operation.
"""

Progress = Callable[[str, int], ProgressBar]
"""Makes a progress bar from a label and the total number of images to train on, for all members."""


def tqdm_bar(label: str, images: int) -> ProgressBar:
    """Show a progress bar on stderr, with rate and remaining time."""
    # Imported here because most commands don't train.
    from tqdm import tqdm

    return tqdm(
        total=images, desc=label, unit="img", unit_scale=True, mininterval=0.5, dynamic_ncols=True
    )


@dataclass(frozen=True)
class Runtime:
    """How training is computed, not what is computed; so it isn't part of a result's key.

    Attributes
    ----------
    device : str
        "cpu" or "cuda".
    compile : bool
        Compile the training step, which takes seconds to a minute and pays off when training takes
        minutes.
    graph : bool
        On CUDA, start all kernels of a step with one call, compiled or not. Without it, the speed
        of a single small network is limited by the launches of its kernels.
    streams : int
        On CUDA, the number of parts of the members that are trained at the same time, each in a
        stream of its own; 1: all in the default stream.
    priority : int
        On CUDA, the priority of the streams; the lower, the sooner a kernel starts if stages that
        are computed at the same time compete.
    members : int | None
        The largest number of networks in one forward pass; None: as many as run fastest
        (`lotperm.engine.partition`), which is all of a thread's if there are no convolutions.
    microbatch : int | None
        The number of examples of a batch that each network takes at a time, to limit memory; None:
        all. Gradients are summed, so a step is the same up to rounding, with one exception: batch
        norm uses the statistics of each microbatch, as if the batch were that small, and its
        running averages move once for each of them.
    workers : int | None
        Number of processes that read an image folder, for each part of the members; None: none on
        the CPU, where they would take cores from training, else one per core, but at most 16. No
        result depends on it.
    progress : Progress | None
        Makes progress bars; None: no output.
    stop : Callable[[], bool] | None
        Called after every step of training; True ends the run there with `PreemptedError`, its
        state saved.
    overlap : bool
        Compute stages of a campaign that don't need each other at the same time
        (`lotperm.cluster.beside`). No result depends on it, but that was tested only on CPUs and a
        simulated GPU, so it is off by default.
    meanwhile : Callable[[Callable[[], bool]], None] | None
        Called whenever work has been queued on the device, with a function that says whether it is
        done; another stage may run until then (`lotperm.parallel.turns`).
    """

    device: str = "cpu"
    compile: bool = False
    graph: bool = True
    streams: int = 32
    priority: int = 0
    members: int | None = None
    microbatch: int | None = None
    workers: int | None = None
    progress: Progress | None = None
    stop: Callable[[], bool] | None = None
    overlap: bool = False
    meanwhile: Callable[[Callable[[], bool]], None] | None = None

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The forms of the training step to try in turn; the first that can be made is used.

        `lotperm.engine.trained.Trained.mode` says which one that was.
        """
        on_cuda = torch.device(self.device).type == "cuda"
        compiled: tuple[Mode, ...] = ("compiled",) if self.compile else ()
        graph: tuple[Mode, ...] = ("graph",) if on_cuda and self.graph else ()
        return (*compiled, *graph, "plain")

    @property
    def readers(self) -> int:
        """Number of processes that read files: `workers`, or its default on this device."""
        if self.workers is not None:
            return self.workers
        # On a CPU, readers would take the cores from training.
        return 0 if torch.device(self.device).type == "cpu" else min(os.cpu_count() or 1, 16)
