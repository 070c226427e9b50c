"""Does a ticket of A train on B? The three arms of the paper: LTH, permuted and naive."""
