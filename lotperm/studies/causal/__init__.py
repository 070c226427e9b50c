"""Is misalignment the cause? Arms for which the right permutation is known, or spoiled by degrees."""
