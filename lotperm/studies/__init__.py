"""The paper's questions: what is computed for each, what its table says, and its figure."""

from pathlib import Path

from lotperm.config.presets import add_figures

for _question in ("arms", "early", "diversity", "connectivity"):
    add_figures(Path(__file__).parent / _question)
