"""Pieces of HTML that pages of results share: tables, downloads, and how a page was made."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.studies.numbers import with_minus
from lotperm.studies.origin import SOURCE, describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORDS = {
    "rewind_epoch": "rewind epoch k",
    "sparsity": "sparsity S",
    "value": "value",
    "method": "network",
    "dense_a": "dense A",
    "dense_b": "dense B",
    "imp": "IMP (A)",
    "lth": "LTH",
    "half_width": "half width",
    "p_value": "p",
    "n": "n",
    "lth - naive": "LTH − naive",
    "lth - permuted": "LTH − permuted",
    "permuted - naive": "permuted − naive",
}
"""Names in the data -> words in a table."""

HOW_SURE = '<a href="../book/statistics.html">how sure?</a>'
"""A link from a notebook's page to the one that explains intervals and tests."""

_STACKED = 4
"""Number of columns from which a table becomes a stack of cards on a phone."""

INTERVAL = "± is half the width of a 95 % interval over seeds."
"""What ± means below a table that doesn't say otherwise (``frame.attrs["spread"]``)."""


def table(frame: pd.DataFrame) -> str:
    """Return a table as HTML: words for heads, numbers aligned, rows as cards on a phone.

    Parameters
    ----------
    frame : DataFrame
        The table. A named index, or one of texts, becomes its first columns. ``attrs["spread"]``
        says what ± means, if it isn't `INTERVAL`.
    """
    heads, rows = _flat(frame)
    named = len(heads) - len(frame.columns)
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(heads))]
    head = "".join(
        f'<th role="columnheader" scope="col"{_class(numeric[i])}>{html.escape(word)}</th>'
        for i, word in enumerate(heads)
    )
    body = "".join(
        f'<tr role="row">{_cells(heads, row, above, named, numeric)}</tr>'
        for row, above in zip(rows, [None, *rows], strict=False)
    )
    stacked = " stacked" if len(heads) >= _STACKED else ""
    note = ""
    if any("±" in text for row in rows for text in row):
        note = f'<p class="spread">{html.escape(str(frame.attrs.get("spread", INTERVAL)))}</p>'
    return (
        f'<table class="results{stacked}" role="table"><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table>{note}'
    )


def _flat(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows as strings; those of the index come first."""
    index = frame.index
    counted = isinstance(index, pd.RangeIndex) and index.name is None
    levels = [] if counted else [str(name) if name is not None else "" for name in index.names]
    heads = [_word(name) for name in (*levels, *frame.columns)]
    keys: Sequence[tuple[Any, ...]] = [
        () if counted else key if isinstance(key, tuple) else (key,) for key in index
    ]
    rows = [
        [_text(value) for value in (*key, *values)]
        for key, values in zip(keys, frame.itertuples(index=False, name=None), strict=True)
    ]
    return heads, rows


def _cells(
    heads: Sequence[str],
    row: Sequence[str],
    above: Sequence[str] | None,
    named: int,
    numeric: Sequence[bool],
) -> str:
    """Return a row's cells; parts of the index repeated from the row above are pale."""
    cells, same = [], above is not None
    for i, text in enumerate(row):
        same = same and i < named - 1 and above is not None and text == above[i]
        tag, role = ("th", "rowheader") if i < named else ("td", "cell")
        scope = ' scope="row"' if tag == "th" else ""
        label = f' data-label="{html.escape(heads[i])}"'
        classes = _class(numeric[i], same)
        cells.append(f'<{tag} role="{role}"{scope}{label}{classes}>{html.escape(text)}</{tag}>')
    return "".join(cells)


def _class(numeric: bool, same: bool = False) -> str:
    names = [name for name, wanted in (("number", numeric), ("same", same)) if wanted]
    return f' class="{" ".join(names)}"' if names else ""


def _word(name: object) -> str:
    return WORDS.get(str(name), str(name))


def _text(value: object) -> str:
    """Return a cell's text: words for names, a proper minus, nothing for what is missing."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float):
        value = f"{value:.4g}"
    text = "" if value is pd.NA else _word(value)
    return re.sub(r"(?<![\w)])-\d[\d,.]*", lambda found: with_minus(found[0]), text)


def _is_number(text: str) -> bool:
    return not text or re.fullmatch(r"[−+<]?[\d,.]+( ?%)?(e[−-]\d+)?( ± [\d.]+)?", text) is not None


def number_form(
    name: str, answer: float, *, within: float = 0.0, unit: str = "", hint: str = "Not yet."
) -> str:
    """Return a form of HTML that checks a number in the page.

    Parameters
    ----------
    name : str
        Label of the exercise to which it belongs.
    answer : float
        The right answer.
    within : float, optional
        How far off an answer may be.
    unit : str, optional
        What follows the field.
    hint : str, optional
        What a wrong answer gets as a reply.
    """
    # With all digits that the tables show, and more.
    answer, unit, hint = round(float(answer), 6), html.escape(unit), html.escape(hint)
    return (
        f'<form class="check" data-check="{html.escape(name)}" data-answer="{answer!r}" '
        f'data-within="{within!r}" data-hint="{hint}">'
        f'<label>Your answer <input name="answer" inputmode="decimal" autocomplete="off"> {unit}</label> '
        '<button type="submit">Check</button><output aria-live="polite"></output></form>'
    )


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


def command(notebook: str, experiment: Experiment, given: Mapping[str, Any]) -> str:
    """Return the command that repeats a page.

    Parameters
    ----------
    notebook, experiment, given
        As in `how_made`.
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
    return f"lotperm run {notebook} --profile {experiment.profile}{options}"


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
    return (
        f"<p>How this was made: profile <code>{experiment.profile}</code>, {len(experiment.seeds)} seeds, "
        f"{experiment.data.name}, {experiment.model.name}; sources <code>{SOURCE[:12]}</code>. "
        f"Again: <code>{html.escape(command(notebook, experiment, given))}</code></p>"
    )


def picture(figure: Figure, alt: str, caption: str = "") -> str:
    """Put a figure into the page as a vector image, with its words, and close it.

    Parameters
    ----------
    figure : Figure
        A figure of Matplotlib.
    alt : str
        What it shows, for those who don't see it, computed from the numbers that it draws.
    caption : str, optional
        HTML that is put below it.
    """
    # Imported here: both modules of this package import this one.
    import matplotlib.pyplot as plt

    from lotperm.studies.show import shown_here

    svg, about = shown_here(describe(figure, alt))
    plt.close(figure)
    data = base64.b64encode(svg.encode()).decode()
    image = f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}">'
    below = f'<p class="shown-caption">{caption}</p>' if caption else ""
    # The site needs this to add the strip and the layout for phones.
    rest = json.dumps(about["lotperm"]).replace("</", "<\\/")
    carried = f'<script type="application/json" class="shown-about">{rest}</script>'
    return f'<div class="shown">{image}{below}{carried}</div>'


def folded(summary: str, content: str) -> str:
    """Fold HTML away behind a line that opens it."""
    return f'<details class="folded"><summary>{html.escape(summary)}</summary>{content}</details>'


def answer(question: str, lines: Sequence[str], *, smoke: bool = False) -> str:
    """Answer a page's question in HTML.

    Parameters
    ----------
    question : str
        The question.
    lines : sequence of str
        HTML, a line for each source.
    smoke : bool, optional
        Add that the profile is for tests.
    """
    if smoke:
        lines = [
            *lines,
            "This page was built at the profile <code>smoke</code>, which is for tests: its own "
            "numbers mean nothing.",
        ]
    body = "".join(f"<li>{line}</li>" for line in lines)
    return (
        f'<div class="answer"><p><strong>{html.escape(question)}</strong></p><ul>{body}</ul></div>'
    )


def badge(verdict: str, words: str = "") -> str:
    """Return a verdict as the ledger shows it, with other words than its own if given."""
    slug = verdict.split()[0]
    return f'<span class="verdict verdict-{slug}">{html.escape(words or verdict)}</span>'
