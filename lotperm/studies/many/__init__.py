"""A mask for many: what does carrying a ticket to n initializations cost, and what does it gain?"""
