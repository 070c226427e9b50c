"""Published files as they are downloaded: named after what they hold, which is in their columns too."""

from __future__ import annotations

import re

import pandas as pd

from lotperm.studies.origin import NAMES
from lotperm.studies.published import book_folder
from lotperm.studies.records import load_record

_TABLE = re.compile(r"(?:^|/)book/(?P<kind>paper|results)/(?P<path>[^/]+(?:/[^/]+)?)\.csv$")


def named_file(path: str) -> tuple[str, str] | None:
    """Return the name that a published table is downloaded by, and its content.

    Parameters
    ----------
    path : str
        The file's path, relative to the repository: ``book/paper/<name>.csv`` or
        ``book/results/<run>/<table>.csv``.

    Returns
    -------
    tuple of (str, str) or None
        For a recorded run such as ``mnist1d_live_recorded_mnist1d_mlp_laptop.csv``, with the columns
        kind, dataset, model, width, profile and source before the others; for the paper's
        ``paper_tables_5_14.csv``, whose first line says where the numbers come from. None for any
        other file.

    Raises
    ------
    IntegrityError
        If a recorded run isn't what was written.
    """
    found = _TABLE.search(path)
    if found is None:
        return None
    if found["kind"] == "paper":
        file = book_folder() / "paper" / f"{found['path']}.csv"
        return f"paper_{file.name}", file.read_text(encoding="utf-8")
    run, _, table = found["path"].partition("/")
    folder = book_folder() / "results" / run
    content = load_record(folder)
    e = content["experiment"]
    about = {
        "kind": "recorded",
        "dataset": e["data"]["name"],
        "model": e["model"]["name"],
        "width": f"{e['model']['width']:g}",
        "profile": e["profile"],
        "source": str(content["stages"][-1].get("source", ""))[:12],
    }
    # As texts: no digit changes.
    rows = pd.read_csv(folder / f"{table}.csv", dtype=str, keep_default_na=False)
    new = [name for name in about if name not in rows]
    for place, name in enumerate(new):
        rows.insert(place, name, about[name])
    what = "_".join(("recorded", about["dataset"], about["model"], about["profile"]))
    part = "" if table == "results" else f"_{table}"
    return f"{run}{part}_{what}.csv", rows.to_csv(index=False, lineterminator="\n")


def every_table() -> list[dict[str, str]]:
    """List all published tables: those of every recorded run, then the paper's.

    Returns
    -------
    list of dict
        ``file`` (its path, relative to the repository), ``name`` (that of the download), ``kind``,
        ``what`` (data set, network and profile, or the file's first line) and ``rows``.
    """
    listed = []
    book = book_folder()
    paths = [*sorted(book.glob("results/*/*.csv")), *sorted(book.glob("paper/*.csv"))]
    for path in paths:
        relative = path.relative_to(book.parent).as_posix()
        named = named_file(relative)
        assert named is not None
        name, content = named
        lines = [line for line in content.splitlines() if not line.startswith("#")]
        if path.parent.name == "paper":
            kind, what = "paper", content.splitlines()[0].removeprefix("# Source: ")
        else:
            first = dict(zip(lines[0].split(","), lines[1].split(","), strict=False))
            kind = "recorded"
            network = NAMES.get(first["model"], first["model"])
            width = "" if first["width"] == "1" else f"×{float(first['width']):g}"
            data = NAMES.get(first["dataset"], first["dataset"])
            what = f"{data}, {network}{width}, {first['profile']}"
        listed.append(
            {
                "file": relative,
                "name": name,
                "kind": kind,
                "what": what,
                "rows": f"{len(lines) - 1:,}",
            }
        )
    return listed
