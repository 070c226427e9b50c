"""Signs against symmetry: what must move with a mask, and whose basin an arm ends in."""
