"""A mask for many: what does it cost to carry one ticket to n initializations, and what do they reach together?"""
