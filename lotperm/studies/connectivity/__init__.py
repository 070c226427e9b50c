"""Are A and B in one basin? Loss along the line between them, permuted or not."""
