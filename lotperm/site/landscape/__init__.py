"""The loss landscape of two neurons: the model, and the figures of its page."""

from lotperm.site.landscape.figures import LEVELS, curves, extent, figure3, interactive
from lotperm.site.landscape.model import (
    PRESETS,
    RUNS,
    Preset,
    Result,
    Scene,
    descend,
    gradient,
    loss,
    loss_along,
    match,
    outcomes,
    output,
    prune,
    simulate,
    slopes,
)

__all__ = [
    "LEVELS",
    "PRESETS",
    "RUNS",
    "Preset",
    "Result",
    "Scene",
    "curves",
    "descend",
    "extent",
    "figure3",
    "gradient",
    "interactive",
    "loss",
    "loss_along",
    "match",
    "outcomes",
    "output",
    "prune",
    "simulate",
    "slopes",
]
