"""How results are printed: lines of a log, durations and plain tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import rich
from rich.table import Table


def say(line: str) -> None:
    """Print one line, unwrapped and at once: a log or a pipe reads it as it happens."""
    print(line, flush=True)


def duration(seconds: float | None) -> str:
    """Return seconds in words of a fitting unit; "" for None."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def print_boxed(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows as a table with a frame; cells that are too wide are folded."""
    table = Table(title=title)
    for column in rows[0] if rows else ():
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    rich.print(table)


def print_columns(title: str, rows: Sequence[Mapping[str, str]], under: str | None = None) -> None:
    """Print rows as aligned columns that are never wrapped, all but the first to the right.

    Parameters
    ----------
    title : str
        Printed above.
    rows : sequence of mapping of str to str
        One row or more, all with the same keys.
    under : str, optional
        A column whose values become lines of their own, each above the rows that have it.
    """
    names = [name for name in rows[0] if name != under]
    # Every column is as wide as its widest cell: lines are read by programs, too, and never folded.
    width = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}

    def line(row: Mapping[str, str]) -> str:
        first, *others = names
        cells = [row[first].ljust(width[first]), *(row[name].rjust(width[name]) for name in others)]
        return "  ".join(cells).rstrip()

    say(f"{title}\n\n{line({name: name for name in names})}")
    for row, before in zip(rows, [None, *rows[:-1]], strict=True):
        # Rows of one value stand together, so it is printed where it changes.
        if under and (before is None or before[under] != row[under]):
            say(row[under])
        say(line(row))
    say("")
