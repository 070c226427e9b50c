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

# Hashed when the page's process starts: the files may be edited before the page ends, but what
# was imported is what runs.
_SOURCE = source_hash()


def csv_link(table: pd.DataFrame, filename: str) -> str:
    """Make an HTML link that downloads a table as CSV.

    Parameters
    ----------
    table : DataFrame
        The table; its index is left out.
    filename : str
        The name that the browser gives the file.
    """
    # The data are in the link itself: a page opened from a disk has no server to ask. Lines end
    # alike on every system, as an executed page is the same to the byte.
    data = base64.b64encode(table.to_csv(index=False, lineterminator="\n").encode()).decode()
    return (
        f'<a class="csv-download" download="{html.escape(filename)}" href="data:text/csv;base64,{data}">'
        f"Download the data of this figure: {html.escape(filename)}</a>"
    )


def how_made(notebook: str, experiment: Experiment, given: Mapping[str, Any]) -> str:
    """Say in HTML which parameters and sources made a page, and the command that repeats it.

    Parameters
    ----------
    notebook : str
        The notebook's name without number and suffix, as ``lotperm run`` takes it.
    experiment : Experiment
        The experiment that the page computed; the first, if there are several.
    given : mapping
        The page's parameters. Those that are None come from the profile and aren't named, nor is
        the CPU.
    """
    # The command names what differs from a bare run of the notebook, whose default device is the
    # CPU.
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
