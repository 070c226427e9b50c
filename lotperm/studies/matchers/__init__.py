"""Which permutation does a ticket need? Matchings compete on what the mask gives, and on barriers."""
