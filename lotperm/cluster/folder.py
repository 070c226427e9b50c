"""The folder that a sweep keeps beside its stages: what was submitted, what failed, and the logs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotperm.cluster.jobs import Job
from lotperm.cluster.options import Options
from lotperm.store.files import write_atomic

Plain = dict[str, Any]


@dataclass(frozen=True)
class SweepFolder:
    """The folder of one campaign's sweep, in a file system that all its jobs see.

    Attributes
    ----------
    path : Path
        Its absolute path; it may not exist yet.
    """

    path: Path

    @property
    def logs(self) -> Path:
        """The folder in which submitit keeps the jobs' scripts and logs."""
        return self.path / "logs"

    def keep_campaign(self, file: Path) -> Path:
        """Copy a campaign's file, which may be edited while the jobs run; return the copy."""
        copy = self.path / f"campaign{file.suffix}"
        write_atomic(copy, file.read_bytes())
        return copy

    def note_submission(
        self, options: Options, jobs: Sequence[Job], handles: Sequence[Any]
    ) -> None:
        """Write down what was submitted, in place of what was noted before.

        Parameters
        ----------
        options : Options
            How the sweep is run.
        jobs : sequence of Job
            All its jobs.
        handles : sequence
            submitit's handle of each job, or None if it is not submitted yet; further ones may
            follow.
        """
        note = {
            "cluster": options.cluster,
            # An empty id is a job that isn't submitted yet: this note is written after every array.
            "ids": ["" if handle is None else str(handle.job_id) for handle in handles],
            "jobs": [[task.key for task in job.tasks] for job in jobs],
            "after": [sorted(job.after) for job in jobs],
            "results": options.results and str(options.results),
        }
        write_atomic(self.path / "sweep.json", (json.dumps(note, indent=1) + "\n").encode())

    def submission(self) -> Plain | None:
        """Load what `note_submission` wrote last.

        Returns
        -------
        dict or None
            cluster, ids, jobs, after and results; None if nothing was submitted from here.
        """
        try:
            found: Plain = json.loads((self.path / "sweep.json").read_text())
        except FileNotFoundError:
            return None
        return found

    def note_failure(self, key: str, *, label: str, error: str, tries: int, log: str) -> None:
        """Write down that a stage failed for good.

        Parameters
        ----------
        key : str
            Key of the stage.
        label : str
            What the stage does.
        error : str
            Class and message of the last exception.
        tries : int
            Number of times that it was tried.
        log : str
            Path of the log that has the traceback; "" if there is none.
        """
        # A file for each stage, as several jobs may fail at the same time.
        note = {"label": label, "error": error, "tries": tries, "log": log}
        write_atomic(self._failure(key), json.dumps(note).encode())

    def failure(self, key: str) -> Plain | None:
        """Return what `note_failure` wrote about a stage; None if it did not fail."""
        try:
            found: Plain = json.loads(self._failure(key).read_text())
        except FileNotFoundError:
            return None
        return found

    def failures(self) -> list[Plain]:
        """Return what `note_failure` wrote about all stages, the oldest first."""
        paths = (self.path / "failed").glob("*.json")
        # The first failure is the one to read: others may follow from it.
        ordered = sorted(paths, key=lambda path: path.stat().st_mtime)
        return [json.loads(path.read_text()) for path in ordered]

    def forget_failures(self) -> None:
        """Remove all that `note_failure` wrote: a new submission tries these stages again."""
        shutil.rmtree(self.path / "failed", ignore_errors=True)

    def _failure(self, key: str) -> Path:
        # As many digits of the key as the names of the store's folders have.
        return self.path / "failed" / f"{key[:16]}.json"
