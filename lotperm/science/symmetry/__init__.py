"""The permutation symmetries of a network: which axes of which tensors share one.

A *unit* is a hidden neuron or channel. Reordering the units of a layer, together with every tensor
axis that they touch, leaves the function of a network unchanged, ``f(permute(A)) == f(A)``
(Hecht-Nielsen 1990; Entezari et al. 2022). `PermutationSpec.trace` finds these symmetries: it
exports the network to a graph of ATen operations and carries an integer array of unit ids along
with every activation. Layers give out new ids, operations that combine tensors make ids equal, and
operations that only move values around (reshape, concatenate, slice) are run on the ids themselves.
Units that occur in the same way everywhere form one group, and any permutation inside a group is
allowed. The rule of each operation is in `lotperm.science.rules`.

Attention has units in blocks: heads trade places as a whole, and so do the units inside each head,
those of queries with those of keys, those of values with the inputs of the output projection. Its
other symmetries aren't permutations: any invertible matrix M between queries and keys, ``q M`` and
``k M^-T``, or between values and the output projection, leaves the function unchanged. A mask can't
follow these, as they mix all weights of a head: where some were zero, none is. Only permutations
(and signs, which leave masks where they are) map zeros to zeros.

Other units come in blocks, too: the channels of a group norm in its groups, the filters of a
depthwise convolution in those of their channel. The words of a code book move with the units that
choose among them, as long as their indices only serve to look them up.

When in doubt, the rules are cautious: too few units may move, never too many. So whole blocks of a
grouped convolution, or whole experts, can't trade places.
An operation without a rule fixes the units that pass it, as an input or output does.
Where units meet a product over another axis (token mixing), they may still move, and so may the
mixtures of positions, until they meet positions again. `PermutationSpec.fixed` lists what is fixed
and why.
Every spec is checked once, by a forward pass with a random permutation; a network that is random
in evaluation mode is rejected.

`spec` holds what is found; `permuting` uses it to move the units of weights and masks.
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
