"""Experiments: their parameters, the presets of these, and the seeds of random streams."""
