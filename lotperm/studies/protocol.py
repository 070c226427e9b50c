"""The protocol of the paper, of its authors' code and of this project, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.studies.published import paper


def protocol() -> pd.DataFrame:
    """Put the paper's protocol beside that of its authors' code and of the profile ``paper``.

    Returns
    -------
    DataFrame
        One row for each value, in the order of ``book/paper/protocol.csv``: part, what, where (in
        the paper), paper, scripts, ours, why; texts, "" where a value isn't named. Column "ours" is
        read from the presets, "why" says why it differs from the others.
    """
    table = paper("protocol").fillna("").astype(str)
    ours = [run_here(*row) for row in table[["figure", "value"]].itertuples(index=False)]
    columns = ["part", "what", "where", "paper", "scripts", "ours", "why"]
    return table.assign(ours=ours)[columns]


def run_here(figure: str, value: str) -> str:
    """Return a value that a figure runs at the profile ``paper``, as text.

    Parameters
    ----------
    figure : str
        A name of `lotperm.config.presets.FIGURES`.
    value : str
        "widths", "runs" (the number of seeds), or the path to a field of `Experiment`, as
        "pruning.finetune.lr".

    Returns
    -------
    str
        Several values are joined by commas.

    Raises
    ------
    ParameterError
        If there is no such figure.
    """
    experiments = Experiment.for_figure(figure, profile="paper")
    if value == "widths":
        return _text([e.model.width for e in experiments])
    if value == "runs":
        return _text(len(experiments[0].seeds))
    return _text(reduce(getattr, value.split("."), experiments[0]))


def _text(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else f"{value:g}"
