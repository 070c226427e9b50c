"""What the compiler asks before its first program in a process, even one that is on disk already.

PyTorch's compiler tests each set of vector instructions by loading a small library in a new
process; that is remembered from one process to the next. It also reads all of Triton, which it uses
on GPUs; without one, it needn't. Together, this takes half of the time until a program is found
again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Make the compiler skip the test of libraries that could be loaded before, and Triton."""
    # Imported here because it loads the whole compiler, which most commands don't need.
    from torch._inductor import cpu_vec_isa

    _leave_triton_out()
    instructions: Any = cpu_vec_isa.VecISA
    # Private, and not in every version of PyTorch; without it, compiling starts a second later.
    load = getattr(instructions, "_probe_load", None)
    if load is None:
        yield
        return
    # The folder may be shared by machines with other processors.
    suffix = f".loads-{torch.backends.cpu.get_cpu_capability().replace(' ', '-')}"

    def remember(isa: Any, library: str) -> bool:
        # The library's name includes the compiler, its options and PyTorch's version.
        note = Path(library + suffix)
        if note.exists():
            return True
        loads = bool(load(isa, library))
        # A failure may be due to a lack of time or memory, so it is tried again.
        if loads:
            with contextlib.suppress(OSError):
                note.touch()
        return loads

    instructions._probe_load = remember
    try:
        yield
    finally:
        instructions._probe_load = load


def _leave_triton_out() -> None:
    """Answer the question for Triton's hash, half a gigabyte to read, where no GPU could use it."""
    from torch._inductor import codecache

    if torch.cuda.is_available():
        return
    # Private, as above.
    question: Any = getattr(codecache, "triton_key", None)
    # The first fails in a PyTorch that asks otherwise, the second where the answer is known.
    with contextlib.suppress(AttributeError, RuntimeError):
        question.set(None)
