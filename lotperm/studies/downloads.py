"""Published tables for download, whose names and first columns say what they hold."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pandas as pd

from lotperm.studies.origin import NAMES
from lotperm.studies.published import book_folder
from lotperm.studies.records import load_record

_TABLE = re.compile(r"(?:^|/)book/(?P<kind>paper|results)/(?P<path>[^/]+(?:/[^/]+)?)\.csv$")


class _Download(NamedTuple):
    """A published table as it is downloaded, and what is known about it."""

    name: str
    content: str
    kind: str
    what: str
    rows: int


def named_file(path: str) -> tuple[str, str] | None:
    """Return the name under which a published table is downloaded, and its content.

    Parameters
    ----------
    path : str
        The file's path, relative to the repository: ``book/paper/<name>.csv`` or
        ``book/results/<run>/<table>.csv``.

    Returns
    -------
    tuple of (str, str) or None
        For a recorded run, for example ``mnist1d_live_recorded_mnist1d_mlp_laptop.csv``, which has
        the columns kind, dataset, model, width, profile and source before the others; for the
        paper, for example ``paper_tables_5_14.csv``, whose first line says where the numbers come
        from. None for any other file.

    Raises
    ------
    IntegrityError
        If a recorded run isn't what was written.
    """
    found = _download(path)
    return None if found is None else (found.name, found.content)


def every_table() -> list[dict[str, str]]:
    """List all published tables: those of every recorded run, then the paper's.

    Returns
    -------
    list of dict
        ``file`` (its path in the repository), ``name`` (under which it is downloaded), ``kind``,
        ``what`` (data set, network and profile, or the file's first line) and ``rows``.
    """
    listed = []
    book = book_folder()
    for path in [*sorted(book.glob("results/*/*.csv")), *sorted(book.glob("paper/*.csv"))]:
        relative = path.relative_to(book.parent).as_posix()
        found = _download(relative)
        assert found is not None
        listed.append(
            {
                "file": relative,
                "name": found.name,
                "kind": found.kind,
                "what": found.what,
                "rows": f"{found.rows:,}",
            }
        )
    return listed


def _download(path: str) -> _Download | None:
    """Read the published table to which a path leads; None if it leads to none."""
    found = _TABLE.search(path)
    if found is None:
        return None
    if found["kind"] == "paper":
        return _of_paper(found["path"])
    run, _, table = found["path"].partition("/")
    return _recorded(run, table)


def _of_paper(table: str) -> _Download:
    """Read a table of the paper, whose first line says where the numbers come from."""
    content = (book_folder() / "paper" / f"{table}.csv").read_text(encoding="utf-8")
    lines = content.splitlines()
    rows = sum(not line.startswith("#") for line in lines) - 1  # without the names of columns
    return _Download(
        f"paper_{table}.csv", content, "paper", lines[0].removeprefix("# Source: "), rows
    )


def _recorded(run: str, table: str) -> _Download:
    """Read a table of a recorded run, and say in its first columns what it is about."""
    folder = book_folder() / "results" / run
    record = load_record(folder)
    e = record["experiment"]
    about = {
        "kind": "recorded",
        "dataset": e["data"]["name"],
        "model": e["model"]["name"],
        "width": f"{e['model']['width']:g}",
        "profile": e["profile"],
        "source": str(record["stages"][-1].get("source", ""))[:12],
    }
    # As strings, so that no digit changes.
    rows = pd.read_csv(folder / f"{table}.csv", dtype=str, keep_default_na=False)
    new = [name for name in about if name not in rows]
    for place, name in enumerate(new):
        rows.insert(place, name, about[name])
    of = "_".join(("recorded", about["dataset"], about["model"], about["profile"]))
    part = "" if table == "results" else f"_{table}"
    return _Download(
        f"{run}{part}_{of}.csv",
        rows.to_csv(index=False, lineterminator="\n"),
        "recorded",
        _in_words({**about, **rows.iloc[0]}),
        len(rows),
    )


def _in_words(row: dict[str, Any]) -> str:
    """Name data set, network and profile, those of a table's first row."""
    data, network = (NAMES.get(row[name], row[name]) for name in ("dataset", "model"))
    width = "" if row["width"] == "1" else f"×{float(row['width']):g}"
    return f"{data}, {network}{width}, {row['profile']}"
