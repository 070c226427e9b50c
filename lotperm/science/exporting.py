"""Export a module, as a copy in evaluation mode, to a graph of ATen operations."""

from __future__ import annotations

import copy
import dataclasses
import io
import logging
import os
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import transformer
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from lotperm.errors import LotpermError, UnsupportedModelError
from lotperm.science.attributes import rename_tensors, restore_names
from lotperm.science.graphs import is_batched, operation_name
from lotperm.science.inputs import batch_size, describe
from lotperm.science.recurrence import unstack_recurrence
from lotperm.science.regions import inline_contexts, refuse_regions
from lotperm.science.sequences import Unpacked
from lotperm.science.state_dicts import copy_of
from lotperm.science.synonyms import use_one_name
from lotperm.science.writes import name_what_is_written


def named_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a network's parameters and persistent buffers, and the first name of each tensor.

    Returns
    -------
    state : dict
        Name -> Tensor; a tensor that several modules share (weight tying) appears under each of
        its names.
    names : dict
        Name -> the first name of the same tensor.
    """
    state: dict[str, Tensor] = {}
    state.update(model.named_parameters(remove_duplicate=False))
    kept = model.state_dict()
    # What isn't in a state dict can't be permuted, so it counts as a constant of the network.
    state.update((n, b) for n, b in model.named_buffers(remove_duplicate=False) if n in kept)
    first: dict[int, str] = {}
    return state, {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def export_graph(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> fx.GraphModule:
    """Export a copy of a network, in evaluation mode, as a graph of ATen operations.

    Parameters
    ----------
    model : nn.Module
        The network; it stays as it is.
    args, kwargs : tuple, mapping
        Its inputs. Tensors whose first dimension is the batch's, B >= 2 (`batch_size`), may
        have another batch size in the graph, if the network takes any.

    Raises
    ------
    UnsupportedModelError
        The network doesn't run on these inputs, or `torch.export` fails.
    """
    leaves, structure = pytree.tree_flatten((args, dict(kwargs)))
    size = batch_size(leaves)
    try:
        program = _export(model, leaves, structure, size)
    except UnsupportedModelError:
        run_copy(model, args, kwargs)  # the network may be to blame
        raise
    inline_contexts(program)
    refuse_regions(program.graph)
    unstack_recurrence(program.graph)
    use_one_name(program.graph)
    name_what_is_written(program.graph)
    # Modules in the graph are checks of the input's shape, which would fix the batch size. An
    # assignment to `.data` asks whether the types fit.
    checks = (
        "_assert_async",
        "_assert_scalar",
        "_assert_tensor_metadata",
        "_has_compatible_shallow_copy_type",
    )
    for node in [
        n for n in program.graph.nodes if n.op == "call_module" or operation_name(n) in checks
    ]:
        program.graph.erase_node(node)
    return program


def run_copy(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Run a network in evaluation mode; it stays as it is, and so do its inputs.

    Returns
    -------
    list of Tensor
        Its outputs, flat.

    Raises
    ------
    UnsupportedModelError
        Quotes what the network raised.
    """
    leaves, structure = pytree.tree_flatten((args, dict(kwargs)))
    try:
        with torch.no_grad():
            # On copies, as a network may write into its buffers and inputs.
            flat = _flat_copy(model, structure)(*copy.deepcopy(leaves))
    except LotpermError:
        raise
    except Exception as error:  # whatever user code raises
        given = args[0] if len(args) == 1 and not kwargs else kwargs or args
        raise UnsupportedModelError(
            f"{type(model).__name__} fails on the example input, which is {describe(given)}: "
            f"{type(error).__name__}: {first_line(error)} Give inputs that it runs on in "
            "evaluation mode."
        ) from error
    return pytree.tree_leaves(flat)


def _export(
    model: nn.Module, leaves: list[Any], structure: pytree.TreeSpec, size: int
) -> fx.GraphModule:
    """Export a network for batches of any size, or of the given size if it takes no other."""
    first: Exception | None = None
    # Recurrent layers may have time as the first dimension, which they unroll step by step.
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    for dim in (0, 1, None) if recurrent else (0, None):
        variable = torch.export.Dim("batch")
        dynamic = tuple(
            {dim: variable}
            if dim is not None and is_batched(leaf, size) and leaf.dim() > dim
            else None
            for leaf in leaves
        )
        try:
            with warnings.catch_warnings(), _quiet(), _masks_as_given(), Unpacked(), _OfOld():
                warnings.filterwarnings("ignore", "The tensor attributes? .*assigned during export")
                exported = torch.export.export(
                    _flat_copy(model, structure),
                    tuple(leaves),
                    dynamic_shapes=(dynamic,),
                    strict=False,
                )
                names = rename_tensors(exported)
                program = exported.module()
        except LotpermError:
            raise
        except Exception as error:  # whatever the exporter raises
            first = first or error
            continue
        assert isinstance(program, fx.GraphModule)
        if names:
            known = named_tensors(model)[0]
            restore_names(program.graph, {n: own for n, own in names.items() if own in known})
        return program
    assert first is not None
    raise UnsupportedModelError(
        f"torch.export can't turn {type(model).__name__} into a graph for an input of shape "
        f"{_shapes(leaves)} with a variable batch size{_user_line(first)}: {first_line(first)} "
        "Check that its control flow doesn't depend on values, that it doesn't turn tensors into "
        "numbers (.item(), .tolist()), and that it reads the batch size as x.shape[0] (len(x) "
        "fixes it)."
    ) from first


def _user_line(error: Exception) -> str:
    """Say at which line of the network's source an error was raised, if that is known."""
    package = os.path.dirname(os.path.dirname(__file__))
    installed = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), package, "<")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(installed)]
    return f", at {own[-1].filename}:{own[-1].lineno}" if own else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from printing a failure and the graph so far; it also raises the error."""
    names = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")
    logs = [logging.getLogger(name) for name in names]
    before = [log.disabled for log in logs]
    try:
        for log in logs:
            log.disabled = True
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for log, disabled in zip(logs, before, strict=True):
            log.disabled = disabled


@contextmanager
def _masks_as_given() -> Iterator[None]:
    """Keep PyTorch's transformers from reading a mask's values to see whether it is causal.

    They do so only to choose a faster kernel.
    """
    before = transformer._detect_is_causal_mask
    try:
        transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: bool(is_causal)
        yield
    finally:
        transformer._detect_is_causal_mask = before


class _OfOld(TorchFunctionMode):
    """Replace old tensor methods that `torch.export` doesn't know by their present forms.

    ``tensor.new(2, 3)`` becomes ``tensor.new_empty((2, 3))``. ``tensor.data`` becomes
    ``tensor.detach()`` where it is read, and is copied into where it is replaced.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        if func == torch.Tensor.data.__set__ and args[0].shape == args[1].shape:  # type: ignore[attr-defined]
            return args[0].detach().copy_(args[1])
        sizes = args[1:]
        if func is torch.Tensor.new and sizes and isinstance(sizes[0], (int, torch.SymInt)):
            return args[0].new_empty(sizes)
        return func(*args, **(kwargs or {}))


def _flat_copy(model: nn.Module, structure: pytree.TreeSpec) -> nn.Module:
    """Return a copy of a network, in evaluation mode, with flat inputs and outputs.

    Its inputs are the leaves of `(args, kwargs)`, its output is a tensor or a tuple of them.
    """
    twin = copy_of(model).eval()
    forward = twin.forward

    def flat(*leaves: Any) -> Any:
        args, kwargs = pytree.tree_unflatten(leaves, structure)
        outputs = forward(*args, **kwargs)
        if isinstance(outputs, Tensor):
            return outputs
        tensors = tuple(tensors_in(outputs))
        if not tensors:
            raise UnsupportedModelError(
                f"{type(model).__name__} returns {describe(outputs)}, expected a tensor, or a "
                "tuple, dict or object that holds tensors."
            )
        return tensors

    twin.forward = flat
    return twin


def tensors_in(outputs: Any) -> list[Tensor]:
    """Return the tensors that outputs of any form hold, in their order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        parts = list(outputs.values())
    elif isinstance(outputs, (list, tuple)):
        parts = list(outputs)
    elif dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        parts = [getattr(outputs, part.name) for part in dataclasses.fields(outputs)]
    else:
        parts = list(getattr(outputs, "__dict__", {}).values())
    return [tensor for part in parts for tensor in tensors_in(part)]


def _shapes(inputs: Sequence[Any]) -> str:
    """Return the shapes of those inputs that are tensors."""
    return ", ".join(str(tuple(value.shape)) for value in inputs if isinstance(value, Tensor))


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, with a full stop."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if line.endswith((".", "!", "?")) else f"{line}."
