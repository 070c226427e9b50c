"""Is A's mask worth anything to B? The control is a random mask with the same layer densities."""
