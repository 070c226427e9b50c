"""Can a ticket of a transformer be permuted? The paper's arms for attention, heads included."""
