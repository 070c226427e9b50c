"""Rules, one for every kind of operation, for what it does to the ids of hidden units.

===================  ===========================================================
`products`           linear, matmul, convolutions, transposed convolutions
`contractions`       einsum, tensordot, bilinear layers, batches of matrices
`losses`             squared error, cross entropy
`normalization`      batch, instance, group and layer norm; PReLU
`elementwise`        sums, products, nonlinearities, dropout, copies
`attention`          scaled dot products
`lookups`            embeddings, indices, code books, biases by relative position
`recurrent`          LSTM, GRU and plain recurrent layers
`reductions`         mean, sum, max, norm, softmax
`pooling`            max, average and adaptive pooling, upsampling
`layout`             reshape, transpose, slice, concatenate, pad
`weights`            weights that are computed from parameters: masks, norms, transposes
`creation`           zeros, ones, full
===================  ===========================================================

To add a rule, write a function of `Labels` and a `Call` next to similar ones, or in a new module
that is imported here, and register it with the names of its operations::

    @rule("outer", matrix=1)
    def outer(labels: Labels, call: Call) -> Tensor:
        weight = call.args[1]
        units = weight.produce(labels, 0, weight.shape[0])
        return spread(units, call.shape, -1)

A rule returns the ids of the output. It makes ids equal if their units must move together
(`Labels.unify`), records which units must stay among themselves (`Labels.keep_together`), and fixes
units that mustn't move (`Labels.fix`). A value computed from several units gets an id of its own
(`Labels.derive`), so that blocks of units, such as heads, may trade places. When in doubt, a rule
fixes: too few units may move, never too many. An operation without a rule is treated as elementwise
if PyTorch tags it so, and otherwise by `registry.unknown`.
"""

from lotperm.science.matrices import Matrix
from lotperm.science.rules import (
    attention,
    contractions,
    creation,
    elementwise,
    layout,
    lookups,
    losses,
    normalization,
    pooling,
    products,
    recurrent,
    reductions,
    weights,
)
from lotperm.science.rules.registry import MATRIX_ARGUMENT, RULES, Call, rule, unknown

__all__ = [
    "MATRIX_ARGUMENT",
    "RULES",
    "Call",
    "Matrix",
    "attention",
    "contractions",
    "creation",
    "elementwise",
    "layout",
    "lookups",
    "losses",
    "normalization",
    "pooling",
    "products",
    "recurrent",
    "reductions",
    "rule",
    "unknown",
    "weights",
]
