"""Pieces of HTML that pages of results share: downloads, and how a page was made."""

from __future__ import annotations

import base64
import html
import io
import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.store.provenance import source_hash

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def picture(figure: Figure, alt: str, caption: str = "") -> str:
    """Put a figure into the page as a vector image, with its words, and close it.

    Parameters
    ----------
    figure : Figure
        A figure of Matplotlib.
    alt : str
        What it shows, for those who don't see it: computed from the numbers that it draws.
    caption : str, optional
        HTML that stands below it.
    """
    import matplotlib.pyplot as plt

    file = io.BytesIO()
    # Without a date and with fixed ids the page is the same in every build.
    with plt.rc_context({"svg.hashsalt": "lotperm"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    image = (
        f'<img class="paper-figure" alt="{html.escape(alt)}" '
        f'src="data:image/svg+xml;base64,{data}">'
    )
    below = f'<p class="shown-caption">{caption}</p>' if caption else ""
    return f'<div class="shown">{image}{below}</div>'


def folded(summary: str, content: str) -> str:
    """Fold HTML away behind a line that opens it."""
    return f'<details class="folded"><summary>{html.escape(summary)}</summary>{content}</details>'


def badge(verdict: str, words: str = "") -> str:
    """Return a verdict as the ledger shows it; `words` may stand in place of its own."""
    slug = verdict.split()[0]
    return f'<span class="verdict verdict-{slug}">{html.escape(words or verdict)}</span>'
