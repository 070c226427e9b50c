"""CUDA streams besides the default one, and training steps that start with a single call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lotperm.engine.step import Update


class SideStream:
    """A CUDA stream besides the default one; on other devices, it does nothing.

    Parameters
    ----------
    device : torch.device
        Where the work is done.
    used : bool, optional
        True makes a stream if the device has streams; False stays in the default one.
    priority : int, optional
        Priority of the stream and of graphs captured in it; the lower, the sooner kernels start.
    """

    def __init__(self, device: torch.device, *, used: bool = True, priority: int = 0) -> None:
        streams = used and device.type == "cuda"
        self.stream = torch.cuda.Stream(device, priority) if streams else None

    @contextlib.contextmanager
    def queue(self) -> Iterator[None]:
        """Queue work in this stream, after everything in the default stream so far."""
        if self.stream is None:
            yield
            return
        # Weights and batches may just have been written there.
        self.stream.wait_stream(torch.cuda.default_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            yield

    def done(self) -> bool:
        """Return whether everything that was queued in this stream is done."""
        return self.stream is None or self.stream.query()

    def join(self) -> None:
        """Make the default stream wait for everything queued in this one."""
        if self.stream is not None:
            torch.cuda.default_stream(self.stream.device).wait_stream(self.stream)


def capture(
    step: Callable[[], Tensor],
    inputs: Tensor,
    targets: Tensor,
    changing: Sequence[Tensor],
    side: SideStream,
) -> Update:
    """Record a step as a CUDA graph, which starts all of its kernels with one call.

    Parameters
    ----------
    step : Callable[[], Tensor]
        Does one step on the contents of `inputs` and `targets`, and returns the losses (M,).
    inputs, targets : Tensor
        A batch; the values of every later batch are copied into it.
    changing : Sequence[Tensor]
        The tensors that the step changes; they are restored afterwards, even if this fails.
    side : SideStream
        Where the graph is captured.

    Returns
    -------
    Update
        Returns the same tensor at every step, with new values.
    """
    # The steps before the capture are real ones, so the state is restored after them.
    before = [tensor.clone() for tensor in changing]
    try:
        with side.queue(), torch.no_grad():
            # Kernels are chosen and memory is allocated before the capture.
            for _ in range(3):
                step()
    finally:
        with side.queue(), torch.no_grad():
            for tensor, value in zip(changing, before, strict=True):
                tensor.copy_(value)
        side.join()
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on meanwhile: only this one's calls are limited to what a graph allows.
    with (
        torch.no_grad(),
        torch.cuda.graph(graph, stream=side.stream, capture_error_mode="thread_local"),
    ):
        # This records the kernels without running them.
        losses = step()

    def replay(x: Tensor, y: Tensor) -> Tensor:
        # A graph reads and writes the addresses that it was captured with.
        inputs.copy_(x)
        targets.copy_(y)
        graph.replay()
        return losses

    return replay
