"""Pieces of HTML that pages of results share: downloads, and how a page was made."""

from __future__ import annotations

import base64
import html
import json
import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.store.provenance import source_hash

# Of what a page runs: until it ends the files may be edited.
_SOURCE = source_hash()


def csv_link(table: pd.DataFrame, filename: str) -> str:
    """An HTML link that downloads a table as CSV, carried in the page itself."""
    data = base64.b64encode(table.to_csv(index=False, lineterminator="\n").encode()).decode()
    return (
        f'<a class="csv-download" download="{html.escape(filename)}" href="data:text/csv;base64,{data}">'
        f"Download the data of this figure: {html.escape(filename)}</a>"
    )


def how_made(notebook: str, experiment: Experiment, given: Mapping[str, Any]) -> str:
    """One line of HTML: which parameters made the page, from which sources, and the command that
    does it again.

    Parameters
    ----------
    notebook : str
        Its name in ``notebooks/`` without number and suffix, as `lotperm run` takes it.
    experiment : Experiment
        What the page computed (the first, if it computed several).
    given : Mapping[str, Any]
        The page's parameters; those that are None come from the profile and aren't named, nor is
        the CPU.
    """
    named = {
        n: v
        for n, v in given.items()
        if v is not None and n != "profile" and (n, v) != ("device", "cpu")
    }
    texts = {
        n: v if isinstance(v, str) else json.dumps(v, separators=(",", ":"))
        for n, v in named.items()
    }
    options = "".join(" -p " + shlex.quote(f"{n}={text}") for n, text in texts.items())
    command = f"lotperm run {notebook} --profile {experiment.profile}{options}"
    return (
        f"<p>How this was made: profile <code>{experiment.profile}</code>, {len(experiment.seeds)} seeds, "
        f"{experiment.data.name}, {experiment.model.name}; sources <code>{_SOURCE[:12]}</code>. "
        f"Again: <code>{html.escape(command)}</code></p>"
    )
