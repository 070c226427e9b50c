"""The training step as one compiled program, kept for the process and on disk.

Within a process, a program is looked up by everything that it depends on. A new process traces the
step again, in about a second, and finds the compiled code in PyTorch's cache on disk, whose key is
the traced step with PyTorch's version, its settings and the processor. That cache is the folder
``TORCHINDUCTOR_CACHE_DIR``, by default ``torchinductor_USER`` among the temporary files; several
processes may share it, and it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from lotperm.engine import bfloat16, probes
from lotperm.engine.rewritten import ON_ANY_DEVICE, ON_CPU
from lotperm.engine.state import TrainingState
from lotperm.engine.step import Rule, descend_together, differentiate, move

Program = Callable[..., Tensor]
"""A compiled step: maps inputs, targets, the learning rate and `TrainingState.by_parameter` to the
losses, and changes the state in place. It holds no weights.
"""

PROGRAMS: dict[Hashable, Program | Exception] = {}
"""The programs of this process, or errors, by everything that they depend on."""

CPU_OPTIONS: dict[str, Any] = {"cpp_wrapper": True, "inplace_buffers": False}
"""Options of the compiler on CPUs: the program is C++ as a whole, and no loop writes over what it
reads. Such a loop writes 16 bfloat16 numbers under a mask of 32, and Intel's processors let the next
read wait for that write: the gradient of a batch norm took three times as long.
"""

CUDA_OPTIONS: dict[str, Any] = {"combo_kernels": True}
"""Options of the compiler on CUDA: independent kernels are combined, since the time of a small
network's step is bounded by their number.
"""


def compiled_step(
    rule: Rule, state: TrainingState, inputs: Tensor, targets: Tensor, *, threads: int = 1
) -> Program:
    """Return the compiled step, which is compiled only once in a process.

    Parameters
    ----------
    rule : Rule
        The constants of the step.
    state : TrainingState
        The networks, in training mode; nothing in it is changed.
    inputs, targets : Tensor
        A batch of the shapes and types to come; its values don't matter.
    threads : int, optional
        Number of parts trained at the same time; on a CPU each gets its share of PyTorch's threads.

    Raises
    ------
    Exception
        Whatever the compiler raises; the same error again at later calls.
    """
    # The number of threads is compiled into the program: parts that run at the same time divide the
    # cores among them.
    share = max(1, torch.get_num_threads() // threads)
    on_cpu = state.device.type == "cpu"
    options: dict[str, Any] = CPU_OPTIONS | {"cpp.threads": share} if on_cpu else dict(CUDA_OPTIONS)
    form = state.networks.form()
    # Hooks may do anything, so a program with hooks in it isn't shared with other networks.
    if form is None:
        return compile_step(rule, state, inputs, targets, options)
    tensors = (inputs, targets, state.lr, *state.by_parameter())
    # A program checks nothing when it runs, so everything that was true when it was compiled is
    # part of its key: a bfloat16 run must not find the float32 program, nor one made under other
    # settings of PyTorch.
    key = (
        rule,
        form,
        tuple((t.dtype, t.device, t.shape, t.stride()) for t in tensors),
        tuple(options.items()),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        bfloat16.native(),
    )
    if key not in PROGRAMS:
        try:
            PROGRAMS[key] = compile_step(rule, state, inputs, targets, options)
        except Exception as error:
            # Not tried again, since a failure takes as long as a success. The error is kept without
            # its frames, which hold tensors.
            PROGRAMS[key] = error.with_traceback(None)
    found = PROGRAMS[key]
    if isinstance(found, Exception):
        raise found
    return found


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from going through all that the compiler loads, again and again."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@_no_collection()
def compile_step(
    rule: Rule,
    state: TrainingState,
    inputs: Tensor,
    targets: Tensor,
    options: dict[str, Any],
) -> Program:
    """Compile the step for the shapes of a state and a batch.

    This is torch.compile's compiler without its front end, which would check at every step that
    the program still fits (a fifth of the time of a step of 8 MLPs); here nothing can change. On a
    CPU the program is pure C++ and doesn't hold Python's lock, so several threads can run it at the
    same time.

    Parameters
    ----------
    rule : Rule
    state : TrainingState
    inputs, targets : Tensor
        As in `compiled_step`.
    options : dict[str, Any]
        Options of the compiler.
    """
    # Imported here because it loads all of SymPy, which most commands don't need.
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    module = state.networks.module
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    count = len(list(module.parameters()))
    moved = 0 if state.movement is None else count

    def step(inputs: Tensor, targets: Tensor, lr: Tensor, *tensors: Tensor) -> Tensor:
        # Parameter by parameter, which takes fewer passes over memory than flat buffers.
        weights, velocities = tensors[:count], tensors[count : 2 * count]
        masks, rest = tensors[2 * count : 3 * count], tensors[3 * count :]
        movements, buffers = rest[:moved], rest[moved:]
        # Gradients end at these leaves, so the update below may change the weights in place.
        leaves = [w.detach().requires_grad_() for w in weights]
        named = dict(zip(names, [*leaves, *buffers], strict=True))
        forward = partial(torch.func.functional_call, module, named)
        losses, gradients = differentiate(rule, forward, leaves, inputs, targets)
        for each in zip(gradients, weights, movements, strict=True) if moved else ():
            move(*each)
        descend_together(rule, lr, *map(list, (gradients, weights, velocities, masks)))
        return losses

    arguments: list[Any] = [inputs, targets, state.lr, *state.by_parameter()]
    rewritten = ON_CPU if state.device.type == "cpu" else ON_ANY_DEVICE
    # Fake tensors have shapes and no values: tracing computes nothing and leaves the state alone.
    graph = make_fx(step, rewritten, tracing_mode="fake")(*arguments)
    # The compiler keeps programs on disk only if an empty environment of symbolic shapes tells it
    # that shapes are fixed. Tracing above must do without one.
    with probes.remembered(), tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv()))):
        program: Program = torch._inductor.compile(graph, arguments, options=options or None)
    return program
