"""Records: what a finished run leaves in the repository, sealed by checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lotperm.config.profiles import with_current_profile
from lotperm.errors import IntegrityError
from lotperm.store.files import seal, unseal, write_atomic
from lotperm.store.tasks import Plain


def save_record(
    folder: Path,
    content: Plain,
    tables: Mapping[str, pd.DataFrame],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write the record of a run: its tables as CSV, then ``results.json``, which describes them.

    ``results.json`` names the checksums of the other files, so files of two runs are never taken
    for one record.

    Parameters
    ----------
    folder : Path
        The run's folder; made if it isn't there.
    content : dict
        Plain JSON data with at least ``kind``, ``experiment``, ``summary`` and ``stages``.
    tables : mapping of str to DataFrame
        Name without suffix -> tidy table.
    texts : mapping of str to str, optional
        File name -> text of further files.
    """
    files = {name: text.encode() for name, text in (texts or {}).items()}
    for name, frame in tables.items():
        files[f"{name}.csv"] = frame.to_csv(index=False, lineterminator="\n").encode()
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    # results.json is the last file written: a folder without it, or with one of other checksums,
    # isn't taken for a record, so an interruption in between does no harm.
    for name, data in {**files, "results.json": seal({**content, "files": checksums})}.items():
        write_atomic(folder / name, data)


def load_record(folder: Path) -> Plain:
    """Load what `save_record` wrote as ``results.json``, and verify all files of the record.

    The experiment's profile has its present name, whatever it was called when it was recorded.

    Raises
    ------
    IntegrityError
        If the record is missing, or one of its files isn't what was written.
    """
    path = folder / "results.json"
    try:
        content = unseal(path.read_bytes(), path)
        for name, expected in content["files"].items():
            got = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            if got != expected:
                raise IntegrityError(
                    f"{folder / name} is corrupt: sha256 {got}, expected {expected}."
                )
    except (OSError, KeyError) as error:
        raise IntegrityError(f"the recorded run {folder} is not whole: {error}.") from error
    if isinstance(content.get("experiment"), dict):
        content["experiment"] = with_current_profile(content["experiment"])
    return content


def records(frame: pd.DataFrame) -> list[Plain]:
    """Return rows as plain JSON data; missing values and NaN become null."""
    # Pandas' own encoder knows NumPy's types and turns NaN into null; the json module would write
    # NaN. 15 digits are the most that it gives.
    records: list[Plain] = json.loads(frame.to_json(orient="records", double_precision=15))
    return records
