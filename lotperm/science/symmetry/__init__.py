"""The permutation symmetries of a network: which axes of which tensors share one.

A *unit* is a hidden neuron or channel. Reordering the units of a layer, together with every tensor
axis that they touch, leaves the function of a network unchanged, ``f(permute(A)) == f(A)``
(Hecht-Nielsen 1990; Entezari et al. 2022). `PermutationSpec.trace` finds these symmetries: it
exports the network to a graph of ATen operations and carries an integer array of unit ids along
with every activation. Layers give fresh ids, operations that combine tensors make ids equal, and
operations that only move values around (reshape, concatenate, slice) are run on the ids themselves.
Units that occur in the same way everywhere form one group, and any permutation inside a group is
allowed. The rule of each operation is in `lotperm.science.rules`.

Attention has units in blocks: heads change places as a whole, and units inside each head, those of
queries with those of keys, those of values with the inputs of the output projection. Its other
symmetries aren't permutations: any invertible matrix M between queries and keys, ``q M`` and
``k M^-T``, or between values and the output projection, leaves the function as it is. A mask can't
follow those, as they make each new weight from all old ones of a head: where some were zero, none
is. Permutations (and signs, which leave masks where they are) alone take zeros to zeros.

Other units are in blocks, too: the channels of a group norm in its groups, the filters of a
depthwise convolution in those of their channel. The words of a code book move with what chooses
among them, as long as their numbers only serve to look them up.

Where the rules have a choice they take the safe side: a unit too few moves, never one too many. So
exchanging whole blocks of a grouped convolution, or whole experts, is left out.
An operation without a rule fixes the units that pass it, as an input or output does.
Where units meet a product over another axis (token mixing), the units are free, and so are mixtures
of positions until they meet positions again. `PermutationSpec.fixed` lists what is fixed and why.
Every spec is checked once, by a forward pass with a random permutation; a network that is random
in evaluation mode is refused.

`spec` holds what is found, `permuting` moves the units of weights and masks by it.
"""

from lotperm.science.roles import Channels, Fixed, Role
from lotperm.science.symmetry.permuting import compose, invert, permute
from lotperm.science.symmetry.spec import Permutation, PermutationSpec

__all__ = [
    "Channels",
    "Fixed",
    "Permutation",
    "PermutationSpec",
    "Role",
    "compose",
    "invert",
    "permute",
]
