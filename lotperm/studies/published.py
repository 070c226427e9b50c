"""The paper's numbers and this project's recorded ones, to compare with what was just computed.

Both are files of the repository, under ``book/``. Numbers of three kinds meet here and are never
mixed: each kind has a column of its own, whose name says which it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.errors import IntegrityError, unknown_name
from lotperm.studies.clone import clone_folder
from lotperm.studies.records import load_record


def book_folder() -> Path:
    """Return the folder ``book`` of the repository (`clone_folder`).

    Raises
    ------
    StorageError
        If the package was installed without the repository, and there is no clone here.
    """
    return clone_folder() / "book"


def paper(name: str) -> pd.DataFrame:
    """Read a table of the paper's numbers from ``book/paper``, in percent as printed there.

    Parameters
    ----------
    name : str
        The file's name without ``.csv``.

    Returns
    -------
    DataFrame
        With ``attrs["source"]``: where the numbers come from, the file's first line.

    Raises
    ------
    ParameterError
        If there is no such table.
    """
    folder = book_folder() / "paper"
    known = sorted(path.stem for path in folder.glob("*.csv"))
    if name not in known:
        raise unknown_name("table of the paper", name, known)
    # Every table begins with a comment that names its source.
    path = folder / f"{name}.csv"
    table = pd.read_csv(path, comment="#")
    table.attrs["source"] = path.read_text().splitlines()[0].removeprefix("# Source: ")
    return table


@dataclass(frozen=True)
class Recorded:
    """A recorded run: ``book/results/<name>/results.json``.

    Attributes
    ----------
    name : str
        The name of its folder.
    kind : str
        The question's name: "table", "early", "diversity", "connectivity", ….
    experiment : dict
        The experiment that was run, as plain data (`Experiment.to_dict`).
    summary : DataFrame
        For a table as `Results.summary`; for the other kinds all rows, as in ``results.csv``.
    how : dict
        Device, versions, source hash of the last stage.
    """

    name: str
    kind: str
    experiment: dict[str, Any]
    summary: pd.DataFrame
    how: dict[str, Any]

    def rows(self) -> pd.DataFrame:
        """Read ``results.csv``, which has one row for each seed whatever the kind."""
        return pd.read_csv(book_folder() / "results" / self.name / "results.csv")

    @property
    def label(self) -> str:
        """Heading of its numbers: that they are recorded, data set, network and profile."""
        e = self.experiment
        return f"recorded, {e['data']['name']}, {e['model']['name']}×{e['model']['width']:g}, {e['profile']}"


def recorded(
    dataset: str | None = None,
    model: str | None = None,
    width: float | None = None,
    *,
    kind: str = "table",
) -> list[Recorded]:
    """Load the recorded runs of a kind, sorted by name.

    Parameters
    ----------
    dataset : str, optional
        Only runs on this data set.
    model : str, optional
        Only networks whose name begins with this: "resnet" for all of these.
    width : float, optional
        Only networks of this width.
    kind : str, optional
        The question's name.

    Returns
    -------
    list of Recorded

    Raises
    ------
    IntegrityError
        If a recorded run isn't what was written, by the checksums of its files.
    """
    found = []
    # Every record is verified, even those that aren't wanted: what the book shows must be intact.
    for path in sorted((book_folder() / "results").glob("*/results.json")):
        try:
            content = load_record(path.parent)
        except IntegrityError as error:
            # Nothing has to be computed again: the record is under version control.
            raise IntegrityError(
                f"{error} It is kept in git: git checkout -- {path.parent}"
            ) from error
        # The first records were written before there were kinds; all of them are tables.
        e, its_kind = content["experiment"], content.get("kind", "table")
        if (
            its_kind != kind
            or dataset not in (None, e["data"]["name"])
            or not e["model"]["name"].startswith(model or "")
        ):
            continue
        if width is None or e["model"]["width"] == width:
            summary = pd.DataFrame(content["summary"])
            if kind != "table":
                # JSON sorts columns by name; the table begins with those that say what a row is.
                summary = summary[
                    pd.read_csv(path.with_name("results.csv"), nrows=0).columns.to_list()
                ]
            # Integers with nulls among them come back from JSON as floats: dense networks have no
            # rewind epoch.
            if "rewind_epoch" in summary:
                summary["rewind_epoch"] = summary["rewind_epoch"].astype("Int64")
            found.append(Recorded(path.parent.name, kind, e, summary, content["stages"][-1]))
    return found


def live_label(experiment: Experiment) -> str:
    """Return the heading of numbers that were computed while the page was built."""
    return f"live, {experiment.data.name}"
