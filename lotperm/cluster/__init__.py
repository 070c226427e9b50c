"""Many experiments: campaigns in slices, sweeps as jobs, and what either will cost."""
