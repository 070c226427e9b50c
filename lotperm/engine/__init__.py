"""Training many masked networks at once."""
