"""The method itself: symmetries, matching, masks, barriers and statistics.

Nothing here depends on a store, a configuration, a data set or a training loop, so each module can
be lifted into another project: outside this folder it needs only `lotperm.errors`, `lotperm.types`
and `lotperm.parallel`. The last is imported rather than passed in: in a single process it does
nothing, and otherwise every function of matching would have to pass the ranks on.

===============  ==================================================================
`symmetry`       the spec: which axes share a permutation; permute, invert, compose
`tracing`        from a network to its spec
`exporting`      from a module to a graph of ATen operations
`synonyms`       operations with two names, under one
`writes`         operations that write into tensors, as ones that make new ones
`graphs`         such graphs: cut, compiled, run and read
`folding`        batch norms folded into convolutions
`rules`          what each operation does to unit ids
`labels`         unit ids and the union-find over them
`labelling`      the interpreter that applies the rules
`grouping`       from unit ids to groups
`matching`       by activations, by gradients and by weights
`features`       what matching compares between units: by default, their activations
`correlation`    moments of the activations of two networks, in one pass
`assignment`     the linear assignment behind every matching
`sparsity`       masks, magnitude pruning, counts
`scrambling`     controls: permutations and masks that are random in part
`signs`          signs of weights, and how many bits a ticket takes
`ranking`        masks of the highest scores, random masks, layer collapse
`saliency`       SNIP, GraSP, SynFlow
`leaves`         networks as functions of the weights that are scored
`rewiring`       masks that change during training: RigL
`patterns`       N:M sparsity, and which permutations keep it
`evaluation`     accuracy and loss
`barrier`        loss on the line between two networks
`repair`         batch norm reset and REPAIR
`diversity`      disagreement, divergences, ensembles
`statistics`     intervals, paired tests, ratios
===============  ==================================================================
"""
