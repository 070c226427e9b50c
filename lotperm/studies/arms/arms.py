"""The arms: what each sparse network starts from, defined only here.

An arm combines factors: whose weights it has, under which mask and how that is moved, and with
whose signs and how these are moved. The paper's three arms and the random control are four such
combinations. Tickets, the questions, the two-neuron landscape and the start page's panel read this
table or are tested against it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from lotperm.config.seeds import derive_seed
from lotperm.engine.models import Weights
from lotperm.errors import ParameterError, shown, unknown_name
from lotperm.science.scrambling import scatter, scramble
from lotperm.science.signs import shuffle_signs, with_signs
from lotperm.science.sparsity import Mask
from lotperm.science.symmetry import Permutation, PermutationSpec, permute

Moved = Literal["as found", "permuted", "scattered"]
Signs = Literal["own", "own end", "a end", "imp end", "random"]

FOUND = "found"
"""The permutation that aligns A to B as the experiment says, at the end of dense training."""

ORACLE = "oracle"
"""The permutation by which A was shuffled, known because this project drew it."""


@dataclass(frozen=True)
class Arm:
    """A sparse network, defined by what it starts from.

    Attributes
    ----------
    name : str
        Name of the method.
    weights : {"a", "b", "shuffled a"}
        Network whose weights after the rewind epoch it starts from; the last is A with its units
        in the order of the permutation `ORACLE`: the same function, another B.
    mask : {"as found", "permuted", "scattered"}
        What happens to A's mask first: nothing; the units move as π says; or the kept weights of
        every layer go to random places.
    stream : str
        Name that its random streams follow. Arms that share one see the same examples in the same
        order.
    signs : {"own", "own end", "a end", "imp end", "random"}
        Network whose signs the kept weights get: none but their own; those that the same dense
        network has at the end; dense A's or A's pruned network's at the end; or A's at the end,
        dealt out anew among the kept weights of every layer.
    signs_moved : {"as found", "permuted"}
        What happens to these signs before they are used.
    permutation : str
        π by its name: `FOUND`, `ORACLE`, or one of `lotperm.studies.arms.permutations`.
    scrambled : float
        Share of each group's units that change places in π before it is used
        (`lotperm.science.scrambling.scramble`).

    Raises
    ------
    ParameterError
        If a factor is given that nothing would read, or signs that don't exist.
    """

    name: str
    weights: Literal["a", "b", "shuffled a"]
    mask: Moved
    stream: str
    signs: Signs = "own"
    signs_moved: Literal["as found", "permuted"] = "as found"
    permutation: str = FOUND
    scrambled: float = 0.0

    def __post_init__(self) -> None:
        # Factors that nothing reads would still make keys differ.
        if self.signs == "own" and self.signs_moved != "as found":
            raise ParameterError(f"arm {self.name!r}: its own signs can't be permuted.")
        if self.signs == "own end" and self.weights == "shuffled a":
            raise ParameterError(f"arm {self.name!r}: a shuffled A has no end; take 'a end'.")
        if not self.permutes and (self.permutation != FOUND or self.scrambled):
            raise ParameterError(f"arm {self.name!r} names a permutation, but nothing is permuted.")
        if not 0 <= self.scrambled <= 1:
            raise ParameterError(
                f"arm {self.name!r}: scrambled is {shown(self.scrambled)}; expected 0 to 1."
            )

    @property
    def permutes(self) -> bool:
        """True if π moves its mask or its signs."""
        return "permuted" in (self.mask, self.signs_moved)

    @property
    def signs_of(self) -> str | None:
        """Name among `Parts.weights` of the network that gives the signs, None for its own."""
        own = {"own": None, "own end": f"{self.weights} end", "random": "a end"}
        return own.get(self.signs, self.signs)

    @property
    def key(self) -> str | dict[str, Any]:
        """What identifies it in the keys of stages: its name in `ARMS`, else its factors."""
        if ARMS.get(self.name) == self:
            return self.name
        # The name is for readers: with another one it is still the same network. Defaults are left
        # out, so that a new factor leaves keys as they are.
        plain = {f.name: (getattr(self, f.name), f.default) for f in dataclasses.fields(self)}
        del plain["name"]
        return {name: value for name, (value, default) in plain.items() if value != default}


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("lth", weights="a", mask="as found", stream="sparse_a"),
        # On B, only the masks differ: the same weights, the same examples in the same order.
        Arm("permuted", weights="b", mask="permuted", stream="sparse_b"),
        Arm("naive", weights="b", mask="as found", stream="sparse_b"),
        # The control of the sparse training problem; the paper doesn't have it.
        Arm("random", weights="b", mask="scattered", stream="sparse_b"),
    )
}
"""Every arm that has a name everywhere, by this name."""

# Stages, and the networks in their files, are ordered so.
PAPER_ARMS = ("lth", "permuted", "naive")
"""The arms that the paper compares, in the order in which stages train them."""


def arm_of(name: str) -> Arm:
    """Look up an arm by its name.

    Raises
    ------
    ParameterError
        If there is no such arm; the error gives the nearest name.
    """
    if name not in ARMS:
        raise unknown_name("arm", name, ARMS)
    return ARMS[name]


@dataclass(frozen=True)
class Parts:
    """The weights, mask and permutations of which the arms of one replicate are made.

    Attributes
    ----------
    seed : int
        The replicate's seed, which the random factors of its arms follow.
    trace : callable
        Returns the permutation symmetries of the network; called only if something moves.
    weights : mapping
        "a" and "b", after the rewind epoch; "a end" and "b end", at the end of dense training;
        "imp end", at the end of the last round of pruning. Those that the arms need.
    mask : Mask
        A's mask, as found.
    permutations : mapping
        Name -> π, those that the arms need but `ORACLE`, which is drawn here.
    scattering : torch.Generator, optional
        Draws the random mask. All replicates draw from it in order, as in earlier versions.
    """

    seed: int
    trace: Callable[[], PermutationSpec]
    weights: Mapping[str, Weights]
    mask: Mask
    permutations: Mapping[str, Permutation] = field(default_factory=dict)
    scattering: torch.Generator | None = None

    @cached_property
    def spec(self) -> PermutationSpec:
        """The permutation symmetries of the network."""
        return self.trace()

    @cached_property
    def oracle(self) -> Permutation:
        """The random permutation by which A is shuffled."""
        return self.spec.random(self.generator("oracle"))

    @cached_property
    def scattered(self) -> Mask:
        """The random mask, one for all arms of the replicate."""
        if self.scattering is None:
            raise ParameterError("there is no random mask here: no arm of a ticket starts from it.")
        return scatter(self.mask, self.scattering)

    def generator(self, name: str) -> torch.Generator:
        """Begin a random stream of the replicate, the same one for every arm that asks."""
        return torch.Generator().manual_seed(derive_seed(name, self.seed))

    def permutation(self, arm: Arm) -> Permutation:
        """Return π as an arm uses it, scrambled if the arm says so.

        Raises
        ------
        ParameterError
            If there is no permutation of its name.
        """
        if arm.permutation == ORACLE:
            exact = self.oracle
        elif arm.permutation in self.permutations:
            exact = self.permutations[arm.permutation]
        else:
            raise unknown_name("permutation", arm.permutation, [ORACLE, *self.permutations])
        if not arm.scrambled:
            return exact
        # One stream for all shares: the units that a larger one moves include a smaller one's.
        return scramble(exact, arm.scrambled, self.generator("scramble"))

    def moved(self, tensors: Mapping[str, Tensor], arm: Arm) -> dict[str, Tensor]:
        """Permute tensors of A by π as an arm uses it."""
        return permute(tensors, self.spec, self.permutation(arm))

    def of(self, name: str) -> Weights:
        """Return the weights of a network by its name in `weights`, or "shuffled a".

        Raises
        ------
        ParameterError
            If these parts lack the network.
        """
        if name == "shuffled a":
            return permute(self.of("a"), self.spec, self.oracle)
        if name not in self.weights:
            raise unknown_name("network", name, self.weights)
        return self.weights[name]


def start(arm: Arm, parts: Parts) -> tuple[Weights, Mask]:
    """Return what an arm of one replicate starts from: its weights, not masked yet, and its mask.

    Batch norm, biases and shortcuts stay as they are: masks cover only the prunable weights.

    Raises
    ------
    ParameterError
        If the parts lack something that the arm needs.
    """
    weights = parts.of(arm.weights)
    # Only the mask that this arm wants is made: a ticket, for one, has no random mask.
    if arm.mask == "scattered":
        mask = parts.scattered
    elif arm.mask == "permuted":
        mask = parts.moved(parts.mask, arm)
    else:
        mask = parts.mask
    if arm.signs_of is None:
        return weights, mask
    signs = {name: parts.of(arm.signs_of)[name] for name in mask}
    if arm.signs_moved == "permuted":
        signs = parts.moved(signs, arm)
    if arm.signs == "random":
        signs = shuffle_signs(signs, mask, parts.generator("signs"))
    return with_signs(weights, signs, mask), mask


def networks_of(arms: Iterable[Arm]) -> set[str]:
    """Return the names in `Parts.weights` that arms need."""
    starts = {"a" if arm.weights == "shuffled a" else arm.weights for arm in arms}
    return starts | {arm.signs_of for arm in arms if arm.signs_of is not None}


def permutations_of(arms: Iterable[Arm]) -> set[str]:
    """Return the names in `Parts.permutations` that arms need."""
    return {arm.permutation for arm in arms if arm.permutes} - {ORACLE}
