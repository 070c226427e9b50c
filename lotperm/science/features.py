"""What is observed about units while two networks run on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from lotperm.science.inputs import InputForm
from lotperm.science.mixing import mixes_examples
from lotperm.science.symmetry import PermutationSpec


@runtime_checkable
class Features(Protocol):
    """Numbers, one per unit, example and position, that `correlate` compares between networks."""

    @property
    def labelled(self) -> bool:
        """Whether batches must hold labels in addition to the inputs."""
        ...

    def leaves(self, form: InputForm, batch: Any) -> list[Any]:
        """Return what the observer takes from a batch, including tensors with a row per example."""
        ...

    def mixes(
        self, spec: PermutationSpec, tensors: Mapping[str, Tensor], points: Mapping[str, str]
    ) -> bool:
        """Return whether an example's features depend on the other examples of its batch."""
        ...

    def observer(
        self, spec: PermutationSpec, tensors: Mapping[str, Tensor], points: Mapping[str, str]
    ) -> Callable[..., dict[str, Tensor]]:
        """Make a function from leaves to the features ``(B, n, *spatial)`` of each group.

        Parameters
        ----------
        spec : PermutationSpec
            The permutation symmetries of the network.
        tensors : Mapping[str, Tensor]
            As for `PermutationSpec.extractor`.
        points : Mapping[str, str]
            Group -> the graph node at which it is observed.
        """
        ...


class Activations:
    """The outputs of units, from a forward pass that ends at the last point."""

    labelled = False

    def leaves(self, form: InputForm, batch: Any) -> list[Any]:
        """Return the inputs of a batch; labels may follow them."""
        return form.leaves(batch)

    def mixes(
        self, spec: PermutationSpec, tensors: Mapping[str, Tensor], points: Mapping[str, str]
    ) -> bool:
        """Return whether the network mixes examples before or at the last point."""
        return mixes_examples(spec, tensors, points)

    def observer(
        self, spec: PermutationSpec, tensors: Mapping[str, Tensor], points: Mapping[str, str]
    ) -> Callable[..., dict[str, Tensor]]:
        """Make a function from inputs to activations, batch norms folded."""
        return spec.extractor(tensors, points, fold=True)
