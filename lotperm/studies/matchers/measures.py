"""The quantities that the predictions of the bench speak of."""

from __future__ import annotations

from lotperm.studies.predictions import Measure, less

CONTRASTS: dict[str, tuple[str, str]] = {
    "weights − activations": ("weights", "permuted"),
    "refined − activations": ("weights-refined", "permuted"),
    "best of ten − weights": ("weights-best-10", "weights"),
    "joint − weights": ("weights-joint", "weights"),
    "kept − weights": ("weights-kept", "weights"),
    "many − weights": ("weights-many", "weights"),
    "random − naive": ("random", "naive"),
    "lth − refined": ("lth", "weights-refined"),
}
"""Contrasts of accuracies that were written down before the runs -> the two arms."""

MEASURES: dict[str, Measure] = {
    **{words: Measure(words, less(*pair)) for words, pair in CONTRASTS.items()},
    "with batch norm, weights − activations": Measure(
        "weights − activations", less("weights", "permuted")
    ),
    "with batch norm, kept − activations": Measure(
        "kept − activations", less("weights-kept", "permuted")
    ),
    # Not among the matchings that run by default.
    "before the ReLU − activations": Measure(
        "before the ReLU − activations", less("pre-activations", "permuted")
    ),
    "activations − gradients": Measure("activations − gradients", less("permuted", "gradients")),
    "attributions − activations": Measure(
        "activations × gradients − activations", less("attributions", "permuted")
    ),
    "weights − attributions": Measure(
        "weights − activations × gradients", less("weights", "attributions")
    ),
    "barrier: gradients − activations": Measure(
        "test barrier in nats, gradients − activations",
        less("gradients", "permuted", "barrier"),
        "",
    ),
    "barrier: weights − activations": Measure(
        "test barrier in nats, weights − activations", less("weights", "permuted", "barrier"), ""
    ),
}
"""Every quantity, by its name in ``predictions.toml``."""
