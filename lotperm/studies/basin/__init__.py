"""Are dense A and its own sparse solutions in one basin, and the permuted network with them?"""
