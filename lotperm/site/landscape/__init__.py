"""The loss landscape of two neurons: the model, the scenes in it, and the figures of its page."""

from lotperm.site.landscape.figures import LEVELS, curves, extent, figure3, interactive
from lotperm.site.landscape.model import (
    descend,
    gradient,
    loss,
    loss_along,
    match,
    output,
    prune,
    slopes,
)
from lotperm.site.landscape.scenes import (
    PRESETS,
    RUNS,
    Preset,
    Result,
    Scene,
    outcomes,
    simulate,
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
