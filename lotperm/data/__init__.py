"""Data sets: sources, reading, augmentation and batches."""
