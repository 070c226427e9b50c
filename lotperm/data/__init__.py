"""Data sets: where they come from, how they are read, augmented and batched."""
