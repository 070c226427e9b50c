"""Does a ticket learn the pruned network's solution again? LTH beside networks that start from B."""
