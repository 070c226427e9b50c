"""A mask for many: what does carrying one ticket to n initializations cost, and what does it gain?"""
