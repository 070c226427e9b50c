"""CUDA streams beside the default one, and training steps that start with one call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lotperm.engine.step import Update


class SideStream:
    """A CUDA stream beside the default one; on other devices, nothing.

    Parameters
    ----------
    device : torch.device
        Where the work is done.
    used : bool, optional
        True: make a stream if the device has streams; False: stay in the default one.
    priority : int, optional
        Of the stream and of the graphs captured in it; the lower, the sooner its kernels start.
    """

    def __init__(self, device: torch.device, *, used: bool = True, priority: int = 0) -> None:
        streams = used and device.type == "cuda"
        self.stream = torch.cuda.Stream(device, priority) if streams else None

    @contextlib.contextmanager
    def queue(self) -> Iterator[None]:
        """Queue work in this stream, behind everything in the default stream so far."""
        if self.stream is None:
            yield
            return
        # Weights and batches may just have been written there.
        self.stream.wait_stream(torch.cuda.default_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            yield

    def done(self) -> bool:
        """Return True if nothing that was queued in this stream is left to do."""
        return self.stream is None or self.stream.query()

    def join(self) -> None:
        """Let the default stream wait for what was queued in this one."""
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
        Does one step on what is in `inputs` and `targets`, and returns the losses (M,).
    inputs, targets : Tensor
        A batch; the values of every later batch are copied into it.
    changing : Sequence[Tensor]
        The tensors that the step changes; afterwards they are as before, also if this fails.
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
            # Kernels are chosen and memory is taken before the capture.
            for _ in range(3):
                step()
    finally:
        with side.queue(), torch.no_grad():
            for tensor, value in zip(changing, before, strict=True):
                tensor.copy_(value)
        side.join()
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on meanwhile: only this one's calls must fit into a graph.
    with (
        torch.no_grad(),
        torch.cuda.graph(graph, stream=side.stream, capture_error_mode="thread_local"),
    ):
        # This records the kernels and runs none.
        losses = step()

    def replay(x: Tensor, y: Tensor) -> Tensor:
        # A graph reads and writes the addresses that it was captured with.
        inputs.copy_(x)
        targets.copy_(y)
        graph.replay()
        return losses

    return replay
