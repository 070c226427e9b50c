"""Results on disk: every stage is computed once and checked whenever it is read."""
