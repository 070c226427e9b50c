"""The paper's claims, each with its evidence and ours, and verdicts that the data decide."""
