"""The forms in which a network takes a batch: one tensor, several, or tensors by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from lotperm.errors import ParameterError

# What a data loader yields, and what `PermutationSpec.trace` takes as an example.
Batch = Tensor | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class InputForm:
    """Which parts of a batch a network takes, according to the batch that it was traced with.

    Attributes
    ----------
    names : tuple of str or None
        The keys of a batch that is a dict.
    count : int
        Otherwise, how many of the first entries of a batch are inputs.
    structure : TreeSpec or None
        How the inputs are nested; None is one tensor.
    """

    names: tuple[str, ...] | None = None
    count: int = 1
    structure: pytree.TreeSpec | None = None

    def leaves(self, batch: Batch) -> list[Any]:
        """Return the inputs in a batch, in the order of the graph.

        Parameters
        ----------
        batch : Tensor, sequence or mapping
            Entries after the inputs (labels), or with other keys, are left out.

        Raises
        ------
        ParameterError
            The batch doesn't have the form with which the network was traced.
        """
        leaves, structure = pytree.tree_flatten(self._inputs(batch))
        expected = self.structure or pytree.tree_flatten([batch if self.names else 0])[1]
        if structure != expected or not any(isinstance(leaf, Tensor) for leaf in leaves):
            raise self._unlike(batch)
        return leaves

    def _inputs(self, batch: Any) -> Any:
        """Return the part of a batch that the network takes."""
        if self.names is not None:
            if isinstance(batch, (list, tuple)) and batch and isinstance(batch[0], Mapping):
                batch = batch[0]
            if not isinstance(batch, Mapping) or any(name not in batch for name in self.names):
                raise self._unlike(batch)
            return {name: batch[name] for name in self.names}
        if isinstance(batch, Tensor):
            return [batch]
        if not isinstance(batch, Sequence) or isinstance(batch, str):
            raise self._unlike(batch)
        if self.count > 1 and batch and isinstance(batch[0], (list, tuple)):
            batch = batch[0]  # ((x, y), labels)
        return list(batch[: self.count])

    def _unlike(self, batch: Any) -> ParameterError:
        """Make the error for a batch of another form."""
        if self.names is not None:
            wanted = f"a dict with {', '.join(self.names)}"
        else:
            wanted = "one tensor" if self.count == 1 else f"{self.count} inputs"
            wanted += ", alone or first in a tuple" if self.count == 1 else " first in a tuple"
        return ParameterError(
            f"a batch is {describe(batch)}, but the network was traced with {wanted}; give batches "
            "of that form, or trace it with a batch of this one."
        )


def batch_size(leaves: Iterable[Any]) -> int:
    """Return the number of examples: the length of the first tensor that isn't a scalar, or 0."""
    return next((len(v) for v in leaves if isinstance(v, Tensor) and v.dim() > 0), 0)


def describe(batch: Any) -> str:
    """Say in a few words what form a batch has."""
    if isinstance(batch, Tensor):
        return f"one tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"a dict with {', '.join(map(str, list(batch)[:6]))}" if batch else "an empty dict"
    if isinstance(batch, (list, tuple)):
        kinds = ", ".join(type(part).__name__ for part in batch[:4])
        return f"a {type(batch).__name__} of {len(batch)} ({kinds})"
    return f"of type {type(batch).__name__}"


def call_arguments(
    model: nn.Module, example: Batch
) -> tuple[tuple[Any, ...], dict[str, Any], InputForm]:
    """Choose how a network is called with a batch.

    Parameters
    ----------
    model : nn.Module
        Its `forward` says how many inputs it takes, and their names.
    example : Tensor, sequence or mapping
        A tensor is the only argument. From a tuple, as many entries are taken as `forward` has
        parameters; from a list, as data loaders yield it, as many as `forward` requires, since the
        rest may be labels. From a dict, those entries are taken that `forward` has parameters for;
        if it has none of these names, the dict is its only argument.

    Returns
    -------
    args : tuple
    kwargs : dict
    form : InputForm
        How to take the same inputs from other batches.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    kinds = {p.kind for p in parameters}
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in plain if p.default is p.empty]
    if isinstance(example, PackedSequence):
        raise ParameterError(
            "example_input is a PackedSequence, which has no dimension of examples; trace a "
            "network that takes padded sequences and their lengths, and packs them itself."
        )
    if isinstance(example, Tensor):
        return (example,), {}, InputForm()
    if isinstance(example, Mapping):
        known = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        names = tuple(
            key for key in example if key in known or inspect.Parameter.VAR_KEYWORD in kinds
        )
        whole = not names and len(required) == 1
        names = tuple(example) if whole else names
        chosen = {name: example[name] for name in names}
        form = InputForm(names, 0, pytree.tree_flatten(chosen)[1])
        return ((chosen,), {}, form) if whole else ((), chosen, form)
    if isinstance(example, Sequence) and not isinstance(example, str):
        count = len(example)
        if inspect.Parameter.VAR_POSITIONAL not in kinds:
            most = len(plain) if isinstance(example, tuple) else max(len(required), 1)
            count = min(count, most)
        args = tuple(example[:count])
        return args, {}, InputForm(None, count, pytree.tree_flatten(list(args))[1])
    raise ParameterError(
        f"example_input is {describe(example)}, expected a batch as the network takes it: a "
        "tensor, a tuple of its inputs, or a dict of them by name."
    )
