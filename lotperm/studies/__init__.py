"""The paper's questions: what is computed for each, what its table says, and its figure."""
