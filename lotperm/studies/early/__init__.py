"""How early can A be matched to B? The permutation is found before B's training has ended."""
